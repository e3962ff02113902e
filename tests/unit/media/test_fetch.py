"""Addresses: refused unless allowed, and never able to reach what is not public."""

import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from minicpmv.errors import FetchError, MediaError, MediaLimitError, MediaNotFoundError, OptionError
from minicpmv.media import fetch
from minicpmv.media.connections import is_public, public_addresses
from minicpmv.media.fetch import FetchPolicy, fetch_url, read_source

OPEN = FetchPolicy(allow_remote=True, timeout_s=5.0)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, argument = self.path.partition("?")
        if path == "/hello":
            self._send(200, b"hello")
        elif path == "/redirect":
            self._send(302, b"", Location=argument)
        elif path == "/again":
            self._send(302, b"", Location=f"/again?{int(argument) + 1}")
        elif path == "/missing":
            self._send(404, b"not here")
        elif path == "/compressed":
            self._send(200, b"xxxx", **{"Content-Encoding": "gzip"})
        elif path == "/short":
            self._send(200, b"only this", **{"Content-Length": "1000"})
        elif path == "/endless":
            self._stream(b"x" * 65536, 0.0)
        elif path == "/slow":
            self._stream(b"x", 0.05)
        elif path == "/host":
            self._send(200, (self.headers["Host"] + "|" + self.headers["Accept-Encoding"]).encode())
        else:
            self._send(200, b"")

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, chunk: bytes, pause_s: float) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(2000):
                self.wfile.write(chunk)
                time.sleep(pause_s)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[str]:
    """A server on this machine; `loopback` lets a test, and only a test, connect to it."""
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://files.example:{listening.server_port}"
    listening.shutdown()
    listening.server_close()
    thread.join()


def loopback(host: str, port: int) -> list[str]:
    """Stands in for the public resolver: every name ends in .example and lives here."""
    if not host.endswith(".example"):
        raise FetchError(f"The host {host!r} is not public.")
    return ["127.0.0.1"]


def get(url: str, policy: FetchPolicy = OPEN) -> bytes:
    return fetch_url(url, policy, resolve=loopback)


def test_an_allowed_url_is_read(server: str) -> None:
    assert get(f"{server}/hello") == b"hello"
    host, encoding = get(f"{server}/host").decode().split("|")
    assert (host, encoding) == (server.removeprefix("http://"), "identity")


def test_nothing_is_read_from_the_network_by_default() -> None:
    for url in ("http://files.example/a.png", "HTTPS://files.example/a.png"):
        with pytest.raises(FetchError, match=r"not allowed.*allow_remote"):
            read_source(url)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://files.example/a",
        "file:///etc/passwd",
        "gopher://files.example/",
        "http:///a",
        "http://user:secret@files.example/a",
        "http://files.example:port/a",
        "http://files.example/a b",
        "http://files.example/\r\nHost: other",
        "http://[::1/a",
    ],
)
def test_addresses_that_are_not_plain_web_addresses_are_refused(url: str) -> None:
    with pytest.raises(FetchError) as caught:
        get(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"]
    + ["224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "192.0.2.1"]
    + ["::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "not an address"],
)
def test_private_addresses_are_recognised(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_addresses_are_recognised(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0x7f.1", "2130706433", "169.254.169.254"])
def test_the_public_way_in_never_reaches_this_machine(host: str, server: str) -> None:
    port = server.rsplit(":", 1)[1]
    with pytest.raises(FetchError, match=r"not public|cannot be resolved"):
        read_source(f"http://{host}:{port}/hello", OPEN)


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(FetchError, match=r"10\.0\.0\.1"):
        public_addresses("files.example", 80)


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch) -> None:
    """A name that answers differently the second time finds nobody asking."""
    answers = iter(["8.8.8.8", "127.0.0.1", "127.0.0.1"])
    asked, connected = [], []

    def resolve(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), 80))]

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError("as far as this test goes")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(FetchError, match="as far as this test goes"):
        read_source("http://rebinding.example/a.png", OPEN)
    assert asked == ["rebinding.example"]
    assert connected == [("8.8.8.8", 80)]


def test_redirects_are_followed_checked_and_counted(server: str) -> None:
    assert get(f"{server}/redirect?/hello") == b"hello"
    assert get(f"{server}/redirect?{server}/hello") == b"hello"
    with pytest.raises(FetchError, match="more than 3 redirects"):
        get(f"{server}/again?0")
    with pytest.raises(FetchError, match=r"169\.254\.169\.254"):
        get(f"{server}/redirect?http://169.254.169.254/latest")
    with pytest.raises(FetchError, match="scheme 'file'"):
        get(f"{server}/redirect?file:///etc/passwd")
    with pytest.raises(FetchError, match="allowed domains"):
        get(
            f"{server}/redirect?http://other.example/",
            FetchPolicy(allow_remote=True, allowed_domains=("files.example",)),
        )


