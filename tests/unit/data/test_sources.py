"""Worlds and files by the names that recipes use."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpmv.cli.data import DRAWN
from minicpmv.data.readers import Flaw
from minicpmv.data.sources import WORLDS, SourceRecipe, needs_of, open_mixture, open_world
from minicpmv.errors import OptionError, SettingsError
from minicpmv.messages import VideoPart
from minicpmv.recipes.loader import load_stage


@pytest.mark.parametrize("world", sorted(world for world in WORLDS if not needs_of(world)))
def test_every_world_draws_a_question_with_its_answer(world: str) -> None:
    feed = open_mixture({world: SourceRecipe(world=world)}, 0)
    for _ in range(5):
        name, sample = feed.next()
        assert name == world
        assert not isinstance(sample, Flaw)
        assert [message.role for message in sample.messages] == ["user", "assistant"]
        assert sample.messages[1].text
        assert {"kind", "task"} <= set(sample.metadata)


def test_clips_carry_the_times_of_their_frames() -> None:
    _, sample = open_mixture({"c": SourceRecipe(world="clips", options={"num_frames": 9})}, 0).next()
    assert not isinstance(sample, Flaw)
    (part,) = sample.media
    assert isinstance(part, VideoPart)
    assert part.frames is not None
    assert part.timestamps is not None
    assert len(part.frames) == len(part.timestamps) == 9


def test_an_open_book_question_has_its_answer_in_the_text() -> None:
    source = SourceRecipe(world="facts", options={"open_book": 1.0})
    feed = open_mixture({"facts": source}, 1)
    for _ in range(20):
        _, sample = feed.next()
        assert not isinstance(sample, Flaw)
        assert sample.messages[1].text in sample.messages[0].text
        assert sample.metadata["task"] == "open_book"


@pytest.mark.parametrize(
    ("world", "options", "reason"),
    [
        ("raed", {}, "Did you mean 'read'"),
        ("read", {"kind": ["form"]}, "Did you mean 'kinds'"),
        ("restore", {"calibration": "none.json"}, "none.json"),
        ("restore", {"calibration": 5}, "calibration is 5"),
        ("lines", {"max_words": [1, 8]}, "max_words is"),
        ("lines", {"max_words": 100_000_000}, "from 1 to 100"),
        ("lines", {"longest_side_px": 300}, "no option 'longest_side_px'"),
        ("reason", {"world_seed": 1}, "no option 'world_seed'"),
        ("read", {"longest_side_px": 10**9}, "longest_side_px is"),
        ("own_text", {"text": "a.txt", "fonts": 5}, "fonts is 5"),
        ("own_text", {"text": "a.txt", "fonts": []}, "fonts is"),
        ("own_pages", {"pages": ["d"]}, "pages is"),
    ],
)
def test_a_misspelt_world_or_option_is_named(world: str, options: dict[str, object], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        open_world(world, options)


@pytest.mark.parametrize("given", [{}, {"world": "read", "path": "x"}, {"path": "x", "options": {"a": 1}}])
def test_a_source_is_one_thing(given: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="A source has"):
        SourceRecipe(**given)  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, SourceRecipe]:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps({"question": "?", "answer": str(n)}) + "\n" for n in range(5)))
    parts = {"facts": SourceRecipe(world="facts"), "mine": SourceRecipe(path=str(path))}
    return {"text": SourceRecipe(weight=0.7, parts=parts), "lines": SourceRecipe(weight=0.3, world="lines")}


def test_passing_over_samples_is_as_good_as_drawing_them(tmp_path: Path) -> None:
    drawn, skipped = (open_mixture(tree(tmp_path), 3) for _ in range(2))
    for number in range(40):
        name, sample = drawn.next()
        if number % 3:
            skipped.skip()
            continue
        other_name, other = skipped.next()
        assert (name, sample.key) == (other_name, other.key)
    assert drawn.state == skipped.state


def test_another_mixture_follows_and_sources_in_both_go_on(tmp_path: Path) -> None:
    own = tree(tmp_path)
    later = {"text": SourceRecipe(parts={"mine": own["text"].parts["mine"]}), "scenes": SourceRecipe(world="scenes")}
    stream = open_mixture(own, 0, later=(30, later))
    assert stream.shares == pytest.approx({"text/facts": 0.35, "text/mine": 0.35, "lines": 0.3})
    first = [stream.next()[0] for _ in range(30)]
    state = json.loads(json.dumps(stream.state))
    second = [stream.next()[0] for _ in range(30)]
    assert set(first) == {"text/facts", "text/mine", "lines"}
    assert set(second) == {"text/mine", "scenes"}
    assert stream.shares == pytest.approx({"text/mine": 0.5, "scenes": 0.5})
    again = open_mixture(own, 0, later=(30, later))
    again.restore(state)
    assert [again.next()[0] for _ in range(30)] == second


def test_one_name_for_two_things_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="two different sources"):
        open_mixture({"a": SourceRecipe(world="lines")}, 0, later=(3, {"a": SourceRecipe(world="facts")}))


def test_the_command_line_knows_every_world() -> None:
    assert set(DRAWN) == set(WORLDS)


@pytest.mark.parametrize(
    ("world", "options", "reason"),
    [
        ("read", {"kinds": []}, "kinds is"),
        ("ask", {"kinds": ["menu"]}, "kinds is"),
        ("reason", {"kinds": ["nope"]}, "kinds is"),
        ("ask", {"told": "x"}, "told is x"),
        ("clips", {"tasks": []}, "tasks is"),
        ("clips", {"num_frames": [9, 3]}, "num_frames is"),
        ("scenes", {"tasks": ["nope"]}, "tasks is"),
        ("lines", {"most_lines": 0}, "most_lines is 0"),
        ("read", {"longest_side_px": True}, "longest_side_px is True"),
        ("read", {"longest_side_px": 55}, "longest_side_px is 55"),
        ("read", {"world_seed": "x"}, "world_seed is x"),
        ("facts", {"world_seed": [1, 3]}, "world_seed is"),
        ("texts", {"most_lines": [2, 5]}, "most_lines is"),
        ("facts", {"open_book": "high"}, "open_book is high"),
        ("facts", {"open_book": 7}, "open_book is 7"),
        ("texts", {"most_lines": "two"}, "most_lines is two"),
        ("restore", {"shares": {"severe": 1.0}}, "shares is"),
        ("restore", {"shares": {"low": 0}}, "shares is"),
        ("restore", {"shares": {"low": "x"}}, "shares is"),
        ("restore", {"shares": {"low": float("nan")}}, "shares is"),
        ("reason", {"think": "no"}, "think is 'no'"),
    ],
)
def test_a_wrong_option_is_named_when_the_world_is_opened(world: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        open_world(world, options)


def test_an_option_of_the_studio_changes_what_its_worlds_draw() -> None:
    """One that is passed over would be a setting that does nothing."""
    for world, options in (
        ("read", {"longest_side_px": 300}),
        ("ask", {"world_seed": 1, "kinds": ["article"]}),
        ("restore", {"longest_side_px": 300}),
        ("facts", {"world_seed": 1}),
    ):
        plain = dict.fromkeys(options.keys() & {"kinds"}, options.get("kinds"))
        drawn = [
            str(open_world(world, chosen)(np.random.default_rng(0), "key").messages) for chosen in (plain, options)
        ]
        assert drawn[0] != drawn[1], world


def test_what_is_wrong_with_a_source_is_said_with_its_place() -> None:
    text = {"told": SourceRecipe(world="texts", options={"most_lines": "banana"})}
    with pytest.raises(OptionError, match=r"The source text/told: most_lines is banana"):
        open_mixture({"text": SourceRecipe(parts=text)}, 0)
    with pytest.raises(SettingsError, match=r"data\.lines: A source has weight nan"):
        load_stage("nano_sft", ["data={lines: {world: lines, weight: .nan}}"])
    with pytest.raises(SettingsError, match=r"data\.a\.parts\.b: A source has neither"):
        load_stage("nano_sft", ["data={a: {parts: {b: {}}}}"])
