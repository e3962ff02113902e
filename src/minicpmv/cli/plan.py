"""`minicpmv plan FILE...`: what a question will cost, before anything runs."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from minicpmv.cli import options as shared
from minicpmv.cli.inputs import read_files

if TYPE_CHECKING:
    from minicpmv.generation.planning import Plan
    from minicpmv.processing.budget import MediaPlan


@shared.spread
def plan(
    names: Annotated[list[str], typer.Argument(metavar="FILE...", help="Pictures, PDFs and clips.")],
    *,
    question: Annotated[str, typer.Option("--question", "-q", help="Count these words too.", metavar="TEXT")] = "",
    model: shared.Model = None,
    think: shared.Think = False,
    media: shared.MediaFlags,
    dtype: shared.Dtype = "auto",
    as_json: shared.Json = False,
) -> None:
    """Tell what a question will cost: slices, packs, tokens, memory and operations. Runs no model."""
    files = read_files(names, media.reading())
    from minicpmv.generation import planning

    planned = planning.plan([(file.name, file.part) for file in files], question, model=model, think=think, dtype=dtype)
    print(json.dumps(planned.to_dict(), ensure_ascii=False) if as_json else describe(planned))


def describe(planned: "Plan") -> str:
    """The plan in words, a line per file and a few for the whole."""
    lines = [_file_line(file, planned.num_queries) for file in planned.files]
    total = planned.total
    left = planned.context_tokens - total.prompt_tokens
    room = f"{left} are left for the answer" if left > 0 else f"{-left} too many"
    return "\n".join(
        [
            *lines,
            f"prompt      {total.prompt_tokens} tokens, {planned.visual_tokens} of them visual, "
            f"in a context of {planned.context_tokens}: {room}",
            f"memory      {_amount(total.weights_bytes, 'B')} weights, {_amount(total.kv_bytes, 'B')} cache",
            f"operations  {_amount(total.vision_flops, 'FLOP')} to see, {_amount(total.prefill_flops, 'FLOP')} to read",
        ]
    )


def _file_line(file: "MediaPlan", num_queries: int) -> str:
    facts = file.to_dict(num_queries)
    seen = f"{facts['frames']} {'frames' if file.kind == 'video' else 'pages'}"
    if file.kind == "image":
        grid = facts["grid"]
        seen = "whole" if grid is None else f"overview and {grid[0]} x {grid[1]} slices"
    tokens = f"{facts['packs']} x {num_queries} = {facts['visual_tokens']} tokens"
    return f"{file.name}: {file.kind}, {file.width} x {file.height} px, {seen}, {tokens}"


def _amount(number: float, unit: str) -> str:
    """A number with a decimal prefix: 17391790560 bytes are 17.4 GB."""
    for prefix in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{number:.3g} {prefix}{unit}"
        number /= 1000
    return f"{number:.3g} P{unit}"
