"""Characters with boxes become lines; no browser is needed for that."""

import numpy as np
import pytest

from minicpmv.data.html.lines import Block, Glyph, cut_height, printed_lines

TEXT = Block("text")


def page(*areas: tuple[int, int, int, int]) -> np.ndarray:
    """White, with grey stripes where something is printed."""
    image = np.full((100, 200, 3), 255, dtype=np.uint8)
    for left, top, right, bottom in areas:
        image[top:bottom, left:right:2] = 60
    return image


def word(text: str, x: float, y: float, *, block: int = 0, step: float = 10.0, size: float = 10.0) -> list[Glyph]:
    """Glyphs side by side."""
    return [
        Glyph(block, letter, (x + step * i, y, x + step * i + size, y + size)) if letter != " " else Glyph(block, " ")
        for i, letter in enumerate(text)
    ]


def texts(blocks: list[Block], glyphs: list[Glyph], image: np.ndarray | None = None) -> list[str]:
    printed = page((0, 0, 200, 100)) if image is None else image
    return [region.text for region in printed_lines(blocks, glyphs, printed)]


def test_a_line_ends_where_the_next_character_stands_below_it() -> None:
    assert texts([TEXT], [*word("two words", 0, 10), Glyph(0, "\n"), *word("below", 0, 30)]) == ["two words", "below"]


def test_two_columns_of_one_block_are_lines_of_their_own() -> None:
    assert texts([TEXT], [*word("left", 0, 50), *word("right", 100, 10)]) == ["left", "right"]


def test_what_is_raised_a_little_stays_on_the_line() -> None:
    assert texts([TEXT], [*word("x", 0, 10), *word("2", 10, 7, size=8)]) == ["x2"]


@pytest.mark.parametrize(("gap", "text"), [(2.0, "ab"), (3.0, "a b")])
def test_a_wide_gap_is_read_as_a_space(gap: float, text: str) -> None:
    assert texts([TEXT], [*word("a", 0, 10), *word("b", 10 + gap, 10)]) == [text]


def test_a_line_that_is_read_from_right_to_left_is_one_line() -> None:
    glyphs = [Glyph(0, letter, (100.0 - 10 * i, 10.0, 110.0 - 10 * i, 20.0)) for i, letter in enumerate("שלום")]
    assert texts([TEXT], glyphs) == ["שלום"]


def test_a_vertical_line_is_one_line() -> None:
    glyphs = [Glyph(0, letter, (50.0, 10.0 * i, 60.0, 10.0 * i + 10)) for i, letter in enumerate("down")]
    assert texts([Block("text", vertical=True)], glyphs) == ["down"]
    assert texts([TEXT], glyphs) == ["d", "o", "w", "n"]


def test_code_keeps_its_white_space() -> None:
    code = Block("code", spaced=True)
    first = [Glyph(0, " "), *word("if x:", 10, 10)]
    second = [Glyph(0, "\n"), Glyph(0, " "), Glyph(0, " "), *word("y", 20, 30), Glyph(0, " ")]
    assert texts([code], first + second) == [" if x:", "  y"]


def test_a_block_inside_another_interrupts_it() -> None:
    blocks = [TEXT, Block("cell")]
    glyphs = [*word("before", 0, 10), *word("inside", 0, 30, block=1), *word("after", 0, 50)]
    regions = printed_lines(blocks, glyphs, page((0, 0, 200, 100)))
    assert [(region.role, region.text) for region in regions] == [
        ("text", "before"),
        ("cell", "inside"),
        ("text", "after"),
    ]


def test_words_without_a_trace_on_the_picture_are_left_out() -> None:
    glyphs = [*word("seen", 0, 10), Glyph(0, " "), *word("not", 50, 10), Glyph(0, " "), *word("seen", 90, 10)]
    (region,) = printed_lines([TEXT], glyphs, page((0, 10, 40, 20), (90, 10, 130, 20)))
    assert region.text == "seen seen"
    assert len(region.lines[0].characters) == 8
    assert printed_lines([TEXT], word("white", 0, 10), page()) == ()


def test_boxes_end_at_the_edge_and_what_lies_beyond_is_left_out() -> None:
    image = page((0, 0, 200, 100))
    (region,) = printed_lines([TEXT], [*word("edge", -4, 94), Glyph(0, "\n"), *word("gone", 0, 97)], image)
    assert region.text == "edge"
    assert (region.box.left, region.box.bottom) == (0.0, 100)


def test_a_long_page_ends_between_two_lines() -> None:
    columns = [*word("a", 0, 95), *word("b", 100, 88), *word("c", 50, 20)]
    assert cut_height(columns, 100) == 88
    assert cut_height(columns, 200) == 200
    ladder = [glyph for y in range(0, 100, 5) for glyph in word("x", 0, y)]
    assert cut_height(ladder, 98) == 98  # nowhere without a cut; half a page is not given up for it
