"""The bytes behind a source, within a policy.

    path -> Path        data: URI, URL, bytes, open file -> bytes

Addresses on the network are read only when the policy allows it, and then only from public hosts, within a size, a time
and a number of redirects; each redirect is checked like the first address. A picture's address in a conversation may
come from anybody, so nothing here trusts it.
"""

import base64
import binascii
import http.client
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote_to_bytes, urljoin, urlsplit

from PIL import Image

from minicpmv.errors import FetchError, MediaError, MediaLimitError, OptionError
from minicpmv.media.connections import Resolver, public_addresses, response
from minicpmv.media.sources import MediaSource, file_bytes, local_file, some_bytes, source_name

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_REDIRECTS = {301, 302, 303, 307, 308}
_CHUNK_BYTES = 1 << 16
_UNSAFE = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """What may be read. The default reads local files and data: URIs, and nothing from the network."""

    allow_remote: bool = False
    """Whether http and https URLs are followed at all."""

    allow_local: bool = True
    """Whether paths are opened. A server that takes conversations from strangers sets this to False."""

    allowed_domains: tuple[str, ...] = ()
    """Host names that may be read, each with its subdomains; empty means every public host."""

    max_bytes: int = 256 * 2**20
    """Largest contents taken into memory from a URL, a data: URI or an open file. Paths are not limited by it. Ours."""

    timeout_s: float = 30.0
    """Seconds for one URL from the first connection to the last byte, redirects included. Ours."""

    max_redirects: int = 3
    """Redirects followed for one URL. Ours."""

    def __post_init__(self) -> None:
        if not all(len(domain) > 1 for domain in self.allowed_domains):
            raise OptionError("allowed_domains is no list of names.", remedy='For one domain: ("example.org",).')
        if self.max_bytes < 1 or not self.timeout_s > 0 or self.max_redirects < 0:
            raise OptionError("A limit of the fetch policy is out of range.", remedy="Use positive limits.")


def read_source(source: MediaSource, policy: FetchPolicy | None = None) -> Path | bytes:
    """The file behind a source: its path where it has one, else its bytes.

    Args:
        source: a path, a data: URI, an http(s) URL, bytes, or a file opened in binary mode.
        policy: what may be read; the default policy when None.

    Raises:
        MediaNotFoundError: the path does not exist.
        FetchError: the policy refuses the address, or the address cannot be read within it.
        MediaLimitError: the contents are larger than the policy's `max_bytes`.
        MediaError: a folder, an empty file, something that cannot be read, or no source at all.
    """
    policy = policy or FetchPolicy()
    if isinstance(source, bytes | bytearray | memoryview):
        return some_bytes(source)
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if isinstance(source, str) and text[:5].lower() == "data:":
            return data_uri_bytes(text, policy.max_bytes)
        if isinstance(source, str) and _SCHEME.match(text):
            return fetch_url(text, policy)
        if not policy.allow_local:
            raise FetchError("Paths are not read here.", remedy="Send the file itself, as a data: URI.")
        return local_file(Path(text))
    if isinstance(source, Image.Image):
        raise MediaError(f"{source_name(source)} is not a file.", remedy="Pass a path, bytes or an open file.")
    if hasattr(source, "read"):
        return file_bytes(source, policy.max_bytes)
    raise MediaError(
        f"A {type(source).__name__} is not a media source.", remedy="Pass a path, a URL, bytes, a file or a PIL image."
    )


def data_uri_bytes(uri: str, max_bytes: int) -> bytes:
    """The contents of a data: URI.

    Raises:
        FetchError: it is malformed or not valid base64.
        MediaLimitError: it holds more than `max_bytes`; checked before decoding.

    >>> data_uri_bytes("data:text/plain;base64,aGVsbG8=", 100)
    b'hello'
    """
    header, comma, payload = uri[5:].partition(",")
    if not comma:
        raise FetchError("The data: URI has no comma.", remedy="Its form is data:image/png;base64,CONTENTS.")
    is_base64 = header.lower().endswith(";base64")
    if len(payload) * (3 if is_base64 else 1) > max_bytes * (4 if is_base64 else 3) + 16:
        raise MediaLimitError(f"The data: URI holds more than {max_bytes} bytes.", remedy="Send a smaller file.")
    if not is_base64:
        contents = unquote_to_bytes(payload)
    else:
        try:
            text = re.sub(r"\s+", "", payload if "%" not in payload else unquote_to_bytes(payload).decode("ascii"))
            contents = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise FetchError("The data: URI is not valid base64.", remedy="Encode the file again.") from None
    if len(contents) > max_bytes:
        raise MediaLimitError(f"The data: URI holds more than {max_bytes} bytes.", remedy="Send a smaller file.")
    return some_bytes(contents)


