"""`/v1/responses`: the same answers in the words of OpenAI's newer API, without a memory of its own.

    ResponsesRequest -> messages -> Answers -> ResponseText -> {"object": "response", ...}, or events with their names

Conversations are not kept here: `previous_response_id` is refused, and whoever goes on sends everything again; the
engine's memory of prompts makes that cheap.
"""

import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from minicpmv.generation.engine.prompts import EnginePrompt
from minicpmv.generation.engine.requests import Event, Failed, Finished
from minicpmv.serve.chat import usage_of
from minicpmv.serve.errors import problem_of
from minicpmv.serve.schema import Asked, JsonSchema, Loose, ResponseFormat
from minicpmv.serve.service import Answers

Channel = Literal["reasoning", "answer"]


class TextFormat(Loose):
    """Like `ResponseFormat`, but flat."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    def as_response_format(self) -> ResponseFormat:
        """The same as `/v1/chat/completions` has it."""
        if self.type != "json_schema":
            return ResponseFormat(type=self.type)
        return ResponseFormat(type=self.type, json_schema=JsonSchema(name=self.name, schema=self.schema_))


class TextOptions(Loose):
    """`text`."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningOptions(Loose):
    """`reasoning`."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponsesRequest(Asked):
    """`POST /v1/responses`."""

    input: str | list[Any]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    previous_response_id: str | None = None
    background: bool | None = None
    include: list[str] | None = None
    truncation: str | None = None
    max_tool_calls: int | None = None

    @model_validator(mode="after")
    def _possible(self) -> "ResponsesRequest":
        if self.tools:
            raise ValueError("Tools are not supported.")
        if self.previous_response_id is not None:
            raise ValueError("previous_response_id: responses are not kept. Send the whole conversation as input.")
        if self.background:
            raise ValueError("background is not supported.")
        return self

    @property
    def effort(self) -> str | None:
        """How much reasoning is asked for."""
        return None if self.reasoning is None else self.reasoning.effort

    @property
    def format(self) -> ResponseFormat | None:
        """The form of the answer."""
        given = None if self.text is None else self.text.format
        return None if given is None else given.as_response_format()

    def messages(self) -> list[Any]:
        """The conversation as `/v1/chat/completions` has it."""
        said = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*said, {"role": "user", "content": self.input}]
        for item in self.input:
            if isinstance(item, Mapping) and item.get("type") == "reasoning":
                continue  # of an earlier answer; the model does not see it again
            said.append(_message(item) if isinstance(item, Mapping) else item)
        return said


def _message(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item of `input` as a message."""
    kept = {name: value for name, value in item.items() if name in ("role", "content")}
    content = kept.get("content")
    if isinstance(content, list):
        kept["content"] = [
            {name: value for name, value in part.items() if name not in ("annotations", "logprobs")}
            if isinstance(part, Mapping)
            else part
            for part in content
        ]
    return kept


