"""Answers of a form are of that form, whatever the model would rather say."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from minicpmv.errors import EngineError, OptionError
from minicpmv.generation.chat import Assistant
from minicpmv.generation.engine.loop import Engine
from minicpmv.generation.engine.prompts import EnginePrompt
from minicpmv.generation.engine.requests import Finished, RequestOptions, ended_text
from minicpmv.generation.engine.sampling import SamplingParams
from minicpmv.generation.engine.structured import AnswerForm, GrammarBook
from minicpmv.generation.options import GenerationOptions

pytest.importorskip("llguidance")

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine(toy_folder: Path) -> Iterator[Engine]:
    assistant = Assistant.load(toy_folder, device="cpu", dtype="float32")
    with Engine(assistant.model, assistant.processor) as engine:
        yield engine


@pytest.fixture(scope="module")
def book(engine: Engine) -> GrammarBook:
    config: Any = engine.model.config.get_text_config()
    return GrammarBook(engine.processor.tokenizer, config.vocab_size, engine.terminators)


def said(engine: Engine, book: GrammarBook, form: AnswerForm, seed: int, **options: Any) -> tuple[str, str, Finished]:
    """What a random model says, which alone would never have the form."""
    assistant = Assistant(engine.model, engine.processor)
    think = options.get("think", False)
    inputs = assistant.prepare([{"role": "user", "content": "Say it."}], GenerationOptions(think=think)).inputs
    drawn = SamplingParams(temperature=1.0, seed=seed)
    asked = RequestOptions(max_new_tokens=200, sampling=drawn, guard=False, **options)
    prompt = EnginePrompt.from_inputs(inputs, int(engine.model.config.query_num))
    events = engine.submit(prompt, asked, grammar=book.compile(form)).wait()
    assert isinstance(events[-1], Finished)
    return *ended_text(events), events[-1]


@pytest.mark.parametrize("seed", range(5))
def test_json_of_a_schema(seed: int, engine: Engine, book: GrammarBook) -> None:
    _, answer, end = said(engine, book, AnswerForm(schema=PERSON), seed)
    assert end.reason == "stop"
    person = json.loads(answer)
    assert person.keys() == {"name", "age"}
    assert len(person["name"]) <= 6
    assert isinstance(person["age"], int)


def test_an_expression_and_choices(engine: Engine, book: GrammarBook) -> None:
    for seed in range(4):
        assert re.fullmatch(r"[a-z]{3}-\d{2}", said(engine, book, AnswerForm(regex=r"[a-z]{3}-\d{2}"), seed)[1])
    choices = ("yes.", "no (really)", "perhaps")
    assert {said(engine, book, AnswerForm(choices=choices), seed)[1] for seed in range(12)} <= set(choices)


def test_a_form_begins_behind_the_reasoning(engine: Engine, book: GrammarBook) -> None:
    reasoning, answer, end = said(engine, book, AnswerForm(choices=("left", "right")), 3, think=True, thinking_budget=7)
    assert answer in ("left", "right")
    assert reasoning
    assert 7 <= end.usage.reasoning_tokens <= 10


@pytest.mark.parametrize(
    "form",
    [AnswerForm(schema={"type": "nonsense"}), AnswerForm(regex="("), AnswerForm(schema={"$ref": "#/nowhere"})],
)
def test_a_form_that_cannot_be_read_is_refused_in_one_line(form: AnswerForm, book: GrammarBook) -> None:
    with pytest.raises(OptionError, match="form of the answer") as caught:
        book.compile(form)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{}, {"regex": "a", "choices": ["b"]}, {"choices": ()}, {"choices": [""]}])
def test_exactly_one_form_is_given(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="form of the answer"):
        AnswerForm(**given)


def test_a_form_that_no_answer_has_ends_the_request_with_a_reason(engine: Engine, book: GrammarBook) -> None:
    grammar = book.compile(AnswerForm(choices=("yes",)))
    grammar.accept(0)  # something that may not come
    with pytest.raises(EngineError, match="No answer has the form"):
        grammar.allowed()
    assert not torch.is_inference_mode_enabled()
