"""Several sources as one endless stream, by weight, the same on every machine, resumable at any sample.

    Feed per source -> Mixture(tree of weights) -> Sample or Flaw, with the state after it

Which source gives sample number n is a pure function of the seed and n, and each feed counts only its own samples, so a
state is a few numbers per source. Every data worker can walk the same stream and keep only its share of it.
"""

import logging
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.random import Generator
from rich.tree import Tree

from minicpmv.data.readers import Flaw, Position, Source
from minicpmv.data.sample import Sample
from minicpmv.errors import OptionError
from minicpmv.messages import TextPart, VideoPart

_LOGGER = logging.getLogger(__name__)

State = dict[str, Any]
"""JSON values from which a stream goes on."""

BLOCK_BYTES = 1 << 26
"""Media that a block of shuffled records holds in memory, in every data worker: 64 MiB. Ours."""


class Feed(Protocol):
    """An endless stream of samples from one source."""

    def next(self) -> Sample | Flaw:
        """The next sample."""
        ...

    def skip(self) -> None:
        """Pass over the next sample."""
        ...

    @property
    def state(self) -> State:
        """Where the stream stands."""
        ...

    def restore(self, state: State) -> None:
        """Go on from a state."""
        ...


class DrawnFeed:
    """Samples drawn by a world: number n depends on the seed, the name and n.

    Args:
        name: of the world; part of the randomness and of the keys.
        draw: makes one sample's messages from a generator.
        seed: of the run.
    """

    def __init__(self, name: str, draw: Callable[[Generator, str], Sample], seed: int) -> None:
        self._name, self._draw, self._seed = name, draw, seed
        self._drawn = 0

    def next(self) -> Sample | Flaw:
        """See `Feed`."""
        generator = np.random.default_rng([self._seed, zlib.crc32(self._name.encode()), self._drawn])
        key = f"{self._name}:{self._drawn}"
        self._drawn += 1
        return self._draw(generator, key)

    def skip(self) -> None:
        """See `Feed`; costs nothing."""
        self._drawn += 1

    @property
    def state(self) -> State:
        """See `Feed`."""
        return {"drawn": self._drawn}

    def restore(self, state: State) -> None:
        """See `Feed`."""
        self._drawn = state["drawn"]


class FileFeed:
    """A data set read again and again, shuffled in blocks, so that going on means reading one block again.

    A state remembers the sizes of the files. Where they have changed since, places in them mean nothing any more, and
    the stream goes on with the next epoch.

    Args:
        source: what is read.
        seed: of the run; the order differs in every epoch.
        block: records that are shuffled among each other; 1 keeps the order of the files.
        most_bytes: of media that records hold themselves, as those of tars and tables do; a block ends with the record
            that reaches it.
    """

    def __init__(self, source: Source, seed: int, block: int = 1024, most_bytes: int = BLOCK_BYTES) -> None:
        self._source, self._seed, self._size, self._most_bytes = source, seed, block, most_bytes
        self._sizes = _sizes_of(source)
        self._epoch, self._begins, self._used = 0, Position(), 0
        self._block: list[Sample | Flaw] = []
        self._ends: Position | None = None  # None: nothing has been read yet
        self._reader: Iterator[tuple[Sample | Flaw, Position]] | None = None

    def next(self) -> Sample | Flaw:
        """See `Feed`.

        Raises:
            OptionError: the source has no records at all.
        """
        if self._ends is None:
            self._load()
        if self._used >= len(self._block):  # fewer than were used, if files have changed in a way not to be seen
            self._begins, self._used = self._ends or Position(), 0
            self._load()
        self._used += 1
        return self._block[self._used - 1]

    def skip(self) -> None:
        """See `Feed`; a record is read all the same, but nothing that it names is opened."""
        self.next()

    def _load(self) -> None:
        """The block that begins at `_begins`, or the first one of the next epoch."""
        for _ in range(2):
            if self._reader is None:
                self._reader = self._source.read(self._begins)
            found = self._read_block(self._reader)
            if found:
                self._ends = found[-1][1]
                order = np.random.default_rng(
                    [self._seed, self._epoch, self._begins.file, self._begins.place]
                ).permutation(len(found))
                self._block = [found[int(index)][0] for index in order]
                return
            self._reader = None
            if self._begins == Position():
                break
            self._epoch, self._begins = self._epoch + 1, Position()
        raise OptionError(f"{self._source.name} has no records.", remedy="Leave it out of the mixture.")

    def _read_block(self, reader: Iterator[tuple[Sample | Flaw, Position]]) -> list[tuple[Sample | Flaw, Position]]:
        found, held = [], 0
        for record, after in islice(reader, self._size):
            found.append((record, after))
            held += 0 if isinstance(record, Flaw) else _bytes_of(record)
            if held >= self._most_bytes:
                break
        return found

    @property
    def state(self) -> State:
        """See `Feed`."""
        begins = [self._begins.file, self._begins.place]
        return {"epoch": self._epoch, "block": begins, "used": self._used, "sizes": self._sizes}

    def restore(self, state: State) -> None:
        """See `Feed`."""
        self._epoch, self._begins, self._used = state["epoch"], Position(*state["block"]), 0
        self._reader, self._ends = None, None
        if state.get("sizes", self._sizes) != self._sizes:  # states of earlier versions do not say
            _LOGGER.warning("%s has changed since the run was saved and is read from its beginning.", self._source.name)
            self._epoch, self._begins = self._epoch + 1, Position()
        elif state["used"]:
            self._load()
            self._used = state["used"]


def _sizes_of(source: Source) -> int:
    """A number that changes with the sizes of a source's files."""
    files = getattr(source, "files", ())
    return zlib.crc32(repr([file.stat().st_size for file in files]).encode())


