"""Pages in a real Chromium: boxes hold the ink, what is hidden is left out, and strangers' pages are kept in bounds.

Everything but the first tests is skipped where there is no playwright or no Chromium.
"""

import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minicpmv.data.html import browser as module
from minicpmv.data.html.browser import NAMES, Browser, View
from minicpmv.data.html.restoring import restore_page
from minicpmv.data.readers import Flaw, Position, WebPages, open_source
from minicpmv.data.sample import Sample
from minicpmv.errors import MediaError, MediaLimitError, MediaNotFoundError, OptionError
from minicpmv.media.image import load_image
from minicpmv.messages import ImagePart, TextPart

has_playwright = find_spec("playwright") is not None
needs_chromium = pytest.mark.skipif(
    not has_playwright or not any(map(shutil.which, NAMES)), reason="playwright or Chromium is not installed"
)
PATIENT = View(width_px=480, height_px=320, max_height_px=1000, timeout_s=90)


def test_without_playwright_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    (tmp_path / "a.html").write_text("<p>Hello")
    with pytest.raises(OptionError, match=r"pip install 'minicpmv\[html\]'"):
        next(iter(open_source(tmp_path).read(Position())))


@pytest.mark.skipif(not has_playwright, reason="playwright is not installed")
def test_without_chromium_it_says_what_to_install(tmp_path: Path) -> None:
    with Browser(executable=str(tmp_path / "chromium")) as browser, pytest.raises(OptionError, match="apt install"):
        browser.render("<p>Hello")


@pytest.mark.parametrize("wrong", [{"width_px": 0}, {"max_height_px": 100}, {"timeout_s": 0.0}])
def test_a_view_without_an_area_or_time_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="A view of"):
        View(**wrong)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(PATIENT) as opened:
        yield opened


PLAIN = """<!doctype html><meta charset=utf-8>
<style>body { margin: 20px; font: 16px/1.5 serif } .row { display: flex; gap: 40px } p { width: 260px }</style>
<h1>A title</h1><p>Some <b>bold</b> words of a paragraph that goes on for longer than one line, naïve café.</p>
<div class=row><span>One</span><span>Two</span></div>
<table><tr><th>Item<th>Price<tr><td>Flour<td>2.10<tr><td>Milk<td>0.99</table>
<pre>if x:\n    y()</pre><p style="text-transform: uppercase">shouted</p>"""


@needs_chromium
def test_boxes_hold_all_of_the_ink_and_lines_are_what_is_printed(browser: Browser) -> None:
    page = browser.render(PLAIN)
    text = "A title\nSome bold words of a paragraph that\ngoes on for longer than one line, naïve\ncafé.\nOne\nTwo\n"
    assert page.text == text + "Item Price\nFlour 2.10\nMilk 0.99\nif x:\n    y()\nSHOUTED"
    assert [region.role for region in page.regions[:1]] == ["title"]
    assert {region.role for region in page.regions} == {"title", "text", "header", "cell", "code"}
    outside = page.image.min(2).copy()
    for region in page.regions:
        box = region.box
        inside = page.image[int(box.top) : int(np.ceil(box.bottom)), int(box.left) : int(np.ceil(box.right))]
        assert inside.min() < 80, region.text
        outside[int(box.top) : int(np.ceil(box.bottom)), int(box.left) - 1 : int(np.ceil(box.right)) + 1] = 255
    assert outside.min() == 255  # nothing is printed that no region knows
    first = page.regions[0].lines[0].characters
    assert [character.char for character in first] == list("Atitle")
    assert all(one.x1 <= other.x0 + 0.01 for one, other in zip(first, first[1:], strict=False))


@needs_chromium
def test_two_renders_are_equal(browser: Browser) -> None:
    one, other = browser.render(PLAIN), browser.render(PLAIN)
    assert np.array_equal(one.image, other.image)
    assert one.regions == other.regions


HIDDEN = (
    "<p style='display: none'>X",
    "<p style='visibility: hidden'>X",
    "<p style='opacity: 0'>X",
    "<div style='opacity: 0'><p>X</div>",
    "<p style='position: absolute; left: -999px'>X",
    "<p style='position: absolute; left: 600px'>X",
    "<p style='text-indent: -999px'>X",
    "<p style='font-size: 0'>X",
    "<div style='height: 0; overflow: hidden'>X</div>",
    "<p style='clip-path: inset(50%)'>X",
    "<p style='color: white'>X",
    "<p style='-webkit-text-fill-color: transparent'>X",
    "<details><summary></summary>X</details>",
    "<script>X</script><style>X</style><template>X</template><title>X</title>",
    "<input value=X placeholder=X><textarea>X</textarea><select><option>X</select>",
    "<div style='position: relative'>X<div style='position: absolute; inset: 0; background: #ddd'></div></div>",
)


