"""Ways to damage a picture of text, each with one strength from 0 (nothing) to 1 (nothing is left).

    pixels uint8 [height, width, 3], strength, height of the text -> pixels

Strengths are relative to the height of the text, so that the same number means about the same for small and large
print. How much of the text can still be read at a strength is not said here but measured (`calibration.py`).

Source: families are ours; the report (arXiv 2509.18154, section 2.2.3 and figure 2) shows noise, blur and blank boxes
and gives no parameters. SynthDoG's ranges (noise 0 to 8, blur 0 to 1.5, JPEG 50 to 95) lie near the mild end of these.
"""

from collections.abc import Callable, Mapping
from io import BytesIO

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Pixels = NDArray[np.uint8]
Operator = Callable[[Generator, Pixels, float, float], Pixels]
"""Source of randomness, pixels, strength, height of the text in px; gives new pixels of the same shape."""


def add_noise(generator: Generator, pixels: Pixels, strength: float, text_px: float) -> Pixels:
    """Gaussian grain, the same in all channels; at full strength three times the range of the pixels."""
    grain = generator.standard_normal((*pixels.shape[:2], 1)) * (3 * 255 * strength**2)
    return _as_pixels(pixels + grain)


def add_speckle(generator: Generator, pixels: Pixels, strength: float, text_px: float) -> Pixels:
    """A share of the pixels replaced by black or white, in dots that grow with the text."""
    side = max(1, round(text_px / 14))
    height, width = pixels.shape[:2]
    coarse = (-(-height // side), -(-width // side))
    hit = np.kron(generator.random(coarse) < strength, np.ones((side, side), dtype=bool))[:height, :width]
    shade = np.kron(generator.random(coarse) < 0.5, np.ones((side, side), dtype=bool))[:height, :width]
    damaged = pixels.copy()
    damaged[hit] = np.where(shade[hit], 255, 0)[:, None]
    return damaged


def blur(generator: Generator, pixels: Pixels, strength: float, text_px: float) -> Pixels:
    """Gaussian blur; at full strength its standard deviation is half the height of the text."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.5 * strength * text_px)))


def blur_motion(generator: Generator, pixels: Pixels, strength: float, text_px: float) -> Pixels:
    """Blur along a random direction; at full strength twice the height of the text long."""
    length, angle = 2 * strength * text_px, np.pi * generator.random()
    steps = max(2, round(length))
    total = np.zeros(pixels.shape, dtype=np.float32)
    for step in np.linspace(-0.5, 0.5, steps):
        rows, columns = round(step * length * np.sin(angle)), round(step * length * np.cos(angle))
        total += _shifted(pixels, rows, columns)
    return _as_pixels(total / steps)


def lose_resolution(generator: Generator, pixels: Pixels, strength: float, text_px: float) -> Pixels:
    """Made smaller and enlarged again; at full strength the text is one pixel high in between."""
    factor = (1 / max(text_px, 1)) ** strength
    height, width = pixels.shape[:2]
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    picture = Image.fromarray(pixels).resize(small, Image.Resampling.BILINEAR)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def compress(generator: Generator, pixels: Pixels, strength: float, text_px: float) -> Pixels:
    """JPEG, on a smaller picture the stronger; at full strength of quality 1 at an eighth of the size."""
    factor = 1 / (1 + 7 * strength * text_px / 14)
    height, width = pixels.shape[:2]
    picture = Image.fromarray(pixels).resize((max(1, round(width * factor)), max(1, round(height * factor))))
    file = BytesIO()
    picture.save(file, "JPEG", quality=max(1, round(60 * (1 - strength))))
    return np.asarray(Image.open(file).convert("RGB").resize((width, height), Image.Resampling.BILINEAR))


def strike_out(generator: Generator, pixels: Pixels, strength: float, text_px: float) -> Pixels:
    """Strokes of a pen across the text; at full strength they cover everything."""
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    height, width = pixels.shape[:2]
    thick = max(1, round(text_px * (0.05 + 0.25 * strength)))
    tone = tuple(int(level) for level in (generator.random(3) * 255))
    for _ in range(max(1, round(3 * strength * width * height / (thick * (width + height))))):
        x0, x1 = generator.random(2) * width
        y0, y1 = generator.random(2) * height
        draw.line((0 if x0 < x1 else width, y0, width if x0 < x1 else 0, y1), fill=tone, width=thick)
    return np.asarray(picture)


def fade(generator: Generator, pixels: Pixels, strength: float, text_px: float) -> Pixels:
    """Contrast lost towards the picture's own mean, with a little grain on top; nothing is left at full strength."""
    mean = pixels.reshape(-1, 3).mean(0)
    grain = generator.standard_normal((*pixels.shape[:2], 1)) * 6 * strength
    return _as_pixels(mean + (pixels - mean) * (1 - strength) + grain)


OPERATORS: Mapping[str, Operator] = {
    "noise": add_noise,
    "speckle": add_speckle,
    "blur": blur,
    "motion": blur_motion,
    "resolution": lose_resolution,
    "jpeg": compress,
    "strokes": strike_out,
    "fade": fade,
}
"""Operators by the name under which they are recorded."""

FILLS = ("paper", "grey", "ink", "random")
"""Ways to cover a region completely, by the colour of the cover."""


def cover(generator: Generator, pixels: Pixels, fill: str) -> Pixels:
    """One plain colour where the text was: that of the paper, grey, that of the ink, or a random one."""
    flat = pixels.reshape(-1, 3).astype(np.float64)
    light = flat.mean(1)
    colour = {
        "paper": np.median(flat, axis=0),
        "grey": np.full(3, 128.0),
        "ink": flat[np.abs(light - np.median(light)).argmax()],
        "random": generator.random(3) * 255,
    }[fill]
    return np.broadcast_to(_as_pixels(colour), pixels.shape).copy()


def _shifted(pixels: Pixels, rows: int, columns: int) -> Pixels:
    """The picture moved by whole pixels; its edge is repeated."""
    height, width = pixels.shape[:2]
    from_row = np.clip(np.arange(height) - rows, 0, height - 1)
    from_column = np.clip(np.arange(width) - columns, 0, width - 1)
    moved: Pixels = pixels[from_row][:, from_column]
    return moved


def _as_pixels(levels: NDArray[np.floating]) -> Pixels:
    pixels: Pixels = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return pixels
