"""Pages of a text of one's own: shaped, wrapped, and boxed where the ink is."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from minicpmv.data.sources import open_world
from minicpmv.data.worlds.scripts import (
    Font,
    is_right_to_left,
    open_shaped,
    read_text,
    render_text_page,
    wrap_shaped,
)
from minicpmv.errors import OptionError

TEXTS = {
    "greek": "Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί",
    "russian": "Съешь же ещё этих мягких французских булок да выпей чаю",
    "arabic": "السلام عليكم ورحمة الله وبركاته",
    "accents": "Příliš žluťoučký kůň úpěl ďábelské ódy",
}


@pytest.fixture(scope="module")
def font() -> Font:
    """DejaVu Sans as matplotlib brings it: Latin, Greek, Cyrillic, Arabic."""
    matplotlib = pytest.importorskip("matplotlib")
    return Font.open(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@pytest.mark.parametrize("name", TEXTS)
def test_every_line_lies_in_its_box_and_nothing_outside(name: str, font: Font) -> None:
    page = render_text_page(np.random.default_rng(1), [TEXTS[name]] * 2, fonts=[font], width=224, size_px=18)
    assert page.text.replace("\n", " ").split() == (TEXTS[name] + " " + TEXTS[name]).split()
    paper = np.median(page.image.reshape(-1, 3), axis=0)
    ink = np.abs(page.image.astype(int) - paper).max(-1) > 60  # noise and slanted light stay below
    covered = np.zeros(ink.shape, dtype=bool)
    for region in page.regions:
        box = region.box
        inside = ink[int(box.top) : int(box.bottom), int(box.left) : int(box.right)]
        assert inside.any(), region.text
        covered[max(0, int(box.top) - 1) : int(box.bottom) + 1, max(0, int(box.left) - 1) : int(box.right) + 1] = True
    assert not (ink & ~covered).any()


def test_letters_join_and_run_from_right_to_left(font: Font) -> None:
    """Shaped Arabic is drawn otherwise than letter by letter in the order of the file."""
    word = "سلام"
    shaped, plain = Image.new("L", (120, 60)), Image.new("L", (120, 60))
    ImageDraw.Draw(shaped).text((10, 40), word, font=open_shaped(font.path, 24), fill=255, anchor="ls")
    basic = ImageFont.truetype(str(font.path), 24, layout_engine=ImageFont.Layout.BASIC)
    ImageDraw.Draw(plain).text((10, 40), word, font=basic, fill=255, anchor="ls")
    assert not np.array_equal(np.asarray(shaped), np.asarray(plain))
    page = render_text_page(np.random.default_rng(0), [word], fonts=[font], width=224, size_px=20)
    assert page.regions[0].box.right > 200
    assert is_right_to_left(word)
    assert not is_right_to_left("12 abc سلام")


def test_long_words_are_broken_between_letters_and_never_before_a_mark(font: Font) -> None:
    shaped = open_shaped(font.path, 20)
    rows = list(wrap_shaped(shaped, "a\u0301" * 40 + " end", 100))
    assert "".join(rows).replace("end", "") == "a\u0301" * 40
    assert all(row.startswith("a") or row == "end" for row in rows)
    assert all(shaped.getlength(row) <= 100 for row in rows)


def test_the_world_draws_pages_to_read_and_to_restore(font: Font, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("\n".join([*TEXTS.values(), "漢字"]), encoding="utf-8")
    options = {"text": str(file), "fonts": [str(font.path)], "longest_side_px": [224, 320]}
    for damaged, task in ((0.0, "read"), (1.0, "restore")):
        draw = open_world("own_text", {**options, "damaged": damaged})
        samples = [draw(np.random.default_rng(seed), "key") for seed in range(10)]
        assert {sample.metadata["task"] for sample in samples} == {task}
        assert all(sample.messages[1].text for sample in samples)
        assert not any("漢" in sample.messages[1].text for sample in samples)


def test_what_cannot_be_printed_is_named(font: Font, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("漢字\n", encoding="utf-8")
    with pytest.raises(OptionError, match="no font has 字 漢"):
        read_text(file, [font])
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(OptionError, match="UTF-8|can be read"):
        read_text(file, [font])
    with pytest.raises(OptionError, match="not a font"):
        Font.open(file)
    with pytest.raises(OptionError, match="needs text and fonts"):
        open_world("own_text", {})
    with pytest.raises(OptionError, match="No font has all"):
        render_text_page(np.random.default_rng(0), ["漢字"], fonts=[font])
