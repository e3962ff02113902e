"""Pages of every kind: boxes hold the ink, sums add up, and each answer can be found again from what is drawn."""

import re
from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator

from minicpmv.data.worlds.articles import ARTICLE_LAYOUTS, render_article
from minicpmv.data.worlds.charts import CHART_LAYOUTS, draw_chart, render_chart
from minicpmv.data.worlds.fonts import find_faces
from minicpmv.data.worlds.forms import FORM_LAYOUTS, render_form
from minicpmv.data.worlds.knowledge import entities_of, make_world
from minicpmv.data.worlds.paper import Box, PageSample, Paper, Region, wrap
from minicpmv.data.worlds.receipts import PRINTED, RECEIPT_LAYOUTS, draw_receipt, render_receipt
from minicpmv.data.worlds.screens import SCREEN_LAYOUTS, render_screen
from minicpmv.data.worlds.shapes import COLOURS
from minicpmv.data.worlds.tables import COLUMN_NAMES, TABLE_LAYOUTS, draw_table, render_table

FACES = find_faces("train", system=False)
WORLD = make_world(0)
PEOPLE = [entity for entity in entities_of(WORLD, "train") if entity.kind == "person"]

Draw = Callable[[Generator], PageSample]


def _article(layout: str) -> Draw:
    return lambda generator: render_article(generator, entities_of(WORLD, "train"), faces=FACES, layout=layout)


def _table(layout: str) -> Draw:
    return lambda generator: render_table(generator, draw_table(generator, "train"), faces=FACES, layout=layout)


PAGES: dict[str, Draw] = {
    **{f"article.{layout}": _article(layout) for layout in ARTICLE_LAYOUTS},
    **{f"table.{layout}": _table(layout) for layout in TABLE_LAYOUTS},
    **{
        f"receipt.{layout}": lambda generator, layout=layout: render_receipt(
            generator, faces=FACES, split="train", layout=layout, num_items=4
        )
        for layout in RECEIPT_LAYOUTS
    },
    **{
        f"form.{layout}": lambda generator, layout=layout: render_form(
            generator, faces=FACES, split="train", people=PEOPLE, layout=layout, width=240
        )
        for layout in FORM_LAYOUTS
    },
    **{
        f"chart.{layout}": lambda generator, layout=layout: render_chart(generator, faces=FACES, layout=layout)
        for layout in CHART_LAYOUTS
    },
    **{
        f"screen.{layout}": lambda generator, layout=layout: render_screen(
            generator, faces=FACES, split="train", layout=layout
        )
        for layout in SCREEN_LAYOUTS
    },
}


def ink_share(page: PageSample, box: Box) -> float:
    """Share of a box's pixels that differ clearly from the most usual pixel around it."""
    image = page.image.astype(np.int64)
    rows = slice(max(0, int(box.top) - 3), int(np.ceil(box.bottom)) + 3)
    columns = slice(max(0, int(box.left) - 3), int(np.ceil(box.right)) + 3)
    around = image[rows, columns].reshape(-1, 3)
    usual = np.median(around, axis=0)
    inside = image[int(box.top) : int(np.ceil(box.bottom)), int(box.left) : int(np.ceil(box.right))].reshape(-1, 3)
    return float((np.abs(inside - usual).max(1) > 40).mean())


@pytest.mark.parametrize("kind", sorted(PAGES))
def test_every_region_lies_on_the_page_and_has_ink_in_its_box(kind: str) -> None:
    for seed in range(6):
        page = PAGES[kind](np.random.default_rng(seed))
        height, width, channels = page.image.shape
        assert channels == 3
        assert page.image.dtype == np.uint8
        assert page.regions
        for region in page.regions:
            box = region.box
            assert -1 <= box.left < box.right <= width + 1, (kind, seed, region.text)
            assert -1 <= box.top < box.bottom <= height + 1, (kind, seed, region.text)
            assert ink_share(page, box) > 0.03, (kind, seed, region.text)


@pytest.mark.parametrize("kind", sorted(PAGES))
def test_the_boxes_of_a_region_spell_its_text(kind: str) -> None:
    page = PAGES[kind](np.random.default_rng(3))
    for region in page.regions:
        for line in region.lines:
            assert "".join(character.char for character in line.characters) == line.text.replace(" ", "")
            lefts = [character.x0 for character in line.characters]
            assert sorted(lefts) == lefts or len(set(line.text)) < 3


