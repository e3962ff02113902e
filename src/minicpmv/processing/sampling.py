"""Which frames of a clip are looked at, and when each of them happened.

    number of frames, frames per second -> plan_frames -> FramePlan(indices, packing) -> temporal_ids

The official policy asks for a few frames per second and at most 180 frame packs: a clip that needs more puts two or
three frames into one pack, and a clip that needs more still is sampled more sparsely. `packing` and `max_frames`, when
given, take effect for clips of any length. Pure functions; numpy only.

Source: MiniCPM-V 4.5 model card, `encode_video` (constants and rounding); deviations are named where they occur.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minicpmv.errors import MediaError, OptionError

FRAMES_PER_SECOND = 3.0
"""Frames per second when nobody asks for another rate. Source: model card, `choose_fps`."""

MAX_FRAMES_PER_SECOND = 10.0
"""Above this two frames would share a time code of 0.1 s. Source: model card, "up to 10 fps"."""

MAX_PACKS = 180
"""Frame packs of one clip. Source: model card, MAX_NUM_FRAMES."""

MAX_PACKING = 3
"""Frames per pack that the policy chooses by itself. Source: model card, MAX_NUM_PACKING."""

PACKING_LIMIT = 6
"""Frames per pack that may be asked for. Source: model card, "1 to 6"."""

TIME_STEP_S = 0.1
"""Seconds per unit of a time code. Source: model card, TIME_SCALE."""

LONGEST_S = 1e8
"""Longest clip, three years: with more, somebody has given dates instead of seconds. Ours."""

NO_TIME = -1
"""Time code of a picture that is not part of a clip."""


@dataclass(frozen=True, slots=True)
class FramePlan:
    """The frames to decode, in order, and how many consecutive ones share a pack.

    An index occurs twice when the clip has fewer frames per second than the policy asks for.
    """

    indices: tuple[int, ...]
    packing: int


def check_options(*, fps: float | None = None, packing: int | None = None, max_frames: int | None = None) -> None:
    """Refuse video options outside their ranges.

    Raises:
        OptionError: `fps` not in 0..10, `packing` not in 1..6, or `max_frames` smaller than 1.
    """
    if fps is not None and not 0 < fps <= MAX_FRAMES_PER_SECOND:
        raise OptionError(f"fps is {fps:g}.", remedy=f"Use more than 0 and at most {MAX_FRAMES_PER_SECOND:g}.")
    if packing is not None and not 1 <= packing <= PACKING_LIMIT:
        raise OptionError(f"packing is {packing}.", remedy=f"Use 1 to {PACKING_LIMIT} frames per pack.")
    if max_frames is not None and max_frames < 1:
        raise OptionError(f"max_frames is {max_frames}.", remedy="Use at least 1.")


def plan_frames(
    num_frames: int,
    fps: float,
    *,
    choose_fps: float = FRAMES_PER_SECOND,
    packing: int | None = None,
    max_frames: int | None = None,
    max_packs: int = MAX_PACKS,
) -> FramePlan:
    """The frames of a clip that are looked at.

    Without `packing` and `max_frames` this is the official policy for `choose_fps`. With them:

    - `packing` sets the frames per pack of a clip of any length (officially `force_packing`), and lets a long clip have
      as many frames as that packing can hold (officially by raising MAX_NUM_PACKING).
    - `max_frames` is an upper bound on the frames; one that needs more than three frames per pack allows that too.

    Args:
        num_frames: frames in the clip, at least 1.
        fps: average frames per second of the clip.
        choose_fps: wanted frames per second.
        packing: frames per pack, 1 to 6.
        max_frames: upper bound on the number of frames.
        max_packs: packs of one clip that the policy plans for.

    Raises:
        MediaError: the clip has no frames or no frame rate.
        OptionError: an option is outside its range.

    >>> plan = plan_frames(5400, 30.0)
    >>> len(plan.indices), plan.packing, plan.indices[:3]
    (540, 3, (5, 15, 25))
    """
    check_options(fps=choose_fps, packing=packing, max_frames=max_frames)
    if num_frames < 1 or not fps > 0 or not math.isfinite(fps):
        raise MediaError(
            f"The clip has {num_frames} frames at {fps:g} frames per second.", remedy="Check that the file is complete."
        )
    asked = math.ceil(max_frames / max_packs) if max_frames is not None else 1
    max_packing = min(max(MAX_PACKING, packing or 1, asked), PACKING_LIMIT)
    count, chosen = _policy(num_frames / fps, fps, choose_fps, max_packs=max_packs, max_packing=max_packing)
    if max_frames is not None and count > max_frames:
        count = max_frames
        chosen = min(math.ceil(count / max_packs), max_packing)
    return FramePlan(uniform_indices(num_frames, count), packing or chosen)


def _policy(duration_s: float, fps: float, choose_fps: float, *, max_packs: int, max_packing: int) -> tuple[int, int]:
    """Number of frames and frames per pack, as the model card computes them; at least one frame."""
    if choose_fps * int(duration_s) <= max_packs:
        rate = min(choose_fps, round(fps) or fps)
        # Officially the seconds are capped at max_packs, which matters only below one frame per second: left out there.
        seconds = duration_s if choose_fps < 1 else min(max_packs, duration_s)
        return max(round(rate * seconds), 1), 1
    packing = math.ceil(duration_s * choose_fps / max_packs)
    if packing <= max_packing:
        return round(duration_s * choose_fps), packing
    return max_packs * max_packing, max_packing


def uniform_indices(num_frames: int, count: int) -> tuple[int, ...]:
    """`count` indices in 0..num_frames-1, the middles of equal stretches, truncated.

    >>> uniform_indices(300, 3)
    (50, 150, 250)
    """
    gap = num_frames / count
    return tuple(int(position * gap + gap / 2) for position in range(count))


def time_codes(times_s: Sequence[float], duration_s: float) -> tuple[int, ...]:
    """The official time code of each moment: the nearest tenth of a second before the end, then truncated.

    The truncation acts on binary fractions, so some codes are one lower than the tenth they mean (4.3 s gives 42);
    the released model was trained with them. A moment exactly between two tenths takes the earlier one.

    Args:
        times_s: moments, in seconds.
        duration_s: length of the clip, in seconds; a code never lies after its last tenth.

    Raises:
        MediaError: the clip is longer than a code can tell.

    >>> time_codes([0.0, 0.26, 4.3], 10.0)
    (0, 3, 42)
    """
    if not duration_s <= LONGEST_S:
        raise MediaError(
            f"A clip of {duration_s:g} seconds has no time codes.",
            remedy=f"Count seconds from the beginning of the clip; the longest has {LONGEST_S:g}.",
        )
    moments = np.asarray(times_s, np.float64)
    # Officially the tenths are a grid in memory; its points are found here without it, however long the clip is.
    last = math.ceil(max(duration_s, TIME_STEP_S) / TIME_STEP_S) - 1
    upper = np.ceil(moments / TIME_STEP_S).astype(np.int64)  # about the first tenth that is not before the moment
    upper -= (upper - 1) * TIME_STEP_S >= moments
    upper += upper * TIME_STEP_S < moments
    upper = np.clip(upper, 0, last)
    lower = np.maximum(upper - 1, 0)
    is_later = np.abs(upper * TIME_STEP_S - moments) < np.abs(moments - lower * TIME_STEP_S)
    nearest = np.where(is_later, upper, lower)
    return tuple((nearest * TIME_STEP_S / TIME_STEP_S).astype(np.int32).tolist())


def temporal_ids(indices: Sequence[int], fps: float, num_frames: int) -> tuple[int, ...]:
    """The official time codes of frames of a clip with a constant average frame rate.

    >>> temporal_ids([5, 15, 25], 30.0, 300)
    (2, 5, 8)
    """
    return time_codes([index / fps for index in indices], num_frames / fps)
