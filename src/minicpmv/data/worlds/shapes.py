"""Colours, shapes and numbers with one plain name each, and how they look on a picture.

    Thing(kind, colour, x, y, radius) -> coverage mask -> coloured on a background that no named colour resembles

Names are what a child would say. Colours are far enough apart that jitter never makes one look like another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from minicpmv.data.worlds.fonts import Face
from minicpmv.data.worlds.glyphs import glyph_sheet, text_extent

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "orange": (245, 140, 25),
    "yellow": (245, 220, 50),
    "green": (40, 160, 65),
    "blue": (40, 85, 215),
    "purple": (135, 50, 165),
    "pink": (250, 150, 195),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
}
"""The named colours; a drawn colour differs from its name's by at most 14 levels per channel."""

SHAPES = ("circle", "square", "triangle", "star", "cross")
DIGITS = tuple("0123456789")

BUILT_IN_FACE = Face("Aileron", "Regular", None)
"""Pillow's own face, for digits where the caller has no choice of faces."""

_JITTER = 14
_MIN_BACKGROUND_DISTANCE = 105.0
_OVERSAMPLING = 3
_DIGIT_SIZES_PX = (24, 28, 32, 36, 40, 48)


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape or number at a place: `x` and `y` run from 0 to 1 over the range where it is wholly visible.

    `kind` is one of `SHAPES`, or a number in digits.
    """

    kind: str
    colour: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Style:
    """What stays the same in all frames of a clip: colour values, background, and how shapes are turned and sized.

    `background` is float32 [height, width, 3]; `noise` is the standard deviation of the grain, in levels.
    """

    colours: dict[str, NDArray[np.float32]]
    background: NDArray[np.float32]
    noise: float
    radius_px: int
    turn: float
    face: Face


def choose_style(
    generator: Generator,
    colours: Sequence[str],
    size: tuple[int, int],
    *,
    radii_px: tuple[int, int] = (10, 16),
    faces: Sequence[Face] = (),
) -> Style:
    """A random look in which every named colour can be told from the background.

    Args:
        generator: source of randomness.
        colours: names that will be shown.
        size: height and width of the picture in px.
        radii_px: smallest and largest radius of a shape, both included.
        faces: faces for digits; Pillow's own if empty.
    """
    values = {name: _jittered(generator, name) for name in dict.fromkeys(colours)}
    while True:
        grey = 255 * generator.random()
        plain = np.clip(grey + (generator.random(3, dtype=np.float32) - 0.5) * 50, 0, 255).astype(np.float32)
        if all(float(np.linalg.norm(plain - value)) >= _MIN_BACKGROUND_DISTANCE for value in values.values()):
            break
    height, width = size
    background = np.broadcast_to(plain, (height, width, 3)).copy()
    if generator.random() < 0.3:
        across = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(generator.random() * 16 - 8)
        down = np.linspace(-1, 1, height, dtype=np.float32) * np.float32(generator.random() * 16 - 8)
        background += (across[None, :] + down[:, None])[:, :, None]
    noise = generator.random() * 9 if generator.random() < 0.5 else 0.0
    radius = radii_px[0] + int(generator.random() * (radii_px[1] - radii_px[0] + 1))
    face = faces[int(generator.random() * len(faces))] if faces else BUILT_IN_FACE
    return Style(values, background, noise, radius, (generator.random() - 0.5) * 0.4, face)


def draw_things(generator: Generator, things: Sequence[Thing], style: Style) -> NDArray[np.uint8]:
    """A picture uint8 [height, width, 3] of the things on the style's background."""
    levels = style.background.copy()
    height, width, _ = levels.shape
    for thing in things:
        for stamp in _stamps(thing, style, height, width):
            rows, columns = stamp.coverage.shape
            region = levels[stamp.top : stamp.top + rows, stamp.left : stamp.left + columns]
            region += (style.colours[thing.colour] - region) * stamp.coverage[:, :, None]
    return with_grain(generator, levels, style)


def with_grain(generator: Generator, levels: NDArray[np.float32], style: Style) -> NDArray[np.uint8]:
    """The picture uint8 that levels float32 [height, width, 3] make with the style's grain; `levels` may change."""
    height, width, _ = levels.shape
    if style.noise:
        levels += generator.standard_normal((height, width, 1), dtype=np.float32) * np.float32(style.noise)
    return np.clip(levels, 0, 255).astype(np.uint8)


