"""A closed world tells the same everywhere, and a worked trace is true line by line."""

import re

import numpy as np
import pytest

from minicpmv.data.worlds.knowledge import (
    KINDS,
    Entity,
    article,
    ask_about,
    entities_of,
    make_world,
    tell,
)
from minicpmv.data.worlds.reasoning import PROBLEM_KINDS, draw_problem
from minicpmv.data.worlds.tables import Table, draw_table
from minicpmv.data.worlds.words import is_held_out
from minicpmv.errors import OptionError

WORLD = make_world(0)


def test_a_world_depends_on_its_seed_only() -> None:
    assert make_world(0) == WORLD
    assert make_world(1) != WORLD
    assert {entity.kind for entity in WORLD} == set(KINDS)
    assert len({entity.name for entity in WORLD}) == len(WORLD) == 400


def test_held_out_entities_are_a_fair_share_and_apart() -> None:
    train, held_out = entities_of(WORLD, "train"), entities_of(WORLD, "held_out")
    assert len(train) + len(held_out) == len(WORLD)
    assert 0.05 < len(held_out) / len(WORLD) < 0.4
    assert all(is_held_out(entity.name) for entity in held_out)


def test_the_smallest_worlds_have_both_splits_and_smaller_ones_are_refused() -> None:
    for seed in range(100):
        world = make_world(seed, 40)
        assert len({entity.kind for entity in entities_of(world, "train")}) == len(KINDS)
    with pytest.raises(OptionError, match="39 entities"):
        make_world(0, 39)


def test_nothing_held_out_is_true_of_who_belongs_to_training() -> None:
    told = [fact.value for entity in entities_of(WORLD, "train") for fact in entity.facts]
    assert [value for value in told if is_held_out(value)] == []


def test_whoever_is_named_exists() -> None:
    names = {entity.name: entity for entity in WORLD}
    for entity in WORLD:
        for fact in entity.facts:
            if fact.relation in ("home", "seat"):
                assert names[fact.value].kind == "town"
            if fact.relation in ("mayor", "head"):
                assert names[fact.value].kind == "person"
            if fact.relation == "maker":
                assert names[fact.value].kind == "company"


@pytest.mark.parametrize("entity", WORLD[::40], ids=lambda entity: entity.name)
def test_sentences_say_the_fact_and_questions_do_not(entity: Entity) -> None:
    generator = np.random.default_rng(0)
    for fact in entity.facts:
        sentence, question = tell(generator, fact), ask_about(generator, fact)
        assert fact.value.lower() in sentence.lower()
        assert fact.subject.lower() in sentence.lower()
        assert fact.subject in question
        assert question.endswith("?")
        assert "{" not in sentence + question
    sentences, facts = article(generator, entity, 2)
    assert len(sentences) == len(facts) == 2


def true_answer(question: str, table: Table) -> str:
    """Worked out from the table and the words of the question alone."""
    words = re.findall(r"\w+", question)[1:]  # the first one asks, even where a row is called `What`
    rows = [name for name in words if name in table.rows]
    columns = [name for name in words if name in table.columns]
    if "larger sum" in question:
        one, other = (sum(table.row(row)) for row in rows)
        return "neither" if one == other else rows[0] if one > other else rows[1]
    if "sums of" in question:
        return str(abs(sum(table.row(rows[0])) - sum(table.row(rows[1]))))
    if "plus" in question:
        return str(table.cell(rows[0], columns[0]) + table.cell(rows[1], columns[1]))
    if "largest value" in question:
        return str(max(table.column(columns[0])) - min(table.column(columns[0])))
    return str(sum(table.row(rows[0]) if rows else table.column(columns[0])))


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_the_answer_is_right_and_the_trace_leads_to_it(kind: str) -> None:
    for seed in range(40):
        generator = np.random.default_rng(seed)
        table = draw_table(generator, "train", 3, 3)
        problem = draw_problem(generator, table, kind)
        assert problem.answer == true_answer(problem.question, table)
        assert problem.answer in problem.trace or problem.answer == "neither"
        assert problem.steps >= 1


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_every_calculation_is_true_or_taken_back(kind: str) -> None:
    slips = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        problem = draw_problem(generator, draw_table(generator, "train", 3, 3), kind)
        for match in re.finditer(r"(\d+) ([+-]) (\d+) = (-?\d+)(\. Wait)?", problem.trace):
            one, sign, other, result, taken_back = match.groups()
            is_true = int(one) + (int(other) if sign == "+" else -int(other)) == int(result)
            assert is_true == (taken_back is None), problem.trace
            slips += taken_back is not None
    assert slips > 0 or kind == "spread_of_column"