def _bytes_of(sample: Sample) -> int:
    """What a sample's media take in memory before anything is opened."""
    sources = [part.source for part in sample.media if not isinstance(part, TextPart)]
    frames = [frame for part in sample.media if isinstance(part, VideoPart) for frame in part.frames or ()]
    return sum(len(source) for source in (*sources, *frames) if isinstance(source, bytes))


@dataclass(frozen=True, slots=True)
class Branch:
    """A part of a mixture: its weight among its siblings, and either a feed or parts of its own."""

    weight: float
    feed: Feed | None = None
    parts: "Mapping[str, Branch] | None" = None

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf or (self.feed is None) == (not self.parts):
            has = [name for name, value in (("a feed", self.feed), ("parts", self.parts)) if value]
            raise OptionError(
                f"A part of a mixture has weight {self.weight:g} and {' and '.join(has) or 'neither feed nor parts'}.",
                remedy="Give a number above 0 as its weight, and either one feed or several parts.",
            )


class Mixture:
    """An endless stream from all feeds of a tree.

    Args:
        parts: the first level of the tree.
        seed: decides which feed gives which sample.
        later: number of the first sample that is drawn by another tree, and that tree. Feeds are known by their paths:
            one that stands in both trees goes on where it is.
    """

    def __init__(
        self, parts: Mapping[str, Branch], seed: int, *, later: "tuple[int, Mapping[str, Branch]] | None" = None
    ) -> None:
        self._seed = seed
        self._phases = [_Phase(0, dict(parts))]
        if later is not None:
            self._phases.append(_Phase(later[0], dict(later[1])))
        self._feeds: dict[str, Feed] = {}
        for phase in self._phases:
            for name, feed in phase.feeds.items():
                self._feeds.setdefault(name, feed)
        self._given = 0

    @property
    def shares(self) -> dict[str, float]:
        """Share of every feed in the stream as it is now, by its path such as `pages/receipts`."""
        return self._phase(self._given).shares

    @property
    def names(self) -> list[str]:
        """Paths of all feeds, of both trees."""
        return list(self._feeds)

    def next(self) -> tuple[str, Sample | Flaw]:
        """The next sample, with the path of the feed that gave it."""
        name = self._name_of(self._given)
        self._given += 1
        return name, self._feeds[name].next()

    def skip(self) -> None:
        """Pass over the next sample."""
        name = self._name_of(self._given)
        self._given += 1
        self._feeds[name].skip()

    def _phase(self, number: int) -> "_Phase":
        return next(phase for phase in reversed(self._phases) if number >= phase.begins)

    def _name_of(self, number: int) -> str:
        phase = self._phase(number)
        draw = np.random.default_rng([self._seed, number]).random() * phase.edges[-1]
        names = list(phase.shares)
        return names[min(int(np.searchsorted(phase.edges, draw, side="right")), len(names) - 1)]

    @property
    def state(self) -> State:
        """Where the stream stands."""
        return {"given": self._given, "feeds": {name: feed.state for name, feed in self._feeds.items()}}

    def check(self, state: State) -> None:
        """Whether the stream can go on from a state.

        Raises:
            OptionError: the state names other feeds.
        """
        if set(state["feeds"]) != set(self._feeds):
            changed = sorted(set(state["feeds"]) ^ set(self._feeds))
            raise OptionError(
                f"The mixture has changed since the run began: {', '.join(changed)}.",
                remedy="Go on with the same sources, or start a new run; weights may be changed.",
            )

    def restore(self, state: State) -> None:
        """Go on from a state of a mixture with the same feeds.

        Raises:
            OptionError: the state names other feeds.
        """
        self.check(state)
        self._given = state["given"]
        for name, feed in self._feeds.items():
            feed.restore(state["feeds"][name])

    def tree(self, tokens: Mapping[str, int] | None = None) -> Tree:
        """The mixture as a tree of shares, with counted tokens by path if there are any."""
        return _draw(
            "mixture" + (f"  {sum(tokens.values()):,} tokens" if tokens else ""),
            "",
            self._phase(self._given).parts,
            1.0,
            tokens or {},
        )


class _Phase:
    """One tree of a mixture, with the number of the first sample that is drawn by it."""

    def __init__(self, begins: int, parts: Mapping[str, Branch]) -> None:
        self.begins, self.parts = begins, parts
        leaves = list(_leaves("", parts, 1.0))
        self.shares = {name: share for name, share, _ in leaves}
        self.feeds = {name: feed for name, _, feed in leaves}
        self.edges = np.cumsum(list(self.shares.values()))


def _leaves(path: str, parts: Mapping[str, Branch], share: float) -> Iterator[tuple[str, float, Feed]]:
    total = sum(branch.weight for branch in parts.values())
    for name, branch in parts.items():
        inner = share * branch.weight / total
        if branch.feed is not None:
            yield path + name, inner, branch.feed
        else:
            yield from _leaves(f"{path}{name}/", branch.parts or {}, inner)


def _draw(label: str, path: str, parts: Mapping[str, Branch], share: float, tokens: Mapping[str, int]) -> Tree:
    tree = Tree(label)
    total = sum(branch.weight for branch in parts.values())
    for name, branch in parts.items():
        inner = share * branch.weight / total
        below = path + name
        counted = sum(number for leaf, number in tokens.items() if leaf == below or leaf.startswith(below + "/"))
        text = f"{name}  {100 * inner:.1f} %" + (f"  {counted:,} tokens" if counted else "")
        if branch.parts:
            tree.add(_draw(text, f"{below}/", branch.parts, inner, tokens))
        else:
            tree.add(text)
    return tree
