"""Frame packs: consecutive groups, one grid per group, and the order in which the encoder sees everything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicpmv.errors import MessageError
from minicpmv.processing.packing import check_groups, group_consecutive, order_items, plan_groups
from minicpmv.processing.slicing import Size

sizes = st.builds(Size, st.integers(1, 2000), st.integers(1, 2000))


@given(st.lists(st.integers(0, 9999), max_size=60), st.integers(1, 6))
def test_groups_keep_every_value_in_order_and_only_the_last_is_short(values: list[int], packing: int) -> None:
    groups = group_consecutive(values, packing)
    assert [value for group in groups for value in group] == values
    assert all(len(group) == packing for group in groups[:-1])
    assert all(0 < len(group) <= packing for group in groups)


@given(st.lists(sizes, min_size=1, max_size=7), st.integers(1, 4), st.integers(1, 9))
def test_every_pack_holds_each_frame_of_its_group_once_at_one_position(
    frames: list[Size], packing: int, max_slices: int
) -> None:
    times = group_consecutive(list(range(len(frames))), packing)
    groups = plan_groups(times, frames, max_slices=max_slices)
    places = list(order_items(groups))
    assert [place.pack for place in places] == sorted(place.pack for place in places)
    assert {place.pack for place in places} == set(range(sum(group.num_packs for group in groups)))
    for pack in range(places[-1].pack + 1):
        members = [place for place in places if place.pack == pack]
        assert len({place.position for place in members}) == 1
        assert tuple(place.frame for place in members) in [group.frames for group in groups]
        assert [place.time for place in members] == [place.frame for place in members]


def test_frames_of_a_group_take_the_grid_of_its_first_frame() -> None:
    groups = plan_groups([[0, 1], [2]], [Size(896, 448), Size(100, 100), Size(100, 100)], max_slices=9)
    assert groups[0].plans[0].grid == groups[0].plans[1].grid == (2, 1)
    assert groups[1].grid is None
    assert [(place.frame, place.position, place.pack) for place in order_items(groups)] == [
        (0, 0, 0),
        (1, 0, 0),
        (0, 1, 1),
        (1, 1, 1),
        (0, 2, 2),
        (1, 2, 2),
        (2, 0, 3),
    ]


def test_explicit_groups_may_mix_pictures_without_time_and_frames() -> None:
    assert check_groups([[-1], [3, 5]], 3) == ((-1,), (3, 5))


@pytest.mark.parametrize("groups", [[[0], []], [0, 1], [[0, -2]], [[0.5, 1]], [[0]], [[0, 1, 2]], [["0", "1"]]])
def test_explicit_groups_that_do_not_fit_two_frames_are_refused(groups: list[list[int]]) -> None:
    with pytest.raises(MessageError, match="temporal_ids"):
        check_groups(groups, 2)
