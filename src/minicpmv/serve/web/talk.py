"""What a visitor of the page says and gets: turns with files, answered through the engine, stopped and asked again.

Turn(files, question) + Controls -> Talk.answer -> Turn with more and more of its answer
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from minicpmv.errors import MediaLimitError, MessageError, MiniCPMVError
from minicpmv.generation.chat import Answer, AnswerStream, Assistant
from minicpmv.generation.options import GenerationOptions
from minicpmv.generation.planning import Plan, plan_with
from minicpmv.media.kinds import media_kind
from minicpmv.messages import DocumentPart, ImagePart, Message, Part, TextPart, VideoPart
from minicpmv.serve.web.pictures import Drawing, draw

if TYPE_CHECKING:
    from minicpmv.generation.engine.loop import Engine
    from minicpmv.generation.loading import Loaded
    from minicpmv.model.configuration import MiniCPMVConfig

MOST_FILES = 32
"""Files of a conversation. Ours."""


@dataclass(frozen=True, slots=True)
class Controls:
    """What a visitor has set; None leaves it to the checkpoint."""

    think: bool = False
    thinking_budget: int | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    max_slices: int | None = None
    fps: float | None = None
    packing: int | None = None
    max_frames: int | None = None

    def generation(self) -> GenerationOptions:
        """How to answer.

        Raises:
            OptionError: a value out of its range.
        """
        return GenerationOptions(
            think=self.think,
            thinking_budget=self.thinking_budget,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
        )

    def part(self, file: "File") -> Part:
        """A file as a part of a message.

        Raises:
            MediaError: it is neither picture, clip nor PDF.
        """
        kind = media_kind(file.path)
        if kind == "image":
            return ImagePart(file.path, max_slices=self.max_slices)
        if kind == "document":
            return DocumentPart(file.path, max_slices=self.max_slices)
        return VideoPart(
            file.path, fps=self.fps, packing=self.packing, max_frames=self.max_frames, max_slices=self.max_slices
        )


@dataclass(frozen=True, slots=True)
class File:
    """An upload: where it lies, and what the visitor calls it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, and as much of its answer as there is."""

    question: str
    files: tuple[File, ...] = ()
    reasoning: str | None = None
    text: str = ""
    end: Answer | None = None
    problem: str | None = None

    @property
    def is_answered(self) -> bool:
        """Whether the model is done with it."""
        return self.end is not None or self.problem is not None


class Talk:
    """Conversations of all visitors, over one engine.

    Args:
        loaded: model and processor.
        engine: answers.
    """

    def __init__(self, loaded: "Loaded", engine: "Engine") -> None:
        self.loaded = loaded
        self._assistant = Assistant(
            loaded.model, loaded.processor, name=loaded.name, is_bundled=loaded.is_bundled, engine=engine
        )
        self._running: dict[str, AnswerStream] = {}
        self._guard = threading.Lock()

    def answer(self, turns: Sequence[Turn], controls: Controls, visitor: str) -> Iterator[Turn]:
        """The last turn, again and again while its answer grows; it ends with an answer or a problem.

        Args:
            turns: of the conversation; the last is to be answered.
            controls: what the visitor has set.
            visitor: whose `stop` ends it.
        """
        turn = replace(turns[-1], reasoning=None, text="", end=None, problem=None)
        try:
            with _naming([file for one in turns for file in one.files]):
                yield from self._answer([*turns[:-1], turn], controls, visitor)
        except MiniCPMVError as error:
            yield replace(turn, problem=str(error))

    def _answer(self, turns: list[Turn], controls: Controls, visitor: str) -> Iterator[Turn]:
        turn = turns[-1]
        stream = self._assistant.stream(self._messages(turns, controls), controls.generation())
        with self._guard:
            before, self._running[visitor] = self._running.get(visitor), stream
        if before is not None:
            before.cancel()  # a page has one conversation, so whoever waited for that one has left
        told = {"reasoning": "", "answer": ""}
        try:
            for delta in stream:
                told[delta.channel] += delta.text
                turn = replace(turn, reasoning=told["reasoning"] or None, text=told["answer"])
                yield turn
        finally:
            with self._guard:
                if self._running.get(visitor) is stream:
                    del self._running[visitor]
        end = stream.answer
        yield replace(turn, reasoning=end.reasoning or None, text=end.text, end=end)

    def stop(self, visitor: str) -> None:
        """End what is being written for a visitor, if anything is."""
        with self._guard:
            stream = self._running.get(visitor)
        if stream is not None:
            stream.cancel()

    def plan(self, question: str, files: Sequence[File], controls: Controls) -> tuple[Plan, list[Drawing]]:
        """What a question will cost, and what the model will see.

        Raises:
            MiniCPMVError: a file cannot be read.
        """
        if len(files) > MOST_FILES:
            raise MediaLimitError(f"There are {len(files)} files.", remedy=f"Give at most {MOST_FILES}.")
        with _naming(files):
            return self._plan(question, files, controls)

    def _plan(self, question: str, files: Sequence[File], controls: Controls) -> tuple[Plan, list[Drawing]]:
        model, config = self.loaded.model, cast("MiniCPMVConfig", self.loaded.model.config)
        parts = [(file.name, controls.part(file)) for file in files]
        planned = plan_with(
            config,
            self.loaded.processor,
            parts,
            question,
            name=self.loaded.name,
            think=controls.think,
            dtype=model.llm.dtype,
        )
        drawings: list[Drawing] = []
        for (_name, part), file_plan in zip(parts, planned.files, strict=True):
            drawings += draw(part, file_plan, planned.num_queries)
        return planned, drawings

    def _messages(self, turns: Sequence[Turn], controls: Controls) -> list[Message]:
        if sum(len(turn.files) for turn in turns) > MOST_FILES:
            raise MediaLimitError(
                f"The conversation has more than {MOST_FILES} files.", remedy="Clear it and begin again."
            )
        messages: list[Message] = []
        for turn in turns:
            if turn is not turns[-1] and turn.problem is not None:
                continue
            if not turn.question.strip():
                raise MessageError("The question is empty.", remedy="Write what you want to know.")
            words = TextPart(turn.question)
            messages.append(Message("user", (*(controls.part(file) for file in turn.files), words)))
            if turn.end is not None:
                messages.append(Message("assistant", (TextPart(turn.end.text),), turn.end.reasoning))
        return messages


@contextmanager
def _naming(files: Sequence[File]) -> Iterator[None]:
    """An error about a file says what the visitor calls it, and not where its copy lies."""
    try:
        yield
    except MiniCPMVError as error:
        what = error.what
        for file in files:
            what = what.replace(str(file.path), file.name)
        if what == error.what:
            raise
        raise type(error)(what, remedy=error.remedy) from error


def to_controls(values: Sequence[Any]) -> Controls:
    """What the page's widgets hold, in the order of `Controls`; an empty or zero one leaves the choice open.

    >>> to_controls([True, 0, None, 0, 9, 0, 6, 0]) == Controls(think=True, max_slices=9, packing=6)
    True
    """
    think, budget, longest, temperature, slices, fps, packing, frames = values
    return Controls(
        think=bool(think),
        thinking_budget=int(budget) if budget else None,
        max_new_tokens=int(longest) if longest else None,
        temperature=float(temperature) if temperature else None,
        max_slices=int(slices) if slices else None,
        fps=float(fps) if fps else None,
        packing=int(packing) if packing else None,
        max_frames=int(frames) if frames else None,
    )
