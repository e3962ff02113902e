"""A preview shows every sample, escapes what people wrote, and is complete by itself."""

import html
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from minicpmv.data.corruption.calibration import Calibration, Curve
from minicpmv.data.corruption.operators import OPERATORS
from minicpmv.data.drawn import read, reason, restore
from minicpmv.data.preview import write_preview
from minicpmv.data.readers import Flaw
from minicpmv.data.sample import Sample
from minicpmv.data.studio import Studio
from minicpmv.messages import ImagePart, Message, TextPart, VideoPart


class Outline(HTMLParser):
    """Counts elements and collects addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_a_preview_shows_all_and_needs_nothing_else(tmp_path: Path) -> None:
    studio = Studio.open("train")
    curves = {name: Curve((0.0, 0.2, 0.3, 1.0), (0.0, 0.03, 0.3, 1.0)) for name in OPERATORS}
    damaged = restore(studio, calibration=Calibration("made up", 1, 0.0, curves))(np.random.default_rng(0), "restore:0")
    worked = reason(studio, think=True)(np.random.default_rng(0), "reason:0")
    frames = tuple(Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in range(0, 250, 10))
    hostile = Sample(
        "<b>key</b>",
        (
            Message("user", (VideoPart(frames=frames), TextPart("<script>alert(1)</script>"))),
            Message("assistant", (TextPart("a & b"),)),
        ),
        {"note": "<i>"},
    )
    missing = Sample("gone", (Message("user", (ImagePart("/nowhere.png"),)), Message("assistant", (TextPart("x"),))))
    samples = [damaged, worked, hostile, missing, Flaw("broken", "it is <broken>.")]
    path = tmp_path / "preview.html"
    assert write_preview([("here", sample) for sample in samples], path, title="A & B") == 5
    text = path.read_text()
    outline = Outline()
    outline.feed(text)
    assert outline.count["article"] == 5
    assert outline.count["img"] == 1 + 1 + 12
    assert outline.count["i"] == len(damaged.metadata["targets"])
    assert "script" not in outline.count
    assert all(address.startswith("data:image/png;base64,") for address in outline.addresses)
    assert "it is &lt;broken&gt;." in text
    assert "nowhere.png" in text
    assert not list(tmp_path.glob("*.partial"))


def test_regions_of_a_page_are_outlined_with_their_roles_and_texts(tmp_path: Path) -> None:
    studio = Studio.open("train")
    page = read(studio, kinds=["form"])(np.random.default_rng(0), "read:0")
    worked = reason(studio)(np.random.default_rng(0), "reason:0")
    regions = [{"text": "<b>", "box": [4, 8, 16, 16], "role": "title"}, {"text": "x", "box": [0] * 4}, {"box": "x"}, 7]
    said = (Message("user", (ImagePart(Image.new("RGB", (40, 32))),)), Message("assistant", (TextPart("x"),)))
    path = tmp_path / "preview.html"
    for sample, num in ((page, len(page.regions)), (worked, len(worked.regions)), (Sample("a", said), 0)):
        write_preview([("here", sample)], path, title="x")
        outline = Outline()
        outline.feed(path.read_text())
        assert outline.count.get("b", 0) == num
    assert len(page.regions) > 3
    assert len(worked.regions) > 3
    write_preview([("here", page)], path, title="x")
    first = page.regions[0]
    assert f'title="{first.role}: {html.escape(first.text)}"' in path.read_text()
    write_preview([("here", Sample("a", said, {"regions": regions}))], path, title="x")
    text = path.read_text()
    assert '<b style="left:10.00%;top:25.00%;width:30.00%;height:25.00%" title="title: &lt;b&gt;">' in text
    assert text.count("<b style") == 2
    write_preview([("here", Sample("a", said, {"regions": "none"}))], path, title="x")
    assert "<b style" not in path.read_text()


def test_what_strangers_call_targets_is_passed_over(tmp_path: Path) -> None:
    said = (Message("user", (TextPart("What?"),)), Message("assistant", (TextPart("This."),)))
    half = {"level": "low", "operator": "blur", "strength": "much", "expected_cer": 0.1, "text": "a", "box": [0] * 4}
    for number, targets in enumerate((["cat"], {"a": 1}, 7, [{"level": []}], [half])):
        path = tmp_path / f"{number}.html"
        assert write_preview([("here", Sample("a:1", said, {"targets": targets}))], path, title="x") == 1
        assert "regions" not in path.read_text()
