"""Tables of numbers with named rows and columns, on paper or in words, and questions that need one cell or several.

draw_table -> Table -> render_table -> PageSample
                    -> lookup, comparison and sum questions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from numpy.random import Generator

from minicpmv.data.worlds.fonts import Face, Split
from minicpmv.data.worlds.paper import Box, PageSample, Paper, Question, text_width
from minicpmv.data.worlds.words import dictionary

TABLE_LAYOUTS = ("grid", "ruled", "plain", "striped")
"""How a table may be laid out."""

COLUMN_NAMES = (
    "Mon",
    "Tue",
    "Wed",
    "Thu",
    "Fri",
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "North",
    "South",
    "East",
    "West",
    "Old",
    "New",
)


@dataclass(frozen=True, slots=True)
class Table:
    """Whole numbers by row and column name; `corner` says what the rows are."""

    corner: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[int, ...], ...]

    def cell(self, row: str, column: str) -> int:
        """The number where a row and a column meet."""
        return self.cells[self.rows.index(row)][self.columns.index(column)]

    def row(self, name: str) -> tuple[int, ...]:
        """All numbers of a row."""
        return self.cells[self.rows.index(name)]

    def column(self, name: str) -> tuple[int, ...]:
        """All numbers of a column."""
        place = self.columns.index(name)
        return tuple(row[place] for row in self.cells)


def draw_table(generator: Generator, split: Split, num_rows: int = 3, num_columns: int = 3, largest: int = 99) -> Table:
    """A table of different numbers and names, so that the largest of a row or column is one cell.

    Args:
        generator: source of randomness.
        split: vocabulary of the row names.
        num_rows: rows below the header.
        num_columns: columns beside the names.
        largest: largest number; at least as many as there are cells.
    """
    words = [word for word in dictionary(split) if 3 <= len(word) <= 7]
    shuffled = (words[int(index)].title() for index in generator.permutation(len(words)))
    rows = tuple(islice((word for word in shuffled if word not in COLUMN_NAMES), num_rows))
    columns = tuple(COLUMN_NAMES[int(index)] for index in generator.permutation(len(COLUMN_NAMES))[:num_columns])
    numbers = (generator.permutation(largest)[: num_rows * num_columns] + 1).tolist()
    cells = tuple(tuple(numbers[row * num_columns : (row + 1) * num_columns]) for row in range(num_rows))
    return Table(("Item", "Name", "Shop", "Team")[int(generator.random() * 4)], columns, rows, cells)


def render_table(
    generator: Generator, table: Table, *, faces: Sequence[Face], size_px: int = 14, layout: str = "grid"
) -> PageSample:
    """A table on paper, as large as it needs to be.

    Args:
        generator: source of randomness.
        table: what it says.
        faces: faces to choose from.
        size_px: font size.
        layout: one of `TABLE_LAYOUTS`.
    """
    face = faces[int(generator.random() * len(faces))]
    pad, height = size_px // 2 + 1, round(size_px * 1.6)
    named = (table.corner, *table.rows)
    columns = [list(named)]
    for name in table.columns:
        columns.append([name, *(str(number) for number in table.column(name))])
    widths = [max(text_width(face, size_px, text) for text in column) + 2 * pad for column in columns]
    paper = Paper((height * len(named) + 4, sum(widths) + 4))
    edges = [2]
    for width in widths:
        edges.append(edges[-1] + width)
    _draw_rules(paper, layout, edges, height, len(named))
    for row in range(len(named)):
        baseline = 2 + row * height + (height + size_px * 2 // 3) // 2
        for place, column in enumerate(columns):
            text = column[row]
            left = edges[place] + pad if place == 0 else edges[place + 1] - pad - text_width(face, size_px, text)
            paper.write("header" if row == 0 or place == 0 else "cell", [(text, left, baseline)], face, size_px)
    return paper.finish(generator, "table", table_questions(generator, table))


def _draw_rules(paper: Paper, layout: str, edges: Sequence[int], height: int, num_rows: int) -> None:
    right, bottom = edges[-1], 2 + height * num_rows
    if layout == "grid":
        for row in range(num_rows + 1):
            paper.rule(Box(2, 2 + row * height, right + 1, 3 + row * height))
        for edge in edges:
            paper.rule(Box(edge, 2, edge + 1, bottom + 1))
    elif layout == "ruled":
        paper.rule(Box(2, 2 + height, right, 3 + height))
        paper.rule(Box(2, bottom - 1, right, bottom))
    elif layout == "striped":
        for row in range(1, num_rows, 2):
            paper.rule(Box(2, 2 + row * height, right, 2 + (row + 1) * height), strength=30)


def table_questions(generator: Generator, table: Table) -> list[Question]:
    """One question of each kind, about random rows and columns."""
    row = table.rows[int(generator.random() * len(table.rows))]
    column = table.columns[int(generator.random() * len(table.columns))]
    numbers = table.column(column)
    most, least = (table.rows[numbers.index(pick(numbers))] for pick in (max, min))
    return [
        Question("table_cell", f"What is the value of {row} in {column}?", str(table.cell(row, column))),
        Question("table_most", f"Which row has the most in {column}?", most),
        Question("table_least", f"Which row has the least in {column}?", least),
        Question("table_rows", "How many rows are there below the header?", str(len(table.rows))),
        Question("table_sum", f"What is the sum of {row}?", str(sum(table.row(row)))),
    ]
