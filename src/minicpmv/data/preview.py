"""Samples as a page to look at: pictures, questions and answers, and the boxes of damaged regions.

samples -> write_preview -> one HTML file, with everything inside it
"""

import base64
import html
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from minicpmv.data.readers import Flaw
from minicpmv.data.sample import Sample
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
.picture i { position: absolute; border: 2px solid; box-sizing: border-box; }
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
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return len(articles)


def _article(name: str, sample: Sample | Flaw) -> str:
    if isinstance(sample, Flaw):
        reason = f"{html.escape(sample.key)}: {html.escape(sample.reason)}"
        return f'<article><p class="flaw">left out</p><p>{reason}</p></article>'
    given = sample.metadata.get("targets")
    # Of files, metadata can be anything.
    targets = [one for one in given if _is_target(one)] if isinstance(given, list) else []
    figures = "".join(_figure(part, targets) for part in sample.media)
    words = "".join(
        f"<dt>{message.role}</dt>"
        + (f"<dd><small>{html.escape(message.reasoning)}</small></dd>" if message.reasoning else "")
        + f"<dd>{html.escape(message.text)}</dd>"
        for message in sample.messages
    )
    facts = {key: value for key, value in sample.metadata.items() if key != "targets"}
    told = ", ".join(f"{key} {value}" for key, value in facts.items())
    damage = "".join(
        f'<dd style="color:{_LEVEL_COLOURS[target["level"]]}">{target["level"]}: {html.escape(target["operator"])} '
        f"{target['strength']}, expected error {100 * target['expected_cer']:.0f} %: {html.escape(target['text'])}</dd>"
        for target in targets
    )
    where = html.escape(f"{name} {sample.key}")
    origin = f"<dt><code>{where}</code></dt><dd><small>{html.escape(told)}</small></dd>"
    regions = f"<dt>regions</dt>{damage}" if damage else ""
    return f"<article><figure>{figures}</figure><dl>{words}{regions}{origin}</dl></article>"


def _is_target(value: Any) -> bool:
    """Whether this is what `corruption.Target.to_dict` gives."""
    if not isinstance(value, dict) or str(value.get("level")) not in _LEVEL_COLOURS:
        return False
    box, numbers = value.get("box"), [value.get("strength"), value.get("expected_cer")]
    if not isinstance(box, list | tuple) or len(box) != 4:
        return False
    is_said = all(isinstance(one, str) for one in (value.get("operator"), value.get("text")))
    return is_said and all(isinstance(one, int | float) for one in (*numbers, *box))


def _figure(part: Part, targets: list[dict[str, Any]]) -> str:
    try:
        pictures = _pictures(part)
    except MiniCPMVError as error:
        return f'<p class="flaw">{html.escape(str(error))}</p>'
    kind = "picture" if len(pictures) == 1 else "picture clip"
    boxes = "".join(_box(target, pictures[0]) for target in targets) if len(pictures) == 1 else ""
    return "".join(f'<span class="{kind}"><img alt="" src="{_data_uri(one)}">{boxes}</span>' for one in pictures)


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
    left, top, right, bottom = target["box"]
    width, height = picture.size
    style = (
        f"left:{100 * left / width:.2f}%;top:{100 * top / height:.2f}%;width:{100 * (right - left) / width:.2f}%;"
        f"height:{100 * (bottom - top) / height:.2f}%;border-color:{_LEVEL_COLOURS[target['level']]}"
    )
    return f'<i style="{style}"></i>'


def _data_uri(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
