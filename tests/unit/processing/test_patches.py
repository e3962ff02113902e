"""Patch rows: the order a convolution reads, the official float32 normalisation, and a loss-free way back."""

import numpy as np
import pytest

from minicpmv.errors import ShapeContractError
from minicpmv.processing.patches import patchify, patchify_all, unpatchify, write_patches

RNG = np.random.default_rng(7)


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_each_row_is_one_patch_channel_first_in_row_major_order() -> None:
    pixels = picture(28, 42)
    rows = patchify(pixels)
    assert rows.shape == (6, 588)
    assert rows.dtype == np.float32
    expected = (np.float32(pixels[14:28, 28:42].transpose(2, 0, 1)) / 255 - np.float32(0.5)) / np.float32(0.5)
    assert np.array_equal(rows[5], expected.reshape(-1))


def test_all_256_values_equal_the_official_float32_formula() -> None:
    pixels = np.zeros((14, 28, 3), np.uint8)
    pixels.reshape(-1)[:256] = np.arange(256)
    official = (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    assert np.array_equal(unfold(official), patchify(pixels))


def unfold(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    rows = [
        pixels[top : top + 14, left : left + 14].transpose(2, 0, 1).reshape(-1)
        for top in range(0, height, 14)
        for left in range(0, width, 14)
    ]
    return np.stack(rows)


def test_other_means_and_deviations_act_per_channel() -> None:
    pixels = picture(14, 14)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)
    expected = (pixels.astype(np.float32) / np.float32(255) - np.float32(mean)) / np.float32(std)
    assert np.allclose(patchify(pixels, mean=mean, std=std), unfold(expected), atol=1e-6)


def test_many_pictures_in_one_array_equal_one_by_one() -> None:
    pictures = [picture(14, 28), picture(42, 14), picture(28, 28)]
    rows, shapes = patchify_all(pictures)
    assert shapes.tolist() == [[1, 2], [3, 1], [2, 2]]
    assert np.array_equal(rows, np.concatenate([patchify(pixels) for pixels in pictures]))


def test_no_pictures_give_no_rows() -> None:
    rows, shapes = patchify_all([])
    assert rows.shape == (0, 588)
    assert shapes.shape == (0, 2)


def test_a_view_into_a_larger_picture_is_read_in_place() -> None:
    pixels = picture(56, 56)
    out = np.zeros((4, 588), np.float32)
    write_patches(pixels[14:42, 28:56], out)
    assert np.array_equal(out, patchify(np.ascontiguousarray(pixels[14:42, 28:56])))


def test_unpatchify_gives_the_picture_back() -> None:
    pixels = picture(28, 70)
    assert np.array_equal(unpatchify(patchify(pixels), (2, 5)), pixels)


@pytest.mark.parametrize("shape", [(13, 14, 3), (14, 15, 3), (0, 14, 3), (14, 14, 4), (14, 14)])
def test_pictures_that_are_no_whole_patches_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeContractError):
        patchify(np.zeros(shape, np.uint8))


def test_floating_pixels_and_wrong_targets_are_refused() -> None:
    with pytest.raises(ShapeContractError, match="uint8"):
        patchify(np.zeros((14, 14, 3), np.float32))  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ShapeContractError, match="expected contiguous"):
        write_patches(np.zeros((14, 14, 3), np.uint8), np.zeros((2, 588), np.float32))
