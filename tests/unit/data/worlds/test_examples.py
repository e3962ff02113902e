"""Example files open like any other file of their kind."""

from pathlib import Path

import av
import pypdfium2
import pytest
from PIL import Image

from minicpmv.data.worlds.examples import write_clip_example, write_label, write_sign
from minicpmv.data.worlds.fonts import find_faces
from minicpmv.errors import OptionError


def test_a_sign_is_a_picture_of_the_asked_size(tmp_path: Path) -> None:
    write_sign(tmp_path / "sign.png", "Open 9-5", seed=1, face=find_faces("train")[0])
    with Image.open(tmp_path / "sign.png") as picture:
        assert (picture.size, picture.mode) == ((224, 56), "RGB")


def test_a_label_is_a_page_with_real_text(tmp_path: Path) -> None:
    write_label(tmp_path / "label.pdf", "Room 12 (left)\nback\\door", size_pt=(112, 224))
    document = pypdfium2.PdfDocument(tmp_path / "label.pdf")
    page = document[0]
    assert page.get_size() == (224, 112)
    text_page = page.get_textpage()
    assert text_page.get_text_range().split() == ["Room", "12", "(left)", "back\\door"]
    assert page.render(scale=1).to_pil().convert("L").getextrema()[0] < 60
    text_page.close()
    page.close()
    document.close()


def test_a_label_refuses_letters_it_cannot_show(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="printable ASCII"):
        write_label(tmp_path / "label.pdf", "caf\u00e9")


def test_a_clip_example_tells_its_question_and_answer(tmp_path: Path) -> None:
    sample = write_clip_example(tmp_path / "clip.mp4", task="direction", seed=1)
    assert (tmp_path / "clip.mp4").stat().st_size > 1000
    assert sample.answer in ("left", "right", "up", "down")
    assert sample.question.endswith("?")


def test_a_clip_example_shows_its_frames_at_the_asked_rate(tmp_path: Path) -> None:
    write_clip_example(tmp_path / "clip.mp4", task="direction", seed=1, frame_rate=3)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        times_s = [frame.time for frame in container.decode(video=0)]
    assert times_s == pytest.approx([index / 3 for index in range(6)])
