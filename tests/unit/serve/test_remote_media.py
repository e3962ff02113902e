"""Pictures, pages and clips that a request names by address: read from allowed hosts, and from nowhere else."""

import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
from tests.unit.serve.conftest import EXAMPLES, Running, asks, data_uri

from minicpmv.errors import FetchError
from minicpmv.generation.engine.loop import EngineOptions
from minicpmv.media import fetch
from minicpmv.serve.service import ServeOptions

KINDS = {"sign.png": "image/png", "clip.mp4": "video/mp4", "note.pdf": "application/pdf"}


class Files(BaseHTTPRequestHandler):
    asked: list[str]

    def __init__(self, asked: list[str], *given: Any) -> None:
        self.asked = asked
        super().__init__(*given)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to?"))
            self.end_headers()
            return
        if self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x" * 65536)
            except OSError:
                return
        contents = (EXAMPLES / self.path.strip("/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        self.wfile.write(contents)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """What the other host has been asked for."""
    return []


@pytest.fixture(scope="module")
def host(asked: list[str]) -> Iterator[str]:
    listening = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, asked))
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://files.example:{listening.server_port}"
    listening.shutdown()
    listening.server_close()
    thread.join()


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    """A server that may read from one domain, with a resolver under which `*.example` lives here."""

    def resolve(name: str, port: int) -> list[str]:
        if not name.endswith(".example"):
            raise FetchError(f"The host {name!r} has no public address.")
        return ["127.0.0.1"]

    patch = pytest.MonkeyPatch()
    defaults = {**(fetch.fetch_url.__kwdefaults__ or {}), "resolve": resolve}
    patch.setattr(fetch.fetch_url, "__kwdefaults__", defaults)
    options = ServeOptions(media_domains=("files.example",), longest_answer=24, most_body_bytes=2**21)
    running = Running(options, EngineOptions(kv_tokens=8192, most_running=4, most_waiting=16))
    yield running.client
    running.close()
    patch.undo()


def answer(client: openai.OpenAI, *parts: Any) -> str:
    told = client.chat.completions.create(model="nano", messages=asks(*parts), temperature=0)
    return told.choices[0].message.content or ""


@pytest.mark.parametrize(
    ("name", "part", "question"),
    [
        ("sign.png", "image_url", "What is written in the picture?"),
        ("clip.mp4", "video_url", "Which colour appears first?"),
    ],
)
def test_what_an_allowed_host_has_is_read_as_if_it_had_been_sent(
    name: str, part: str, question: str, client: openai.OpenAI, host: str
) -> None:
    sent = answer(client, {"type": part, part: {"url": data_uri(name, KINDS[name])}}, question)
    for url in (f"{host}/{name}", f"{host}/to?{host}/{name}"):
        assert answer(client, {"type": part, part: {"url": url}}, question) == sent


def test_a_document_is_read_from_an_allowed_host(client: openai.OpenAI, host: str) -> None:
    question = "What is written on the page?"
    sent = answer(client, {"type": "file", "file": {"file_data": data_uri("note.pdf", KINDS["note.pdf"])}}, question)
    assert answer(client, {"type": "file", "file": {"file_url": f"{host}/note.pdf"}}, question) == sent


def test_a_subdomain_is_allowed_and_another_host_is_not_asked(
    client: openai.OpenAI, host: str, asked: list[str]
) -> None:
    port = host.rpartition(":")[2]
    question = "What is written in the picture?"
    assert answer(
        client, {"type": "image_url", "image_url": {"url": f"http://eu.files.example:{port}/sign.png"}}, question
    )
    before = len(asked)
    for url in (
        f"http://other.example:{port}/sign.png",
        f"http://files.example.org:{port}/sign.png",
        f"http://127.0.0.1:{port}/sign.png",
        f"http://localhost:{port}/sign.png",
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            answer(client, {"type": "image_url", "image_url": {"url": url}}, question)
        assert "allowed" in str(caught.value)
    assert len(asked) == before


def test_a_redirect_leads_nowhere_else(client: openai.OpenAI, host: str, asked: list[str]) -> None:
    port = host.rpartition(":")[2]
    for place in (f"http://other.example:{port}/sign.png", f"http://127.0.0.1:{port}/sign.png", "file:///etc/passwd"):
        before = len(asked)
        with pytest.raises(openai.BadRequestError):
            answer(client, {"type": "image_url", "image_url": {"url": f"{host}/to?{place}"}}, "What?")
        assert len(asked) == before + 1


def test_what_has_no_end_or_is_not_there_is_the_clients_error(client: openai.OpenAI, host: str) -> None:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        closed = place.getsockname()[1]
    for url, status in ((f"{host}/endless", 413), (f"http://files.example:{closed}/sign.png", 400)):
        with pytest.raises(openai.APIStatusError) as caught:
            answer(client, {"type": "image_url", "image_url": {"url": url}}, "What?")
        assert caught.value.status_code == status
