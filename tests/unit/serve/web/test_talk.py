"""Conversations of the page: answers grow, can be stopped and asked again; a bad file is a message and no crash."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from minicpmv.errors import MediaError, MediaLimitError
from minicpmv.generation.chat import Assistant
from minicpmv.generation.engine.loop import Engine, EngineOptions
from minicpmv.generation.loading import load
from minicpmv.generation.options import GenerationOptions
from minicpmv.messages import ImagePart, TextPart, VideoPart
from minicpmv.serve.web.talk import MOST_FILES, Controls, File, Talk, Turn

EXAMPLES = Path(__file__).parents[4] / "examples"
SIGN, CLIP, NOTE = (File(EXAMPLES / name, name) for name in ("sign.png", "clip.mp4", "note.pdf"))


PLAIN = Controls()


@pytest.fixture(scope="module")
def talk() -> Iterator[Talk]:
    loaded = load(device="cpu")
    with Engine(loaded.model, loaded.processor, EngineOptions(kv_tokens=8192, most_running=4)) as engine:
        yield Talk(loaded, engine)


@pytest.fixture(scope="module")
def endless(toy_folder: Path) -> Iterator[Talk]:
    """A model of random weights, which never comes to an end by itself."""
    loaded = load(toy_folder, device="cpu", dtype="float32")
    with Engine(loaded.model, loaded.processor, EngineOptions(kv_tokens=4096, most_running=4)) as engine:
        yield Talk(loaded, engine)


def last(talk: Talk, turns: list[Turn], controls: Controls = PLAIN, visitor: str = "a") -> Turn:
    *_, turn = talk.answer(turns, controls, visitor)
    return turn


def test_answers_as_the_assistant_does(talk: Talk) -> None:
    question = "What is written in the picture?"
    grown = list(talk.answer([Turn(question, (SIGN,))], Controls(), "a"))
    assert len(grown) > 3
    assert all(after.text.startswith(before.text) for before, after in zip(grown[:-1], grown[1:-1], strict=False))
    alone = Assistant.load(device="cpu")
    told = alone.ask([{"role": "user", "content": [ImagePart(SIGN.path), TextPart(question)]}])
    alone.close()
    assert grown[-1].text == told.text == "Pasta $7.50"
    assert grown[-1].end is not None
    assert grown[-1].end.visual_tokens == 64


def test_remembers_earlier_turns_but_not_those_that_failed(talk: Talk, tmp_path: Path) -> None:
    first = last(talk, [Turn("Repeat: one two", ())])
    (tmp_path / "bad.png").write_bytes(b"nothing")
    failed = last(talk, [first, Turn("And this?", (File(tmp_path / "bad.png", "bad.png"),))])
    assert failed.problem is not None
    assert "bad.png" in failed.problem
    assert str(tmp_path) not in failed.problem
    second = last(talk, [first, failed, Turn("Repeat: three", ())])
    alone = last(talk, [first, Turn("Repeat: three", ())])
    assert second.text == alone.text
    assert second.end is not None
    assert first.end is not None
    assert second.end.prompt_tokens > first.end.prompt_tokens


def test_asking_again_forgets_the_old_answer(talk: Talk) -> None:
    asked = Turn("Repeat: seven", ())
    first = last(talk, [asked])
    assert replace(last(talk, [first]), end=None) == replace(first, end=None)


def test_stop_keeps_what_there_is(endless: Talk) -> None:
    turns = endless.answer([Turn("hello")], Controls(max_new_tokens=200), "a")
    early = next(turns)
    endless.stop("somebody else")
    endless.stop("a")
    *_, end = turns
    assert end.end is not None
    assert end.end.finish_reason == "cancelled"
    assert end.end.new_tokens < 200
    assert end.text.startswith(early.text.strip()[:1])
    endless.stop("a")  # nothing is running: nothing happens


def test_a_visitor_who_asks_again_ends_the_first_answer(endless: Talk) -> None:
    first = endless.answer([Turn("hello")], Controls(max_new_tokens=300), "a")
    next(first)
    second = endless.answer([Turn("hello")], Controls(max_new_tokens=4), "a")
    assert list(second)[-1].end.finish_reason == "length"  # type: ignore[union-attr]
    *_, end = first
    assert end.end is not None
    assert end.end.finish_reason == "cancelled"


def test_leaving_ends_the_answer(endless: Talk) -> None:
    turns = endless.answer([Turn("hello")], Controls(max_new_tokens=300), "a")
    next(turns)
    turns.close()  # type: ignore[attr-defined]
    assert endless._running == {}


def test_visitors_do_not_wait_for_each_other(endless: Talk) -> None:
    ends: dict[str, Turn] = {}

    def ask(visitor: str) -> None:
        ends[visitor] = last(endless, [Turn(f"hello {visitor}")], Controls(max_new_tokens=20), visitor)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {turn.end.finish_reason for turn in ends.values()} == {"length"}  # type: ignore[union-attr]
    assert all(
        ends[name].text == last(endless, [Turn(f"hello {name}")], Controls(max_new_tokens=20)).text for name in "abc"
    )


def test_thinking_is_apart_and_ends_at_the_budget(endless: Talk) -> None:
    controls = Controls(think=True, thinking_budget=6, max_new_tokens=16)
    grown = list(endless.answer([Turn("hello")], controls, "a"))
    assert any(turn.reasoning and not turn.text for turn in grown)
    assert grown[-1].reasoning
    assert "</think>" not in grown[-1].text


@pytest.mark.parametrize(
    ("turn", "controls", "says"),
    [
        (Turn("  "), Controls(), "question is empty"),
        (Turn("x"), Controls(temperature=-1.0), "temperature"),
        (Turn("x", (CLIP,)), Controls(packing=9), "packing"),
        (Turn("x", (SIGN,) * (MOST_FILES + 1)), Controls(), "files"),
        (Turn("x", (File(EXAMPLES / "make_examples.py", "script"),)), Controls(), "script"),
        (Turn("x", (File(EXAMPLES / "gone.png", "gone.png"),)), Controls(), "gone.png"),
    ],
)
def test_what_is_wrong_is_said(talk: Talk, turn: Turn, controls: Controls, says: str) -> None:
    (only,) = talk.answer([turn], controls, "a")
    assert only.problem is not None
    assert says in only.problem


def test_plan_counts_what_the_answer_reads(talk: Talk) -> None:
    controls = Controls(fps=10, packing=3, max_slices=2)
    planned, drawings = talk.plan("Which colour appears first?", [CLIP, SIGN, NOTE], controls)
    turn = last(talk, [Turn("Which colour appears first?", (CLIP, SIGN, NOTE))], controls)
    assert turn.end is not None
    assert planned.total.prompt_tokens == turn.end.prompt_tokens
    assert planned.visual_tokens == turn.end.visual_tokens
    assert [drawing.caption.split(":")[0] for drawing in drawings] == ["clip.mp4", "sign.png", "note.pdf, page 1"]


def test_errors_name_the_visitors_file_and_not_its_copy(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(CLIP.path.read_bytes()[:9000])
    cut = File(tmp_path / "copy", "holiday.mp4")
    problem = last(talk, [Turn("x", (cut,))]).problem
    assert problem is not None
    with pytest.raises(MediaError) as caught:
        talk.plan("x", [cut], Controls())
    for said in (problem, str(caught.value)):
        assert "holiday.mp4" in said
        assert str(tmp_path) not in said


def test_plan_of_bad_files(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(MediaError):
        talk.plan("x", [File(tmp_path / "empty.mp4", "empty.mp4")], Controls())
    with pytest.raises(MediaLimitError):
        talk.plan("x", [SIGN] * (MOST_FILES + 1), Controls())


def test_controls_become_options() -> None:
    controls = Controls(
        think=True, thinking_budget=5, max_new_tokens=9, temperature=0.5, fps=2.0, packing=6, max_frames=8
    )
    assert controls.generation() == GenerationOptions(think=True, thinking_budget=5, max_new_tokens=9, temperature=0.5)
    assert controls.part(CLIP) == VideoPart(CLIP.path, fps=2.0, packing=6, max_frames=8)
    assert Controls(max_slices=4).part(SIGN) == ImagePart(SIGN.path, max_slices=4)
