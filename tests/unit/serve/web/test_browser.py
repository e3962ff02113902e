"""The page in a real Chromium: files, answers, thinking, stop, again, the plan, and no word to another host.

Skipped where there is no gradio, playwright or Chromium.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

import minicpmv
from minicpmv.data.html.browser import NAMES

CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.skipif(
        find_spec("gradio") is None or find_spec("playwright") is None or CHROMIUM is None,
        reason="gradio, playwright or Chromium is not installed",
    ),
    pytest.mark.timeout(300),
]

EXAMPLES = Path(__file__).parents[4] / "examples"
PATIENCE_MS = 90_000
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


class Site:
    """`minicpmv web` in a process of its own."""

    def __init__(self, *flags: str) -> None:
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
        self.folder = Path(mkdtemp())
        environment = {**os.environ, "PYTHONPATH": str(Path(minicpmv.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        environment["TMPDIR"] = str(self.folder)
        words = [sys.executable, "-W", "ignore", "-m", "minicpmv", "web", "--device", "cpu", "--dtype", "float32"]
        words += ["--port", str(port), *flags]
        self.process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{port}/"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self.process.poll() is None
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.2)

    def end(self) -> int:
        """Stop it; nothing that was uploaded may be left."""
        assert list(self.folder.iterdir())
        self.process.terminate()
        code = self.process.wait(60)
        assert list(self.folder.iterdir()) == []
        self.folder.rmdir()
        return code


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    running = Site()
    yield running
    assert running.end() == 0


@pytest.fixture(scope="module")
def slow(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A model of random weights and so many layers that it takes its time, even to repeat itself."""
    import torch

    from minicpmv.model.configuration import MiniCPMVConfig
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

    folder = tmp_path_factory.mktemp("slow")
    shutil.copytree(toy_folder, folder, dirs_exist_ok=True)
    config = MiniCPMVConfig.from_pretrained(folder)
    config.text_config.num_hidden_layers = config.text_config.max_window_layers = 96
    config.text_config.layer_types = ["full_attention"] * 96
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MiniCPMVForConditionalGeneration(config).save_pretrained(folder)
    running = Site("--model", str(folder))
    yield running
    running.end()


class Visit:
    """A tab, and everything it asked other hosts for."""

    def __init__(self, chromium: Any, site: Site, **options: Any) -> None:
        self.page = chromium.new_context(viewport={"width": 1300, "height": 900}, **options).new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.outside: list[str] = []
        self.page.on("request", lambda request: self._note(request.url))
        self.page.goto(site.url)
        self.page.wait_for_selector("#question textarea")

    def _note(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1", "data:", "blob:")):
            self.outside.append(url)

    def add(self, *names: str) -> None:
        self.page.set_input_files("#question input[type=file]", [str(EXAMPLES / name) for name in names])

    def ask(self, question: str) -> None:
        self.page.fill("#question textarea", question)
        self.page.press("#question textarea", "Enter")

    def read(self, selector: str, pattern: str) -> str:
        """The text of an element, once it matches."""
        deadline = time.monotonic() + PATIENCE_MS / 1000
        text = ""
        while time.monotonic() < deadline:
            text = self.page.inner_text(selector)
            if re.search(pattern, text):
                return text
            time.sleep(0.1)
        raise AssertionError(f"{selector} never matched {pattern!r}: {text!r}")


def test_a_picture_is_read_and_read_again(chromium: Any, site: Site) -> None:
    visit = Visit(chromium, site)
    visit.add("sign.png")
    assert "64 of them visual" in visit.read("#plan-text", "visual")
    visit.ask("What is written in the picture?")
    visit.read("#status", "98 tokens read, 64 of them visual")
    assert "Pasta $7.50" in visit.page.inner_text("#talk")
    visit.page.get_by_label("Retry").click()
    visit.read("#status", "^$|98 tokens read")
    visit.read("#talk", r"Pasta \$7\.50")
    assert (
        visit.page.locator('#talk [aria-label="Share"]').count()
        == visit.page.locator('#talk [aria-label="Share"]:not(:visible)').count()
    )
    assert visit.outside == []


def test_a_clip_is_drawn_in_packs(chromium: Any, site: Site) -> None:
    visit = Visit(chromium, site)
    visit.add("clip.mp4")
    visit.read("#plan-pictures", r"6 frames, 1 x 64 = 64 tokens")
    visit.page.get_by_label("number input for Frames/pack").fill("1")
    visit.page.keyboard.press("Tab")
    visit.read("#plan-pictures", r"6 frames, 6 x 64 = 384 tokens")
    assert visit.page.locator("#plan-pictures img").get_attribute("alt").startswith("clip.mp4")
    visit.page.get_by_label("number input for Frames/pack").fill("6")
    visit.ask("Which colour appears first?")
    visit.read("#status", "64 of them visual")
    assert "black" in visit.page.inner_text("#talk")


def test_a_file_that_is_none_is_named(chromium: Any, site: Site, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    visit = Visit(chromium, site)
    visit.page.set_input_files("#question input[type=file]", str(tmp_path / "broken.png"))
    visit.read("#plan-text", "⚠")
    visit.ask("What is it?")
    assert "broken.png" in visit.read("#talk", "⚠")
    visit.ask("Repeat: tea")  # the conversation goes on
    visit.read("#status", "tokens read, 0 of them visual")


def test_thinking_folds_and_stop_stops(chromium: Any, slow: Site) -> None:
    visit = Visit(chromium, slow)
    visit.page.get_by_label("Think first").check()
    visit.page.get_by_label("Thinking budget").fill("12")
    visit.ask("hello")
    visit.read("#talk", "Thinking")
    visit.page.get_by_label("Stop").click()
    assert "stopped" in visit.read("#status", "tokens read")
    visit.page.get_by_label("Submit").wait_for()


def test_it_fits_a_phone(chromium: Any, site: Site) -> None:
    visit = Visit(chromium, site, is_mobile=True, has_touch=True)
    visit.page.set_viewport_size({"width": 390, "height": 844})
    width, seen = visit.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= seen


def test_a_password_is_asked_for(chromium: Any) -> None:
    site = Site("--password", "a secret")
    try:
        page = chromium.new_context().new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(site.url)
        page.wait_for_selector("input[type=password]")
        assert page.locator("#question").count() == 0
    finally:
        site.end()
