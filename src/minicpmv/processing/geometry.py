"""How the pictures of one checkpoint become patches: the few numbers that every plan needs, in one value."""

from dataclasses import dataclass

from minicpmv.errors import MediaLimitError
from minicpmv.processing.patches import HALF
from minicpmv.processing.slicing import (
    MAX_SLICES,
    PATCH,
    RESOLUTION,
    Grid,
    Size,
    SlicePlan,
    plan_slices,
    plan_unsliced,
    plan_with_grid,
)

MAX_ASPECT = 10_000
"""Longest side over shortest; beyond it a picture is one patch wide and thousands long. Ours: officially no limit."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """How pictures become patches. Source of the defaults: preprocessor_config.json of MiniCPM-V 4.5."""

    resolution: int = RESOLUTION
    """Side of the square that one slice approximates, in px."""
    patch: int = PATCH
    """Side of a patch, in px."""
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    slice_mode: bool = True
    """False leaves pictures at their size, rounded to whole patches."""

    def plan(self, size: Size, max_slices: int = MAX_SLICES) -> SlicePlan:
        """What the encoder will see of one picture.

        Raises:
            MediaError: a side is smaller than 1 px.
            MediaLimitError: one side is more than 10000 times the other.
        """
        if max(size) > MAX_ASPECT * max(min(size), 1):
            raise MediaLimitError(
                f"The picture is {size[0]} x {size[1]} px, too narrow to be looked at.",
                remedy=f"Crop it: one side may be {MAX_ASPECT} times the other.",
            )
        if not self.slice_mode:
            return plan_unsliced(size, patch=self.patch)
        return plan_slices(size, max_slices=max_slices, resolution=self.resolution, patch=self.patch)

    def plan_like(self, size: Size, grid: Grid | None) -> SlicePlan:
        """What the encoder will see of a picture whose grid another one has decided."""
        if not self.slice_mode:
            return plan_unsliced(size, patch=self.patch)
        return plan_with_grid(size, grid, resolution=self.resolution, patch=self.patch)
