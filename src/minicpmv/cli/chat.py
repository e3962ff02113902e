"""`minicpmv chat [FILE...]`: a conversation in the terminal, streamed, with pictures and clips at any turn."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import typer

from minicpmv.cli import options as shared
from minicpmv.cli.console import say
from minicpmv.cli.inputs import MediaFile, Reading, read_file, read_files
from minicpmv.errors import MiniCPMVError

if TYPE_CHECKING:
    from minicpmv.generation.chat import Assistant, Conversation
    from minicpmv.generation.options import GenerationOptions

HELP = """\
/add FILE   show a picture, PDF or clip with the next question
/think      reason before answering, or not; each use switches
/reset      forget the conversation
/quit       leave; so does the end of the input
Ctrl-C stops an answer."""


@shared.spread
def chat(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]...", help="Shown with the first question.")
    ] = None,
    *,
    run: shared.ModelFlags,
    media: shared.MediaFlags,
    answering: shared.AnswerFlags,
    system: shared.System = None,
) -> None:
    """Talk with the model; it remembers, and files can be added at any turn."""
    from minicpmv.cli.answering import open_assistant

    options, how = answering.generation(), media.reading()
    files = read_files(names or [], how)
    assistant = open_assistant(run)
    if sys.stdin.isatty():
        say("Ask away; /help lists what else there is.")
    Session(assistant, options, how, system, files).run()


@dataclass
class Session:
    """A conversation at the terminal: the lines of stdin in, answers to stdout."""

    assistant: "Assistant"
    options: "GenerationOptions"
    how: Reading
    system: str | None = None
    pending: list[MediaFile] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.conversation: Conversation = self.assistant.converse(self.system)

    def run(self) -> None:
        """Answer line after line until the input ends.

        An error in a turn is told and the conversation goes on where it stood; without a terminal it ends the run,
        because nobody is there to mend the question.
        """
        for line in _lines():
            if line in {"/quit", "/exit"}:
                return
            try:
                self.turn(line)
            except MiniCPMVError as error:
                if not sys.stdin.isatty():
                    raise
                say(f"error: {error}")

    def turn(self, line: str) -> None:
        """Act on one line: a command or a question."""
        command, _, argument = line.partition(" ")
        if command == "/help":
            say(HELP)
        elif command == "/add":
            self.pending.append(read_file(argument.strip(), self.how))
        elif command == "/think":
            self.options = replace(self.options, think=not self.options.think)
            say(f"thinking is {'on' if self.options.think else 'off'}")
        elif command == "/reset":
            self.conversation = self.assistant.converse(self.system)
            self.pending = []
        elif command.startswith("/") and command[1:].isalpha():
            say(f"There is no {command}; /help lists what there is.")
        else:
            self._answer(line)

    def _answer(self, question: str) -> None:
        from minicpmv.messages import TextPart

        parts = (*(file.part for file in self.pending), TextPart(question))
        deltas = self.conversation.stream(parts, self.options)
        self.pending = []
        try:
            for delta in deltas:
                out = sys.stdout if delta.channel == "answer" else sys.stderr
                out.write(delta.text)
                out.flush()
        except KeyboardInterrupt:
            say(" (stopped)")
        print(flush=True)


def _lines() -> Iterator[str]:
    """The lines a person types, without empty ones; ends with the input."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if line:
            yield line
