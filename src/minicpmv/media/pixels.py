"""Any mode of a PIL image to RGB, so that what a person sees is what the model gets.

Pillow's own `convert("RGB")` clips deep grey to white, and drops alpha so that what was hidden below it appears. Here
deep modes are scaled to eight bits, and transparent parts of a file are laid on white paper.
"""

import numpy as np
from PIL import Image

_ALPHA_MODES = {"RGBA", "LA", "PA", "RGBa", "La"}
_DEEP_MODES = {"I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
_FULL_16_BIT = 65535
_WHITE = (255, 255, 255, 255)


def to_rgb(image: Image.Image, *, flatten: bool) -> tuple[Image.Image, tuple[str, ...]]:
    """An image in RGB, and what a reader should know about how it got there.

    Args:
        image: any mode; unchanged.
        flatten: lay transparent parts on white; otherwise alpha is dropped, as Pillow does.

    Raises:
        ValueError: Pillow cannot convert this mode.

    >>> to_rgb(Image.new("LA", (1, 1), (0, 0)), flatten=True)[0].getpixel((0, 0))
    (255, 255, 255)
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image, ()
    if image.mode in _DEEP_MODES:
        return _shallow(image)
    if flatten and (image.mode in _ALPHA_MODES or "transparency" in image.info):
        return _on_white(image)
    return image.convert("RGB"), ()


def _on_white(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Transparent parts laid on white."""
    if image.mode in {"RGBa", "La"}:
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    layered = image.convert("RGBA")
    lowest = layered.getchannel("A").getextrema()[0]
    if lowest == _WHITE[3]:
        return layered.convert("RGB"), ()
    paper = Image.new("RGBA", layered.size, _WHITE)
    return Image.alpha_composite(paper, layered).convert("RGB"), ("transparent parts were laid on white",)


def _shallow(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Grey of 16 or 32 bits, or of floating point, scaled to eight bits.

    Sixteen bits are scaled by their full range. Wider modes say nothing about their range: values within 0..65535 (or
    0..1, or 0..255 for floating point) are taken as such, anything else is stretched from its smallest to its largest.
    """
    values = np.asarray(image)
    notes: tuple[str, ...] = ()
    if image.mode.startswith("I;16"):
        scaled = (values.astype(np.uint32) * 255 + _FULL_16_BIT // 2) // _FULL_16_BIT
    else:
        numbers = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
        low, high = float(numbers.min()), float(numbers.max())
        full = _assumed_range(image.mode, low, high)
        if full is None:
            scaled = np.rint((numbers - low) * 255 / (high - low))
            notes = (f"grey values from {low:g} to {high:g} were stretched to black and white",)
        else:
            scaled = np.rint(numbers * 255 / full)
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB"), notes


def _assumed_range(mode: str, low: float, high: float) -> float | None:
    """The value that means white, or None if the values fit no usual range."""
    ranges = (_FULL_16_BIT,) if mode == "I" else (1.0, 255.0)
    return next((float(full) for full in ranges if low >= 0 and high <= full), None)
