"""Held-out words never reach training, and words of every kind can be printed."""

import re

import numpy as np
import pytest

from minicpmv.data import drawn
from minicpmv.data.worlds import (
    charts,
    clip_kinds,
    forms,
    knowledge,
    questions,
    reasoning,
    receipts,
    scenes,
    screens,
    shapes,
    shown,
    tables,
)
from minicpmv.data.worlds.fonts import PRINTABLE, Split
from minicpmv.data.worlds.text import tokenizer_corpus
from minicpmv.data.worlds.words import all_held_out, dictionary, is_held_out, random_line


def test_the_dictionary_is_split_into_two_parts_of_about_nine_to_one() -> None:
    train, held_out = dictionary("train"), dictionary("held_out")
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) > 1200
    assert 0.06 < len(held_out) / len(train) < 0.13


def test_membership_depends_on_the_word_and_not_on_case_or_punctuation() -> None:
    word = dictionary("held_out")[0]
    for text in (word, word.upper(), f"({word.title()})", f"the {word}!", f"x-{word}"):
        assert is_held_out(text)
    assert not is_held_out(dictionary("train")[0])


def test_membership_never_changes_between_versions() -> None:
    """Published scores depend on it."""
    assert [word for word in ("apple", "bread", "humble", "pilot", "river", "wallet") if is_held_out(word)] == [
        "humble",
        "pilot",
        "wallet",
    ]


def test_no_training_line_holds_a_held_out_word() -> None:
    generator = np.random.default_rng(0)
    held_out = set(dictionary("held_out"))
    for _ in range(3000):
        line = random_line(generator, "train")
        assert not is_held_out(line)
        assert not held_out & set(line.lower().split())


def test_every_long_word_of_a_held_out_line_is_held_out() -> None:
    generator = np.random.default_rng(1)
    for _ in range(600):
        line = random_line(generator, "held_out")
        assert is_held_out(line)
        assert all_held_out(line)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_lines_are_printable_have_one_to_three_words_and_repeat_by_seed(split: Split) -> None:
    first = [random_line(np.random.default_rng(seed), split) for seed in range(300)]
    assert first == [random_line(np.random.default_rng(seed), split) for seed in range(300)]
    assert len(set(first)) > 250
    assert all(set(line) <= set(PRINTABLE) and line == line.strip() and "  " not in line for line in first)


def test_training_lines_use_every_printable_character() -> None:
    generator = np.random.default_rng(2)
    assert set("".join(random_line(generator, "train") for _ in range(6000))) == set(PRINTABLE)


def test_words_of_our_own_questions_and_answers_are_never_held_out() -> None:
    spoken = " ".join(questions.wordings_of_everything()).replace("{", "").replace("}", "").split()
    spoken += [
        *shapes.COLOURS,
        *shapes.SHAPES,
        "crosses",
        *clip_kinds.DIRECTIONS,
        *clip_kinds.PACES,
        *clip_kinds.RISES,
        *scenes.PLACES,
        shown.NOTHING,
        *knowledge.JOBS,
        *knowledge.GOODS,
        *knowledge.COLOURS,
        *tables.COLUMN_NAMES,
        *charts.LABELS,
        *charts.TITLES,
        *screens.MENU,
        *screens.BUTTONS,
        *receipts.PRINTED,
        *forms.TITLES,
        *" ".join((*drawn.READ, *drawn.RESTORE)).split(),
    ]
    for seed, kind in enumerate(reasoning.PROBLEM_KINDS * 20):
        generator = np.random.default_rng(seed)
        table = tables.draw_table(generator, "train")
        problem = reasoning.draw_problem(generator, table, kind)
        asked = " ".join(question.question for question in tables.table_questions(generator, table))
        spoken += f"{problem.question} {problem.trace} {asked}".split()
    assert [word for word in spoken if re.search("[a-zA-Z]{4}", word) and is_held_out(word)] == []


def test_the_tokenizer_corpus_has_all_characters_and_no_held_out_word() -> None:
    corpus = list(tokenizer_corpus(np.random.default_rng(0), 4000))
    assert len(corpus) == 4000
    assert set(PRINTABLE) <= set("".join(corpus))
    held_out = set(dictionary("held_out"))
    assert not [text for text in corpus if held_out & set(text.lower().split())]
