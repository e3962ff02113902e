"""Printed lines and strips: the same seed gives the same bytes, and boxes and targets say where the ink is."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from minicpmv.data.worlds import lines, strips
from minicpmv.data.worlds.canvas import paint
from minicpmv.data.worlds.fonts import find_faces
from minicpmv.data.worlds.glyphs import CharacterBox
from minicpmv.data.worlds.lines import LINE_SIZES, print_lines, render_line
from minicpmv.data.worlds.strips import STRIP_SIZES, patch_targets, render_strip
from minicpmv.data.worlds.words import is_held_out

FACES = find_faces("train")[::5]
LUMA = np.array([0.299, 0.587, 0.114])


def bare_ink(generator: Generator, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(mask[:, :, None], 3, axis=2)


@pytest.mark.parametrize("size", LINE_SIZES)
def test_lines_repeat_by_seed_and_have_the_asked_size(size: tuple[int, int]) -> None:
    one, same, other = (
        render_line(np.random.default_rng(seed), faces=FACES, split="train", size=size) for seed in (7, 7, 8)
    )
    assert one.image.shape == (*size, 3)
    assert one.image.dtype == np.uint8
    assert np.array_equal(one.image, same.image)
    assert (one.text, one.characters) == (same.text, same.characters)
    assert one.text != other.text


@pytest.mark.parametrize("num_lines", [1, 2])
def test_boxes_hold_all_the_ink_and_every_box_holds_some(monkeypatch: pytest.MonkeyPatch, num_lines: int) -> None:
    """A resized box may let one pixel of blur out on each side."""
    monkeypatch.setattr(lines, "paint", bare_ink)
    generator = np.random.default_rng(3)
    for _ in range(150):
        sample = render_line(generator, faces=FACES, split="train", num_lines=num_lines)
        ink = sample.image[:, :, 0].astype(np.int64)
        height, width = ink.shape
        outside = np.ones_like(ink, dtype=bool)
        for _, x0, y0, x1, y1 in sample.characters:
            assert x0 >= 0
            assert y0 >= 0
            assert x1 <= width
            assert y1 <= height
            top, bottom, left, right = int(y0), int(np.ceil(y1)), int(x0), int(np.ceil(x1))
            assert ink[top:bottom, left:right].max() > 30
            outside[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = False
        assert ink[outside].max(initial=0) <= 12


def test_the_characters_are_the_text_without_spaces_in_reading_order() -> None:
    generator = np.random.default_rng(4)
    for _ in range(100):
        sample = render_line(generator, faces=FACES, split="train")
        assert "".join(box.char for box in sample.characters) == sample.text.replace(" ", "")
        middles = [(box.x0 + box.x1) / 2 for box in sample.characters]
        assert all(left < right + 1 for left, right in pairwise(middles))


def test_letters_are_legible_against_their_paper() -> None:
    generator = np.random.default_rng(5)
    for _ in range(100):
        sample = render_line(generator, faces=FACES, split="train")
        luma = sample.image @ LUMA
        assert luma.max() - luma.min() > 45


def test_splits_print_their_own_half_of_the_vocabulary() -> None:
    generator = np.random.default_rng(6)
    for _ in range(150):
        assert not is_held_out(render_line(generator, faces=FACES, split="train").text)
        assert is_held_out(render_line(generator, faces=FACES, split="held_out").text)


def test_a_given_text_is_printed_and_shrunk_until_it_fits() -> None:
    text = "A rather long line that needs small letters"
    sample = print_lines(np.random.default_rng(0), [text], face=FACES[0], size_px=32)
    assert sample.text == text
    assert max(box.x1 for box in sample.characters) <= 224


def test_paint_keeps_size_and_separates_ink_from_paper() -> None:
    mask = np.zeros((28, 56), dtype=np.uint8)
    mask[:, 28:] = 255
    for seed in range(60):
        image = paint(np.random.default_rng(seed), mask)
        assert image.shape == (28, 56, 3)
        assert abs((image[:, :24] @ LUMA).mean() - (image[:, 32:] @ LUMA).mean()) > 60


def test_patch_targets_name_the_character_whose_centre_lies_in_the_slot() -> None:
    boxes = [
        CharacterBox("A", 0, 0, 4, 14),  # centre (2, 7): patch 0, slot 0
        CharacterBox("b", 10, 4, 13, 10),  # centre (11.5, 7): patch 0, slot 2
        CharacterBox("~", 14, 14, 28, 28),  # centre (21, 21): last patch, slot 1
        CharacterBox("c", -9, 0, 3, 14),  # centre left of the picture
        CharacterBox("d", 20, 26, 24, 30.5),  # centre below the picture
    ]
    targets = patch_targets(boxes, 28, 28)
    assert targets.tolist() == [[33, 0, 66], [0, 0, 0], [0, 0, 0], [0, 94, 0]]


def test_of_two_centres_in_one_slot_the_nearer_to_its_middle_wins() -> None:
    i, l = CharacterBox("i", 0, 0, 1, 14), CharacterBox("l", 2, 0, 3, 14)  # noqa: E741
    assert patch_targets([i, l], 14, 14)[0, 0] == ord("l") - 32
    assert patch_targets([l, i], 14, 14)[0, 0] == ord("l") - 32


@pytest.mark.parametrize("size", STRIP_SIZES)
def test_strips_are_full_of_labels_and_repeat_by_seed(size: tuple[int, int]) -> None:
    strips_of_size, again = (
        [render_strip(generator, faces=FACES, split="train", size=size) for _ in range(20)]
        for generator in (np.random.default_rng(1), np.random.default_rng(1))
    )
    targets = np.stack([strip.targets for strip in strips_of_size])
    assert {strip.image.shape for strip in strips_of_size} == {(*size, 3)}
    assert targets.shape == (20, size[0] * size[1] // 196, 3)
    assert all(np.array_equal(one.image, other.image) for one, other in zip(strips_of_size, again, strict=True))
    assert all(np.array_equal(one.targets, other.targets) for one, other in zip(strips_of_size, again, strict=True))
    assert targets.min() >= 0
    assert targets.max() < strips.NUM_CHARACTERS
    assert (targets > 0).mean() > 0.15


def test_there_is_ink_at_the_centre_of_each_labelled_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "paint", bare_ink)
    generator = np.random.default_rng(2)
    for _ in range(60):
        sample = render_strip(generator, faces=FACES, split="train")
        ink = sample.image[:, :, 0]
        for char, x0, y0, x1, y1 in sample.characters:
            box = ink[max(0, int(y0)) : max(0, int(np.ceil(y1))), max(0, int(x0)) : max(0, int(np.ceil(x1)))]
            inside = 0 <= (x0 + x1) / 2 < 112 and 0 <= (y0 + y1) / 2 < 28
            assert not inside or char == " " or box.max() > 30
            middle = ink[max(0, int(y0)) : max(0, int(np.ceil(y1))), int((x0 + x1) / 2)] if inside else box
            assert not inside or char != " " or np.median(middle) < 30  # the next row may reach in
