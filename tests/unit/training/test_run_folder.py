"""What cannot be written is told by one error with a remedy, whatever was being written."""

import json
from pathlib import Path

import pytest
from safetensors import SafetensorError

from minicpmv.errors import CheckpointError, OptionError
from minicpmv.training.checkpoint import load_progress
from minicpmv.training.run_folder import SavingError, add_note, writing
from minicpmv.training.towers.runstate import load_position

FULL = Path("/dev/full")


def test_notes_are_lines(tmp_path: Path) -> None:
    for step in (1, 2):
        add_note(tmp_path / "metrics.jsonl", {"step": step})
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
    ]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ('{"step": 1', "cannot be read"),
        ("[]", "another kind of recipe"),
        ('{"stage": 1, "step": 2, "seconds": 3.0}', "another kind of recipe"),
    ],
)
def test_a_state_that_is_no_stages_is_refused(state: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(CheckpointError, match=f"{reason}.*Name another --out"):
        load_progress(tmp_path)


def test_a_stage_is_no_run_of_towers(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"step": 1, "stream": null, "seconds": 1.0, "counts": {}, "shards": 1}')
    assert load_progress(tmp_path).step == 1
    with pytest.raises(CheckpointError, match="another kind of recipe"):
        load_position(tmp_path)


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
def test_a_note_on_a_full_disk_names_the_file_and_a_remedy() -> None:
    with pytest.raises(SavingError, match=r"/dev/full could not be written: .*No space left.*Free some space"):
        add_note(FULL, {"step": 1})


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), SafetensorError("No space left")])
def test_whatever_cannot_be_written_is_named(failure: Exception, tmp_path: Path) -> None:
    with pytest.raises(SavingError, match=r"model could not be written: .*No space left"), writing(tmp_path / "model"):
        raise failure


def test_an_error_that_says_what_to_do_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no such thing"), writing(tmp_path):
        raise OptionError("There is no such thing.", remedy="Take another.")
