"""Faces are found in a fixed order and glyphs lie where their boxes say."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from minicpmv.data.worlds.fonts import HELD_OUT_FAMILIES, PRINTABLE, Face, find_faces, open_font
from minicpmv.data.worlds.glyphs import (
    CharacterBox,
    draw_text,
    glyph_sheet,
    on_rows,
    scale_boxes,
    text_extent,
    unit_width,
    with_gaps,
)
from minicpmv.errors import OptionError

BUILT_IN = Face("Aileron", "Regular", None)


def held_out_faces() -> tuple[Face, ...]:
    try:
        return find_faces("held_out")
    except OptionError as error:
        pytest.skip(str(error))


def test_training_faces_are_sorted_unique_and_never_empty() -> None:
    names = [(face.family, face.style) for face in find_faces("train")]
    assert names == sorted(set(names))
    assert ("Aileron", "Regular") in names
    assert find_faces.__wrapped__("train") == find_faces("train")


def test_no_held_out_family_is_among_the_training_faces() -> None:
    assert not [face for face in find_faces("train") if face.family.startswith(HELD_OUT_FAMILIES)]
    assert all(face.family.startswith("DejaVu Serif") or "Vera" in face.family for face in held_out_faces())


def test_faces_without_the_system_are_a_part_of_all_faces() -> None:
    names = {(face.family, face.style) for face in find_faces("train")}
    assert {(face.family, face.style) for face in find_faces("train", system=False)} <= names


def test_a_split_without_faces_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicpmv.data.worlds.fonts._font_files", lambda system: iter([Path(__file__)]))
    with pytest.raises(OptionError, match="Install matplotlib"):
        find_faces.__wrapped__("held_out")
    assert find_faces.__wrapped__("train") == (BUILT_IN,)


@pytest.mark.parametrize("size_px", [13, 24])
def test_drawing_glyph_by_glyph_equals_what_pillow_draws(size_px: int) -> None:
    """Checked against Pillow's own drawing of each character at the place where the pen stands."""
    for face in find_faces("train")[::12]:
        text = "Hamburg 12,50 [gj]"
        ours = np.zeros((64, 420), dtype=np.uint8)
        draw_text(ours, glyph_sheet(face, size_px), text, 10, 40)
        theirs = np.zeros_like(ours)
        pen = 10.0
        for character in text:
            picture = Image.new("L", (420, 64))
            font = open_font(face, size_px)
            ImageDraw.Draw(picture).text((round(pen), 40), character, font=font, fill=255, anchor="ls")
            theirs = np.maximum(theirs, np.asarray(picture))
            pen += font.getlength(character)
        assert np.array_equal(ours, theirs), face


