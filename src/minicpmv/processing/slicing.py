"""Cut a picture into slices of about the resolution the encoder was trained for.

    Size -> choose_grid -> Grid -> plan_slices -> SlicePlan(overview, grid, refined) -> cut_slices -> pictures

The encoder sees roughly 448 x 448 px at a time. A larger picture is covered by a grid of slices whose aspect ratio is
closest to the picture's, plus one overview of the whole. A smaller picture is enlarged to about that area. Every side
that comes out is a multiple of the patch. Nothing here knows about tokens or tensors: the plan needs only a size, so
the cost of a picture is known before its pixels are decoded.

Source: LLaVA-UHD (arXiv 2403.11703), section 3.1, with the rounding of the released MiniCPM-V 4.5 processor: sides are
rounded half to even, and the height is truncated before the width is derived from it, so that a picture and its
transpose can differ by one patch (3000 x 400 has an overview of 1218 x 168, 400 x 3000 one of 168 x 1232).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from minicpmv.errors import MediaError, OptionError

RESOLUTION = 448
"""Side of the square whose area one slice approximates, in px. Source: preprocessor_config.json, scale_resolution."""

PATCH = 14
"""Side of one patch, in px. Source: preprocessor_config.json, patch_size."""

MOST_PATCHES = 4096
"""Patches that a thin picture may become, whose short side is at least one; or four slices, where these are larger.
Ours: the official code goes on, and would ask for the attention of a quarter of a million."""

MAX_SLICES = 9
"""Upper bound on the slices of one picture. Source: preprocessor_config.json, max_slice_nums."""


class Size(NamedTuple):
    """Width and height, in px."""

    width: int
    height: int


class Grid(NamedTuple):
    """How many slices lie side by side and one above the other."""

    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class SlicePlan:
    """What the encoder will see of one picture: an overview and, for a large picture, a grid of slices.

    `refined` is the size of the whole picture before it is cut into the grid; None exactly when `grid` is None.
    """

    overview: Size
    grid: Grid | None
    refined: Size | None

    @property
    def slice_size(self) -> Size | None:
        """Size of one slice of the grid, in px; all slices are equal."""
        if self.grid is None or self.refined is None:
            return None
        return Size(self.refined.width // self.grid.columns, self.refined.height // self.grid.rows)

    @property
    def items(self) -> tuple[Size, ...]:
        """Sizes of everything the encoder sees: the overview, then the slices row by row."""
        if self.grid is None or self.slice_size is None:
            return (self.overview,)
        return (self.overview, *(self.slice_size,) * (self.grid.columns * self.grid.rows))


def round_to_multiple(length: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `length`, at least one; halves go to the even multiple.

    >>> round_to_multiple(21, 14), round_to_multiple(35, 14), round_to_multiple(3, 14)
    (28, 28, 14)
    """
    return max(round(length / divisor) * divisor, divisor)


def fit_area(width: float, height: float, *, resolution: int, patch: int, enlarge: bool) -> Size:
    """The size with about `resolution`^2 px, the same aspect ratio, and sides that are multiples of `patch`.

    Args:
        width: width in px; a slice of a grid may have a fractional one.
        height: height in px.
        resolution: side of the square of the wanted area, in px.
        patch: side of a patch, in px.
        enlarge: also change a picture that is smaller than the area.

    Raises:
        MediaError: the picture is so thin that a patch's breadth makes it many times as large.
    """
    given = Size(round(width), round(height))
    if enlarge or width * height > resolution * resolution:
        ratio = width / height
        height = int(resolution / math.sqrt(ratio))
        width = int(height * ratio)
    size = Size(round_to_multiple(width, patch), round_to_multiple(height, patch))
    if size.width * size.height > max(MOST_PATCHES * patch * patch, 4 * resolution * resolution):
        raise MediaError(
            f"The picture is too thin: {given.width} x {given.height} px would become {size.width} x {size.height}.",
            remedy="Cut it into pieces.",
        )
    return size


