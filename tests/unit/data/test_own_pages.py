"""Pages of one's own: text layers and written-down regions lie where the ink is, and can be damaged and restored."""

import json
from pathlib import Path

import numpy as np
import pypdfium2
import pytest
from PIL import Image, ImageDraw

from minicpmv.data.corruption.calibration import Calibration, Curve
from minicpmv.data.corruption.corrupt import _text_height
from minicpmv.data.own_pages import find_pages
from minicpmv.data.sample import Sample
from minicpmv.data.sources import open_world
from minicpmv.data.worlds.examples import write_label
from minicpmv.data.worlds.paper import Box
from minicpmv.errors import MediaError, OptionError
from minicpmv.media.document import printed_page

WORDS = "Flour 21 Sep\nPasta 7.50\nTea, green"


@pytest.fixture
def label(tmp_path: Path) -> Path:
    write_label(tmp_path / "label.pdf", WORDS, size_pt=(160, 240), font_size_pt=20)
    return tmp_path / "label.pdf"


def draw(path: Path, seed: int = 0, **options: object) -> Sample:
    return open_world("own_pages", {"pages": str(path), **options})(np.random.default_rng(seed), "key")


def ink(image: Image.Image, box: Box | tuple[float, ...]) -> float:
    """Share of the dark px of a picture that lie in a box; red frames are not dark."""
    dark = np.asarray(image).max(2) < 128
    left, top, right, bottom = (box.left, box.top, box.right, box.bottom) if isinstance(box, Box) else box
    return float(dark[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))].sum() / dark.sum())


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_letters_of_a_text_layer_lie_on_their_ink(turn: int, label: Path, tmp_path: Path) -> None:
    document = pypdfium2.PdfDocument(label)
    document[0].set_rotation(turn)
    document[0].set_cropbox(5, 5, 235, 155)
    document.save(tmp_path / "turned.pdf")
    printed = printed_page(tmp_path / "turned.pdf", 1, longest_side_px=480)
    assert max(printed.page.image.size) == 480
    texts = ["".join(" " * letter.is_after_space + letter.char for letter in line) for line in printed.lines]
    assert sorted(texts) == sorted(WORDS.split("\n"))  # PDFium reads a page on its side from below
    boxes = [letter.box for line in printed.lines for letter in line]
    assert sum(ink(printed.page.image, box) for box in boxes) > 0.97
    assert all(ink(printed.page.image, box) > 0 for box in boxes)
    one = ink(printed.page.image, printed.lines[0][0].box)  # an F, not the whole word
    assert one < 2 / len(boxes)


def test_a_page_that_is_not_there_and_a_scan_without_text(label: Path, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="has 1 page; page 2"):
        printed_page(label, 2, longest_side_px=200)
    Image.new("RGB", (50, 50), "white").save(tmp_path / "scan.pdf")
    assert printed_page(tmp_path / "scan.pdf", 1, longest_side_px=200).lines == ()
    with pytest.raises(OptionError, match=r"None of 20 pages of .*scan\.pdf shows text that is known.*text layer"):
        draw(tmp_path / "scan.pdf")


def test_damaged_regions_of_a_pdf_are_to_be_restored_as_the_text_layer_has_them(label: Path) -> None:
    seen = set()
    for seed in range(12):
        sample = draw(label, seed)
        assert sample.metadata["task"] == "restore"
        targets = sample.metadata["targets"]
        assert sample.messages[1].text == "\n".join(target["text"] for target in targets)
        assert {target["text"] for target in targets} <= set(WORDS.split("\n"))
        seen |= {target["level"] for target in targets}
    assert seen == {"low", "moderate", "high"}


def test_pages_to_be_read_know_every_letter_and_have_the_size_that_was_asked_for(label: Path) -> None:
    sample = draw(label, damaged=0, longest_side_px=[200, 300])
    assert sample.messages[1].text == WORDS
    assert "".join(box.char for box in sample.characters) == WORDS.replace("\n", "")
    assert 200 <= max(sample.media[0].source.size) <= 300
    assert draw(label, 3, longest_side_px=[200, 300]).messages == draw(label, 3, longest_side_px=[200, 300]).messages


def test_what_stands_far_apart_in_a_line_are_two_regions(tmp_path: Path) -> None:
    write_label(tmp_path / "table.pdf", "Tea" + " " * 30 + "7.50", size_pt=(60, 300), font_size_pt=16)
    assert draw(tmp_path / "table.pdf", damaged=0).messages[1].text == "Tea\n7.50"


def test_text_that_cannot_be_seen_is_not_asked_for(tmp_path: Path) -> None:
    write_label(tmp_path / "black.pdf", WORDS, size_pt=(160, 240), font_size_pt=20)
    white = (tmp_path / "black.pdf").read_bytes().replace(b"BT /F1 20 Tf", b"1 g BT /F1 20 Tf")
    (tmp_path / "white.pdf").write_bytes(white)
    with pytest.raises(OptionError, match=r"white\.pdf shows no text"):
        draw(tmp_path / "white.pdf")