class ResponseText:
    """One answer, in OpenAI's newer words.

    Args:
        model: as the client called it.
        asked: what was asked for.
        prompt: what was read.
    """

    def __init__(self, model: str, asked: ResponsesRequest, prompt: EnginePrompt) -> None:
        self.id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model, self._asked, self._prompt = model, asked, prompt
        self._text: dict[Channel, str] = {"reasoning": "", "answer": ""}
        self._ids: dict[Channel, str] = {"reasoning": f"rs_{uuid.uuid4().hex}", "answer": f"msg_{uuid.uuid4().hex}"}
        self._open: list[Channel] = []
        self._end: Finished | None = None
        self._number = 0

    def hear(self, _number: int, event: Event) -> list[tuple[str | None, Any]]:
        """Take an event in; what a streaming client gets for it.

        Raises:
            BaseException: the error of an answer that failed.
        """
        if isinstance(event, Failed):
            raise event.error
        told: list[tuple[str | None, Any]] = []
        for delta in event.deltas:
            if delta.channel not in self._open:
                told += self._begin(delta.channel)
            self._text[delta.channel] += delta.text
            told.append(self._event(f"{_NAMES[delta.channel]}.delta", **self._place(delta.channel), delta=delta.text))
        if isinstance(event, Finished):
            self._end = event
            if "answer" not in self._open:
                told += self._begin("answer")
            for channel in self._open:
                told += self._finish(channel)
            ended = "response.incomplete" if self._status() == "incomplete" else "response.completed"
            told.append(self._event(ended, response=self.whole()))
        return told

    def begin(self) -> Iterator[tuple[str | None, Any]]:
        """What a stream begins with."""
        yield self._event("response.created", response=self.whole())
        yield self._event("response.in_progress", response=self.whole())

    def whole(self) -> dict[str, Any]:
        """The response as it stands."""
        status = self._status()
        reason = None if status != "incomplete" or self._end is None else _WHY.get(self._end.reason, self._end.reason)
        asked = self._asked
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": self._model,
            "output": [self._item(channel) for channel in self._open],
            "parallel_tool_calls": False,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "tool_choice": "none",
            "tools": [],
            "text": {"format": {"type": "text"}} if asked.text is None else asked.text.model_dump(by_alias=True),
            "usage": None if self._end is None else self._usage(),
        }

    def _status(self) -> str:
        if self._end is None:
            return "in_progress"
        return "completed" if self._end.reason == "stop" else "incomplete"

    def _usage(self) -> dict[str, Any]:
        assert self._end is not None
        usage = usage_of(self._prompt, [self._end.usage])
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": usage["completion_tokens_details"],
            "total_tokens": usage["total_tokens"],
        }

    def _item(self, channel: Channel) -> dict[str, Any]:
        status = "in_progress" if self._end is None else self._status()
        if channel == "reasoning":
            return {"id": self._ids[channel], "type": "reasoning", "summary": [], "content": [self._part(channel)]}
        return {
            "id": self._ids[channel],
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [self._part(channel)],
        }

    def _part(self, channel: Channel) -> dict[str, Any]:
        if channel == "reasoning":
            return {"type": "reasoning_text", "text": self._text[channel]}
        return {"type": "output_text", "text": self._text[channel], "annotations": [], "logprobs": []}

    def _place(self, channel: Channel) -> dict[str, Any]:
        place = {"item_id": self._ids[channel], "output_index": self._open.index(channel), "content_index": 0}
        return place if channel == "reasoning" else {**place, "logprobs": []}

    def _begin(self, channel: Channel) -> list[tuple[str | None, Any]]:
        self._open.append(channel)
        place = {name: value for name, value in self._place(channel).items() if name != "logprobs"}
        item = {**self._item(channel), "content": []}
        return [
            self._event("response.output_item.added", output_index=place["output_index"], item=item),
            self._event("response.content_part.added", **place, part=self._part(channel)),
        ]

    def _finish(self, channel: Channel) -> list[tuple[str | None, Any]]:
        place = {name: value for name, value in self._place(channel).items() if name != "logprobs"}
        return [
            self._event(f"{_NAMES[channel]}.done", **self._place(channel), text=self._text[channel]),
            self._event("response.content_part.done", **place, part=self._part(channel)),
            self._event("response.output_item.done", output_index=place["output_index"], item=self._item(channel)),
        ]

    def _event(self, kind: str, **told: Any) -> tuple[str | None, Any]:
        self._number += 1
        return kind, {"type": kind, "sequence_number": self._number - 1, **told}


_NAMES: dict[Channel, str] = {"reasoning": "response.reasoning_text", "answer": "response.output_text"}
_WHY = {"length": "max_output_tokens"}


async def response_events(told: ResponseText, answers: Answers) -> AsyncIterator[tuple[str | None, Any]]:
    """What a streaming client gets, an error in the middle included."""
    for event in told.begin():
        yield event
    try:
        async for number, heard in answers:
            for event in told.hear(number, heard):
                yield event
    except Exception as error:  # the status has been sent already
        problem = problem_of(error)
        yield "error", {"type": "error", "message": problem.message, "code": problem.code, "param": problem.param}
