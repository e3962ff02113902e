"""Where training samples come from, as a recipe names it: worlds that draw, and files that people have.

    SourceRecipe tree -> open_mixture -> Mixture

A world is named with its options, a file or folder by its path; both are leaves of one weighted tree.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minicpmv.data import drawn
from minicpmv.data.mixture import Branch, DrawnFeed, Feed, FileFeed, Mixture
from minicpmv.data.own_pages import own_pages
from minicpmv.data.own_text import own_text
from minicpmv.data.readers import open_source
from minicpmv.data.studio import Studio
from minicpmv.errors import OptionError

WORLDS: Mapping[str, Callable[..., drawn.Draw]] = {
    "read": drawn.read,
    "ask": drawn.ask,
    "restore": drawn.restore,
    "reason": drawn.reason,
    "lines": drawn.lines,
    "scenes": drawn.scenes,
    "clips": drawn.clips,
    "facts": drawn.facts,
    "texts": drawn.texts,
    "described": drawn.described,
    "own_text": own_text,
    "own_pages": own_pages,
}
"""Worlds by the name that recipes use."""
_STUDIO_OPTIONS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("read", "ask", "restore"), ("longest_side_px", "world_seed")),
    "facts": ("world_seed",),
    "own_text": ("longest_side_px",),
}
"""Options of the studio that a world takes besides its own: of those that draw pages, and those that know entities."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRecipe:
    """A leaf or a branch of a mixture: exactly one of `world`, `path` and `parts`.

    Raises:
        OptionError: none or several of them, or a weight that is not above 0.
    """

    weight: float = 1.0
    """Share among its siblings."""

    world: str = ""
    """One of `WORLDS`."""

    path: str = ""
    """A data set: a `.jsonl`, `.parquet`, `.arrow`, `.tar`, `.pdf` or `.html` file, or a folder of them or of clips."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the world, for example `kinds` of pages, and `longest_side_px`."""

    parts: "Mapping[str, SourceRecipe]" = field(default_factory=dict)
    """Branches below this one, by name."""

    def __post_init__(self) -> None:
        given = [name for name in ("world", "path", "parts") if getattr(self, name)]
        if len(given) != 1 or (self.options and not self.world):
            raise OptionError(
                f"A source has {' and '.join(given) or 'neither world nor path nor parts'}"
                + (" and options" if self.options else "")
                + ".",
                remedy="Give one of world, path and parts; options belong to a world.",
            )
        if not 0 < self.weight < math.inf:
            raise OptionError(f"A source has weight {self.weight:g}.", remedy="Give a number above 0.")


def open_mixture(
    sources: Mapping[str, SourceRecipe], seed: int, *, later: tuple[int, Mapping[str, SourceRecipe]] | None = None
) -> Mixture:
    """The stream that a tree of sources describes.

    Args:
        sources: the tree's first level, by name.
        seed: of the run.
        later: number of the first sample that is drawn by another tree, and that tree; a leaf of the same name and
            kind goes on where it stands.

    Raises:
        OptionError: an unknown world or option, or a path with nothing to read.
    """
    feeds: dict[str, tuple[SourceRecipe, Feed]] = {}
    first = {name: _branch(name, source, seed, feeds) for name, source in sources.items()}
    if later is None:
        return Mixture(first, seed)
    second = {name: _branch(name, source, seed, feeds) for name, source in later[1].items()}
    return Mixture(first, seed, later=(later[0], second))


def open_feed(name: str, source: SourceRecipe, seed: int) -> Feed:
    """The stream of one leaf.

    Raises:
        OptionError: an unknown world or option, or a path with nothing to read.
    """
    try:
        if source.path:
            return FileFeed(open_source(Path(source.path), name), seed)
        return DrawnFeed(name, open_world(source.world, source.options), seed)
    except OptionError as error:
        raise OptionError(f"The source {name}: {error.what}", remedy=error.remedy) from None


def open_world(world: str, options: Mapping[str, Any]) -> drawn.Draw:
    """A world with its options, drawing for training.

    Raises:
        OptionError: an unknown world or option, with the nearest name suggested; or one that is missing.
    """
    if world not in WORLDS:
        raise OptionError(f"There is no world {world!r}.", remedy=_nearest(world, tuple(WORLDS)))
    make = WORLDS[world]
    own, of_studio = list(inspect.signature(make).parameters)[1:], _STUDIO_OPTIONS.get(world, ())
    for option in options:
        if option not in (*of_studio, *own):
            near = _nearest(str(option), [*of_studio, *own])
            raise OptionError(f"The world {world!r} has no option {option!r}.", remedy=near)
    missing = [option for option in needs_of(world) if option not in options]
    if missing:
        raise OptionError(f"The world {world!r} needs {' and '.join(missing)}.", remedy="Give them as options.")
    studio = Studio.open("train", **{name: options[name] for name in of_studio if name in options})
    return make(studio, **{name: value for name, value in options.items() if name not in of_studio})


def needs_of(world: str) -> tuple[str, ...]:
    """Options that a world cannot do without."""
    parameters = list(inspect.signature(WORLDS[world]).parameters.items())[1:]
    return tuple(name for name, parameter in parameters if parameter.default is parameter.empty)


def _branch(path: str, source: SourceRecipe, seed: int, feeds: dict[str, tuple[SourceRecipe, Feed]]) -> Branch:
    if source.parts:
        return Branch(
            source.weight,
            parts={name: _branch(f"{path}/{name}", part, seed, feeds) for name, part in source.parts.items()},
        )
    kind = SourceRecipe(world=source.world, path=source.path, options=source.options)
    known = feeds.setdefault(path, (kind, open_feed(path, source, seed)) if path not in feeds else feeds[path])
    if known[0] != kind:
        raise OptionError(
            f"{path} means two different sources in the two mixtures.", remedy="Give one of them another name."
        )
    return Branch(source.weight, known[1])


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(known)}."
