"""Budgets: plans from headers alone equal what the processor makes, and model numbers equal the released counts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.unit.processing.conftest import picture
from tests.unit.processing.test_processor import make_pdf

from minicpmv.errors import MediaError, MessageError
from minicpmv.media.document import render_pages
from minicpmv.messages import DocumentPart, ImagePart, Message, TextPart, VideoPart
from minicpmv.processing.budget import ModelNumbers, plan_budget
from minicpmv.processing.media_plans import MediaPlanner, page_size, picture_size
from minicpmv.processing.options import MediaOptions
from minicpmv.processing.processor import MiniCPMVProcessor

RELEASED_VISION = {"patch": 14, "vision_width": 1152, "vision_mlp": 4304, "vision_layers": 27, "vision_positions": 4900}
V45 = ModelNumbers(
    **RELEASED_VISION,
    num_queries=64,
    width=4096,
    mlp=12288,
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocabulary=151748,
    tied_embeddings=False,
    head_norms=True,
    bytes_per_number=2,
)
V40 = ModelNumbers(
    **RELEASED_VISION,
    num_queries=64,
    width=2560,
    mlp=10240,
    layers=32,
    heads=32,
    kv_heads=2,
    head_dim=128,
    vocabulary=73448,
    tied_embeddings=False,
    head_norms=False,
    bytes_per_number=2,
)


def planner(processor: MiniCPMVProcessor, **options: object) -> MediaPlanner:
    return MediaPlanner(processor.image_processor, processor.video_processor, MediaOptions(**options))  # type: ignore[arg-type]  # a table


def test_parameters_and_cache_equal_the_released_counts() -> None:
    assert (V45.vision_parameters, V45.resampler_parameters, V45.llm_parameters) == (417792240, 88907776, 8189195264)
    assert V45.parameters * 2 == 17391790560
    assert V40.parameters == 4059533040
    assert (V45.kv_bytes_per_token, V40.kv_bytes_per_token) == (147456, 32768)


def test_operations_of_one_item_are_counted_matrix_by_matrix() -> None:
    n, d, mlp = 1024, 1152, 4304
    layer = 2 * n * d * d * 4 + 2 * n * d * mlp * 2 + 2 * n * n * d * 2
    assert V45.item_flops(n) == 2 * n * 588 * d + 27 * layer


def test_plans_equal_what_the_processor_makes(processor: MiniCPMVProcessor, clip: Path) -> None:
    photo = picture(300, 200)
    frames = tuple(picture(64, 48, seed) for seed in range(3))
    parts = [
        ImagePart(photo),
        VideoPart(clip, fps=10, packing=4),
        VideoPart(frames=frames, timestamps=(0.0, 0.5, 1.0)),
        DocumentPart(make_pdf(2)),
    ]
    message = Message("user", (*parts, TextPart("What?")))
    inputs = processor.apply_chat_template([message], tokenize=True, return_dict=True, return_tensors="np")
    plans = [planner(processor).plan(part, f"file{index}") for index, part in enumerate(parts)]
    rows = [plan.to_dict(4) for plan in plans]
    sizes = [[rows * 14, columns * 14] for columns, rows in inputs["item_shapes"].tolist()]
    assert [item for row in rows for item in row["items"]] == sizes
    assert sum(row["packs"] for row in rows) == len(inputs["visual_slots"])
    assert sum(row["visual_tokens"] for row in rows) == 4 * len(inputs["visual_slots"])
    assert processor.count_tokens([message], [plan.texts for plan in plans]) == inputs["input_ids"].shape[1]
    assert [row["kind"] for row in rows] == ["image", "video", "video", "document"]
    assert (rows[0]["width"], rows[0]["height"], rows[0]["file"]) == (300, 200, "file0")
    assert rows[0]["grid"] == [3, 2]
    assert rows[0]["temporal_ids"] == [[-1]] * 7
    assert rows[1]["temporal_ids"] == [[4 * k, 4 * k + 1, 4 * k + 2, 4 * k + 3] for k in range(5)]
    assert rows[1]["frame_times_s"] == pytest.approx(np.arange(20) / 10)
    assert (rows[1]["grid"], rows[1]["frames"]) == (None, 20)
    assert rows[2]["frame_times_s"] == [0.0, 0.5, 1.0]


def test_totals_follow_from_the_plans(processor: MiniCPMVProcessor) -> None:
    plan = planner(processor, max_slices=1).plan(ImagePart(picture(448, 448)))
    budget = plan_budget([plan], 100, V45)
    assert budget.kv_bytes == 100 * 147456
    assert budget.weights_bytes == 17391790560
    assert budget.vision_flops == V45.item_flops(64) + V45.pack_flops(64)
    assert budget.prefill_flops == V45.prefill_flops(100)
    assert set(budget.to_dict()) == {"prompt_tokens", "kv_bytes", "weights_bytes", "vision_flops", "prefill_flops"}


def test_a_packed_clip_costs_one_resampling_per_pack(processor: MiniCPMVProcessor, clip: Path) -> None:
    plan = planner(processor).plan(VideoPart(clip, fps=10, packing=5))
    (width, height), *_ = plan.to_dict(4)["items"]
    patches = width * height // 196
    assert plan_budget([plan], 1, V45).vision_flops == 20 * V45.item_flops(patches) + 4 * V45.pack_flops(5 * patches)


def test_a_planned_picture_stands_upright_without_being_decoded(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(40, 20).save(path, exif=exif)
    assert picture_size(path) == (20, 40)
    (tmp_path / "no.png").write_text("words")
    with pytest.raises(MediaError):
        picture_size(tmp_path / "no.png")


def test_planned_pages_have_the_size_of_drawn_ones() -> None:
    pdf = make_pdf(1)
    page = next(iter(render_pages(pdf, dpi=99)))
    assert page_size((200.0, 100.0), 99) == page.image.size


def test_parts_without_media_and_pages_that_do_not_exist_are_refused(processor: MiniCPMVProcessor) -> None:
    with pytest.raises(MessageError):
        planner(processor).plan(TextPart("x"))
    with pytest.raises(MessageError):
        planner(processor).plan(ImagePart(None))
    with pytest.raises(MediaError, match="page 3"):
        planner(processor).plan(DocumentPart(make_pdf(2), pages=(3,)))
