"""The options that several commands share, each described once."""

from typing import Annotated

import typer

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
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        help="Longest answer in tokens. Default: 2048, or what the context leaves.",
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
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.", metavar="N")]
System = Annotated[str | None, typer.Option(help="A system prompt.", metavar="TEXT")]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one value of the recipe; may be repeated.", metavar="a.b=VALUE"),
]