@needs_chromium
def test_what_cannot_be_seen_is_left_out(browser: Browser) -> None:
    sections = (f"<div>{source.replace('X', f'hidden{number}')}</div>" for number, source in enumerate(HIDDEN))
    source = f"<!doctype html><meta charset=utf-8><p>First</p>{''.join(sections)}<p>Last</p>"
    assert browser.render(source).text == "First\nLast"


@needs_chromium
def test_what_is_printed_without_being_text_is_blanked(browser: Browser) -> None:
    source = """<style>q::before { content: "NO" } q::after { content: "" } * { outline: 0 } input, select, textarea
        { border: 0; background: none; appearance: none; resize: none } .red::placeholder { color: red }</style>
        <ol><li></ol><q></q>
        <input value=NO><input class=red placeholder=NO><textarea>NO</textarea><select><option>NO</select>
        <img src="http://localhost/a.png" alt="NO"><iframe srcdoc="NO"></iframe>"""
    page = browser.render(source)
    assert (page.text, page.image.min()) == ("", 255)


SHOWN = (
    ("<div><template shadowrootmode=open><p>In the <slot></slot></p></template>shadow</div>", "In the shadow"),
    ("<svg width=300 height=60><text x=10 y=40>Drawn text</text></svg>", "Drawn text"),
    (
        "<style>a::after { content: ''; position: absolute; inset: 0 }</style><p>Below a <a href=x>link</a>",
        "Below a link",
    ),
    ("<p style='pointer-events: none'>Not to be touched", "Not to be touched"),
    ("<p inert>At rest", "At rest"),
    ("<p style='display: contents'>Without a box", "Without a box"),
    ("<p style='letter-spacing: 9px'>Wide", "Wide"),
    ("<p>Half <span style='margin-left: 20px'>apart</span><br>new&nbsp;line", "Half apart\nnew line"),
    ("<p style='width: 60px; overflow: hidden; white-space: nowrap; text-overflow: ellipsis'>mmmm mmmm mmmm", "mmmm"),
    ("<p style='opacity: 0; animation: a 9s forwards'>In<style>@keyframes a { to { opacity: 1 } }</style>", "In"),
    ("<p style='width: 40px; hyphens: manual'>hyphen&shy;ation", "hyphenation"),
    ("<p>e\u0301 <noscript>without scripts</noscript>", "e\u0301 without scripts"),
    ("<p style='width: 20px'>overflowing<p style='position: relative; background: red'>Next", "overflowing\nNext"),
)


@needs_chromium
def test_the_text_is_what_a_reader_sees(browser: Browser) -> None:
    sections = (f"<div style='position: relative'>{source}</div>" for source, _ in SHOWN)
    page = browser.render(f"<!doctype html><meta charset=utf-8>{''.join(sections)}")
    assert page.text.split("\n") == [line for _, text in SHOWN for line in text.split("\n")]


@needs_chromium
@pytest.mark.parametrize("source", ["", "<frameset><frame src='about:blank'></frameset>"])
def test_a_page_may_be_empty(browser: Browser, source: str) -> None:
    page = browser.render(source)
    assert (page.text, page.image.min()) == ("", 255)


