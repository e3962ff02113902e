"""Ink on paper: colours, gradients, noise, blur and JPEG marks for a mask of text.

    mask uint8 [height, width] -> paint -> image uint8 [height, width, 3]

The look is varied but always legible: letters and paper differ in brightness by at least a third of the range.
"""

from io import BytesIO

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_MIN_CONTRAST = 90.0  # luma levels between ink and paper
_LIGHT_INK_SHARE = 0.25
_GRADIENT_SHARE = 0.25
_NOISE_SHARE = 0.5
_MAX_NOISE = 14.0
_BLUR_SHARE = 0.15
_JPEG_SHARE = 0.06


def paint(generator: Generator, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour a mask of ink, with a random look.

    Args:
        generator: source of randomness.
        mask: uint8 [height, width], 0 = paper, 255 = ink.

    Returns:
        uint8 [height, width, 3].
    """
    if generator.random() < _BLUR_SHARE:
        mask = _blurred(generator, mask)
    paper, ink = _ink_and_paper(generator)
    share = np.arange(256, dtype=np.float32)[:, None] / 255
    table = paper + (ink - paper) * share
    wants_gradient, wants_noise = generator.random() < _GRADIENT_SHARE, generator.random() < _NOISE_SHARE
    if not wants_gradient and not wants_noise:
        image = np.clip(table, 0, 255).astype(np.uint8)[mask]
    else:
        levels = table[mask]
        if wants_gradient:
            levels += _gradient(generator, *mask.shape)[:, :, None]
        if wants_noise:
            channels = 3 if generator.random() < 0.3 else 1
            sigma = np.float32(generator.random() * _MAX_NOISE)
            levels += generator.standard_normal((*mask.shape, channels), dtype=np.float32) * sigma
        image = np.clip(levels, 0, 255, out=levels).astype(np.uint8)
    return _jpeg_marks(generator, image) if generator.random() < _JPEG_SHARE else image


def _ink_and_paper(generator: Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Paper and ink colours, float32 [3] each; ink on light paper three times out of four."""
    while True:
        light = 255 - generator.random(dtype=np.float32) * 90 - generator.random(3, dtype=np.float32) * 50
        dark = generator.random(dtype=np.float32) * 70 + generator.random(3, dtype=np.float32) * 90
        if generator.random() < 0.3:
            light, dark = np.full(3, 255, dtype=np.float32), dark * np.float32(generator.random() < 0.5)
        if float((light - dark) @ _LUMA) >= _MIN_CONTRAST:
            break
    return (dark, light) if generator.random() < _LIGHT_INK_SHARE else (light, dark)


def _gradient(generator: Generator, height: int, width: int) -> NDArray[np.float32]:
    """A slanted ramp of brightness, float32 [height, width], at most 22 levels up or down."""
    across, down = (generator.random(2, dtype=np.float32) - 0.5) * 44
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * across
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32) * down
    ramp: NDArray[np.float32] = x[None, :] + y[:, None]
    return ramp


def _blurred(generator: Generator, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    blur = ImageFilter.GaussianBlur(0.3 + 0.5 * generator.random())
    return np.asarray(Image.fromarray(mask).filter(blur))


def _jpeg_marks(generator: Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=40 + int(generator.random() * 55))
    return np.asarray(Image.open(buffer).convert("RGB"))
