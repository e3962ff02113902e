"""Frame packs: which frames share one set of queries, and the order in which the encoder sees everything.

    time codes -> group_consecutive -> groups -> FrameGroup(frames, times, plans) -> order_items -> ItemPlace

A *group* is one picture, or a few consecutive frames. Each slice position of a group is one *pack*: all frames' pieces
at that position, resampled together into one run of tokens. A picture is a group of one frame without a time, so
pictures and clips take the same path. The frames of a group always have the same number of slices, because they take
the grid of the group's first frame.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from minicpmv.errors import MessageError
from minicpmv.processing.geometry import Geometry
from minicpmv.processing.slicing import PATCH, RESOLUTION, Grid, Size, SlicePlan

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FrameGroup:
    """Frames that are resampled together, or a single picture.

    `frames` are positions in the list of decoded frames, `times` their official time codes (-1 for no time), `plans`
    what the encoder sees of each; the three have the same length, and all plans have the same grid.
    """

    frames: tuple[int, ...]
    times: tuple[int, ...]
    plans: tuple[SlicePlan, ...]

    @property
    def grid(self) -> Grid | None:
        """The grid of every frame of the group."""
        return self.plans[0].grid

    @property
    def num_packs(self) -> int:
        """Runs of tokens that the group fills: the overview and each slice position."""
        return len(self.plans[0].items)


@dataclass(frozen=True, slots=True)
class ItemPlace:
    """Where one thing that the encoder sees comes from, and which pack it belongs to."""

    frame: int
    position: int
    """0 for the overview, then 1, 2, ... for the slices row by row."""
    size: Size
    pack: int
    """Counted from 0 over the groups given to `order_items`."""
    time: int


def group_consecutive(values: Sequence[T], packing: int) -> tuple[tuple[T, ...], ...]:
    """Consecutive values in groups of `packing`; the last group may be shorter.

    >>> group_consecutive([2, 5, 8, 12, 15], 3)
    ((2, 5, 8), (12, 15))
    """
    return tuple(tuple(values[start : start + packing]) for start in range(0, len(values), packing))


def check_groups(groups: Sequence[Sequence[int]], num_frames: int) -> tuple[tuple[int, ...], ...]:
    """Explicit time code groups, checked against the number of frames.

    Raises:
        MessageError: not groups of whole numbers from -1 up, an empty group, or another number of ids than frames.
    """
    checked = []
    for position, group in enumerate(groups):
        if isinstance(group, int) or not group or not all(isinstance(time, int) and time >= -1 for time in group):
            raise MessageError(
                f"temporal_ids[{position}] is {group!r}, not a group of ids.",
                remedy="Give groups such as [[-1], [3, 5]]: whole tenths of a second, or -1 for no time.",
            )
        checked.append(tuple(int(time) for time in group))
    total = sum(len(group) for group in checked)
    if total != num_frames:
        raise MessageError(
            f"temporal_ids name {total} frames, but there are {num_frames}.", remedy="Give one id per frame."
        )
    return tuple(checked)


def plan_groups(
    times: Sequence[Sequence[int]],
    sizes: Sequence[Size],
    *,
    max_slices: int,
    resolution: int = RESOLUTION,
    patch: int = PATCH,
    slice_mode: bool = True,
    start: int = 0,
) -> tuple[FrameGroup, ...]:
    """What the encoder sees of every group.

    Frames of different sizes keep their own shapes; with slices they all take the grid of their group's first frame.
    Deviation: officially a frame with fewer slices than the first one is an IndexError and surplus ones are dropped.

    Args:
        times: time codes, group by group.
        sizes: size of every frame in order, in px; as many as there are codes.
        max_slices: upper bound on the slices of one frame.
        resolution: side of the square that one slice approximates, in px.
        patch: side of a patch, in px.
        slice_mode: False leaves frames at their size.
        start: number of the first frame.
    """
    geometry = Geometry(resolution, patch, slice_mode=slice_mode)
    groups = []
    remaining = iter(sizes)
    known: dict[tuple[Size, Grid | None], SlicePlan] = {}
    for codes in times:
        members = [next(remaining) for _ in codes]
        grid = geometry.plan(members[0], max_slices).grid
        for size in members:
            if (size, grid) not in known:
                known[size, grid] = geometry.plan_like(size, grid)
        frames = tuple(range(start, start + len(members)))
        groups.append(FrameGroup(frames, tuple(codes), tuple(known[size, grid] for size in members)))
        start += len(members)
    return tuple(groups)


def order_items(groups: Sequence[FrameGroup]) -> Iterator[ItemPlace]:
    """Everything the encoder sees, in order: group by group, pack by pack, and frame by frame inside a pack."""
    pack = 0
    for group in groups:
        for position in range(group.num_packs):
            for frame, time, plan in zip(group.frames, group.times, group.plans, strict=True):
                yield ItemPlace(frame, position, plan.items[position], pack, time)
            pack += 1