def choose_grid(size: Size, *, max_slices: int = MAX_SLICES, resolution: int = RESOLUTION) -> Grid | None:
    """The grid whose aspect ratio is closest to the picture's, or None if one slice is enough.

    Candidates use one slice fewer than the area asks for, exactly as many, or one more; the first of equals wins.

    Args:
        size: the picture's size, in px.
        max_slices: upper bound on columns * rows.
        resolution: side of the square that one slice approximates, in px.

    Raises:
        MediaError: a side is smaller than 1 px.
        OptionError: `max_slices` is smaller than 1.

    >>> choose_grid(Size(1280, 720))
    Grid(columns=3, rows=2)
    >>> choose_grid(Size(448, 3000))
    Grid(columns=1, rows=7)
    >>> choose_grid(Size(400, 300)) is None
    True
    """
    width, height = size
    if width < 1 or height < 1:
        raise MediaError(f"The picture is {width} x {height} px.", remedy="Use a picture with at least one pixel.")
    if max_slices < 1:
        raise OptionError(f"max_slices is {max_slices}.", remedy="Use 1 for no slices, or up to 9.")
    wanted = min(math.ceil(width * height / (resolution * resolution)), max_slices)
    if wanted <= 1:
        return None
    counts = [count for count in (wanted - 1, wanted, wanted + 1) if 1 < count <= max_slices]
    candidates = [
        Grid(columns, count // columns) for count in counts for columns in range(1, count + 1) if count % columns == 0
    ]
    log_ratio = math.log(width / height)
    return min(candidates, key=lambda grid: abs(log_ratio - math.log(grid.columns / grid.rows)))


def plan_slices(
    size: Size, *, max_slices: int = MAX_SLICES, resolution: int = RESOLUTION, patch: int = PATCH
) -> SlicePlan:
    """What the encoder will see of a picture of this size.

    Args:
        size: the picture's size, in px.
        max_slices: upper bound on the slices of the grid; 1 means the overview alone.
        resolution: side of the square that one slice approximates, in px.
        patch: side of a patch, in px.

    Raises:
        MediaError: a side is smaller than 1 px.
        OptionError: `max_slices` is smaller than 1.

    >>> plan_slices(Size(896, 448))
    SlicePlan(overview=Size(width=630, height=322), grid=Grid(columns=2, rows=1), refined=Size(width=896, height=448))
    """
    grid = choose_grid(Size(*size), max_slices=max_slices, resolution=resolution)
    return plan_with_grid(Size(*size), grid, resolution=resolution, patch=patch)


def plan_with_grid(size: Size, grid: Grid | None, *, resolution: int = RESOLUTION, patch: int = PATCH) -> SlicePlan:
    """The plan of a picture whose grid is already decided, as for the later frames of a frame pack."""
    width, height = size
    if grid is None:
        return SlicePlan(fit_area(width, height, resolution=resolution, patch=patch, enlarge=True), None, None)
    overview = fit_area(width, height, resolution=resolution, patch=patch, enlarge=False)
    cell = fit_area(
        round_to_multiple(width, grid.columns) / grid.columns,
        round_to_multiple(height, grid.rows) / grid.rows,
        resolution=resolution,
        patch=patch,
        enlarge=True,
    )
    return SlicePlan(overview, grid, Size(cell.width * grid.columns, cell.height * grid.rows))


def plan_unsliced(size: Size, *, patch: int = PATCH) -> SlicePlan:
    """The plan for `slice_mode: false`: the picture as it is, each side rounded to a multiple of the patch.

    Deviation: the official processor leaves the size alone and fails when a side is not a multiple of the patch.
    """
    return SlicePlan(Size(round_to_multiple(size[0], patch), round_to_multiple(size[1], patch)), None, None)


def resized_views(image: Image.Image, plan: SlicePlan) -> tuple[Image.Image, Image.Image | None]:
    """The overview and, with a grid, the whole picture at the size that is then cut; bicubic, as officially."""
    overview = image.resize(plan.overview, Image.Resampling.BICUBIC)
    refined = None if plan.refined is None else image.resize(plan.refined, Image.Resampling.BICUBIC)
    return overview, refined


def slice_boxes(plan: SlicePlan) -> tuple[tuple[int, int, int, int], ...]:
    """Left, top, right, bottom of every slice inside the refined picture, row by row; empty without a grid."""
    if plan.grid is None or plan.slice_size is None:
        return ()
    width, height = plan.slice_size
    return tuple(
        (column * width, row * height, (column + 1) * width, (row + 1) * height)
        for row in range(plan.grid.rows)
        for column in range(plan.grid.columns)
    )


def cut_slices(image: Image.Image, plan: SlicePlan) -> list[Image.Image]:
    """The pictures the encoder sees, in the order of `plan.items`: the overview, then the slices row by row.

    Args:
        image: an RGB picture.
        plan: its plan, usually from `plan_slices(Size(*image.size))`.
    """
    overview, refined = resized_views(image, plan)
    if refined is None:
        return [overview]
    return [overview, *(refined.crop(box) for box in slice_boxes(plan))]
