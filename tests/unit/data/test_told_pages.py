"""Pages in words instead of pictures, pages of several sizes, and lines below each other."""

from collections import Counter

import numpy as np
import pytest

from minicpmv.data.sample import Sample
from minicpmv.data.sources import open_world
from minicpmv.data.studio import Studio
from minicpmv.data.worlds.fonts import find_faces
from minicpmv.data.worlds.paper import Box, Paper
from minicpmv.errors import OptionError
from minicpmv.messages import ImagePart


def draws(world: str, number: int = 40, **options: object) -> list[Sample]:
    draw, generator = open_world(world, options), np.random.default_rng(0)
    return [draw(generator, str(index)) for index in range(number)]


def size_of(sample: Sample) -> tuple[int, int]:
    part = next(part for part in sample.messages[0].parts if isinstance(part, ImagePart))
    width, height = part.source.size  # type: ignore[union-attr]
    return width, height


@pytest.mark.parametrize("world", ["read", "ask", "reason"])
def test_a_told_page_is_its_text_and_the_answer_stays(world: str) -> None:
    shown, told, some = draws(world), draws(world, told=1.0), draws(world, told=0.5)
    assert all(any(isinstance(part, ImagePart) for part in sample.messages[0].parts) for sample in shown)
    for sample in told:
        pictures = [part for part in sample.messages[0].parts if isinstance(part, ImagePart)]
        assert bool(pictures) == (sample.metadata["kind"] == "chart")
    assert 0 < sum(sample.metadata.get("told", False) for sample in some) < len(some)
    if world == "reason":
        assert all(sample.messages[-1].reasoning for sample in told)


def test_what_a_told_page_is_asked_about_stands_in_it() -> None:
    asked = draws("ask", kinds=["receipt", "form"], told=1.0)
    verbatim = [sample for sample in asked if sample.metadata["task"] != "receipt_items"]
    assert verbatim
    for sample in verbatim:
        assert sample.messages[1].text in sample.messages[0].text


def test_cells_share_a_line_and_columns_of_text_do_not() -> None:
    face = find_faces("train", system=False)[0]
    paper = Paper((120, 200))
    for role, text, x, y in (
        ("header", "Item", 5, 20),
        ("header", "Mon", 80, 20),
        ("cell", "Apple", 5, 45),
        ("cell", "7", 100, 45),
        ("text", "left", 5, 80),
        ("text", "right", 100, 80),
        ("key", "Total", 5, 105),
        ("value", "3.20", 100, 105),
    ):
        paper.write(role, [(text, x, y)], face, 14)  # type: ignore[arg-type]
    paper.rule(Box(0, 60, 10, 61))
    page = paper.finish(np.random.default_rng(0), "table")
    assert page.text.split("\n") == ["Item Mon", "Apple 7", "left", "right", "Total 3.20"]


def test_page_sizes_are_drawn_from_a_range() -> None:
    widths = {size_of(sample)[0] for sample in draws("read", kinds=["article"], longest_side_px=[112, 224])}
    assert len(widths) > 10
    assert min(widths) >= 112
    assert max(widths) <= 224
    for wrong in ([224, 112], [0, 3], [1, 2, 3]):
        with pytest.raises(OptionError, match="longest_side_px"):
            Studio.open("train", longest_side_px=wrong)


def test_lines_below_each_other() -> None:
    numbers = [sample.messages[1].text.count("\n") + 1 for sample in draws("lines", most_lines=4, number=100)]
    assert set(numbers) == {1, 2, 3, 4}
    assert {sample.messages[1].text.count("\n") for sample in draws("lines")} == {0}


def test_text_alone_may_have_several_lines() -> None:
    samples = draws("texts", most_lines=6, number=100)
    repeated = [sample for sample in samples if sample.metadata["task"] == "read"]
    assert {sample.messages[1].text.count("\n") + 1 for sample in repeated} == {1, 2, 3, 4, 5, 6}
    assert all(sample.messages[0].text.startswith(sample.messages[1].text + "\n") for sample in repeated)
    assert len(repeated) < len(samples)


def test_pictures_and_clips_in_words_ask_what_was_chosen() -> None:
    samples = draws("described", clips=["speed", "speed", "speed"], scenes=["relation"], number=100)
    tasks = Counter(sample.metadata["task"] for sample in samples)
    assert set(tasks) == {"speed", "relation"}
    assert tasks["speed"] > tasks["relation"]
    assert not any(sample.media for sample in samples)
    assert {sample.messages[1].text for sample in samples if sample.metadata["task"] == "speed"} == {"faster", "slower"}
    with pytest.raises(OptionError, match="scenes"):
        open_world("described", {"scenes": ["sign"]})