def fetch_url(url: str, policy: FetchPolicy, *, resolve: Resolver = public_addresses) -> bytes:
    """The contents of an http or https URL, within the policy.

    Args:
        url: the address.
        policy: the limits; `allow_remote` must be set.
        resolve: turns a host into the addresses that may be connected to. The default refuses every host with an
            address that is not public; nothing but a test has a reason to pass another.

    Raises:
        FetchError: refused, unreachable, too slow, redirected too often, or answered with an error.
        MediaLimitError: larger than `max_bytes`.
    """
    deadline = time.monotonic() + policy.timeout_s
    for _ in range(policy.max_redirects + 1):
        parts = _checked(url, policy)
        name = source_name(url)
        try:
            with response(parts, resolve(parts.hostname or "", parts.port or 0), deadline) as answer:
                if answer.status not in _REDIRECTS:
                    return _contents(answer, name, policy, deadline)
                url = _redirected(url, answer)
        except TimeoutError:
            raise FetchError(_too_slow(name, policy), remedy="Download it and pass its path.") from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            if time.monotonic() >= deadline:
                raise FetchError(_too_slow(name, policy), remedy="Download it and pass its path.") from None
            reason = str(error) or type(error).__name__
            raise FetchError(f"{name} cannot be read ({reason}).", remedy="Check the URL.") from None
    raise FetchError(
        f"{source_name(url)} is behind more than {policy.max_redirects} redirects.", remedy="Use the final URL."
    )


def _checked(url: str, policy: FetchPolicy) -> SplitResult:
    """The parts of a URL that the policy lets through, before any name is resolved."""
    name = source_name(url)
    try:
        parts = urlsplit(url)
        _ = parts.port  # a port that is no number shows itself here
    except ValueError as error:
        raise FetchError(f"{name} is not a valid URL ({error}).", remedy="Check the URL.") from None
    if parts.scheme not in {"http", "https"}:
        raise FetchError(
            f"{name} has the scheme {parts.scheme!r}.", remedy="Use http or https, or the path of a local file."
        )
    if not policy.allow_remote:
        raise FetchError(
            f"{name} is on the network, which is not allowed here.",
            remedy="Download it and pass its path, or set FetchPolicy(allow_remote=True).",
        )
    if not parts.hostname or parts.username is not None or _UNSAFE.search(url):
        raise FetchError(f"{name} is not a plain URL.", remedy="Use one with a host, without password or spaces.")
    host = parts.hostname.rstrip(".").lower()
    domains = [domain.lower().strip(".") for domain in policy.allowed_domains]
    if domains and not any(host == domain or host.endswith(f".{domain}") for domain in domains):
        raise FetchError(f"The host {host!r} is not on the list of allowed domains.", remedy="Add it to the list.")
    return parts


def _redirected(url: str, answer: http.client.HTTPResponse) -> str:
    """Where a redirect points to."""
    location = answer.getheader("Location")
    if not location:
        raise FetchError(f"{source_name(url)} redirects to nowhere.", remedy="Use the final URL.")
    target = urljoin(url, location)
    if url.lower().startswith("https:") and target.lower().startswith("http:"):
        raise FetchError(f"{source_name(url)} redirects from https to http.", remedy="Use the final URL.")
    return target


def _contents(answer: http.client.HTTPResponse, name: str, policy: FetchPolicy, deadline: float) -> bytes:
    """The body of a successful answer, complete and within the limits."""
    if answer.status != 200:
        raise FetchError(f"{name} answered with status {answer.status}.", remedy="Check that it can be opened.")
    if answer.getheader("Content-Encoding", "identity").lower() != "identity":
        raise FetchError(f"{name} is sent compressed, which was not asked for.", remedy="Use another server.")
    expected = answer.length
    too_large = f"{name} holds more than {policy.max_bytes} bytes."
    if expected is not None and expected > policy.max_bytes:
        raise MediaLimitError(too_large, remedy="Use a smaller file, or raise max_bytes.")
    contents = bytearray()
    while chunk := answer.read(_CHUNK_BYTES):
        contents += chunk
        if len(contents) > policy.max_bytes:
            raise MediaLimitError(too_large, remedy="Use a smaller file, or raise max_bytes.")
        if time.monotonic() > deadline:
            raise TimeoutError
    if time.monotonic() >= deadline:
        raise TimeoutError
    if expected is not None and len(contents) < expected:
        raise FetchError(f"{name} ended after {len(contents)} of {expected} bytes.", remedy="Try again.")
    if not contents:
        raise FetchError(f"{name} is empty (0 bytes).", remedy="Check the URL.")
    return bytes(contents)


def _too_slow(name: str, policy: FetchPolicy) -> str:
    return f"{name} did not arrive within {policy.timeout_s:g} seconds."
