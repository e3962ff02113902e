"""A batch equals its samples one by one: the same ids, rows and slots, whatever stands beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.processing.conftest import make_processor, picture

PROCESSOR = make_processor()
PARTS: list[Any] = [
    "the quick fox",
    "",
    picture(30, 90),
    picture(200, 150, 1),
    {
        "type": "video",
        "frames": [picture(50, 40, seed) for seed in range(5)],
        "timestamps": [0, 0.2, 0.4, 1, 2],
        "packing": 2,
    },
    {"type": "video", "frames": [picture(150, 140, 3), picture(20, 20, 4)], "temporal_ids": [[1, 2]], "max_slices": 2},
]
conversations = st.lists(st.sampled_from(range(len(PARTS))), min_size=1, max_size=4).map(
    lambda chosen: [{"role": "user", "content": [PARTS[index] for index in chosen]}]
)


def encode(conversation: Any, side: str) -> dict[str, Any]:
    return dict(
        PROCESSOR.apply_chat_template(
            conversation, tokenize=True, return_dict=True, return_tensors="np", padding_side=side, return_labels=True
        )
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(conversations, min_size=1, max_size=3), st.sampled_from(["left", "right"]))
def test_a_batch_equals_its_samples_one_by_one(batch: list[Any], side: str) -> None:
    together = encode(batch, side)
    singles = [encode(conversation, side) for conversation in batch]
    width = together["input_ids"].shape[1]
    rows, shapes, times, slots = [], [], [], []
    for row, single in enumerate(singles):
        length = single["input_ids"].shape[1]
        start = width - length if side == "left" else 0
        assert np.array_equal(together["input_ids"][row, start : start + length], single["input_ids"][0])
        assert together["attention_mask"][row].sum() == length
        assert together["attention_mask"][row, start : start + length].all()
        if "pixel_values" in single:
            rows.append(single["pixel_values"])
            shapes.append(single["item_shapes"])
            times.append(single["item_times"])
            slots += [[row, position + start] for _, position in single["visual_slots"].tolist()]
    if not rows:
        assert "pixel_values" not in together
        return
    assert np.array_equal(together["pixel_values"], np.concatenate(rows))
    assert np.array_equal(together["item_shapes"], np.concatenate(shapes))
    assert np.array_equal(together["item_times"], np.concatenate(times))
    assert together["visual_slots"].tolist() == slots
    packs = together["item_packs"]
    assert packs[0] == 0
    assert set(np.diff(packs).tolist()) <= {0, 1}
    assert packs[-1] + 1 == len(slots)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_same_picture_from_memory_and_file_gives_the_same_rows(side: str, tmp_path: Path) -> None:
    image = picture(120, 80)
    image.save(tmp_path / "a.png")
    from_memory = encode([{"role": "user", "content": [image]}], side)
    from_file = encode([{"role": "user", "content": [{"type": "image", "path": str(tmp_path / "a.png")}]}], side)
    assert np.array_equal(from_memory["pixel_values"], from_file["pixel_values"])
