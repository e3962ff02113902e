"""Questions about tables that take several steps, with worked traces that check themselves and mend their mistakes.

    table, kind, number of steps -> Problem(question, trace, answer)

A trace is what the long mode learns to write before it answers: one step per sentence, sometimes a slip that the next
sentence finds, and a check at the end. The same problem without its trace is for the short mode.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

from minicpmv.data.worlds.tables import Table

PROBLEM_KINDS = ("sum_of_row", "sum_of_column", "difference_of_rows", "larger_row", "sum_of_cells", "spread_of_column")
"""What may be asked."""

_SLIP_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, how to work it out, and the answer; `steps` counts the calculations."""

    kind: str
    question: str
    trace: str
    answer: str
    steps: int


def draw_problem(generator: Generator, table: Table, kind: str) -> Problem:
    """A question of one kind about random rows and columns of a table with at least two of each.

    Raises:
        KeyError: the kind is none of `PROBLEM_KINDS`.
    """
    return _DRAW[kind](generator, table)


def _sum_of_row(generator: Generator, table: Table) -> Problem:
    (row,) = _some(generator, table.rows, 1)
    worked, total = _add(generator, table.row(row))
    trace = f"{row} has {_listed(table.row(row))}. {worked} {_check_sum(table.row(row), total)}"
    return Problem("sum_of_row", f"What do all values of {row} add up to?", trace, str(total), len(table.columns) - 1)


def _sum_of_column(generator: Generator, table: Table) -> Problem:
    (column,) = _some(generator, table.columns, 1)
    numbers = table.column(column)
    worked, total = _add(generator, numbers)
    trace = f"{column} has {_listed(numbers)}. {worked} {_check_sum(numbers, total)}"
    return Problem("sum_of_column", f"What do all values in {column} add up to?", trace, str(total), len(numbers) - 1)


def _difference_of_rows(generator: Generator, table: Table) -> Problem:
    one, other = _some(generator, table.rows, 2)
    first, first_total = _add(generator, table.row(one))
    second, second_total = _add(generator, table.row(other))
    high, low = max(first_total, second_total), min(first_total, second_total)
    trace = (
        f"{one} has {_listed(table.row(one))}. {first} {other} has {_listed(table.row(other))}. {second} "
        f"{high} - {low} = {high - low}. Check: {low} + {high - low} = {high}."
    )
    question = f"How far apart are the sums of {one} and {other}?"
    return Problem("difference_of_rows", question, trace, str(high - low), 2 * len(table.columns) - 1)


def _larger_row(generator: Generator, table: Table) -> Problem:
    one, other = _some(generator, table.rows, 2)
    first, first_total = _add(generator, table.row(one))
    second, second_total = _add(generator, table.row(other))
    answer, sign = (one, ">") if first_total > second_total else (other, "<")
    if first_total == second_total:
        answer, sign = "neither", "="
    trace = (
        f"{one} has {_listed(table.row(one))}. {first} {other} has {_listed(table.row(other))}. {second} "
        f"{first_total} {sign} {second_total}, so it is {answer}."
    )
    return Problem(
        "larger_row", f"Which has the larger sum, {one} or {other}?", trace, answer, 2 * len(table.columns) - 1
    )


def _sum_of_cells(generator: Generator, table: Table) -> Problem:
    one, other = _some(generator, table.rows, 2)
    left, right = _some(generator, table.columns, 2)
    numbers = (table.cell(one, left), table.cell(other, right))
    worked, total = _add(generator, numbers)
    trace = (
        f"{one} in {left} is {numbers[0]}. {other} in {right} is {numbers[1]}. {worked} {_check_sum(numbers, total)}"
    )
    question = f"What is {one} in {left} plus {other} in {right}?"
    return Problem("sum_of_cells", question, trace, str(total), 1)


def _spread_of_column(generator: Generator, table: Table) -> Problem:
    (column,) = _some(generator, table.columns, 1)
    numbers = table.column(column)
    high, low = max(numbers), min(numbers)
    trace = (
        f"{column} has {_listed(numbers)}. The largest is {high}, the smallest is {low}. "
        f"{high} - {low} = {high - low}. Check: {low} + {high - low} = {high}."
    )
    question = f"How far is the largest value in {column} from the smallest?"
    return Problem("spread_of_column", question, trace, str(high - low), 1)


_DRAW = {
    "sum_of_row": _sum_of_row,
    "sum_of_column": _sum_of_column,
    "difference_of_rows": _difference_of_rows,
    "larger_row": _larger_row,
    "sum_of_cells": _sum_of_cells,
    "spread_of_column": _spread_of_column,
}


def _some(generator: Generator, names: Sequence[str], num: int) -> list[str]:
    return [names[int(index)] for index in generator.permutation(len(names))[:num]]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _add(generator: Generator, numbers: Sequence[int]) -> tuple[str, int]:
    """Numbers added one after the other in words, now and then with a slip that is mended at once."""
    sentences, total = [], numbers[0]
    for number in numbers[1:]:
        right = total + number
        if generator.random() < _SLIP_SHARE:
            wrong = right + (10 if generator.random() < 0.5 else 1)
            sentences.append(f"{total} + {number} = {wrong}. Wait, {wrong} - {number} = {wrong - number}, not {total}.")
        sentences.append(f"{total} + {number} = {right}.")
        total = right
    return " ".join(sentences), total


def _check_sum(numbers: Sequence[int], total: int) -> str:
    """The same sum from the other end."""
    left, steps = total, []
    for number in reversed(numbers[1:]):
        steps.append(f"{left} - {number} = {left - number}")
        left -= number
    return f"Check: {', '.join(steps)}."
