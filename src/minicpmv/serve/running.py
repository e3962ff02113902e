"""Serve until somebody says stop, and then finish what was begun.

Loaded + EngineOptions + ServeOptions + Address -> serve -> ... SIGTERM or Ctrl-C -> drain -> end
"""

import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from minicpmv.errors import OptionError
from minicpmv.generation.engine.loop import Engine, EngineOptions
from minicpmv.serve.service import ServeOptions, Service

if TYPE_CHECKING:
    from minicpmv.generation.loading import Loaded

SLOWEST_HEADER_S = 30
"""How long an idle connection stays open. Ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where the server listens.

    Attributes:
        host: a name or address; the default is this machine only.
        port: 0 takes a free one.
        drain_s: how long requests may go on after the server was told to stop.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    drain_s: float = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PageOptions:
    """The page beside the API.

    Attributes:
        password: asks visitors for it; None lets everybody in.
    """

    password: str | None = None


def serve(
    loaded: "Loaded",
    engine_options: EngineOptions,
    options: ServeOptions,
    address: Address,
    page: PageOptions | None = None,
) -> None:
    """Serve until the process is told to stop.

    Args:
        loaded: model and processor.
        engine_options: how much at once.
        options: what is allowed.
        address: where.
        page: the page for people, at `/`; None leaves it out.

    Raises:
        OptionError: FastAPI, uvicorn or gradio is not installed, or the address is taken.
    """
    with ExitStack() as ends:
        if page is not None:
            # gradio asks where uploads lie when it is imported, and leaves them there.
            os.environ["GRADIO_TEMP_DIR"] = ends.enter_context(TemporaryDirectory(prefix="minicpmv-web-"))
        try:
            import uvicorn

            from minicpmv.serve.app import create_app

            if page is not None:
                from minicpmv.serve.web.page import mount
                from minicpmv.serve.web.talk import Talk
        except ImportError as error:
            raise OptionError(
                f"The server needs a package that is not there ({error.name}).",
                remedy=f"Install it: pip install 'minicpmv[{'serve' if page is None else 'web'}]'.",
            ) from None
        engine = ends.enter_context(Engine(loaded.model, loaded.processor, engine_options))
        service = Service(loaded, engine, options)
        ends.callback(service.uploads.close)
        app = create_app(service)
        if page is not None:
            app = mount(
                app,
                Talk(loaded, engine),
                most_at_once=engine_options.most_running,
                most_bytes=options.most_body_bytes,
                password=page.password,
            )
        config = uvicorn.Config(
            app,
            host=address.host,
            port=address.port,
            log_level="warning",
            timeout_keep_alive=SLOWEST_HEADER_S,
            timeout_graceful_shutdown=max(1, round(address.drain_s)),
            server_header=False,
        )
        # uvicorn drains at SIGTERM and raises it again afterwards; by then there is nothing left to be stopped.
        signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            uvicorn.Server(config).run()
        except SystemExit:  # uvicorn has said why on stderr
            raise OptionError(
                f"The server cannot listen on {address.host}:{address.port}.", remedy="Choose another --port."
            ) from None
