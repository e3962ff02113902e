"""Frame sampling: the official policy, explicit options, and the time codes with their float noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicpmv.errors import MediaError, OptionError
from minicpmv.processing.sampling import TIME_STEP_S, plan_frames, temporal_ids, time_codes, uniform_indices

rates = st.floats(0.2, 120, allow_nan=False)


@given(
    st.integers(1, 200_000), rates, st.floats(0.1, 10), st.none() | st.integers(1, 6), st.none() | st.integers(1, 1200)
)
def test_indices_lie_in_the_clip_in_order_and_respect_max_frames(
    num_frames: int, fps: float, choose_fps: float, packing: int | None, max_frames: int | None
) -> None:
    plan = plan_frames(num_frames, fps, choose_fps=choose_fps, packing=packing, max_frames=max_frames)
    assert 1 <= len(plan.indices) <= 1080
    assert 1 <= plan.packing <= 6
    assert all(0 <= index < num_frames for index in plan.indices)
    assert list(plan.indices) == sorted(plan.indices)
    if max_frames is not None:
        assert len(plan.indices) <= max_frames
    if packing is not None:
        assert plan.packing == packing


@given(st.integers(1, 100_000), rates)
def test_the_default_policy_never_plans_more_than_180_packs_beyond_the_last_second(num_frames: int, fps: float) -> None:
    plan = plan_frames(num_frames, fps)
    assert len(plan.indices) <= (180 + 3) * plan.packing


@given(st.integers(1, 50_000), st.floats(1, 120))
def test_time_codes_never_fall_and_stay_inside_the_clip(num_frames: int, fps: float) -> None:
    plan = plan_frames(num_frames, fps)
    codes = temporal_ids(plan.indices, fps, num_frames)
    assert len(codes) == len(plan.indices)
    assert list(codes) == sorted(codes)
    assert codes[0] >= 0
    assert codes[-1] <= num_frames / fps / 0.1 + 1e-6


def test_explicit_packing_takes_effect_for_a_short_clip() -> None:
    plan = plan_frames(300, 30.0, choose_fps=10, packing=6)
    assert (len(plan.indices), plan.packing) == (100, 6)


def test_explicit_packing_lets_a_minute_at_ten_frames_per_second_keep_all_its_frames() -> None:
    plan = plan_frames(1800, 30.0, choose_fps=10, packing=6)
    assert (len(plan.indices), plan.packing) == (600, 6)


def test_max_frames_above_the_usual_bound_allows_larger_packs() -> None:
    assert plan_frames(18000, 30.0, max_frames=1080).packing == 6
    assert len(plan_frames(18000, 30.0, max_frames=1080).indices) == 1080


def test_max_frames_below_the_usual_bound_needs_no_packing() -> None:
    plan = plan_frames(18000, 30.0, max_frames=64)
    assert (len(plan.indices), plan.packing) == (64, 1)


def test_a_rate_below_one_reaches_the_end_of_a_long_clip() -> None:
    assert len(plan_frames(9000, 30.0, choose_fps=0.5).indices) == 150


def test_a_clip_shorter_than_one_wanted_frame_still_gives_one() -> None:
    assert plan_frames(1, 30.0).indices == (0,)
    assert plan_frames(40, 0.4).indices[0] >= 0


@pytest.mark.parametrize(
    ("scale_index", "code"), [(42, 42), (43, 42), (44, 44), (81, 80), (86, 85), (91, 90), (162, 161)]
)
def test_time_codes_truncate_binary_fractions_like_the_released_model(scale_index: int, code: int) -> None:
    assert time_codes([scale_index * 0.1], 3600.0) == (code,)


def test_3270_of_the_first_72000_codes_are_one_lower_than_their_tenth() -> None:
    codes = np.array(time_codes(np.arange(72000) * 0.1, 7200.0))
    assert int((codes != np.arange(72000)).sum()) == 3270


def test_a_moment_after_the_last_tenth_takes_the_last_tenth() -> None:
    assert time_codes([9.99], 10.0) == (99,)
    assert time_codes([0.0], 0.0) == (0,)


def test_uniform_indices_are_the_middles_of_equal_stretches() -> None:
    assert uniform_indices(10, 5) == (1, 3, 5, 7, 9)
    assert uniform_indices(2, 4) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"choose_fps": 0},
        {"choose_fps": 11},
        {"choose_fps": float("nan")},
        {"packing": 0},
        {"packing": 7},
        {"max_frames": 0},
    ],
)
def test_options_outside_their_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        plan_frames(300, 30.0, **options)  # type: ignore[arg-type]  # a table of bad values


def test_a_clip_without_frames_or_rate_is_refused() -> None:
    with pytest.raises(MediaError, match="0 frames"):
        plan_frames(0, 30.0)
    with pytest.raises(MediaError):
        plan_frames(10, 0.0)


def test_time_codes_are_found_without_a_grid_as_with_one() -> None:
    """The official code keeps every tenth of a second of the clip in memory."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        duration_s = float(generator.uniform(0.01, 400))
        moments = np.sort(np.concatenate([generator.uniform(0, duration_s + 1, 20), generator.integers(0, 50, 5) / 10]))
        moments = np.concatenate([moments, generator.integers(0, 50, 5) / 10 + 0.05])
        grid = np.arange(0, max(duration_s, TIME_STEP_S), TIME_STEP_S)
        nearest = [int(np.abs(grid - moment).argmin()) for moment in moments]
        found = time_codes(moments.tolist(), duration_s)
        off = [
            (moment, code, int(grid[place] / TIME_STEP_S))
            for moment, code, place in zip(moments, found, nearest, strict=True)
            if code != int(grid[place] / TIME_STEP_S) and abs(2 * abs(moment - grid[place]) - TIME_STEP_S) > 1e-9
        ]
        assert off == []


@pytest.mark.parametrize("duration_s", [1.7e9, 1e15, float("inf"), float("nan")])
def test_dates_in_the_place_of_seconds_are_refused_before_anything_is_counted(duration_s: float) -> None:
    with pytest.raises(MediaError, match="no time codes"):
        time_codes([0.0, duration_s], duration_s)
    assert time_codes([0.0, 9.9e7], 1e8)[1] == 990000000
