"""`minicpmv web`: the page, and the API beside it."""

import ipaddress
from typing import Annotated

import typer

from minicpmv.cli import options as shared
from minicpmv.cli.console import say

LAST_WORDS_S = 5.0
"""How long answers may go on after the page was told to stop; open tabs keep a connection that never ends. Ours."""


@shared.spread
def web(
    *,
    run: shared.ModelFlags,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen.", min=0, max=65535)] = 7860,
    password: Annotated[
        str | None,
        typer.Option(help="What visitors (with any name) and clients have to give.", envvar="MINICPMV_PASSWORD"),
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(help="Visitors that are answered at a time.", min=1)] = 16,
    kv_cache_gib: Annotated[float, typer.Option(help="Memory for keys and values, in GiB.", min=0.001)] = 4.0,
    max_upload_mib: Annotated[int, typer.Option(help="Largest file, in MiB.", min=1)] = 256,
) -> None:
    """Open a page in the browser: pictures, PDFs and clips, and what the model makes of them."""
    from minicpmv.cli.answering import open_loaded
    from minicpmv.generation.engine.loop import EngineOptions
    from minicpmv.serve.running import Address, PageOptions, serve
    from minicpmv.serve.service import ServeOptions

    engine = EngineOptions(kv_bytes=int(kv_cache_gib * 2**30), most_running=max_num_seqs)
    options = ServeOptions(api_key=password or None, most_body_bytes=max_upload_mib * 2**20)
    loaded = open_loaded(run)
    if not password and not is_this_machine(host):
        say("note: everybody who can reach this machine can use the page; --password asks them for one.")
    say(f"open http://{host}:{port} in a browser; Ctrl-C stops it")
    serve(
        loaded,
        engine,
        options,
        Address(host=host, port=port, drain_s=LAST_WORDS_S),
        PageOptions(password=password or None),
    )


def is_this_machine(host: str) -> bool:
    """Whether only this machine can reach an address.

    >>> is_this_machine("127.0.0.1"), is_this_machine("0.0.0.0")
    (True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
