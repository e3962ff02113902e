"""Pictures to patch rows: the last step before tensors, in numpy only.

A picture of H x W px becomes (H/14) * (W/14) rows of 3 * 14 * 14 = 588 numbers, row-major over the picture, each row
one patch flattened channel first (channel, y, x) and normalised to about -1..1. That is exactly the order in which a
14 x 14 convolution with stride 14 reads its weights, so the patch embedding is one matrix product over rows, and
pictures of any shape lie one after another in a single ragged array without padding.

`write_patches` fills rows of an array that the caller allocated once for the whole batch; a frame of 602 x 336 px takes
about half a millisecond, a twentieth of its resize.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from minicpmv.errors import ShapeContractError
from minicpmv.processing.slicing import PATCH

HALF = (0.5, 0.5, 0.5)
"""Mean and standard deviation of all channels. Source: preprocessor_config.json, norm_mean and norm_std."""

FloatRows = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


def patch_shape(pixels: Pixels, *, patch: int = PATCH) -> tuple[int, int]:
    """Rows and columns of patches in a uint8 picture [height, width, 3].

    Raises:
        ShapeContractError: not uint8, not three channels, empty, or a side that is not a multiple of `patch`.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ShapeContractError(
            f"expected a uint8 picture [height, width, 3], received {pixels.dtype} {list(pixels.shape)}.",
            remedy="Convert the picture to RGB first.",
        )
    height, width = pixels.shape[:2]
    if height % patch or width % patch or not height or not width:
        raise ShapeContractError(
            f"a picture of {width} x {height} px cannot be cut into patches of {patch} px.",
            remedy="Resize it with slicing.plan_slices first.",
        )
    return height // patch, width // patch


def write_patches(
    pixels: Pixels,
    out: FloatRows,
    *,
    patch: int = PATCH,
    mean: Sequence[float] = HALF,
    std: Sequence[float] = HALF,
) -> None:
    """Write the patches of one picture into rows that already exist.

    With the official mean and deviation of 0.5, (x / 255 - 0.5) / 0.5 is computed as x / 127.5 - 1, which is the same
    float32 number for each of the 256 values: scaling by two is exact.

    Args:
        pixels: uint8 [height, width, 3]; a view into a larger picture is fine.
        out: float32 [patches, 3 * patch * patch], C-contiguous rows of the caller's array.
        patch: side of a patch, in px.
        mean: per channel, on the scale 0..1.
        std: per channel, on the scale 0..1.

    Raises:
        ShapeContractError: the picture does not divide into patches, or `out` has another shape.
    """
    rows, columns = patch_shape(pixels, patch=patch)
    if out.shape != (rows * columns, 3 * patch * patch) or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ShapeContractError(
            f"expected contiguous float32 rows {[rows * columns, 3 * patch * patch]}, received {out.dtype} "
            f"{list(out.shape)}.",
            remedy="Allocate one row per patch.",
        )
    tiles = pixels.reshape(rows, patch, columns, patch, 3).transpose(0, 2, 4, 1, 3)
    target = out.reshape(rows, columns, 3, patch, patch)
    if tuple(mean) == HALF and tuple(std) == HALF:
        np.divide(tiles, np.float32(127.5), out=target, dtype=np.float32)
        np.subtract(out, np.float32(1.0), out=out)
        return
    np.divide(tiles, np.float32(255.0), out=target, dtype=np.float32)
    np.subtract(target, np.asarray(mean, np.float32).reshape(1, 1, 3, 1, 1), out=target)
    np.divide(target, np.asarray(std, np.float32).reshape(1, 1, 3, 1, 1), out=target)


def patchify(
    pixels: Pixels, *, patch: int = PATCH, mean: Sequence[float] = HALF, std: Sequence[float] = HALF
) -> FloatRows:
    """The patch rows of one uint8 picture [height, width, 3], as float32 [patches, 3 * patch * patch].

    Raises:
        ShapeContractError: the picture does not divide into patches.
    """
    rows, columns = patch_shape(pixels, patch=patch)
    out = np.empty((rows * columns, 3 * patch * patch), np.float32)
    write_patches(pixels, out, patch=patch, mean=mean, std=std)
    return out


def patchify_all(
    pictures: Iterable[Pixels], *, patch: int = PATCH, mean: Sequence[float] = HALF, std: Sequence[float] = HALF
) -> tuple[FloatRows, npt.NDArray[np.int64]]:
    """Patch rows of many pictures in one array, and the rows and columns of patches of each.

    Returns:
        `rows` float32 [patches, 3 * patch * patch] over all pictures, and `shapes` int64 [pictures, 2].

    Raises:
        ShapeContractError: a picture does not divide into patches.
    """
    listed = list(pictures)
    shapes = np.array([patch_shape(pixels, patch=patch) for pixels in listed], np.int64).reshape(-1, 2)
    ends = np.cumsum(shapes[:, 0] * shapes[:, 1]).tolist()
    out = np.empty((ends[-1] if ends else 0, 3 * patch * patch), np.float32)
    for pixels, start, end in zip(listed, [0, *ends], ends, strict=False):
        write_patches(pixels, out[start:end], patch=patch, mean=mean, std=std)
    return out, shapes


def unpatchify(rows: FloatRows, shape: tuple[int, int], *, patch: int = PATCH) -> Pixels:
    """The picture behind patch rows with the official normalisation: the inverse of `patchify`, for looking at it.

    Args:
        rows: float32 [patches, 3 * patch * patch] of one item.
        shape: its rows and columns of patches.
        patch: side of a patch, in px.
    """
    tiles = rows.reshape(shape[0], shape[1], 3, patch, patch).transpose(0, 3, 1, 4, 2)
    pixels: Pixels = np.rint((tiles + 1.0) * 127.5).clip(0, 255).astype(np.uint8)
    return pixels.reshape(shape[0] * patch, shape[1] * patch, 3)
