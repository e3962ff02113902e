"""Text in the wild: a word on a sign among other things, seen a little from the side.

    word -> plain sign (board, border, letters) -> four corners in the picture -> SignSample

Source: arXiv 2509.18154, section 2.2.2, draws text over natural scenes; colours, fonts and shares are ours, and so is
the seeing from the side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from minicpmv.data.worlds.fonts import Face, Split, open_font
from minicpmv.data.worlds.questions import ask
from minicpmv.data.worlds.shapes import BUILT_IN_FACE, COLOURS, SHAPES, Style, Thing, choose_style, draw_things
from minicpmv.data.worlds.words import dictionary

SIGN = "sign"
LETTERS = (3, 8)
"""Shortest and longest word."""

_OVERSAMPLING = 3
_SIZES_PX = (15, 24)
_TURN = 0.14
"""Most a sign is turned, in radians. Ours: 8 degrees."""
_SLANT = 0.14
"""Most a corner moves, as a share of the sign's height. Ours."""
_CONTRAST = 60.0
"""Least difference in brightness between the letters and the board, in levels."""
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class SignSample:
    """A picture with a sign.

    Attributes:
        image: uint8 [height, width, 3].
        word: what the sign says.
        question: asks for it.
        board: the sign itself, seen from the front, uint8 [height, width, 3].
        corners: where its corners are in the picture, (x, y) in px, from the top left clockwise.
    """

    image: NDArray[np.uint8]
    word: str
    question: str
    board: NDArray[np.uint8]
    corners: tuple[tuple[float, float], ...]


def render_sign(
    generator: Generator,
    *,
    size: tuple[int, int] = (112, 112),
    faces: Sequence[Face] = (),
    split: Split = "train",
) -> SignSample:
    """A picture with a sign in it, and shapes behind it.

    Args:
        generator: source of randomness.
        size: height and width in px, at least 112 each.
        faces: faces for the letters; Pillow's own if empty.
        split: whose words.
    """
    height, width = size
    words = [word for word in dictionary(split) if LETTERS[0] <= len(word) <= LETTERS[1]]
    word = _cased(generator, words[int(generator.random() * len(words))])
    face = faces[int(generator.random() * len(faces))] if faces else BUILT_IN_FACE
    size_px = _SIZES_PX[0] + int(generator.random() * (_SIZES_PX[1] - _SIZES_PX[0] + 1))
    board, ink = _two_colours(generator)
    while True:
        front = _front(word, face, size_px, board, ink, is_framed=generator.random() < 0.5)
        tall, wide = front.size[1] / _OVERSAMPLING, front.size[0] / _OVERSAMPLING
        offsets = _corner_offsets(generator, tall, wide)
        first = offsets.min(0)
        room = np.array([width, height]) - 2 - (offsets.max(0) - first)
        if (room >= 0).all():
            break
        size_px -= 1
    corners = offsets - first + 1 + generator.random(2) * room
    style, behind = _behind(generator, size)
    scene = Image.fromarray(draw_things(generator, behind, style))
    _paste(scene, front, corners)
    placed = tuple((float(across), float(down)) for across, down in corners)
    return SignSample(np.asarray(scene), word, ask(generator, SIGN), np.asarray(front.reduce(_OVERSAMPLING)), placed)


def _cased(generator: Generator, word: str) -> str:
    draw = generator.random()
    return word.upper() if draw < 0.4 else word.title() if draw < 0.7 else word


def _two_colours(generator: Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Colours of the board and of what is written on it, far enough apart to be read."""
    values = list(COLOURS.values())
    while True:
        board, ink = (values[int(index)] for index in generator.permutation(len(values))[:2])
        if abs(float(np.subtract(board, ink) @ np.array(_LUMA))) >= _CONTRAST:
            return board, ink


def _front(
    word: str, face: Face, size_px: int, board: tuple[int, int, int], ink: tuple[int, int, int], *, is_framed: bool
) -> Image.Image:
    """The sign from the front, three times as large as it will be seen."""
    font = open_font(face, size_px * _OVERSAMPLING)
    left, top, right, bottom = font.getbbox(word)
    margin = size_px * _OVERSAMPLING // 3
    front = Image.new("RGB", (round(right - left) + 2 * margin, round(bottom - top) + 2 * margin), board)
    draw = ImageDraw.Draw(front)
    if is_framed:
        edge = (front.size[0] - 1, front.size[1] - 1)
        draw.rectangle((0, 0, *edge), outline=ink, width=_OVERSAMPLING)
    draw.text((margin - left, margin - top), word, ink, font=font)
    return front


def _corner_offsets(generator: Generator, tall: float, wide: float) -> NDArray[np.float64]:
    """Corners [4, 2] of a turned and slanted board, from its middle, in px."""
    square = np.array([[-wide, -tall], [wide, -tall], [wide, tall], [-wide, tall]]) / 2
    turn = (generator.random() * 2 - 1) * _TURN
    turned = square @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    corners: NDArray[np.float64] = turned + (generator.random((4, 2)) * 2 - 1) * _SLANT * tall
    return corners


def _behind(generator: Generator, size: tuple[int, int]) -> tuple[Style, list[Thing]]:
    """What the sign stands in front of: one to three shapes."""
    names = tuple(COLOURS)
    things = [
        Thing(
            SHAPES[int(generator.random() * len(SHAPES))],
            names[int(generator.random() * len(names))],
            generator.random(),
            generator.random(),
        )
        for _ in range(1 + int(generator.random() * 3))
    ]
    return choose_style(generator, [thing.colour for thing in things], size), things


def _paste(scene: Image.Image, front: Image.Image, corners: NDArray[np.float64]) -> None:
    """Put a sign into a picture, its corners where they should be."""
    large = (scene.size[0] * _OVERSAMPLING, scene.size[1] * _OVERSAMPLING)
    coefficients = perspective(corners * _OVERSAMPLING, _rectangle(front.size))
    seen = front.transform(large, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
    mask = Image.new("L", large)
    ImageDraw.Draw(mask).polygon([(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in corners], fill=255)
    scene.paste(seen.reduce(_OVERSAMPLING), mask=mask.reduce(_OVERSAMPLING))


def _rectangle(size: tuple[int, int]) -> NDArray[np.float64]:
    width, height = size
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)


def perspective(seen: NDArray[np.float64], flat: NDArray[np.float64]) -> list[float]:
    """The eight numbers by which Pillow finds the point of a flat picture that a seen point shows.

    Args:
        seen: four points [4, 2] in the picture that comes out.
        flat: where they are in the picture that goes in.
    """
    rows, wanted = [], []
    for (x, y), (u, v) in zip(seen, flat, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        wanted += [u, v]
    return [float(value) for value in np.linalg.solve(np.array(rows), np.array(wanted))]