@needs_chromium
@pytest.mark.parametrize("scripts", [False, True])
def test_no_request_leaves(tmp_path: Path, scripts: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked: list[bytes] = []

        def listen() -> None:
            try:
                while True:
                    connection, _ = server.accept()
                    asked.append(connection.recv(64))
                    connection.close()
            except OSError:
                pass

        threading.Thread(target=listen, daemon=True).start()
        there = f"http://127.0.0.1:{server.getsockname()[1]}"
        secret = tmp_path / "secret.svg"
        secret.write_text(
            "<svg xmlns='http://www.w3.org/2000/svg' width='40' height='40'><rect width='40' height='40'/></svg>"
        )
        (tmp_path / "site").mkdir()
        path = tmp_path / "site" / "index.html"
        path.write_text(
            f"""<!doctype html><link rel=preconnect href="{there}"><link rel=stylesheet href="{there}/a.css">
            <meta http-equiv=refresh content="0;url={there}/next"><p>Here<img src="{there}/a.png"><iframe src="{there}">
            </iframe><img src="../secret.svg"><img src="{secret.as_uri()}"><iframe src="{secret.as_uri()}"></iframe>
            <script>fetch("{there}").catch(() => 0); new WebSocket("{there.replace("http", "ws")}");
            navigator.sendBeacon("{there}")</script>"""
        )
        with Browser(replace(PATIENT, scripts=scripts)) as browser:
            page = browser.render(path)
            assert page.text == "Here"
            squares = [(shown.image.max(2) == 0).sum() for shown in (page, browser.render(path, root=tmp_path))]
            assert squares[0] < 100  # letters, but none of the black squares outside of the page's folder
            assert squares[1] > 2 * 40 * 40
    assert asked == []


@needs_chromium
def test_scripts_run_only_if_asked_for(browser: Browser) -> None:
    source = "<p>Still</p><script>document.querySelector('p').textContent = 'Changed'</script>"
    assert browser.render(source).text == "Still"
    with Browser(replace(PATIENT, scripts=True)) as scripted:
        assert scripted.render(source).text == "Changed"


@needs_chromium
def test_a_long_page_is_cut_between_two_lines(browser: Browser) -> None:
    page = browser.render("<p>Begin</p>" + "<p>line</p>" * 100 + "<div style='height: 1000000px'></div><p>End</p>")
    assert 900 < page.image.shape[0] <= 1000
    assert page.text.startswith("Begin\nline\n")
    assert "End" not in page.text
    last = page.regions[-1].box
    assert last.bottom <= page.image.shape[0]


@needs_chromium
def test_a_page_that_never_ends_is_given_up() -> None:
    table = "<table>" + ("<tr>" + "<td>cell" * 100) * 20_000 + "</table>"
    with Browser(View(timeout_s=6)) as browser:
        with pytest.raises(MediaLimitError, match="within 6 s|characters"):
            browser.render(table)
        with pytest.raises(MediaLimitError, match="MiB"):
            browser.render("x" * (module.MAX_BYTES + 1))


@pytest.mark.slow
@needs_chromium
def test_a_page_after_one_that_was_given_up_is_drawn() -> None:
    with Browser(View(timeout_s=30, scripts=True)) as browser:
        with pytest.raises(MediaLimitError, match="within 30 s"):
            browser.render("<p>x<script>for (;;);</script>")
        assert browser.render("<p>Next").text == "Next"


@needs_chromium
def test_a_browser_that_is_closed_says_so_and_files_that_are_missing_too(browser: Browser, tmp_path: Path) -> None:
    with pytest.raises(MediaNotFoundError):
        browser.render(tmp_path / "none.html")
    closed = Browser()
    closed.close()
    closed.close()
    with pytest.raises(OptionError, match="closed"):
        closed.render("<p>Hello")


@needs_chromium
def test_a_folder_of_pages_is_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "style.css").write_text("h1 { text-transform: uppercase }")
    Image.new("RGB", (60, 30), (255, 0, 0)).save(tmp_path / "red.png")
    (tmp_path / "a.html").write_text("<link rel=stylesheet href=style.css><h1>First</h1><p>page")
    (tmp_path / "b" / "a.htm").write_text("<link rel=stylesheet href=../style.css><img src=../red.png><h1>Second</h1>")
    (tmp_path / "c.html").write_text("<img src=red.png>")
    source = open_source(tmp_path)
    assert isinstance(source, WebPages)
    source = replace(source, view=PATIENT)
    everything = list(source.read(Position()))
    first, second, last = (found for found, _ in everything)
    assert [one.key for one in (first, second, last)] == ["a.html", "b/a.htm", "c.html"]
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert first.messages[0].parts[1] == TextPart(source.question)
    assert [one.messages[1].text for one in (first, second)] == ["FIRST\npage", "SECOND"]
    part = second.messages[0].parts[0]
    assert isinstance(part, ImagePart)
    assert part.source is not None
    pixels = np.asarray(load_image(part.source).image)
    assert (pixels == (255, 0, 0)).all(2).sum() == 60 * 30
    assert last == Flaw("c.html", "The page shows no text.")
    assert list(source.read(everything[0][1])) == everything[1:]


@needs_chromium
def test_a_drawn_page_is_damaged_like_any_other(browser: Browser) -> None:
    page = browser.render(PLAIN)
    sample = restore_page(np.random.default_rng(0), page, "k")
    targets = sample.metadata["targets"]
    assert targets
    assert sample.messages[1].text.split("\n") == [page.regions[target["region"]].text for target in targets]
    part = sample.messages[0].parts[0]
    assert isinstance(part, ImagePart)
    assert isinstance(part.source, Image.Image)
    changed = (np.asarray(part.source) != page.image).any(2)
    assert changed.any()
    for target in targets:
        left, top, right, bottom = target["box"]
        changed[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = False  # with its frame
    assert not changed.any()
    empty = browser.render("")
    with pytest.raises(OptionError):
        restore_page(np.random.default_rng(0), empty, "k")


@pytest.mark.slow
@needs_chromium
def test_a_chromium_that_dies_is_started_again() -> None:
    with Browser(replace(PATIENT, scripts=True)) as scripted:
        with pytest.raises(MediaError):
            scripted.render("<script>const kept = []; for (;;) kept.push(new Array(1e6).fill(1.5))</script>")
        assert scripted.render("<p>Back").text == "Back"
