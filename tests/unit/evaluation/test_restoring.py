"""Covered regions: what the rest of the page tells is told, and what nothing tells is told nowhere."""

import numpy as np
import pytest

from minicpmv.data.worlds.paper import PageSample, Region
from minicpmv.evaluation import restoring
from minicpmv.evaluation.question import Question
from minicpmv.evaluation.tasks import select_tasks
from minicpmv.media.image import load_image
from minicpmv.messages import ImagePart

Covered = list[tuple[PageSample, Region, Question]]


@pytest.fixture
def covered(monkeypatch: pytest.MonkeyPatch) -> Covered:
    """Every page before it is covered, the region, and the question that comes of it."""
    seen: Covered = []
    cover = restoring._covered

    def spy(generator: np.random.Generator, page: PageSample, region: Region) -> Question:
        seen.append((page, region, cover(generator, page, region)))
        return seen[-1][2]

    monkeypatch.setattr(restoring, "_covered", spy)
    return seen


def ask(name: str, number: int) -> None:
    (task,) = select_tasks([name])
    assert len(list(task.questions(0, number))) == number


def test_a_covered_title_stands_in_other_regions_more_often_than_any_other_name(covered: Covered) -> None:
    ask("restore.context", 25)
    for page, region, question in covered:
        assert region.role == "title"
        assert question.answer == region.text
        others = [other.text for other in page.regions if other is not region]
        told = sum(question.answer in text for text in others)
        assert told >= 2
        for name in restoring._names():
            if name not in question.answer:
                assert sum(name in text for text in others) < told


def test_a_covered_code_stands_nowhere_else(covered: Covered) -> None:
    ask("restore.nothing", 25)
    keys = set()
    for page, region, question in covered:
        assert question.answer == region.text
        assert len(question.answer) >= 4
        place = page.regions.index(region)
        keys.add(page.regions[place - 1].text)
        assert not any(question.answer in other.text for other in page.regions if other is not region)
    assert keys == set(restoring.RANDOM_FIELDS)


@pytest.mark.parametrize("name", ["restore.context", "restore.nothing"])
def test_only_the_region_is_covered_and_none_of_its_ink_is_left(name: str, covered: Covered) -> None:
    ask(name, 10)
    for page, region, question in covered:
        part = question.messages[0].parts[0]
        assert isinstance(part, ImagePart)
        assert part.source is not None
        after, before = np.asarray(load_image(part.source).image).astype(int), page.image.astype(int)
        ((left, top, right, bottom),) = question.boxes
        assert left <= region.box.left
        assert top <= region.box.top
        assert right >= region.box.right
        assert bottom >= region.box.bottom
        change = np.abs(after - before).max(axis=2)
        assert (change[top:bottom, left:right] > 0).any()
        change[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = 0  # with its frame
        assert not change.any()
        # Ink is where the page was darkest or brightest; what is left there looks like the rest of the cover.
        area = before[top:bottom, left:right].mean(axis=2)
        inked = np.abs(area - np.median(area)) > 0.7 * np.abs(area - np.median(area)).max()
        cover = after[top:bottom, left:right].mean(axis=2)
        assert abs(cover[inked].mean() - cover[~inked].mean()) < 12


def test_a_name_that_two_others_share_the_page_with_is_not_told() -> None:
    name, other = restoring._names()[:2]
    assert restoring._is_told(name, [f"{name} is here.", f"See {name}.", f"{other} is there."])
    assert not restoring._is_told(name, [f"{name} is here.", "Nobody is there."])
    assert not restoring._is_told(name, [f"{name} is here.", f"{name} knows {other}.", f"{other} is there."])
    assert not restoring._is_told(name, [f"{name}x is here.", f"x{name} is there."])