def thing_targets(
    things: Sequence[Thing], style: Style, size: tuple[int, int], grid: tuple[int, int]
) -> NDArray[np.int64]:
    """What is to be seen in each patch: the colour and the kind of the thing that covers most of it.

    Args:
        things: in drawing order.
        style: the look they are drawn in.
        size: height and width of the picture in px.
        grid: rows and columns of patches that the picture is cut into, after whatever resizing there will be.

    Returns:
        int64 [patches, 2], patches row by row: 1 + place in `COLOURS`, and 1 + place in `SHAPES` then `DIGITS`; 0 where
        no thing covers a fifth of the patch.
    """
    height, width = size
    rows, columns = grid
    targets = np.zeros((rows * columns, 2), dtype=np.int64)
    most = np.full(rows * columns, 0.2, np.float32)
    names, kinds = tuple(COLOURS), (*SHAPES, *DIGITS)
    for thing in things:
        for stamp in _stamps(thing, style, height, width):
            ink = np.zeros((height, width), dtype=np.float32)
            tall, wide = stamp.coverage.shape
            ink[stamp.top : stamp.top + tall, stamp.left : stamp.left + wide] = stamp.coverage
            shares = np.asarray(Image.fromarray(ink).resize((columns, rows), Image.Resampling.BOX)).flatten()
            targets[shares > most] = (1 + names.index(thing.colour), 1 + kinds.index(stamp.kind))
            most = np.maximum(most, shares)
    return targets


@dataclass(frozen=True, slots=True)
class _Stamp:
    """A shape, or one digit of a number: the share of each pixel that it covers, and its corner in px."""

    kind: str
    coverage: NDArray[np.float32]
    left: int
    top: int


def _stamps(thing: Thing, style: Style, height: int, width: int) -> list[_Stamp]:
    """A thing in pieces: a shape is one, a number has one per digit."""
    if not thing.kind.isdigit():
        stamp = _coverage(thing.kind, style)
        rows, columns = stamp.shape
        return [_Stamp(thing.kind, stamp, round(thing.x * (width - columns)), round(thing.y * (height - rows)))]
    size_px = min(_DIGIT_SIZES_PX, key=lambda px: abs(px - 2.6 * style.radius_px))
    sheet = glyph_sheet(style.face, size_px)
    left, top, right, bottom = text_extent(sheet, thing.kind)
    x, y = round(thing.x * (width - (right - left))) - left, round(thing.y * (height - (bottom - top))) - top
    stamps, pen = [], 0.0
    for digit in thing.kind:
        glyph = sheet[ord(digit) - 32]
        ink = glyph.ink.astype(np.float32) / np.float32(255)
        stamps.append(_Stamp(digit, ink, x + round(pen) + glyph.left, y + glyph.top))
        pen += glyph.advance
    return stamps


def _jittered(generator: Generator, name: str) -> NDArray[np.float32]:
    shift = (generator.random(3, dtype=np.float32) * 2 - 1) * _JITTER
    value: NDArray[np.float32] = np.clip(np.array(COLOURS[name], dtype=np.float32) + shift, 0, 255)
    return value


def _coverage(kind: str, style: Style) -> NDArray[np.float32]:
    """Share of each pixel that a shape covers, float32 [rows, columns] of its bounding square."""
    side = 2 * style.radius_px
    big = Image.new("L", (side * _OVERSAMPLING, side * _OVERSAMPLING))
    draw = ImageDraw.Draw(big)
    centre = side * _OVERSAMPLING / 2
    if kind == "circle":
        draw.ellipse((1, 1, side * _OVERSAMPLING - 2, side * _OVERSAMPLING - 2), fill=255)
    else:
        draw.polygon(_corners(kind, centre, style.turn), fill=255)
    return np.asarray(big.reduce(_OVERSAMPLING), dtype=np.float32) / np.float32(255)


def _corners(kind: str, radius: float, turn: float) -> list[tuple[float, float]]:
    """Corners of a polygon inside a circle, as points in px from the top left of its bounding square."""
    if kind == "square":
        polar = [(1.0, pi / 4 + quarter * pi / 2) for quarter in range(4)]
    elif kind == "triangle":
        polar = [(1.0, -pi / 2 + third * 2 * pi / 3) for third in range(3)]
    elif kind == "star":
        polar = [(1.0 if tenth % 2 == 0 else 0.42, -pi / 2 + tenth * pi / 5) for tenth in range(10)]
    else:
        polar = [
            (length, arm * pi / 2 + angle)
            for arm in range(4)
            for length, angle in ((1.0, -0.31), (1.0, 0.31), (0.43, pi / 4))
        ]
    return [(radius * (1 + r * cos(angle + turn)), radius * (1 + r * sin(angle + turn))) for r, angle in polar]
