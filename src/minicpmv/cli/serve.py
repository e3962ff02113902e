"""`minicpmv serve`: the model over HTTP, as OpenAI's clients know it."""

import json
from typing import Annotated, Any

import typer

from minicpmv.cli import options as shared
from minicpmv.cli.console import say
from minicpmv.errors import OptionError


@shared.spread
def serve(  # noqa: PLR0913  (every flag of the server is one parameter)
    *,
    run: shared.ModelFlags,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None, typer.Option(help="What clients have to send as a bearer token.", envvar="MINICPMV_API_KEY")
    ] = None,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="What clients call the model; may be repeated.", metavar="NAME")
    ] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Most tokens of prompt and answer.", min=1)] = None,
    max_num_seqs: Annotated[int, typer.Option(help="Requests that are answered at a time.", min=1)] = 64,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of a step. Default: 512 on a CPU, 4096 on a GPU.", min=1)
    ] = None,
    max_waiting: Annotated[int, typer.Option(help="Requests that may wait; more get status 429.", min=1)] = 1024,
    kv_cache_gib: Annotated[float, typer.Option(help="Memory for keys and values, in GiB.", min=0.001)] = 4.0,
    feature_cache_gib: Annotated[float, typer.Option(help="Memory for encoded pictures, in GiB.", min=0.0)] = 1.0,
    limit_mm_per_prompt: Annotated[
        str | None, typer.Option(help='Media of one request: \'{"image": 16, "video": 1, "document": 2}\'.')
    ] = None,
    allow_media_domains: Annotated[
        list[str] | None,
        typer.Option(help="Hosts that pictures may be fetched from; '*' for every public one. Default: none."),
    ] = None,
    max_body_mib: Annotated[int, typer.Option(help="Largest request, in MiB.", min=1)] = 256,
    upload_gib: Annotated[float, typer.Option(help="All files together that clients may leave, in GiB.", min=0)] = 4.0,
    timeout_s: Annotated[float, typer.Option(help="Longest time for one request.", min=1)] = 600.0,
    drain_s: Annotated[float, typer.Option(help="How long requests may go on after SIGTERM.", min=0)] = 60.0,
) -> None:
    """Serve the model: /v1/chat/completions, /v1/responses, /v1/files, /v1/models, /health, /metrics."""
    from minicpmv.cli.answering import open_loaded
    from minicpmv.generation.engine.loop import EngineOptions
    from minicpmv.serve.running import Address
    from minicpmv.serve.running import serve as serve_until_stopped
    from minicpmv.serve.service import MOST_MEDIA, ServeOptions, served_names

    engine = EngineOptions(
        kv_bytes=int(kv_cache_gib * 2**30),
        most_running=max_num_seqs,
        most_waiting=max_waiting,
        step_tokens=max_num_batched_tokens,
        feature_bytes=int(feature_cache_gib * 2**30),
    )
    options = ServeOptions(
        names=tuple(served_model_name or ()),
        api_key=api_key or None,
        context=max_model_len,
        media_domains=tuple(allow_media_domains or ()),
        most_media={**MOST_MEDIA, **parse_limits(limit_mm_per_prompt)},
        most_body_bytes=max_body_mib * 2**20,
        upload_bytes=int(upload_gib * 2**30),
        timeout_s=timeout_s,
    )
    loaded = open_loaded(run)
    name = served_names(options, loaded.name)[0]
    say(f"serving {name} at http://{host}:{port}/v1; Ctrl-C stops it")
    serve_until_stopped(loaded, engine, options, Address(host=host, port=port, drain_s=drain_s))


def parse_limits(text: str | None) -> dict[str, int]:
    """Numbers by kind of media.

    Raises:
        OptionError: it is no such object.

    >>> parse_limits('{"image": 4}')
    {'image': 4}
    """
    try:
        limits: Any = json.loads(text) if text else {}
    except ValueError:
        limits = None
    if not isinstance(limits, dict) or not all(type(number) is int for number in limits.values()):
        raise OptionError(f"--limit-mm-per-prompt is {text!r}.", remedy='Write \'{"image": 4, "video": 1}\'.')
    return limits
