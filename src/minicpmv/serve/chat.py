"""Events of the engine as objects of `/v1/chat/completions`, whole and streamed.

Answers -> Completion -> {"object": "chat.completion", ...}        event -> chunk -> data: {...}
"""

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from minicpmv.generation.engine.prompts import EnginePrompt
from minicpmv.generation.engine.requests import EndReason, Event, Failed, Finished, Usage
from minicpmv.generation.engine.sampling import Choice

_REASONS: dict[EndReason, str] = {
    "stop": "stop",
    "length": "length",
    "repetition": "length",
    "deadline": "length",
    "cancelled": "stop",
}
"""OpenAI knows two ends of a text; `stop_reason` beside it tells the others, as in vLLM."""


@dataclass(slots=True)
class Told:
    """One answer, gathered."""

    text: dict[str, str] = field(default_factory=lambda: {"reasoning": "", "answer": ""})
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    end: Finished | None = None


class Completion:
    """The answers to one request, in OpenAI's words.

    Args:
        model: as the client called it.
        prompt: what was read.
        number: of answers.
        tokenizer: tells the text of tokens, where their probabilities are asked for.
        thinks: whether the model reasons first.
    """

    def __init__(self, model: str, prompt: EnginePrompt, number: int, tokenizer: Any, *, thinks: bool) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self._model, self._prompt, self._tokenizer, self._thinks = model, prompt, tokenizer, thinks
        self.told = [Told() for _ in range(number)]

    def hear(self, number: int, event: Event) -> dict[str, Any] | None:
        """Take an event in; the chunk that a streaming client gets for it, if there is something to say.

        Raises:
            BaseException: the error of an answer that failed.
        """
        if isinstance(event, Failed):
            raise event.error
        told = self.told[number]
        said: dict[str, str] = {}
        for delta in event.deltas:
            told.text[delta.channel] += delta.text
            name = "reasoning_content" if delta.channel == "reasoning" else "content"
            said[name] = said.get(name, "") + delta.text
        if isinstance(event, Finished):
            told.end = event
            return self._chunk(number, said, finish=event)
        logprobs = None
        if event.choice.logprob is not None:
            told.logprobs.append(self._logprob(event.choice))
            logprobs = {"content": told.logprobs[-1:]}
        return self._chunk(number, said, logprobs=logprobs) if said or logprobs else None

    def first_chunks(self) -> Iterator[dict[str, Any]]:
        """What a stream begins with."""
        for number in range(len(self.told)):
            yield self._chunk(number, {"role": "assistant", "content": ""})

    def usage_chunk(self) -> dict[str, Any]:
        """What a stream ends with if it was asked for."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage()}

    def whole(self) -> dict[str, Any]:
        """All answers."""
        return {
            **self._head("chat.completion"),
            "choices": [self._choice(number, told) for number, told in enumerate(self.told)],
            "usage": self.usage(),
        }

    def usage(self) -> dict[str, Any]:
        """What the request took, all answers together."""
        ends = [told.end.usage for told in self.told if told.end is not None]
        return usage_of(self._prompt, ends)

    def _choice(self, number: int, told: Told) -> dict[str, Any]:
        assert told.end is not None
        reasoning = told.text["reasoning"] if self._thinks or told.text["reasoning"] else None
        return {
            "index": number,
            "message": {
                "role": "assistant",
                "content": told.text["answer"],
                "reasoning_content": reasoning,
                "refusal": None,
            },
            "logprobs": {"content": told.logprobs, "refusal": None} if told.logprobs else None,
            **_ending(told.end),
        }

    def _chunk(
        self,
        number: int,
        delta: dict[str, str],
        *,
        finish: Finished | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        ending = {"finish_reason": None} if finish is None else _ending(finish)
        choice = {"index": number, "delta": delta, "logprobs": logprobs, **ending}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self._model}

    def _logprob(self, choice: Choice) -> dict[str, Any]:
        pairs = [(choice.token, choice.logprob or 0.0), *choice.top]
        entries = []
        for token, logprob in pairs:
            text = str(self._tokenizer.decode([token], skip_special_tokens=False))
            entries.append({"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())})
        return {**entries[0], "top_logprobs": entries[1:]}


def _ending(end: Finished) -> dict[str, Any]:
    why = end.stopped_by if end.stopped_by is not None else end.reason if end.reason not in ("stop", "length") else None
    return {"finish_reason": _REASONS[end.reason], "stop_reason": why}


def usage_of(prompt: EnginePrompt, ends: Iterable[Usage]) -> dict[str, Any]:
    """OpenAI's `usage`, with the visual tokens among those of the prompt."""
    ends = list(ends)
    new = sum(end.new_tokens for end in ends)
    return {
        "prompt_tokens": len(prompt.ids),
        "completion_tokens": new,
        "total_tokens": len(prompt.ids) + new,
        "prompt_tokens_details": {
            "cached_tokens": ends[0].cached_tokens if ends else 0,
            "visual_tokens": prompt.num_visual_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": sum(end.reasoning_tokens for end in ends)},
    }
