"""A plan as pictures: slices drawn on a picture or page, the packs of a clip as a filmstrip.

part + MediaPlan -> draw -> [Drawing(image, caption), ...]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from minicpmv.media.document import render_pages
from minicpmv.media.image import load_image
from minicpmv.media.video import inspect_video
from minicpmv.messages import DocumentPart, ImagePart, Part, VideoPart
from minicpmv.processing.budget import MediaPlan
from minicpmv.processing.chat_template import VisualText
from minicpmv.processing.packing import FrameGroup
from minicpmv.processing.slicing import SlicePlan, slice_boxes

MOST_PAGES = 4
MOST_PACKS = 6
"""Pages and packs that are drawn; the caption says how many there are. Ours."""

_SIDE = 640
_THUMB = 96
_GAP = 6
_LABEL = 18
_PAGE_DPI = 60.0
_LINE = (214, 61, 38)
_INK = (40, 40, 40)
_PAPER = (255, 255, 255)
_BANDS = ((226, 236, 246), (240, 240, 232))


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture of a plan and what it says."""

    image: Image.Image
    caption: str


def draw(part: Part, plan: MediaPlan, num_queries: int) -> list[Drawing]:
    """Pictures of what the model will see of a part.

    Args:
        part: a picture, document or clip.
        plan: its plan.
        num_queries: tokens of a pack.

    Raises:
        MediaError: the file cannot be read.
    """
    if isinstance(part, ImagePart) and part.source is not None:
        picture = part.source if isinstance(part.source, Image.Image) else load_image(part.source).image
        return [Drawing(sliced(picture, _first(plan.texts[0])), f"{plan.name}: {cost(plan.texts[0], num_queries)}")]
    if isinstance(part, DocumentPart):
        return list(_pages(part, plan, num_queries))
    if isinstance(part, VideoPart) and part.source is not None:
        return [_clip(part, plan, num_queries)]
    return []


def cost(text: VisualText, num_queries: int) -> str:
    """How a picture or page is cut and what it costs, in words."""
    grid = _first(text).grid
    cut = "seen whole" if grid is None else f"overview and {grid.columns} x {grid.rows} slices"
    return f"{cut}, {text.num_slots} x {num_queries} = {text.num_slots * num_queries} tokens"


def sliced(picture: Image.Image, plan: SlicePlan) -> Image.Image:
    """A small copy of a picture with the borders and numbers of its slices."""
    small = picture.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    if plan.refined is None:
        return small
    pen = ImageDraw.Draw(small)
    across, down = small.width / plan.refined.width, small.height / plan.refined.height
    font = ImageFont.load_default(16)
    for number, (left, top, right, bottom) in enumerate(slice_boxes(plan), start=1):
        box = (round(left * across), round(top * down), round(right * across) - 1, round(bottom * down) - 1)
        pen.rectangle(box, outline=_LINE, width=2)
        mark = (box[0] + 2, box[1] + 2, box[0] + 8 + 10 * len(str(number)), box[1] + 22)
        pen.rectangle(mark, fill=_LINE)
        pen.text((mark[0] + 4, mark[1] + 1), str(number), fill=_PAPER, font=font)
    return small


def _first(text: VisualText) -> SlicePlan:
    return text.groups[0].plans[0]


def _pages(part: DocumentPart, plan: MediaPlan, num_queries: int) -> Iterator[Drawing]:
    wanted = range(1, len(plan.texts) + 1) if part.pages is None else part.pages
    shown = list(wanted)[:MOST_PAGES]
    for page, text in zip(render_pages(part.source, shown, dpi=_PAGE_DPI), plan.texts, strict=False):
        more = len(plan.texts) - len(shown)
        rest = f"; {more} more pages" if more and page.number == shown[-1] else ""
        name = f"{plan.name}, page {page.number}"
        yield Drawing(sliced(page.image, _first(text)), f"{name}: {cost(text, num_queries)}{rest}")


def _clip(part: VideoPart, plan: MediaPlan, num_queries: int) -> Drawing:
    assert part.source is not None
    groups = plan.texts[0].groups
    shown = groups[:MOST_PACKS]
    positions = [position for group in shown for position in group.frames]
    found = inspect_video(part.source).frames([plan.frame_indices[position] for position in positions])
    thumbs = {position: _thumb(frame.image) for position, frame in zip(positions, found, strict=True)}
    frames, packs = plan.texts[0].num_frames, plan.num_packs
    caption = f"{plan.name}: {frames} frames, {packs} x {num_queries} = {packs * num_queries} tokens"
    if len(groups) > len(shown):
        caption += f"; the first {len(shown)} of {len(groups)} packs are drawn"
    return Drawing(filmstrip(shown, thumbs, plan.frame_times_s), caption)


def _thumb(image: Image.Image) -> Image.Image:
    small = image.convert("RGB")
    small.thumbnail((_THUMB, _THUMB))
    return small


def filmstrip(groups: Sequence[FrameGroup], thumbs: "dict[int, Image.Image]", times_s: Sequence[float]) -> Image.Image:
    """Packs below one another, each with its frames and their moments.

    Args:
        groups: the packs.
        thumbs: a small picture per position of a frame.
        times_s: when each frame is seen, by position.
    """
    columns = max(len(group.frames) for group in groups)
    step, height = _THUMB + _GAP, _THUMB + _LABEL + 2 * _GAP
    label = 64
    strip = Image.new("RGB", (label + columns * step + _GAP, len(groups) * height), _PAPER)
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(13)
    for row, group in enumerate(groups):
        top = row * height
        pen.rectangle((0, top, strip.width, top + height - 2), fill=_BANDS[row % len(_BANDS)])
        pen.text((_GAP, top + height // 2 - 8), f"pack {row + 1}", fill=_INK, font=font)
        for column, position in enumerate(group.frames):
            thumb = thumbs[position]
            left = label + column * step
            strip.paste(thumb, (left + (_THUMB - thumb.width) // 2, top + _GAP + (_THUMB - thumb.height) // 2))
            pen.text((left + 2, top + _GAP + _THUMB + 1), f"{times_s[position]:.2f} s", fill=_INK, font=font)
    return strip
