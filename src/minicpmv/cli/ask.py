"""`minicpmv ask FILE... "QUESTION"`: one answer."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minicpmv.cli import options as shared
from minicpmv.cli.console import say
from minicpmv.cli.inputs import MediaFile, MisuseError, files_and_question, read_files

if TYPE_CHECKING:
    from minicpmv.generation.chat import Answer, AnswerStream
    from minicpmv.generation.options import GenerationOptions


@shared.spread
def ask(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar='FILE... "QUESTION"', help="Pictures, PDFs and clips in any order; the question last."),
    ] = None,
    *,
    run: shared.ModelFlags,
    media: shared.MediaFlags,
    answering: shared.AnswerFlags,
    num_beams: shared.NumBeams = 1,
    system: shared.System = None,
    batch: Annotated[Path | None, typer.Option(help="Answer every line of a .jsonl instead.", metavar="FILE")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the answers of --batch go; a run that was stopped goes on.", metavar="FILE"),
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """Answer one question about pictures, PDF pages and clips, or a file of them."""
    if batch is not None:
        if words or system or out is None:
            raise MisuseError("--batch takes its questions from the file and needs --out; leave the rest out.")
        answer_batch(batch, out, answering.generation(num_beams=num_beams), run)
        return
    if not words:
        raise MisuseError('Ask something: minicpmv ask FILE... "QUESTION"')
    from minicpmv.cli.answering import open_assistant
    from minicpmv.messages import Message, TextPart

    names, question = files_and_question(words)
    options = answering.generation(num_beams=num_beams)
    files = read_files(names, media.reading())
    assistant = open_assistant(run)
    turns = [] if system is None else [Message("system", (TextPart(system),))]
    turns.append(Message("user", (*(file.part for file in files), TextPart(question))))
    if as_json:
        answer = assistant.ask(turns, options)
        print(json.dumps(report(assistant.name, files, answer), ensure_ascii=False))
    else:
        write(assistant.stream(turns, options))


def answer_batch(questions: Path, answers: Path, options: "GenerationOptions", run: shared.ModelFlags) -> None:
    """Answer a file of questions, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from minicpmv.cli.answering import open_assistant
    from minicpmv.generation.batch import answer_file, count_lines

    total = count_lines(questions)
    assistant = open_assistant(run)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("answering", total=total)
        written, failed = answer_file(assistant, questions, answers, options, on_answer=lambda: bar.advance(task))
    assistant.close()
    say(f"{written} of {total} questions answered now, {failed} of them with an error")
    print(answers)


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
