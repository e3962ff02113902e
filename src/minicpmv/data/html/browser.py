"""A Chromium that draws pages, cut off from the network, within bounds of time, size and height.

    page (a file or its source) -> Chromium -> picture and characters -> printed_lines -> PageSample

Pages are strangers' programs. Their scripts are off unless asked for. A page may read files below its own folder and
nothing else: requests are answered here, and what goes around that (connections opened ahead, web sockets, names to
look up) ends at a proxy that does not exist. A page that takes too long, or that brings Chromium down, costs the
others nothing but a new start.
"""

import asyncio
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from minicpmv.data.html.lines import cut_height, printed_lines, read_glyphs
from minicpmv.data.worlds.paper import PageSample
from minicpmv.errors import MediaError, MediaLimitError, MediaNotFoundError, OptionError

if TYPE_CHECKING:
    from playwright.async_api import Browser as Chromium
    from playwright.async_api import Page, Playwright, Route

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""What Chromium is called on PATH."""

MAX_BYTES = 16 * 2**20
"""Largest source of a page. Ours."""

MAX_GLYPHS = 40_000
"""Most characters of a page, spaces included: a page of 960 x 2160 px in 6 px type. Ours."""

_START_S = 60.0
_CLOSE_S = 10.0
_PICTURES_S = 3.0
_POLL_S = 0.02
_NO_PROXY_THERE = "http://127.0.0.1:1"
_ADDRESS = "http://page.invalid/"  # of a page that is no file; never looked up
_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--proxy-server={_NO_PROXY_THERE}",
    "--proxy-bypass-list=<-loopback>",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--js-flags=--max-old-space-size=512",
    "--blink-settings=imageAnimationPolicy=2",  # a GIF shows its first frame
)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """How a page is looked at.

    Raises:
        OptionError: a side, height or time that is not positive, or a limit below the window's height.
    """

    width_px: int = 960
    """Of the window, and of the picture."""

    height_px: int = 720
    """Of the window; a picture is at least so high."""

    max_height_px: int = 2160
    """Where the picture of a longer page ends, between two lines."""

    timeout_s: float = 30.0
    """For loading, laying out, measuring and drawing together."""

    scripts: bool = False
    """Let the page's own scripts run until it has loaded."""

    def __post_init__(self) -> None:
        if min(self.width_px, self.height_px) < 1 or self.max_height_px < self.height_px or not self.timeout_s > 0:
            raise OptionError(
                f"A view of {self.width_px} x {self.height_px} px, at most {self.max_height_px} px high, within "
                f"{self.timeout_s:g} s.",
                remedy="Give positive numbers, and a limit that is no smaller than the height.",
            )


