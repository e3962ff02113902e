"""The ragged record: what contradicts is refused, chunks keep packs whole, and each pack lands in its own slot."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minicpmv.errors import ShapeContractError
from minicpmv.model.visual_inputs import ITEM_KEYS, VisualInputs, keep_packs, place_in_slots

SHAPES = torch.tensor([[2, 3], [2, 2], [2, 2], [1, 5]])
PACKS = torch.tensor([0, 1, 1, 2])
TIMES = torch.tensor([-1, 3, 4, -1])
PIXELS = torch.arange(19 * 588, dtype=torch.float32).view(19, 588)


def test_missing_packs_and_times_mean_pictures() -> None:
    inputs = VisualInputs.from_tensors(PIXELS, SHAPES, None, None)
    assert inputs.packs == [0, 1, 2, 3]
    assert inputs.times.tolist() == [-1] * 4
    assert inputs.num_packs == 4


def test_pixels_without_shapes_are_refused() -> None:
    with pytest.raises(ShapeContractError, match="came without item_shapes"):
        VisualInputs.from_tensors(PIXELS, None, PACKS, TIMES)


@pytest.mark.parametrize(
    ("pixels", "packs", "times", "complaint"),
    [
        (PIXELS, PACKS[:3], TIMES, "4 item_shapes, 3 item_packs and 4 item_times"),
        (PIXELS, PACKS, TIMES[:2], "4 item_shapes, 4 item_packs and 2 item_times"),
        (PIXELS[:18], PACKS, TIMES, r"shape \(18, 588\); item_shapes of 4 items cover 19"),
        (PIXELS[None], PACKS, TIMES, r"shape \(1, 19, 588\)"),
    ],
)
def test_tensors_that_disagree_are_refused_with_their_counts(
    pixels: torch.Tensor, packs: torch.Tensor, times: torch.Tensor, complaint: str
) -> None:
    with pytest.raises(ShapeContractError, match=complaint):
        VisualInputs.from_tensors(pixels, SHAPES, packs, times)


@given(
    frames=st.lists(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4), max_size=6),
    budget=st.integers(1, 60),
)
def test_chunks_hold_whole_packs_within_the_budget_and_lose_nothing(
    frames: list[list[tuple[int, int]]], budget: int
) -> None:
    shapes = [shape for pack in frames for shape in pack]
    packs = [index for index, pack in enumerate(frames) for _ in pack]
    areas = [rows * columns for rows, columns in shapes]
    inputs = VisualInputs(torch.arange(sum(areas))[:, None], shapes, packs, torch.arange(len(shapes)))
    chunks = list(inputs.chunks(budget))
    assert [shape for chunk in chunks for shape in chunk.shapes] == shapes
    assert [n for chunk in chunks for n in chunk.pixel_values.flatten().tolist()] == list(range(sum(areas)))
    assert [t for chunk in chunks for t in chunk.times.tolist()] == list(range(len(shapes)))
    assert sum(chunk.num_packs for chunk in chunks) == len(frames)
    for chunk in chunks:
        assert chunk.packs[0] == 0
        assert len(chunk.pixel_values) <= budget or chunk.num_packs == 1
    for chunk, following in zip(chunks, chunks[1:], strict=False):
        first_pack = sum(
            rows * columns for (rows, columns), pack in zip(following.shapes, following.packs, strict=True) if not pack
        )
        assert len(chunk.pixel_values) + first_pack > budget, "a chunk was closed although the next pack fitted"


SLOTS = torch.tensor([[0, 3], [0, 70], [1, 9]])


@pytest.mark.parametrize("keep", [[True, True, True], [False, True, True], [True, False, True], [False, True, False]])
def test_keeping_some_packs_keeps_their_items_and_numbers_them_anew(keep: list[bool]) -> None:
    visual = {"pixel_values": PIXELS, "item_shapes": SHAPES, "item_packs": PACKS, "item_times": TIMES}
    kept = keep_packs({**visual, "visual_slots": SLOTS}, torch.tensor(keep))
    items = [i for i, pack in enumerate(PACKS.tolist()) if keep[pack]]
    parts = PIXELS.split([6, 4, 4, 5])
    assert torch.equal(kept["pixel_values"], torch.cat([parts[i] for i in items]))
    assert torch.equal(kept["item_shapes"], SHAPES[items])
    assert torch.equal(kept["item_times"], TIMES[items])
    assert torch.equal(kept["visual_slots"], SLOTS[keep])
    assert VisualInputs.from_tensors(*(kept[key] for key in ITEM_KEYS)).num_packs == sum(keep)
    assert kept["item_packs"][0] == 0


def test_keeping_some_packs_of_encoded_features() -> None:
    features = torch.arange(3.0)[:, None, None].expand(3, 2, 4)
    kept = keep_packs({"visual_features": features, "visual_slots": SLOTS}, torch.tensor([False, True, True]))
    assert kept["visual_features"][:, 0, 0].tolist() == [1.0, 2.0]


def test_each_pack_lands_in_its_own_slot_and_nothing_else_moves() -> None:
    embeddings = torch.zeros(2, 6, 3)
    features = torch.stack([torch.full((2, 3), value) for value in (1.0, 2.0, 3.0)])
    placed = place_in_slots(embeddings, features, torch.tensor([[1, 0], [0, 3], [1, 4]]))
    assert placed[..., 0].tolist() == [[0, 0, 0, 2, 2, 0], [1, 1, 0, 0, 3, 3]]
    assert not embeddings.any(), "the input must not be written to"


def test_placing_casts_to_the_type_of_the_prompt_and_carries_gradients() -> None:
    features = torch.ones(1, 2, 3, requires_grad=True)
    embeddings = torch.zeros(1, 4, 3, dtype=torch.bfloat16)
    placed = place_in_slots(embeddings, features, torch.tensor([[0, 1]]))
    assert placed.dtype == torch.bfloat16
    placed.float().sum().backward()
    assert features.grad is not None
    assert features.grad.eq(1).all()


def test_a_slot_more_or_less_than_packs_is_refused() -> None:
    with pytest.raises(ShapeContractError, match="2 visual slots but the pictures and clips give 1 packs"):
        place_in_slots(torch.zeros(1, 9, 3), torch.zeros(1, 2, 3), torch.tensor([[0, 0], [0, 4]]))


@pytest.mark.parametrize("slot", [[0, 8], [1, 0], [-1, 0], [0, -2]])
def test_a_slot_outside_the_prompt_is_refused(slot: list[int]) -> None:
    with pytest.raises(ShapeContractError, match="lies outside input_ids of shape"):
        place_in_slots(torch.zeros(1, 9, 3), torch.zeros(1, 2, 3), torch.tensor([slot]))


def test_slots_that_left_their_placeholders_are_refused() -> None:
    """As when a trainer moves padding from the left to the right and knows nothing of slots."""
    ids = torch.tensor([[5, 5, 7, 7, 7, 1], [7, 7, 7, 1, 2, 3]])
    embeddings, features = torch.zeros(2, 6, 4), torch.ones(2, 3, 4)
    place_in_slots(embeddings, features, torch.tensor([[0, 2], [1, 0]]), ids)
    with pytest.raises(ShapeContractError, match="do not lie on the placeholders"):
        place_in_slots(embeddings, features, torch.tensor([[0, 2], [1, 1]]), ids)
