"""Values of charts, measured on the lengths of bars and the heights of points."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from minicpmv.data.worlds.charts import Chart, draw_chart, render_chart
from minicpmv.data.worlds.fonts import find_faces
from minicpmv.data.worlds.paper import PageSample, Region
from minicpmv.data.worlds.shapes import COLOURS

FACES = find_faces("train", system=False)
BARS = [COLOURS[name] for name in ("red", "orange", "green", "blue", "purple", "pink")]
SIZES = ((168, 168), (80, 80), (224, 140))


def charts(layout: str) -> Iterator[tuple[PageSample, Chart]]:
    """Pages with the numbers that they are drawn from, which are the first that their generator gives."""
    for seed in range(8):
        for size in SIZES:
            num = 2 + seed % 5
            page = render_chart(
                np.random.default_rng(seed), faces=FACES, num_values=num, size=size, size_px=11, layout=layout
            )
            yield page, draw_chart(np.random.default_rng(seed), num)


def coloured(page: PageSample) -> NDArray[np.bool_]:
    """The px of bars or points, which have one of the colours to the level."""
    masks = [(page.image == colour).all(axis=2) for colour in BARS]
    return max(masks, key=lambda mask: int(mask.sum()))


def names(page: PageSample) -> dict[str, Region]:
    return {region.text: region for region in page.regions if region.role == "label" and not region.text.isdigit()}


def middle(region: Region) -> tuple[int, int]:
    """Column and row."""
    return int((region.box.left + region.box.right) / 2), int((region.box.top + region.box.bottom) / 2)


def answers(page: PageSample) -> dict[str, str]:
    return {question.task: question.answer for question in page.questions}


@pytest.mark.parametrize("layout", ["bars", "bars_with_values", "rows"])
def test_bars_are_as_long_as_their_values(layout: str) -> None:
    for page, chart in charts(layout):
        filled = coloured(page)
        lengths = {}
        for name, region in names(page).items():
            column, row = middle(region)
            lengths[name] = int((filled[row] if layout == "rows" else filled[:, column]).sum())
        longest, largest = max(lengths.values()), max(chart.values)
        assert lengths == {
            name: max(2, round(longest * value / largest))
            for name, value in zip(chart.names, chart.values, strict=True)
        }
        assert answers(page)["chart_most"] == max(lengths, key=lambda name: lengths[name])
        assert answers(page)["chart_least"] == min(lengths, key=lambda name: lengths[name])
        assert answers(page)["chart_count"] == str(len(lengths))


@pytest.mark.parametrize("layout", ["bars_with_values", "rows"])
def test_the_number_at_the_end_of_a_bar_is_its_value(layout: str) -> None:
    along = 1 if layout == "rows" else 0
    for page, chart in charts(layout):
        numbers = [region for region in page.regions if region.role == "label" and region.text.isdigit()]
        shown = {}
        for name, region in names(page).items():
            place = middle(region)[along]
            nearest = min(numbers, key=lambda number: abs(middle(number)[along] - place))
            shown[name] = int(nearest.text)
        assert shown == dict(zip(chart.names, chart.values, strict=True))
        questions = [question for question in page.questions if question.task == "chart_value"]
        for question in questions:
            assert question.answer == str(shown[question.question.rstrip("?").split()[-1]])


def test_points_of_a_line_lie_as_high_as_their_values() -> None:
    for page, chart in charts("line"):
        # Points are squares of 5 px, but the lowest stand on the axis, whose ink is above them.
        points = np.lib.stride_tricks.sliding_window_view(coloured(page), (4, 5)).all(axis=(2, 3))
        heights = {}
        for name, region in names(page).items():
            column, _ = middle(region)
            near = np.nonzero(points[:, column - 5 : column + 2].any(axis=1))[0]
            assert len(near), f"there is a point above {name}"
            heights[name] = axis_of(page) - int(near.min()) - 2
        highest, largest = max(heights.values()), max(chart.values)
        assert heights == {
            name: max(2, round(highest * value / largest))
            for name, value in zip(chart.names, chart.values, strict=True)
        }
        assert answers(page)["chart_most"] == max(heights, key=lambda name: heights[name])
        assert answers(page)["chart_least"] == min(heights, key=lambda name: heights[name])


def axis_of(page: PageSample) -> int:
    """The row with the most ink."""
    grey = page.image.mean(axis=2)
    return int((np.abs(grey - np.median(grey)) > 40).sum(axis=1).argmax())