class Browser:
    """Chromium in the background, started with the first page and anew after one that brought it down.

    Needs playwright and Chromium; use it with `with`, or `close` it. It may be used by one thread after another.

    Args:
        view: how pages are looked at.
        executable: Chromium; by default the first of `NAMES` on PATH, or what `playwright install chromium` installed.

    Raises:
        OptionError: playwright is not installed.
    """

    def __init__(self, view: View | None = None, *, executable: str | None = None) -> None:
        if find_spec("playwright") is None:
            raise OptionError(
                "Web pages are drawn by Chromium through playwright, which is not installed.",
                remedy="Install it: pip install 'minicpmv[html]'",
            )
        self._view = view or View()
        self._session = _Session(executable or next((path for name in NAMES if (path := shutil.which(name))), None))
        self._loop = asyncio.new_event_loop()
        # Answers that arrive for a page that was given up are nobody's fault.
        self._loop.set_exception_handler(lambda loop, context: None)
        thread = threading.Thread(target=self._loop.run_forever, name="chromium", daemon=True)
        thread.start()
        self._end = weakref.finalize(self, _end, self._loop, thread, self._session, os.getpid())

    def render(self, page: Path | str, *, root: Path | None = None) -> PageSample:
        """A page's picture and its printed lines, in the order of the document; boxes are in px of the picture.

        Args:
            page: a file, or the source of a page.
            root: folder below which a file's pictures and style sheets may lie; by default its own. The source of a
                page has no files.

        Raises:
            MediaNotFoundError: there is no such file.
            MediaLimitError: too large, too much text, or it takes too long.
            MediaError: Chromium cannot show it.
            OptionError: there is no Chromium, or it does not start.
        """
        name = page.name if isinstance(page, Path) else "The page"
        if isinstance(page, Path):
            if not page.is_file():
                raise MediaNotFoundError(f"{page} does not exist.", remedy="Check the name.")
            _check_size(page.stat().st_size, name)
            asked = _Asked(page.resolve().as_uri(), None, (root or page.parent).resolve())
        else:
            _check_size(len(page.encode(errors="replace")), name)
            asked = _Asked(_ADDRESS, page, None)
        image, found = self._wait(self._session.draw(asked, self._view, name))
        if not found["complete"]:
            raise MediaLimitError(f"{name} shows more than {MAX_GLYPHS:,} characters.", remedy="Cut it into pages.")
        blocks, glyphs = read_glyphs(found)
        image = image[: cut_height(glyphs, image.shape[0])] if found["cut"] else image
        return PageSample(image, printed_lines(blocks, glyphs, image), (), "html")

    def close(self) -> None:
        """End Chromium; doing it twice does no harm."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, work: Coroutine[Any, Any, "_Drawn"]) -> "_Drawn":
        if not self._end.alive:
            work.close()
            raise OptionError("The browser has been closed.", remedy="Open another one.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C must not leave a page behind
            raise


_Drawn = tuple[NDArray[np.uint8], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """The address of a page, its source if it is no file, and the folder that its files lie in if it is one."""

    address: str
    source: str | None
    root: Path | None

    def allows(self, address: str) -> bool:
        """Whether something that the page shows may be read."""
        parts = urlsplit(address)
        if parts.scheme in {"data", "about", "blob"}:
            return True
        if parts.scheme != "file" or parts.netloc or self.root is None:
            return False
        return (
            Path(url2pathname(parts.path) if os.name == "nt" else unquote(parts.path))
            .resolve()
            .is_relative_to(self.root)
        )


class _Session:
    """What lives in the thread of the event loop: the driver, and Chromium."""

    def __init__(self, executable: str | None) -> None:
        self._executable = executable
        self._driver: Playwright | None = None
        self._chromium: Chromium | None = None

    async def draw(self, asked: _Asked, view: View, name: str) -> _Drawn:
        """The picture of a page and what `measure` finds on it."""
        from playwright.async_api import Error

        chromium = await self._started()
        try:
            return await asyncio.wait_for(self._drawn(chromium, asked, view), view.timeout_s)
        except TimeoutError:
            await self.close()  # whatever keeps it busy goes with it
            raise MediaLimitError(
                f"{name} is not drawn within {view.timeout_s:g} s.", remedy="Leave this page out, or allow more time."
            ) from None
        except Error as error:
            await self.close()
            reason = error.message.partition("\n")[0]
            raise MediaError(f"Chromium cannot show {name} ({reason}).", remedy="Leave this page out.") from None

    async def close(self) -> None:
        """End Chromium and the driver, by force if need be."""
        endings: list[Callable[[], Coroutine[Any, Any, None]]] = []
        if self._chromium is not None:
            endings.append(self._chromium.close)
        if self._driver is not None:
            endings.append(self._driver.stop)
        self._chromium = self._driver = None
        for ending in endings:
            with suppress(Exception):  # it may be gone already
                await asyncio.wait_for(ending(), _CLOSE_S)

    async def _started(self) -> "Chromium":
        from playwright.async_api import Error, async_playwright

        if self._chromium is not None and self._chromium.is_connected():
            return self._chromium
        await self.close()
        # Only as root, who has no sandbox, it has to do without.
        flags = [*_FLAGS, *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [])]
        try:
            self._driver = await async_playwright().start()
            self._chromium = await self._driver.chromium.launch(
                executable_path=self._executable, args=flags, timeout=1000 * _START_S
            )
        except (Error, OSError) as error:
            await self.close()
            reason = str(error).strip().partition("\n")[0]
            raise OptionError(
                f"Web pages are drawn by Chromium, which does not start ({reason}).",
                remedy="Install it: apt install chromium, or: playwright install chromium",
            ) from None
        return self._chromium

    async def _drawn(self, chromium: "Chromium", asked: _Asked, view: View) -> _Drawn:
        context = await chromium.new_context(
            viewport={"width": view.width_px, "height": view.height_px},
            java_script_enabled=view.scripts,
            accept_downloads=False,
            service_workers="block",
            reduced_motion="reduce",
            locale="en-US",
            timezone_id="UTC",
        )
        page = await context.new_page()
        await context.route("**/*", lambda route: _answer(route, asked, page))
        await page.goto(asked.address, wait_until="load", timeout=0)  # the time of all steps is bounded together
        if view.scripts:
            await page.wait_for_load_state("networkidle", timeout=0)
            tools = await context.new_cdp_session(page)
            await tools.send("Emulation.setScriptExecutionDisabled", {"value": True})
        code = files("minicpmv.data.html").joinpath("printed.js").read_text(encoding="utf-8")
        wanted = int(await page.evaluate(f"() => {code}.prepare()"))
        height = max(view.height_px, min(wanted, view.max_height_px))
        await page.set_viewport_size({"width": view.width_px, "height": height})
        for _ in range(round(_PICTURES_S / _POLL_S)):
            if await page.evaluate(f"() => {code}.isReady()"):
                break
            await asyncio.sleep(_POLL_S)
        limits = {"width": view.width_px, "height": height, "most": MAX_GLYPHS}
        found: dict[str, Any] = await page.evaluate(f"(limits) => {code}.measure(limits)", limits)
        image = await _picture(page)
        await context.close()
        return image, {**found, "cut": wanted > height}


async def _answer(route: "Route", asked: _Asked, page: "Page") -> None:
    """Let a page have what it may have."""
    request = route.request
    if not request.is_navigation_request():
        await (route.continue_() if asked.allows(request.url) else route.abort())
    elif request.frame != page.main_frame:
        await route.abort()  # what stands in a frame cannot be measured
    elif page.url != "about:blank" or request.url.partition("#")[0] != asked.address:
        await route.fulfill(status=204)  # it stays where it is
    elif asked.source is None:
        await route.continue_()
    else:
        await route.fulfill(body=asked.source, content_type="text/html; charset=utf-8")


async def _picture(page: "Page") -> NDArray[np.uint8]:
    shot = await page.screenshot(type="png", animations="disabled", caret="hide", timeout=0)
    return np.asarray(Image.open(BytesIO(shot)).convert("RGB"))


def _check_size(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise MediaLimitError(
            f"{name} has {size / 2**20:.1f} MiB; {MAX_BYTES // 2**20} are allowed.", remedy="Leave this page out."
        )


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread, session: _Session, process: int) -> None:
    """Close everything from outside of the loop's thread."""
    if process != os.getpid():
        return  # a copy of the object in a forked process, without the thread
    with suppress(Exception):
        asyncio.run_coroutine_threadsafe(_finished(session), loop).result(3 * _CLOSE_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_CLOSE_S)
    if not thread.is_alive():
        loop.close()


async def _finished(session: _Session) -> None:
    await session.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
