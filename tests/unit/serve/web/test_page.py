"""The page's own pieces: what is shown, and what a visitor's text may not do."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gradio")

from PIL import Image

from minicpmv.generation.chat import Answer
from minicpmv.serve.web.page import Page, example_files, figures, shown, status, uploads
from minicpmv.serve.web.pictures import Drawing
from minicpmv.serve.web.talk import File, Turn

END = Answer("seven", None, 98, 64, 11, 0.25, 2.0, "length")


def test_a_conversation_is_shown_in_order() -> None:
    turns = [
        Turn("What?", (File(Path("uploads/a.png"), "a.png"),), "because", "seven", END),
        Turn("And?", problem="Too big."),
    ]
    assert shown(turns) == [
        {"role": "user", "content": {"path": "uploads/a.png"}},
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "because", "metadata": {"title": "Thinking", "status": "done"}},
        {"role": "assistant", "content": "seven"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "⚠ Too big."},
    ]


def test_thinking_is_open_until_the_answer_begins() -> None:
    (_question, thought) = shown([Turn("What?", reasoning="let me see")])
    assert thought["metadata"]["status"] == "pending"
    assert shown([Turn("What?", reasoning="let me see", text="s")])[1]["metadata"]["status"] == "done"


def test_the_cost_of_an_answer() -> None:
    read, written, why = status(Turn("What?", end=END)).split("; ")
    assert read == "98 tokens read, 64 of them visual"
    assert written == "11 written, 0.25 s to the first word, 6 tokens/s"
    assert why == "cut off at the longest answer"
    assert status(Turn("What?")) == ""


def test_a_file_name_is_no_markup() -> None:
    text = figures([Drawing(Image.new("RGB", (4, 4)), '<script>alert("x")</script>.png')])
    assert "<script" not in text
    assert text.count("<figure>") == 1


def test_an_empty_box_asks_nothing() -> None:
    talk: Any = SimpleNamespace()
    for box in (None, {}, {"text": "  ", "files": []}):
        assert Page(talk).ask(box, [])[2] == []
    _box, _chat, turns = Page(talk).ask({"text": "", "files": ["uploads/a.png"]}, [])
    assert turns == [Turn("Describe this.", uploads(["uploads/a.png"]))]
    assert Page(talk).again(turns)[2] == turns
    assert Page(talk).again([])[2] == []


def test_the_examples_are_there() -> None:
    found = example_files()
    assert len(found) == 3
    assert all(Path(path).is_file() for example in found for path in example["files"])
