"""Readers of bare crops, and damage that is measured with them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from minicpmv.cli.main import main
from minicpmv.data.corruption.calibration import Calibration, error_rate
from minicpmv.data.corruption.corrupt import FRAME
from minicpmv.data.corruption.operators import Pixels
from minicpmv.errors import OptionError
from minicpmv.evaluation import readers
from minicpmv.evaluation.answering import Answered
from minicpmv.evaluation.readers import line_crops, model_reader, tesseract_reader
from minicpmv.evaluation.tasks import AnswerTask, select_tasks
from minicpmv.generation.loading import load

needs_tesseract = pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed")


def test_crops_hold_the_ink_of_their_lines() -> None:
    for crop in line_crops(10, 0):
        assert crop.pixels.shape[0] > crop.text_px
        assert crop.pixels.std() > 5
        assert crop.text
    assert not {crop.text for crop in line_crops(5, 0)} & {crop.text for crop in line_crops(5, 1)}


def test_a_model_reads_every_crop_in_order() -> None:
    crops = line_crops(5, 0)
    read = model_reader(load(), batch_size=2)
    texts = read([crop.pixels for crop in crops])
    assert len(texts) == 5
    assert texts[:2] == read([crop.pixels for crop in crops[:2]])


@needs_tesseract
def test_tesseract_reads_clean_lines_and_not_what_is_covered() -> None:
    crops = line_crops(20, 0)
    read = tesseract_reader()
    assert error_rate(crops, read([crop.pixels for crop in crops])) < 0.1
    assert read([]) == []
    assert error_rate(crops[:4], read([np.full_like(crop.pixels, 200) for crop in crops[:4]])) == 1.0


def test_without_tesseract_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers.shutil, "which", lambda name: None)
    with pytest.raises(OptionError, match="no tesseract"):
        tesseract_reader()


@needs_tesseract
def test_a_calibration_is_measured_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "calibration.json"
    assert main(["data", "calibrate", "--crops", "4", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    found = Calibration.load(out)
    assert found.reader == "tesseract"
    assert found.num_crops == 4
    assert max(found.curves["noise"].error_rates) > 0.2
    assert main(["data", "calibrate", "--crops", "0", "--out", str(out)]) == 1


@needs_tesseract
def test_tesseract_reads_beside_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "--tasks", "lines.training_fonts,pages.receipt,clips.colour", "--samples", "3", "--tesseract"]
    assert main([*words, "--json", "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [score["task"] for score in report["tesseract"]] == ["lines.training_fonts", "pages.receipt"]
    assert report["tesseract"][0]["cer"]["value"] < 0.2
    assert main([*words, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("Tesseract") == 2


@needs_tesseract
def test_tesseract_is_not_asked_for_what_it_cannot_read_after_everything_was_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.jsonl").write_text('{"prompt": "2 + 2?", "completion": "4"}\n')
    assert main(["eval", "--data", str(tmp_path / "mine.jsonl"), "--tesseract"]) == 1
    assert "questions without a picture" in capsys.readouterr().err


def test_regions_are_read_without_the_frames_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames are for the model, which has to be told what is asked for."""
    seen: list[Pixels] = []

    def read(crops: Sequence[Pixels]) -> list[str]:
        seen.extend(crops)
        return [""] * len(crops)

    monkeypatch.setattr(readers, "tesseract_reader", lambda **_: read)
    (task,) = select_tasks(["restore.low"])
    assert isinstance(task, AnswerTask)
    readers.read_beside(task, [Answered(asked, "", was_cut=False) for asked in task.questions(0, 12)])
    assert len(seen) > 12
    assert not any((crop == FRAME).all(axis=-1).any() for crop in seen)
