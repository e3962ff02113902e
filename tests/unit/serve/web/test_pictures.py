"""Plans as pictures: lines where slices meet, a row per pack, the caption with the numbers."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from minicpmv.generation.loading import bundled_folder, read_processor
from minicpmv.media.video import Video
from minicpmv.messages import DocumentPart, ImagePart, VideoPart
from minicpmv.processing.media_plans import MediaPlanner
from minicpmv.serve.web.pictures import _LINE, MOST_PACKS, draw, sliced

EXAMPLES = Path(__file__).parents[4] / "examples"


def planner() -> MediaPlanner:
    processor = read_processor(bundled_folder())
    return MediaPlanner(processor.image_processor, processor.video_processor)


def test_lines_are_where_slices_meet() -> None:
    picture = Image.new("RGB", (600, 400), "white")
    plan = planner().plan(ImagePart(picture), "white.png")
    grid = plan.texts[0].groups[0].grid
    assert grid is not None
    drawn = np.asarray(sliced(picture, plan.texts[0].groups[0].plans[0]))
    assert drawn.shape == (400, 600, 3)
    red = (drawn == _LINE).all(-1)
    columns = np.flatnonzero(red[red.shape[0] // 2 - 30 : red.shape[0] // 2 + 30].all(0))
    wanted = [round(600 * column / grid.columns) for column in range(grid.columns + 1)]
    assert all(min(abs(columns - place)) <= 2 for place in wanted)
    assert all(min(abs(place - near) for near in wanted) <= 2 for place in columns)
    assert picture.getextrema() == ((255, 255),) * 3  # the visitor's picture is as it was


def test_a_small_picture_has_no_lines() -> None:
    picture = Image.new("RGB", (100, 90), "white")
    (drawing,) = draw(ImagePart(picture), planner().plan(ImagePart(picture), "small.png"), 64)
    assert np.asarray(drawing.image).min() == 255
    assert drawing.caption == "small.png: seen whole, 1 x 64 = 64 tokens"


def test_a_picture_of_any_mode_is_drawn() -> None:
    for mode in ("1", "L", "P", "RGBA", "CMYK", "I;16"):
        picture = Image.new(mode, (500, 300))
        assert draw(ImagePart(picture), planner().plan(ImagePart(picture), mode), 64)[0].image.mode == "RGB"


def clip(folder: Path, frames: int) -> Path:
    """Ten frames a second, each brighter than the one before it."""
    path = folder / "clip.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for number in range(frames):
            image = Image.new("RGB", (64, 64), (number * 10,) * 3)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


def test_a_clip_has_a_row_per_pack(tmp_path: Path) -> None:
    part = VideoPart(clip(tmp_path, 20), fps=10, packing=6, max_frames=20)
    plan = planner().plan(part, "clip.mp4")
    assert plan.frame_indices == tuple(range(20))
    (drawing,) = draw(part, plan, 64)
    assert drawing.caption == "clip.mp4: 20 frames, 4 x 64 = 256 tokens"
    rows = np.asarray(drawing.image.convert("L")).reshape(4, drawing.image.height // 4, -1)
    middle = rows.shape[1] // 2 - 8
    firsts = rows[:, middle, 64 + 48]
    assert np.abs(firsts.astype(int) - [0, 60, 120, 180]).max() <= 8  # the first frame of each pack


def test_only_the_first_packs_are_drawn_and_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = VideoPart(clip(tmp_path, 20), fps=10, packing=1, max_frames=20)
    plan = planner().plan(part, "clip.mp4")
    wanted: list[int] = []
    monkeypatch.setattr(Video, "frames", lambda video, indices: wanted.extend(indices) or video._read(indices))
    (drawing,) = draw(part, plan, 64)
    assert wanted == list(range(MOST_PACKS))
    assert f"the first {MOST_PACKS} of 20 packs are drawn" in drawing.caption


def test_pages() -> None:
    part = DocumentPart(EXAMPLES / "note.pdf")
    drawings = draw(part, planner().plan(part, "note.pdf"), 64)
    assert [drawing.caption.split(":")[0] for drawing in drawings] == ["note.pdf, page 1"]