def test_only_allowed_domains_and_their_subdomains_are_read(server: str) -> None:
    policy = FetchPolicy(allow_remote=True, allowed_domains=("Example",))
    assert get(f"{server}/hello", policy) == b"hello"
    for host in ("example.org", "notfiles.example", "files.example.evil.example"):
        with pytest.raises(FetchError, match="allowed domains"):
            get(f"http://{host}/", FetchPolicy(allow_remote=True, allowed_domains=("files.example",)))
    with pytest.raises(OptionError, match="allowed_domains"):
        FetchPolicy(allowed_domains="example.org")


@pytest.mark.parametrize(
    ("path", "says"),
    [("missing", "status 404"), ("compressed", "compressed"), ("short", "9 of 1000"), ("nothing", "empty")],
)
def test_an_answer_that_is_not_the_whole_file_is_an_error(path: str, says: str, server: str) -> None:
    with pytest.raises(FetchError, match=says):
        get(f"{server}/{path}")


def test_a_file_larger_than_the_limit_is_refused_announced_or_not(server: str) -> None:
    small = FetchPolicy(allow_remote=True, max_bytes=4)
    with pytest.raises(MediaLimitError, match="more than 4 bytes"):
        get(f"{server}/hello", small)
    with pytest.raises(MediaLimitError, match="more than 100000 bytes"):
        get(f"{server}/endless", FetchPolicy(allow_remote=True, max_bytes=100_000))


def test_a_server_that_trickles_is_left_at_the_time_limit(server: str) -> None:
    begun = time.monotonic()
    with pytest.raises(FetchError, match=r"within 0\.4 seconds"):
        get(f"{server}/slow", FetchPolicy(allow_remote=True, timeout_s=0.4))
    assert time.monotonic() - begun < 3


def test_a_server_that_never_answers_is_left_at_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://files.example:{silent.getsockname()[1]}/"
        with pytest.raises(FetchError, match=r"within 0\.3 seconds"):
            get(url, FetchPolicy(allow_remote=True, timeout_s=0.3))


def test_a_server_that_is_not_there_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(FetchError, match="cannot be read"):
        get(f"http://files.example:{port}/")


def test_data_uris_are_read_within_the_limit() -> None:
    text = base64.b64encode(b"hello").decode()
    for uri in (f"data:image/png;base64,{text}", f"DATA:;base64,{text.rstrip('=')}", "data:,hel%6Co"):
        assert read_source(uri) == b"hello"
    for uri in (f"data:;base64,{text}", "data:,hello"):
        with pytest.raises(MediaLimitError, match="more than 4 bytes"):
            read_source(uri, FetchPolicy(max_bytes=4))
    for uri in ("data:nothing", "data:;base64,***", "data:;base64,abcde"):
        with pytest.raises(FetchError, match="data: URI"):
            read_source(uri)
    with pytest.raises(MediaError, match="empty"):
        read_source("data:,")


def test_paths_stay_paths_and_everything_else_becomes_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"contents")
    assert read_source(str(path)) == path
    assert read_source(path) == path
    assert read_source(bytearray(b"contents")) == b"contents"
    assert read_source(io.BytesIO(b"contents")) == b"contents"
    with path.open("rb") as file:
        file.read(3)
        assert read_source(file) == b"contents"


def test_sources_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(MediaNotFoundError):
        read_source(tmp_path / "nowhere")
    for source, says in (
        (tmp_path, "folder"),
        (tmp_path / "empty", "empty"),
        ("x" * 5000, "not a path"),
        ("a\0b", "not a path"),
        ("/dev/zero", "device"),
        (io.StringIO("text"), "text mode"),
        (io.BytesIO(b""), "empty"),
        (17, "int is not a media source"),
    ):
        with pytest.raises(MediaError, match=says) as caught:
            read_source(source)
        assert len(str(caught.value)) < 400
    with pytest.raises(MediaLimitError, match="more than 3 bytes"):
        read_source(io.BytesIO(b"four"), FetchPolicy(max_bytes=3))


def test_a_server_can_refuse_paths(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"secret")
    with pytest.raises(FetchError, match="not read here"):
        read_source(str(tmp_path / "a"), FetchPolicy(allow_local=False))


def test_no_public_function_lets_a_caller_choose_where_names_lead() -> None:
    assert "resolve" not in FetchPolicy.__dataclass_fields__
    assert "resolve" not in fetch.read_source.__annotations__
