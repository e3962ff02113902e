"""`minicpmv ask FILE... "QUESTION"`: one answer."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minicpmv.cli import options as shared
from minicpmv.cli.console import say
from minicpmv.cli.inputs import MediaFile, files_and_question, read_files

if TYPE_CHECKING:
    from minicpmv.generation.chat import Answer, AnswerStream


@shared.spread
def ask(
    words: Annotated[
        list[str],
        typer.Argument(metavar='FILE... "QUESTION"', help="Pictures, PDFs and clips in any order; the question last."),
    ],
    *,
    run: shared.ModelFlags,
    media: shared.MediaFlags,
    answering: shared.AnswerFlags,
    num_beams: shared.NumBeams = 1,
    system: shared.System = None,
    as_json: shared.Json = False,
) -> None:
    """Answer one question about pictures, PDF pages and clips."""
    from minicpmv.cli.answering import open_assistant
    from minicpmv.messages import Message, TextPart

    names, question = files_and_question(words)
    options = answering.generation(num_beams=num_beams)
    files = read_files(names, media.reading())
    assistant = open_assistant(run.model, device=run.device, dtype=run.dtype)
    turns = [] if system is None else [Message("system", (TextPart(system),))]
    turns.append(Message("user", (*(file.part for file in files), TextPart(question))))
    if as_json:
        answer = assistant.ask(turns, options)
        print(json.dumps(report(assistant.name, files, answer), ensure_ascii=False))
    else:
        write(assistant.stream(turns, options))


def write(stream: "AnswerStream") -> "Answer":
    """Print an answer while it is being written: the reasoning on stderr, the answer on stdout."""
    from minicpmv.generation.thinking import Channel

    last: Channel | None = None
    for delta in stream:
        out = sys.stdout if delta.channel == "answer" else sys.stderr
        if last == "reasoning" and delta.channel == "answer":
            say("\n")
        last = delta.channel
        out.write(delta.text)
        out.flush()
    print(flush=True)
    if stream.answer.finish_reason == "length":
        say(f"note: the answer was cut off after {stream.answer.new_tokens} tokens; see --max-new-tokens.")
    return stream.answer


def report(model: str, files: list[MediaFile], answer: "Answer") -> dict[str, Any]:
    """What `--json` prints."""
    given = [{"file": file.name, "kind": file.kind} for file in files]
    return {"model": model, "files": given, **asdict(answer)}