@pytest.mark.parametrize("kind", sorted(PAGES))
def test_texts_of_different_regions_do_not_cover_each_other(kind: str) -> None:
    for seed in range(6):
        regions = PAGES[kind](np.random.default_rng(seed)).regions
        for index, one in enumerate(regions):
            for other in regions[index + 1 :]:
                assert not overlap(one, other), (kind, seed, one.text, other.text)


def overlap(one: Region, other: Region) -> bool:
    """Whether letters of two regions share more than a hair."""
    a, b = one.box, other.box
    return Box(a.left + 1, a.top + 1, a.right - 1, a.bottom - 1).overlaps(b)


@pytest.mark.parametrize("kind", sorted(PAGES))
def test_the_same_seed_draws_the_same_page(kind: str) -> None:
    one, same = (PAGES[kind](np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(one.image, same.image)
    assert one.questions == same.questions


@pytest.mark.parametrize("kind", [kind for kind in sorted(PAGES) if not kind.startswith("chart")])
def test_answers_that_are_words_stand_on_the_page(kind: str) -> None:
    derived = {"table_sum", "table_rows", "receipt_items", "code_lines"}
    for seed in range(5):
        page = PAGES[kind](np.random.default_rng(seed))
        shown = " ".join(region.text for region in page.regions)
        assert page.questions
        for question in page.questions:
            if question.task not in derived:
                assert question.answer in shown, (kind, question)


@pytest.mark.parametrize("layout", RECEIPT_LAYOUTS)
def test_a_receipt_adds_up(layout: str) -> None:
    for seed in range(10):
        page = PAGES[f"receipt.{layout}"](np.random.default_rng(seed))
        values = [region.text for region in page.regions if region.role == "value"]
        *items, subtotal, tax, total = (round(100 * float(value)) for value in values[:-1])
        assert sum(items) == subtotal
        assert subtotal + tax == total
        answers = {question.task: question.answer for question in page.questions}
        assert answers["receipt_total"] == f"{total / 100:.2f}"
        assert answers["receipt_items"] == str(len(items))


def test_a_tables_answers_follow_from_its_cells() -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        table = draw_table(generator, "train", 4, 3)
        page = render_table(generator, table, faces=FACES)
        texts = [region.text for region in page.regions]
        rows = [texts[start : start + 4] for start in range(0, len(texts), 4)]
        by_name = {row[0]: dict(zip(rows[0][1:], map(int, row[1:]), strict=True)) for row in rows[1:]}
        for question in page.questions:
            words = re.findall(r"\w+", question.question)
            if question.task == "table_cell":
                assert int(question.answer) == by_name[words[5]][words[7]]
            if question.task == "table_most":
                assert question.answer == max(by_name, key=lambda name: by_name[name][words[-1]])
            if question.task == "table_least":
                assert question.answer == min(by_name, key=lambda name: by_name[name][words[-1]])
            if question.task == "table_sum":
                assert int(question.answer) == sum(by_name[words[-1]].values())


@pytest.mark.parametrize("layout", ["bars", "bars_with_values"])
def test_the_tallest_bar_is_the_answer(layout: str) -> None:
    """Measured on the pixels: the column of the answer's label has the most pixels of the bars' colour."""
    for seed in range(8):
        page = PAGES[f"chart.{layout}"](np.random.default_rng(seed))
        labels = [region for region in page.regions if region.role == "label" and not region.text.isdigit()]
        image = page.image.astype(np.int64)
        vivid = (image.max(2) - image.min(2) > 70).sum(0)
        answers = {question.task: question.answer for question in page.questions}
        heights = {region.text: vivid[int((region.box.left + region.box.right) / 2)] for region in labels}
        assert max(heights, key=lambda name: heights[name]) == answers["chart_most"], (seed, heights)
        assert min(heights, key=lambda name: heights[name]) == answers["chart_least"], (seed, heights)


def test_values_of_a_chart_differ() -> None:
    for seed in range(20):
        chart = draw_chart(np.random.default_rng(seed), 6)
        assert len(set(chart.values)) == len(set(chart.names)) == 6


@pytest.mark.parametrize("layout", CHART_LAYOUTS)
def test_a_small_chart_shows_whole_names(layout: str) -> None:
    for seed in range(20):
        page = render_chart(np.random.default_rng(seed), faces=FACES, num_values=6, size=(80, 80), layout=layout)
        shown = {region.text for region in page.regions if region.role == "label"}
        answers = {question.task: question.answer for question in page.questions}
        assert {answers["chart_most"], answers["chart_least"]} <= shown


@pytest.mark.parametrize("layout", ["bars", "bars_with_values"])
def test_the_highest_and_the_lowest_bar_of_a_small_chart_can_be_told(layout: str) -> None:
    bars = [COLOURS[name] for name in ("red", "orange", "green", "blue", "purple", "pink")]
    for seed in range(20):
        page = render_chart(np.random.default_rng(seed), faces=FACES, num_values=6, size=(80, 80), layout=layout)
        filled = np.any([(page.image == colour).all(2) for colour in bars], axis=0).sum(0)
        names = [region for region in page.regions if region.role == "label" and not region.text.isdigit()]
        heights = {name.text: int(filled[int((name.box.left + name.box.right) / 2)]) for name in names}
        answers = {question.task: question.answer for question in page.questions}
        others = [height for name, height in heights.items() if name != answers["chart_most"]]
        assert heights[answers["chart_most"]] > max(others), (seed, heights)
        assert heights[answers["chart_least"]] == min(heights.values()), (seed, heights)


@pytest.mark.parametrize("layout", ARTICLE_LAYOUTS)
def test_the_smallest_article_says_something(layout: str) -> None:
    for seed in range(20):
        page = render_article(
            np.random.default_rng(seed), entities_of(WORLD, "train"), faces=FACES, size=(28, 56), layout=layout
        )
        assert page.questions
        assert all(question.answer in page.text.replace("\n", " ") for question in page.questions)


@pytest.mark.parametrize("layout", FORM_LAYOUTS)
def test_a_narrow_form_has_room_beside_its_values(layout: str) -> None:
    for seed in range(20):
        page = render_form(
            np.random.default_rng(seed), faces=FACES, split="train", people=PEOPLE, layout=layout, width=56
        )
        values = [region.box.right for region in page.regions if region.role == "value"]
        assert page.image.shape[1] - max(values) >= 4, seed  # where the frame ends


def test_nothing_on_a_page_is_called_like_something_else() -> None:
    for seed in range(400):
        table = draw_table(np.random.default_rng(seed), "train", 5, 3)
        assert len({*table.rows, *COLUMN_NAMES}) == 5 + len(COLUMN_NAMES)
        receipt = draw_receipt(np.random.default_rng(seed), "train", 4)
        assert not {item.name for item in receipt.items} & set(PRINTED)


def test_a_sheet_grows_with_what_is_written() -> None:
    paper = Paper((20, 30))
    paper.write("text", [("Much wider", 5, 15), ("and lower", 5, 45)], FACES[0], 14)
    page = paper.finish(np.random.default_rng(0), "note")
    box = page.regions[0].box
    assert page.image.shape[:2] == (box.bottom, box.right)
    assert ink_share(page, box) > 0.1


def test_a_resized_page_keeps_its_boxes_on_the_ink() -> None:
    generator = np.random.default_rng(1)
    paper = Paper((100, 200))
    paper.write("text", [("Hello there", 20, 50)], FACES[0], 20)
    page = paper.finish(generator, "note", scale=0.6)
    assert page.image.shape == (60, 120, 3)
    box = page.regions[0].box
    assert box.left == pytest.approx(12, abs=3)
    assert ink_share(page, box) > 0.1
    assert page.text == "Hello there"


def test_wrapped_lines_fit_and_lose_no_word() -> None:
    text = "a longer text of several words and one incomprehensibilities in it"
    lines = wrap(FACES[0], 14, text, 90)
    assert " ".join(lines) == text
    assert all(len(line.split()) == 1 or len(line) < 30 for line in lines)


def test_code_keeps_its_indents_in_pixels() -> None:
    for seed in range(30):
        page = PAGES["screen.code"](np.random.default_rng(seed))
        lines = next(region for region in page.regions if region.role == "code").lines
        loops = [index for index, line in enumerate(lines) if line.text.startswith("for ")]
        if loops:
            assert lines[loops[0] + 1].characters[0].x0 > lines[0].characters[0].x0 + 6
            return
    pytest.fail("no loop was drawn")
