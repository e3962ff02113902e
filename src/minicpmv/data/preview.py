"""Samples as a page to look at: pictures, questions and answers, and the boxes of damaged and of other regions.

samples -> write_preview -> one HTML file, with everything inside it
"""

import base64
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from minicpmv.data.readers import Flaw
from minicpmv.data.sample import Sample
from minicpmv.data.worlds.paper import Box
from minicpmv.errors import MiniCPMVError
from minicpmv.media.document import render_pages
from minicpmv.media.image import load_image
from minicpmv.media.video import inspect_video
from minicpmv.messages import DocumentPart, ImagePart, Part, VideoPart

MAX_PICTURES = 12
"""Most pictures shown of one clip or document."""

_LEVEL_COLOURS = {"low": "#1a7f37", "moderate": "#bf8700", "high": "#cf222e"}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; }
article { border-top: 1px solid #8884; padding: 1rem 0; display: grid; grid-template-columns: 24rem 1fr; gap: 1.5rem; }
figure { margin: 0; display: flex; flex-wrap: wrap; gap: .4rem; align-items: start; }
.picture { position: relative; line-height: 0; }
.picture img { max-width: 24rem; image-rendering: auto; }
.clip img { max-width: 7.6rem; }
.picture i, .picture b { position: absolute; border: 2px solid; box-sizing: border-box; }
.picture b { border: 1px solid #0969da80; } .picture b:hover { background: #0969da30; }
dl { margin: 0; } dt { font-weight: 600; margin-top: .5rem; } dd { margin: 0; white-space: pre-wrap; }
code, small { color: #6e7781; overflow-wrap: anywhere; } .flaw { color: #cf222e; }
@media (max-width: 50rem) { article { grid-template-columns: 1fr; } }
"""


def write_preview(samples: Iterable[tuple[str, Sample | Flaw]], path: Path, *, title: str) -> int:
    """Write samples as one HTML file; returns how many.

    Args:
        samples: each with the path of the feed it came from.
        path: the file.
        title: of the page.
    """
    articles = [_article(name, sample) for name, sample in samples]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{html.escape(title)}</h1>{''.join(articles)}</html>\n"
    )
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8", errors="backslashreplace")  # keys can be names that are no UTF-8
    partial.replace(path)
    return len(articles)


def _article(name: str, sample: Sample | Flaw) -> str:
    if isinstance(sample, Flaw):
        reason = f"{html.escape(sample.key)}: {html.escape(sample.reason)}"
        return f'<article><p class="flaw">left out</p><p>{reason}</p></article>'
    given = sample.metadata.get("targets")
    # Of files, metadata can be anything.
    targets = [one for one in given if _is_target(one)] if isinstance(given, list) else []
    boxes = [partial(_box, target) for target in targets]
    regions = [(region.box, f"{region.role}: {region.text}") for region in sample.regions]
    lines = [partial(_outline, box, title) for box, title in regions + _written(sample.metadata)]
    figures = "".join(_figure(part, [*lines, *boxes]) for part in sample.media)
    words = "".join(
        f"<dt>{message.role}</dt>"
        + (f"<dd><small>{html.escape(message.reasoning)}</small></dd>" if message.reasoning else "")
        + f"<dd>{html.escape(message.text)}</dd>"
        for message in sample.messages
    )
    facts = {key: value for key, value in sample.metadata.items() if key not in ("targets", "regions")}
    told = ", ".join(f"{key} {value}" for key, value in facts.items())
    damage = "".join(
        f'<dd style="color:{_LEVEL_COLOURS[target["level"]]}">{target["level"]}: {html.escape(target["operator"])} '
        f"{target['strength']}, expected error {100 * target['expected_cer']:.0f} %: {html.escape(target['text'])}</dd>"
        for target in targets
    )
    where = html.escape(f"{name} {sample.key}")
    origin = f"<dt><code>{where}</code></dt><dd><small>{html.escape(told)}</small></dd>"
    damaged = f"<dt>regions</dt>{damage}" if damage else ""
    return f"<article><figure>{figures}</figure><dl>{words}{damaged}{origin}</dl></article>"


def _is_target(value: Any) -> bool:
    """Whether this is what `corruption.Target.to_dict` gives."""
    if not isinstance(value, dict) or str(value.get("level")) not in _LEVEL_COLOURS:
        return False
    numbers = [value.get("strength"), value.get("expected_cer")]
    is_said = all(isinstance(one, str) for one in (value.get("operator"), value.get("text")))
    return is_said and _is_box(value.get("box")) and all(isinstance(one, int | float) for one in numbers)


def _is_box(value: Any) -> bool:
    """Whether this is left, top, right, bottom."""
    return isinstance(value, list | tuple) and len(value) == 4 and all(isinstance(one, int | float) for one in value)


def _written(metadata: Mapping[str, Any]) -> list[tuple[Box, str]]:
    """Boxes of `regions` in the form of own pages, with a role or without, and what to say about them."""
    given = metadata.get("regions")
    some = given if isinstance(given, list) else []
    found = [one for one in some if isinstance(one, dict) and _is_box(one.get("box"))]
    return [(Box(*one["box"]), ": ".join(str(one[name]) for name in ("role", "text") if name in one)) for one in found]


def _figure(part: Part, boxes: Sequence[Callable[[Image.Image], str]]) -> str:
    try:
        pictures = _pictures(part)
    except MiniCPMVError as error:
        return f'<p class="flaw">{html.escape(str(error))}</p>'
    kind = "picture" if len(pictures) == 1 else "picture clip"
    drawn = "".join(box(pictures[0]) for box in boxes) if len(pictures) == 1 else ""
    return "".join(f'<span class="{kind}"><img alt="" src="{_data_uri(one)}">{drawn}</span>' for one in pictures)


def _pictures(part: Part) -> list[Image.Image]:
    """What a part shows, at most `MAX_PICTURES` of it."""
    if isinstance(part, ImagePart) and part.source is not None:
        return [load_image(part.source).image]
    if isinstance(part, VideoPart) and part.frames is not None:
        return [load_image(frame).image for frame in part.frames[:MAX_PICTURES]]
    if isinstance(part, VideoPart) and part.source is not None:
        video = inspect_video(part.source)
        step = max(1, video.info.num_frames // MAX_PICTURES)
        indices = range(0, video.info.num_frames, step)[:MAX_PICTURES]
        return [frame.image for frame in video.frames(indices)]
    if isinstance(part, DocumentPart):
        numbers = None if part.pages is None else part.pages[:MAX_PICTURES]
        return [page.image for page in render_pages(part.source, numbers, dpi=72)][:MAX_PICTURES]
    return []


def _box(target: dict[str, Any], picture: Image.Image) -> str:
    colour = _LEVEL_COLOURS[target["level"]]
    return f'<i style="{_place(Box(*target["box"]), picture)};border-color:{colour}"></i>'


def _outline(box: Box, title: str, picture: Image.Image) -> str:
    return f'<b style="{_place(box, picture)}" title="{html.escape(title)}"></b>'


def _place(box: Box, picture: Image.Image) -> str:
    """Where a box lies on a picture of any size, in CSS."""
    width, height = picture.size
    return (
        f"left:{100 * box.left / width:.2f}%;top:{100 * box.top / height:.2f}%;"
        f"width:{100 * box.width / width:.2f}%;height:{100 * box.height / height:.2f}%"
    )


def _data_uri(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
