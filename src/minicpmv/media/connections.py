"""One HTTP request to a public address, over a connection that can go nowhere else.

A name is resolved once; every address it has must be public; the connection is opened to one of exactly those
addresses. A second resolution, which could answer differently, never happens. Proxies of the environment are not used:
they would resolve the name again.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, quote

from minicpmv.errors import FetchError

Resolver = Callable[[str, int], Sequence[str]]
"""Host name and port to the numeric addresses that may be connected to; raises FetchError for any other."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_KEPT = "%/:?#[]@!$&'()*+,;=~"
"""What may stand in a URL as it is; anything else is percent-encoded."""


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, also when IPv6 only wraps an IPv4 address.

    >>> [is_public(a) for a in ("93.184.216.34", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::a00:1")]
    [True, False, False, False, False]
    """
    try:
        parsed = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified)


def public_addresses(host: str, port: int) -> Sequence[str]:
    """All addresses of a host, every one of them public.

    Raises:
        FetchError: the name does not resolve, or one of its addresses is private, loopback, link-local or reserved.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError(f"The host {host!r} cannot be resolved ({error}).", remedy="Check the URL.") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not is_public(address):
            raise FetchError(
                f"The host {host!r} has the address {address}, which is not public.",
                remedy="Download the file yourself and pass its path.",
            )
    return addresses


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to one of the given addresses, whatever its host name resolves to by now."""

    def __init__(self, parts: SplitResult, addresses: Sequence[str], deadline: float) -> None:
        self._secure = parts.scheme == "https"
        self._addresses = addresses
        self._deadline = deadline
        super().__init__(parts.hostname or "", parts.port or (443 if self._secure else 80))

    def connect(self) -> None:
        error: OSError | None = None
        for address in self._addresses:
            try:
                plain = socket.create_connection((address, self.port), timeout=_remaining_s(self._deadline))
            except OSError as failure:
                error = failure
                continue
            try:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.sock = self._wrapped(plain)
            except BaseException:
                plain.close()
                raise
            return
        raise error or OSError("no address to connect to")

    def _wrapped(self, plain: socket.socket) -> socket.socket:
        if not self._secure:
            return plain
        return ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)


class _Deadline:
    """Ends a socket's traffic at a moment, so that a server that sends one byte a second cannot go on for ever."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._timer = threading.Timer(_remaining_s(deadline), self._end)
        self._timer.daemon = True

    def _end(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other side was quicker; there is nothing left to end

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()


@contextmanager
def response(parts: SplitResult, addresses: Sequence[str], deadline: float) -> Iterator[http.client.HTTPResponse]:
    """The answer to one GET request; the connection is closed afterwards.

    Args:
        parts: the URL.
        addresses: where to connect to, in order of preference.
        deadline: moment of `time.monotonic` at which everything ends, in seconds.

    Raises:
        OSError: the connection failed or ran past the deadline.
        http.client.HTTPException: the answer is not HTTP.
    """
    target = quote(parts.path or "/", safe=_KEPT)
    if parts.query:
        target = f"{target}?{quote(parts.query, safe=_KEPT)}"
    connection = _PinnedConnection(parts, addresses, deadline)
    try:
        connection.connect()
        with _Deadline(connection.sock, deadline):
            headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "minicpmv", "Connection": "close"}
            connection.request("GET", target, headers=headers)
            connection.sock.settimeout(_remaining_s(deadline))
            with connection.getresponse() as answer:
                yield answer
    finally:
        connection.close()


def _remaining_s(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("the time limit has passed")
    return remaining
