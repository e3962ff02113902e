"""Every letter of a page is the one that its box names: its ink, printed again, lies on the pixels."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from minicpmv.data.worlds.articles import render_article
from minicpmv.data.worlds.charts import render_chart
from minicpmv.data.worlds.fonts import Face, find_faces
from minicpmv.data.worlds.forms import render_form
from minicpmv.data.worlds.glyphs import CharacterBox, glyph_sheet
from minicpmv.data.worlds.knowledge import entities_of, make_world
from minicpmv.data.worlds.paper import PageSample, TextLine
from minicpmv.data.worlds.receipts import render_receipt
from minicpmv.data.worlds.screens import render_screen
from minicpmv.data.worlds.tables import draw_table, render_table

WORLD = make_world(0)
FACES = [face for face in find_faces("train", system=False) if face.family in ("Aileron", "DejaVu Sans")][:2]
SIZES_PX = range(8, 25)
VISIBLE = [chr(code) for code in range(33, 127)]

PAGES: dict[str, Callable[[Generator, Face], PageSample]] = {
    "article": lambda generator, face: render_article(generator, entities_of(WORLD, "train"), faces=[face]),
    "chart": lambda generator, face: render_chart(generator, faces=[face], layout="rows"),
    "form": lambda generator, face: render_form(
        generator,
        faces=[face],
        split="train",
        people=[entity for entity in entities_of(WORLD, "train") if entity.kind == "person"],
        width=240,
    ),
    "receipt": lambda generator, face: render_receipt(
        generator, faces=[face], split="train", layout="plain", num_items=4
    ),
    "screen": lambda generator, face: render_screen(generator, faces=[face], split="train"),
    "table": lambda generator, face: render_table(generator, draw_table(generator, "train"), faces=[face]),
}


def glyph(face: Face, size_px: int, char: str) -> NDArray[np.uint8]:
    return glyph_sheet(face, size_px)[ord(char) - 32].ink


def shape(box: CharacterBox) -> tuple[int, int]:
    return int(box.y1 - box.y0), int(box.x1 - box.x0)


def size_of(line: TextLine, face: Face) -> int:
    """The font size in which all letters of a line are as large as their boxes."""
    fitting = [
        size for size in SIZES_PX if all(glyph(face, size, box.char).shape == shape(box) for box in line.characters)
    ]
    assert fitting, line.text
    return fitting[0]


def likeness(pixels: NDArray[np.float64], ink: NDArray[np.uint8]) -> float:
    """How well ink explains brightness, 0 to 1, dark on light or light on dark."""
    one, other = pixels - pixels.mean(), ink - ink.mean()
    spread = np.sqrt((one**2).sum() * (other**2).sum())
    return float(abs((one * other).sum()) / spread) if spread > 1e-9 else 0.0


@pytest.mark.parametrize("kind", list(PAGES))
@pytest.mark.parametrize("face", FACES, ids=lambda face: face.family)
def test_no_other_letter_fits_the_pixels_of_a_box_better(kind: str, face: Face) -> None:
    found = []
    told_apart = 0
    for seed in range(3):
        page = PAGES[kind](np.random.default_rng(seed), face)
        grey = page.image.mean(axis=2)
        for line in (line for region in page.regions for line in region.lines):
            size = size_of(line, face)
            for box in line.characters:
                ink = glyph(face, size, box.char)
                if ink.std() < 25:  # a dot is all ink
                    continue
                pixels = grey[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
                own = likeness(pixels, ink)
                others = [glyph(face, size, char) for char in VISIBLE if glyph(face, size, char).shape == ink.shape]
                assert own >= max(likeness(pixels, other) for other in others) - 0.05, (seed, line.text, box)
                told_apart += any(likeness(ink, other) < 0.9 for other in others)
                found.append(own)
    assert len(found) > 100
    assert min(found) > 0.65, "measured 0.71 beside the line of a form"
    assert np.mean(found) > 0.95, "measured 0.974"
    assert told_apart > 0.3 * len(found), "there are letters of the same size that would not have fitted"
