"""Slicing: any size gives sides that divide into patches, and the numbers of the released processor."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minicpmv.errors import MediaError, OptionError
from minicpmv.processing.slicing import (
    Grid,
    Size,
    choose_grid,
    cut_slices,
    plan_slices,
    plan_unsliced,
    plan_with_grid,
    round_to_multiple,
    slice_boxes,
)

sizes = st.builds(Size, st.integers(1, 6000), st.integers(1, 6000))


@given(sizes, st.integers(1, 12))
def test_every_item_divides_into_patches_and_the_grid_respects_the_limit(size: Size, max_slices: int) -> None:
    plan = plan_slices(size, max_slices=max_slices)
    assert all(side % 14 == 0 and side > 0 for item in plan.items for side in item)
    if plan.grid is None:
        assert plan.refined is None
        assert len(plan.items) == 1
    else:
        assert 2 <= plan.grid.columns * plan.grid.rows <= max_slices
        assert len(plan.items) == 1 + plan.grid.columns * plan.grid.rows
        assert plan.refined == (
            plan.items[1].width * plan.grid.columns,
            plan.items[1].height * plan.grid.rows,
        )


@given(sizes)
def test_a_grid_is_chosen_exactly_when_the_area_exceeds_one_slice(size: Size) -> None:
    assert (choose_grid(size) is None) == (size.width * size.height <= 448 * 448)


@given(sizes)
def test_the_chosen_grid_is_the_closest_in_shape_among_its_neighbours(size: Size) -> None:
    grid = choose_grid(size)
    if grid is None:
        return
    wanted = min(math.ceil(size.width * size.height / 448**2), 9)
    distance = abs(math.log(size.width / size.height) - math.log(grid.columns / grid.rows))
    for count in range(max(wanted - 1, 2), min(wanted + 1, 9) + 1):
        for columns in range(1, count + 1):
            if count % columns == 0:
                other = abs(math.log(size.width / size.height) - math.log(columns / (count // columns)))
                assert distance <= other


@pytest.mark.parametrize(
    ("length", "divisor", "expected"),
    [(21, 14, 28), (35, 14, 28), (49, 14, 56), (7, 14, 14), (0, 14, 14), (6.3, 14, 14), (448, 3, 447)],
)
def test_halves_round_to_the_even_multiple(length: float, divisor: int, expected: int) -> None:
    assert round_to_multiple(length, divisor) == expected


def test_height_is_truncated_before_the_width_so_a_transpose_may_differ() -> None:
    assert plan_slices(Size(3000, 400)).overview == Size(1218, 168)
    assert plan_slices(Size(400, 3000)).overview == Size(168, 1232)


def test_extreme_strips_stay_one_patch_wide() -> None:
    assert plan_slices(Size(1, 5000)).items == (Size(14, 31682),)
    assert plan_slices(Size(5000, 1)).items == (Size(30002, 14),)


@pytest.mark.parametrize("size", [Size(1, 2**26), Size(100_000, 1)])
def test_a_picture_as_thin_as_a_thread_is_refused(size: Size) -> None:
    """It would become a quarter of a million patches, all of which attend to each other."""
    with pytest.raises(MediaError, match="too thin"):
        plan_slices(size)


def test_a_small_picture_is_enlarged_to_the_area_of_one_slice() -> None:
    assert plan_slices(Size(1, 1)).items == (Size(448, 448),)
    assert plan_slices(Size(10, 10), resolution=224).items == (Size(224, 224),)


def test_ties_between_grids_keep_the_earlier_candidate() -> None:
    assert choose_grid(Size(600, 600), max_slices=2) == Grid(1, 2)


def test_a_forced_grid_keeps_the_shape_of_the_frame() -> None:
    plan = plan_with_grid(Size(100, 200), Grid(2, 1))
    assert plan.grid == Grid(2, 1)
    assert len(plan.items) == 3
    assert all(side % 14 == 0 for item in plan.items for side in item)


def test_unsliced_pictures_only_round_their_sides() -> None:
    assert plan_unsliced(Size(56, 21)).items == (Size(56, 28),)


def test_cut_slices_follow_the_plan_and_tile_the_refined_picture() -> None:
    image = Image.radial_gradient("L").resize((900, 500)).convert("RGB")
    plan = plan_slices(Size(*image.size))
    cut = cut_slices(image, plan)
    assert tuple(Size(*piece.size) for piece in cut) == plan.items
    assert plan.refined is not None
    refined = image.resize(plan.refined, Image.Resampling.BICUBIC)
    pasted = Image.new("RGB", plan.refined)
    for piece, box in zip(cut[1:], slice_boxes(plan), strict=True):
        pasted.paste(piece, box)
    assert pasted.tobytes() == refined.tobytes()


def test_empty_pictures_and_impossible_limits_are_refused() -> None:
    with pytest.raises(MediaError, match="0 x 5"):
        plan_slices(Size(0, 5))
    with pytest.raises(OptionError, match="max_slices is 0"):
        plan_slices(Size(5, 5), max_slices=0)
