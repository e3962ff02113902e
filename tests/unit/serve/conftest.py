"""A server in this process, with the bundled model, on a port of its own."""

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("llguidance")
pytest.importorskip("openai")

import openai
import uvicorn

from minicpmv.generation.engine.loop import Engine, EngineOptions
from minicpmv.generation.loading import load
from minicpmv.serve.app import create_app
from minicpmv.serve.service import ServeOptions, Service

EXAMPLES = Path(__file__).parents[3] / "examples"
KEY = "a key"


class Running:
    """A server that listens, and a client that talks to it."""

    def __init__(self, options: ServeOptions, engine_options: EngineOptions) -> None:
        loaded = load(None, device="cpu", dtype="float32")
        self.engine = Engine(loaded.model, loaded.processor, engine_options)
        self.service = Service(loaded, self.engine, options)
        config = uvicorn.Config(create_app(self.service), port=0, log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.client = openai.OpenAI(base_url=f"{self.address}/v1", api_key=options.api_key or "none", max_retries=0)

    def close(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(20)
        self.engine.close()
        self.service.uploads.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    options = ServeOptions(api_key=KEY, names=("tiny", "also-tiny"), longest_answer=64)
    running = Running(options, EngineOptions(kv_tokens=8192, most_running=8, most_waiting=64))
    yield running
    running.close()


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return server.client


def data_uri(name: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode((EXAMPLES / name).read_bytes()).decode()}"


def picture() -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri("sign.png", "image/png")}}


def asks(*parts: dict[str, Any] | str) -> list[Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]
