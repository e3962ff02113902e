"""Bar and line charts with a caption, and questions that the drawing answers even where the numbers are not printed.

names, values -> bars or points, axis, labels -> PageSample
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from minicpmv.data.worlds.fonts import Face
from minicpmv.data.worlds.paper import Box, Colour, PageSample, Paper, Question, text_width
from minicpmv.data.worlds.shapes import COLOURS

CHART_LAYOUTS = ("bars", "bars_with_values", "rows", "line")
"""How a chart may be laid out."""

LABELS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Jan", "Feb", "Mar", "Apr", "May", "Jun")
TITLES = ("Rain", "Sales", "Guests", "Calls", "Orders", "Visits")
_SHORTEST = 20  # px that the longest bar has at least, one for each step of the values
_STEP = 1.35  # of the font size
_BAR_COLOURS = ("red", "orange", "green", "blue", "purple", "pink")


@dataclass(frozen=True, slots=True)
class Chart:
    """A title and one whole number per name."""

    title: str
    names: tuple[str, ...]
    values: tuple[int, ...]


def draw_chart(generator: Generator, num_values: int, largest: int = 20) -> Chart:
    """Different values, so that the highest is one of them, at least a twentieth of the largest apart."""
    names = tuple(LABELS[int(index)] for index in sorted(generator.permutation(len(LABELS))[:num_values]))
    values = tuple(int(value) + 1 for value in generator.permutation(largest)[:num_values])
    return Chart(TITLES[int(generator.random() * len(TITLES))], names, values)


def render_chart(
    generator: Generator,
    *,
    faces: Sequence[Face],
    num_values: int = 4,
    size: tuple[int, int] = (168, 168),
    size_px: int = 13,
    layout: str = "bars",
) -> PageSample:
    """A chart with its title and, below, a caption that says what it shows.

    Args:
        generator: source of randomness.
        faces: faces to choose from.
        num_values: bars or points; at most 13.
        size: height and width in px; larger if names and values need it.
        size_px: font size.
        layout: one of `CHART_LAYOUTS`.
    """
    chart = draw_chart(generator, num_values)
    face = faces[int(generator.random() * len(faces))]
    step = round(size_px * _STEP)
    paper = Paper(_large_enough(chart, face, size_px, size, lies=layout == "rows"))
    title_left = max(2, (paper.width - text_width(face, size_px, chart.title)) // 2)
    paper.write("title", [(chart.title, title_left, step)], face, size_px)
    colour = COLOURS[_BAR_COLOURS[int(generator.random() * len(_BAR_COLOURS))]]
    area = Box(8, step + 6, paper.width - 6, paper.height - 2 * step - 6)
    if layout == "rows":
        _draw_rows(paper, chart, face, size_px, area, colour)
    else:
        _draw_columns(paper, chart, face, size_px, area, colour, layout)
    best = chart.names[int(np.argmax(chart.values))]
    caption = f"Most {chart.title.lower()} in {best}."
    if text_width(face, size_px, caption) <= paper.width - 8:
        paper.write("caption", [(caption, 4, paper.height - step // 3)], face, size_px)
    return paper.finish(generator, "chart", _questions(generator, chart, layout))


def _large_enough(chart: Chart, face: Face, size_px: int, size: tuple[int, int], *, lies: bool) -> tuple[int, int]:
    """Height and width with room for every name and value, and for bars that can be told apart."""
    name = max(text_width(face, size_px, text) for text in chart.names)
    value = text_width(face, size_px, str(max(chart.values)))
    step, num = round(size_px * _STEP), len(chart.names)
    if lies:
        return max(size[0], 3 * step + 12 + num * (size_px + 2)), max(size[1], 26 + name + value + _SHORTEST)
    return max(size[0], 3 * step + 14 + size_px + _SHORTEST), max(size[1], 14 + num * (max(name, value) + 3))


def _draw_columns(paper: Paper, chart: Chart, face: Face, size_px: int, area: Box, colour: Colour, layout: str) -> None:
    """Bars that stand, or points joined by a line, with their names below."""
    slot = area.width / len(chart.names)
    floor, tallest = int(area.bottom), area.height - size_px - 2
    paper.rule(Box(area.left, floor, area.right, floor + 1))
    tops = []
    for index, (name, value) in enumerate(zip(chart.names, chart.values, strict=True)):
        middle = int(area.left + (index + 0.5) * slot)
        top = floor - max(2, round(tallest * value / max(chart.values)))
        tops.append((middle, top))
        if layout != "line":
            half = max(2, int(slot * 0.3))
            paper.fill(Box(middle - half, top, middle + half, floor), colour)
        if layout == "bars_with_values":
            text = str(value)
            paper.write("label", [(text, middle - text_width(face, size_px, text) // 2, top - 2)], face, size_px)
        left = middle - text_width(face, size_px, name) // 2
        paper.write("label", [(name, left, floor + size_px + 1)], face, size_px)
    if layout == "line":
        _draw_line(paper, tops, colour)


def _draw_line(paper: Paper, points: Sequence[tuple[int, int]], colour: Colour) -> None:
    for (x0, y0), (x1, y1) in zip(points[:-1], points[1:], strict=True):
        for x in range(x0, x1 + 1):
            y = round(y0 + (y1 - y0) * (x - x0) / max(1, x1 - x0))
            paper.fill(Box(x, y - 1, x + 1, y + 1), colour)
    for x, y in points:
        paper.fill(Box(x - 2, y - 2, x + 3, y + 3), colour)


def _draw_rows(paper: Paper, chart: Chart, face: Face, size_px: int, area: Box, colour: Colour) -> None:
    """Bars that lie, with their names on the left and their values at the end."""
    left = int(area.left) + max(text_width(face, size_px, name) for name in chart.names) + 4
    longest = area.right - left - text_width(face, size_px, str(max(chart.values))) - 4
    slot = area.height / len(chart.names)
    for index, (name, value) in enumerate(zip(chart.names, chart.values, strict=True)):
        middle = int(area.top + (index + 0.5) * slot)
        baseline = middle + size_px // 3
        paper.write("label", [(name, int(area.left) - 4, baseline)], face, size_px)
        end = left + max(2, round(longest * value / max(chart.values)))
        paper.fill(Box(left, middle - int(slot * 0.3), end, middle + int(slot * 0.3)), colour)
        paper.write("label", [(str(value), end + 3, baseline)], face, size_px)


def _questions(generator: Generator, chart: Chart, layout: str) -> list[Question]:
    most, least = (chart.names[chart.values.index(pick(chart.values))] for pick in (max, min))
    questions = [
        Question("chart_most", "Which one is the highest?", most),
        Question("chart_least", "Which one is the lowest?", least),
        Question("chart_title", "What is the title of the chart?", chart.title),
        Question("chart_count", "How many values are shown?", str(len(chart.names))),
    ]
    if layout in ("rows", "bars_with_values"):
        place = int(generator.random() * len(chart.names))
        questions.append(
            Question("chart_value", f"What is the value of {chart.names[place]}?", str(chart.values[place]))
        )
    return questions