def test_boxes_are_exactly_the_ink() -> None:
    for face in find_faces("train")[::9]:
        for character in PRINTABLE[1:]:
            mask = np.zeros((60, 60), dtype=np.uint8)
            (box,) = draw_text(mask, glyph_sheet(face, 24), character, 20, 35)
            rows, columns = np.nonzero(mask)
            assert box == (character, columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_the_space_has_no_box_but_moves_the_pen() -> None:
    mask = np.zeros((40, 80), dtype=np.uint8)
    sheet = glyph_sheet(BUILT_IN, 20)
    assert draw_text(mask, sheet, "  ", 0, 30) == []
    (box,) = draw_text(mask, sheet, " x", 0, 30)
    assert box.x0 >= sheet[0].advance - 1


def test_the_extent_of_a_text_is_the_hull_of_its_boxes() -> None:
    sheet = glyph_sheet(BUILT_IN, 22)
    mask = np.zeros((60, 300), dtype=np.uint8)
    boxes = draw_text(mask, sheet, "jelly (19.5)", 10, 40, tracking_px=0.7)
    left, top, right, bottom = text_extent(sheet, "jelly (19.5)", 0.7)
    hull = (min(b.x0 for b in boxes), min(b.y0 for b in boxes), max(b.x1 for b in boxes), max(b.y1 for b in boxes))
    assert hull == (left + 10, top + 40, right + 10, bottom + 40)
    assert text_extent(sheet, "   ") == (0, 0, 0, 0)


def test_ink_outside_the_mask_is_cut_off_while_its_box_stays_whole() -> None:
    sheet = glyph_sheet(BUILT_IN, 30)
    wide, cut = np.zeros((60, 200), dtype=np.uint8), np.zeros((20, 40), dtype=np.uint8)
    whole = draw_text(wide, sheet, "mamam", 20, 40)
    clipped = draw_text(cut, sheet, "mamam", -10, 18)
    assert np.array_equal(cut, wide[22:42, 30:70])
    assert [(b.x0 - 30, b.y0 - 22) for b in whole] == [(b.x0, b.y0) for b in clipped]


def test_relative_width_predicts_the_advance() -> None:
    assert unit_width(BUILT_IN, "width") * 40 == pytest.approx(open_font(BUILT_IN, 40).getlength("width"), rel=0.05)


def test_scaled_boxes_follow_the_resized_canvas() -> None:
    mask = np.zeros((40, 80), dtype=np.uint8)
    (box,) = draw_text(mask, glyph_sheet(BUILT_IN, 20), "x", 10, 30)
    (half,) = scale_boxes([box], 0.5, 2.0)
    assert half == ("x", box.x0 / 2, box.y0 * 2, box.x1 / 2, box.y1 * 2)


def middles(boxes: list[CharacterBox]) -> list[float]:
    return [(box.y0 + box.y1) / 2 for box in boxes]


def test_letters_of_a_row_come_to_lie_at_one_height_and_rows_stay_apart() -> None:
    mask = np.zeros((64, 300), dtype=np.uint8)
    sheet = glyph_sheet(BUILT_IN, 16)
    first = draw_text(mask, sheet, "\"it's, 'jpg'.", 10, 20)
    second = draw_text(mask, sheet, "Apples 3.50", 4, 42)
    assert len(set(middles(first))) > 4
    placed = on_rows([*first, *second])
    heights = middles(placed)
    assert len(set(heights[: len(first)])) == len(set(heights[len(first) :])) == 1
    assert heights[0] == np.sort(middles(first))[len(first) // 2]
    assert 18 < heights[-1] - heights[0] < 26
    assert [(box.char, box.x0, box.x1, box.y1 - box.y0) for box in placed] == [
        (box.char, box.x0, box.x1, box.y1 - box.y0) for box in [*first, *second]
    ]
    assert middles(on_rows(placed)) == heights
    assert on_rows([]) == []


def test_a_row_ends_where_the_next_letter_lies_far_below_though_to_the_right() -> None:
    left, right = CharacterBox("a", 0, 10, 8, 18), CharacterBox("b", 20, 30, 28, 42)
    assert on_rows([left, right]) == [left, right]


def test_gaps_between_words_are_spaces_and_those_between_lines_are_not() -> None:
    mask = np.zeros((64, 300), dtype=np.uint8)
    sheet = glyph_sheet(BUILT_IN, 16)
    boxes = [*draw_text(mask, sheet, "to  be", 10, 20), *draw_text(mask, sheet, "or not", 10, 42)]
    spaced = with_gaps("to  be\nor not", boxes)
    assert "".join(box.char for box in spaced) == "to beor not"
    gap, before, after = spaced[2], spaced[1], spaced[3]
    assert (gap.x0, gap.x1) == (before.x1, after.x0)
    assert (gap.y0, gap.y1) == (before.y0, before.y1)
    assert with_gaps("something else", boxes) == boxes
    assert with_gaps("", []) == []
    whole = [CharacterBox("to be", 0, 0, 40, 10)]
    assert with_gaps("to be", whole) == with_gaps("tobe", whole) == whole