@pytest.fixture
def written_down(tmp_path: Path) -> Path:
    """Two pictures with what is written on them."""
    folder = tmp_path / "scans"
    folder.mkdir()
    lines = []
    for number in range(2):
        picture = Image.new("RGB", (400, 100), "white")
        pen = ImageDraw.Draw(picture)
        regions = []
        for text, place in ((f"Total {number}.50", (20, 20)), ("ありがとう", (200, 60))):
            pen.text(place, text if text.isascii() else "Thank you", fill="black", font_size=20)
            box = pen.textbbox(place, text if text.isascii() else "Thank you", font_size=20)
            regions.append({"text": text, "box": [float(side) for side in box]})
        picture.save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "regions": regions}, ensure_ascii=False))
    (folder / "scans.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return folder


def test_pictures_with_regions_are_damaged_in_any_script(written_down: Path) -> None:
    assert len(find_pages(written_down)) == 2
    answers = {draw(written_down, seed, longest_side_px=200).messages[1].text for seed in range(12)}
    assert answers == {"Total 0.50", "Total 1.50", "ありがとう"}
    sample = draw(written_down, longest_side_px=200)
    assert sample.media[0].source.size == (200, 50)
    assert ink(sample.media[0].source, (100, 30, 200, 50)) > 0.3
    read = draw(written_down, damaged=0)
    assert read.media[0].source.size == (400, 100)
    assert read.messages[1].text.splitlines()[1] == "ありがとう"


def test_a_region_of_several_lines_is_damaged_as_strongly_as_one_of_a_line(tmp_path: Path) -> None:
    picture = Image.new("RGB", (300, 200), "white")
    pen = ImageDraw.Draw(picture)
    tops = [20, 45, 70, 95]
    boxes = [pen.textbbox((20, top), "Flying spray", font_size=20) for top in tops]
    for top in tops:
        pen.text((20, top), "Flying spray", fill="black", font_size=20)
    picture.save(tmp_path / "a.png")
    whole = [boxes[0][0], boxes[0][1], boxes[0][2], boxes[-1][3]]
    regions = {
        "lines": [{"text": "Flying spray\r\nFlying spray\n\nFlying spray\nFlying spray\n", "box": whole}],
        "line": [{"text": "Flying spray", "box": boxes[0]}],
    }
    heights = {}
    for name, given in regions.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"image": "a.png", "regions": given}))
        (page,) = find_pages(tmp_path / f"{name}.jsonl")
        (region,) = page.open(150).regions
        heights[name] = _text_height(region)
        assert region.box == Box(*(side / 2 for side in given[0]["box"]))
    assert len(find_pages(tmp_path / "lines.jsonl")[0].open(300).regions[0].lines) == 4
    assert heights["lines"] == pytest.approx(heights["line"], rel=0.25)
    assert draw(tmp_path / "lines.jsonl").messages[1].text == " ".join(["Flying spray"] * 4)
    assert draw(tmp_path / "lines.jsonl", damaged=0).messages[1].text == "\n".join(["Flying spray"] * 4)


def test_pages_are_damaged_by_the_calibration_that_is_named(label: Path, tmp_path: Path) -> None:
    Calibration("mine", 1, 0.0, {"fade": Curve((0.0, 1.0), (0.0, 1.0))}).save(tmp_path / "mine.json")
    named = [draw(label, seed, calibration=str(tmp_path / "mine.json")) for seed in range(8)]
    operators = {
        target["operator"] for sample in named for target in sample.metadata["targets"] if target["level"] != "high"
    }
    assert operators == {"fade"}
    with pytest.raises(OptionError, match=r"none\.json"):
        draw(label, calibration=str(tmp_path / "none.json"))


def test_a_broken_picture_is_passed_over_while_there_are_others(written_down: Path) -> None:
    (written_down / "0.png").write_bytes(b"no picture")
    assert {draw(written_down, seed, damaged=0).messages[1].text.split("\n")[0] for seed in range(8)} == {"Total 1.50"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "Line 1 of"),
        ('{"image": "a.png"}', "KeyError\\('regions'\\)"),
        ('{"image": "a.png", "regions": [{"text": "", "box": [0, 0, 1, 1]}]}', "no picture with regions"),
        ('{"image": "a.png", "regions": [{"text": "a", "box": [5, 0, 1, 1]}]}', "no picture with regions"),
        ('{"image": "a.png", "regions": [{"text": "a", "box": [0, 1]}]}', "no picture with regions"),
        ("", "has no pages"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_one_line(line: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(OptionError, match=says):
        draw(tmp_path / "mine.jsonl")


def test_options_and_missing_files_are_checked_when_the_world_is_opened(label: Path, tmp_path: Path) -> None:
    for options, says in (({"damaged": 2}, "damaged is 2"), ({"longest_side_px": [9, 3]}, "longest_side_px")):
        with pytest.raises(OptionError, match=says):
            draw(label, **options)
    with pytest.raises(OptionError, match="has no pages"):
        draw(tmp_path / "nowhere")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(OptionError, match=r"broken\.pdf.*take it out"):
        draw(tmp_path)
