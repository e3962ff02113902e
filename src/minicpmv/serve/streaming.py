r"""Server-sent events to a client that may read slowly, or never, or go away.

async iterator of objects -> EventStream -> "data: {...}\n\n", ..., "data: [DONE]\n\n"
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

SEND_TIMEOUT_S = 60.0
"""How long a client may leave the connection full before it is closed. Ours."""


class EventStream(Response):
    """The response to a request whose answer is streamed.

    Args:
        objects: what is sent, one event each; an event's name comes first where there is one.
        on_end: called when the stream is over, however it ended.
        ends_with: last event's data.
    """

    def __init__(
        self,
        objects: AsyncIterator[tuple[str | None, Any]],
        on_end: Callable[[], None],
        *,
        ends_with: str | None = "[DONE]",
    ) -> None:
        super().__init__(
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"}, media_type="text/event-stream"
        )
        del self.headers["content-length"]
        self._objects, self._on_end, self._ends_with = objects, on_end, ends_with

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the objects or the client end."""
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._on_end()
            leaving.cancel()
            if not sending.done():
                sending.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for name, data in self._objects:
            head = f"event: {name}\n" if name else ""
            await _write(send, f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n")
        if self._ends_with is not None:
            await _write(send, f"data: {self._ends_with}\n\n")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _write(send: Send, text: str) -> None:
    body = {"type": "http.response.body", "body": text.encode("utf-8", "replace"), "more_body": True}
    async with asyncio.timeout(SEND_TIMEOUT_S):
        await send(body)


async def _left(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
