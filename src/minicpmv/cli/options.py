"""The options that several commands share, each described once, in groups that commands take as one parameter.

    @spread
    def ask(words: ..., media: MediaFlags, answering: AnswerFlags, ...) -> None: ...

On the command line the fields of a group are options like any other.
"""

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from minicpmv.cli.inputs import Reading
    from minicpmv.generation.engine.structured import AnswerForm
    from minicpmv.generation.options import GenerationOptions

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A local folder or a hub id such as openbmb/MiniCPM-V-4_5. Without it: the bundled nano model.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Quantization = Annotated[
    str | None,
    typer.Option(help="int8 or int4: smaller weights of the language model, for a CPU.", metavar="KIND"),
]

MaxSlices = Annotated[int | None, typer.Option(help="Most slices a picture is cut into.", metavar="N")]
Fps = Annotated[float | None, typer.Option(help="Frames to look at per second of a clip.", metavar="F")]
Packing = Annotated[
    int | None,
    typer.Option(help="Frames that share one set of 64 tokens, 1 to 6.", metavar="N"),
]
MaxFrames = Annotated[int | None, typer.Option(help="Most frames to look at per clip.", metavar="N")]
Pages = Annotated[str | None, typer.Option(help="Pages of a PDF, such as 1-3,7. Default: all.", metavar="LIST")]
AllowUrls = Annotated[bool, typer.Option("--allow-urls", help="Let FILE be an http(s) address.")]

Think = Annotated[bool, typer.Option("--think/--no-think", help="Reason before answering.")]
ThinkingBudget = Annotated[
    int | None, typer.Option(help="Most tokens of reasoning; then the answer follows.", metavar="N")
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        help="Longest answer in tokens. Default: the checkpoint's, else 2048, or what the context leaves.",
        metavar="N",
    ),
]
Sample = Annotated[
    bool | None,
    typer.Option(
        "--sample/--no-sample",
        help="Draw tokens at random. Default: only with a sampling option.",
        show_default=False,
    ),
]
Temperature = Annotated[float | None, typer.Option(help="Sampling temperature; 0 is no sampling.", metavar="T")]
TopP = Annotated[float | None, typer.Option(help="Sample within this probability.", metavar="P")]
TopK = Annotated[int | None, typer.Option(help="Sample among this many tokens; 0 is all.", metavar="K")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1: repeat less.", metavar="R")]
NumBeams = Annotated[int, typer.Option(help="Above 1: beam search.", metavar="N")]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends the answer; may be repeated.", metavar="TEXT")]
Schema = Annotated[
    Path | None, typer.Option(help="A file with a JSON schema: the answer is JSON of that kind.", metavar="FILE")
]
Regex = Annotated[str | None, typer.Option(help="The answer matches this expression.", metavar="EXPRESSION")]
Choice = Annotated[
    list[str] | None, typer.Option(help="The answer is this, or another --choice; may be repeated.", metavar="TEXT")
]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.", metavar="N")]
System = Annotated[str | None, typer.Option(help="A system prompt.", metavar="TEXT")]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one value of the recipe; may be repeated.", metavar="a.b=VALUE"),
]


@dataclass(frozen=True, slots=True)
class MediaFlags:
    """How the files of a command are looked at."""

    max_slices: MaxSlices = None
    fps: Fps = None
    packing: Packing = None
    max_frames: MaxFrames = None
    pages: Pages = None
    allow_urls: AllowUrls = False

    def reading(self) -> "Reading":
        """The same, checked.

        Raises:
            OptionError: a value out of its range.
        """
        from minicpmv.cli.inputs import Reading, parse_pages
        from minicpmv.processing.options import MediaOptions

        options = MediaOptions(
            max_slices=self.max_slices, fps=self.fps, packing=self.packing, max_frames=self.max_frames
        )
        return Reading(options, None if self.pages is None else parse_pages(self.pages), self.allow_urls)


@dataclass(frozen=True, slots=True)
class AnswerFlags:
    """How a command answers."""

    think: Think = False
    thinking_budget: ThinkingBudget = None
    max_new_tokens: MaxNewTokens = None
    sample: Sample = None
    temperature: Temperature = None
    top_p: TopP = None
    top_k: TopK = None
    repetition_penalty: RepetitionPenalty = 1.0
    stop: Stop = None
    schema: Schema = None
    regex: Regex = None
    choice: Choice = None
    seed: Seed = None

    def generation(self, *, num_beams: int = 1) -> "GenerationOptions":
        """The same, checked.

        Raises:
            OptionError: a value out of its range.
        """
        from minicpmv.generation.options import GenerationOptions

        return GenerationOptions(
            think=self.think,
            thinking_budget=self.thinking_budget,
            max_new_tokens=self.max_new_tokens,
            do_sample=self.sample,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            num_beams=num_beams,
            stop=tuple(self.stop or ()),
            form=self._form(),
            seed=self.seed,
        )

    def _form(self) -> "AnswerForm | None":
        from minicpmv.generation.engine.structured import AnswerForm

        if self.schema is None and self.regex is None and self.choice is None:
            return None
        schema = None if self.schema is None else _read_schema(self.schema)
        return AnswerForm(schema, self.regex, None if self.choice is None else tuple(self.choice))


def _read_schema(path: Path) -> dict[str, Any]:
    from minicpmv.errors import OptionError

    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise OptionError(f"The schema {path} cannot be read: {error}", remedy="Name a file of JSON.") from None
    if not isinstance(schema, dict):
        raise OptionError(f"The schema {path} is no JSON object.", remedy='Write {"type": "object", ...}.')
    return schema


@dataclass(frozen=True, slots=True)
class ModelFlags:
    """Which model a command runs, and where."""

    model: Model = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    quantization: Quantization = None


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Show the fields of every parameter that is a dataclass to typer as options of the command."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {
        name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)
    }
    shown: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            shown.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]))
            continue
        types = get_type_hints(groups[name], include_extras=True)
        for field in fields(groups[name]):
            option = inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
            shown.append(option.replace(annotation=types[field.name]))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    vars(run)["__signature__"] = inspect.Signature(shown)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    del vars(run)["__wrapped__"]
    return run
