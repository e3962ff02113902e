"""`minicpmv ask FILE... "QUESTION"`: one answer."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minicpmv.cli import options as shared
from minicpmv.cli.console import say
from minicpmv.cli.inputs import MediaFile, files_and_question, read_files, reading

if TYPE_CHECKING:
    from minicpmv.generation.chat import Answer, AnswerStream


def ask(
    words: Annotated[
        list[str],
        typer.Argument(metavar='FILE... "QUESTION"', help="Pictures, PDFs and clips in any order; the question last."),
    ],
    model: shared.Model = None,
    think: shared.Think = False,
    max_slices: shared.MaxSlices = None,
    fps: shared.Fps = None,
    packing: shared.Packing = None,
    max_frames: shared.MaxFrames = None,
    pages: shared.Pages = None,
    allow_urls: shared.AllowUrls = False,
    max_new_tokens: shared.MaxNewTokens = None,
    sample: shared.Sample = None,
    temperature: shared.Temperature = None,
    top_p: shared.TopP = None,
    top_k: shared.TopK = None,
    repetition_penalty: shared.RepetitionPenalty = 1.0,
    num_beams: shared.NumBeams = 1,
    seed: shared.Seed = None,
    system: shared.System = None,
    device: shared.Device = "auto",
    dtype: shared.Dtype = "auto",
    as_json: shared.Json = False,
) -> None:
    """Answer one question about pictures, PDF pages and clips."""
    from minicpmv.cli.answering import open_assistant
    from minicpmv.generation.options import GenerationOptions
    from minicpmv.messages import Message, TextPart

    names, question = files_and_question(words)
    options = GenerationOptions(
        think=think,
        max_new_tokens=max_new_tokens,
        do_sample=sample,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        num_beams=num_beams,
        seed=seed,
    )
    how = reading(
        max_slices=max_slices, fps=fps, packing=packing, max_frames=max_frames, pages=pages, allow_urls=allow_urls
    )
    files = read_files(names, how)
    assistant = open_assistant(model, device=device, dtype=dtype)
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
