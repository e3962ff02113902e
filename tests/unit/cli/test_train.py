import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from minicpmv.cli.main import main
from minicpmv.cli.training_progress import RunningMeans
from minicpmv.recipes.loader import bundled_recipes
from minicpmv.training.towers.run import train

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "tests" / "toy_recipe.yaml"


def command(*words: object) -> int:
    return main([str(word) for word in ("train", *words)])


def test_a_run_of_another_version_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    options = (RECIPE, "--out", folder, "--device", "cpu", "--max-minutes", "1e-6")
    assert command(*options) == 0
    kept = folder / "recipe.yaml"
    kept.write_text(kept.read_text(encoding="utf-8") + "forgotten: 1\n", encoding="utf-8")
    capsys.readouterr()
    assert command(*options) == 0
    assert "begun by another version" in capsys.readouterr().err


def test_a_recipe_is_carried_out_stopped_and_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    options = (RECIPE, "--out", folder, "--device", "cpu")
    assert command(*options, "--max-minutes", "1e-6") == 0
    stopped = capsys.readouterr()
    assert stopped.out == ""
    assert "step 1 of 3 of stage 'vision'" in stopped.err
    assert "The same command goes on" in stopped.err
    assert command(*options, "--set", "stages.1.steps=1") == 0
    finished = capsys.readouterr()
    assert "Going on" in finished.err
    assert "note: changed since the run began: stages.language.steps, from 2 to 1" in finished.err
    assert "stage 3/3 all: step 3 of 3  loss" in finished.err
    assert finished.out.strip() == str(folder / "model")
    assert (folder / "model" / "model.safetensors").is_file()
    answer = main(["eval", str(folder / "model"), "--tasks", "clips.colour", "--samples", "1", "--device", "cpu"])
    assert answer == 0


def test_the_default_folder_is_named_after_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(RECIPE, "--device", "cpu", "--max-minutes", "1e-6") == 0
    assert (tmp_path / "runs" / "toy" / "checkpoint" / "state.json").is_file()


def test_a_dry_run_tells_all_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(RECIPE, "--dry-run", "--set", "stages.0.steps=1000") == 0
    said = capsys.readouterr().out
    assert "1. vision (patches): 1,000 steps of 5, 5,000 samples" in said
    assert "vpm" in said
    assert "in all 1,005 steps, 5,023 samples" in said
    assert said.count("memory about") == said.count("   worlds: ") > 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("no_such_recipe",), "no_such_recipe"),
        ((RECIPE, "--set", "seed"), "'seed' is not an override"),
        ((RECIPE, "--set", "stages.0.stepz=1"), "stepz"),
        ((RECIPE, "--threads", "0"), "--threads"),
        ((RECIPE, "--set", "seed=three"), "With seed=three: seed is 'three', expected int"),
        ((RECIPE, "--processes", "1000"), "this machine has"),
        ((RECIPE, "--gpus", "2"), "--gpus is for --dry-run"),
        ((RECIPE, "--max-minutes", "-1"), "--max-minutes"),
        ((RECIPE, "--device", "abacus"), "abacus"),
    ],
)
def test_a_wrong_value_is_one_line_and_starts_nothing(
    words: tuple[object, ...],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*words) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert reason in line
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_tells_where_the_run_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert command(RECIPE, "--out", folder, "--device", "cpu", "--max-minutes", "1e-6") == 0
    capsys.readouterr()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minicpmv.training.towers.run.train", interrupt)
    assert command(RECIPE, "--out", folder, "--device", "cpu") == 130
    told = capsys.readouterr().err
    assert "Interrupted." in told
    assert "step 1 of 3 of stage 'vision'" in told
    monkeypatch.setattr("minicpmv.training.towers.run.train", train)
    assert command(RECIPE, "--out", folder, "--device", "cpu", "--max-minutes", "1e-6") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "number", "processes"),
    [(str(RECIPE), signal.SIGINT, 1), (str(RECIPE), signal.SIGTERM, 2), ("nano_sft", signal.SIGTERM, 1)],
)
def test_a_run_that_is_stopped_keeps_what_it_has_done(
    recipe: str, number: signal.Signals, processes: int, tmp_path: Path
) -> None:
    """Real processes, stopped by the real signal in the middle of a stage, long before anything would be saved."""
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "minicpmv", "train", recipe, "--out", str(folder), "--device", "cpu"]
    words += ["--processes", str(processes), "--threads", "1", "--set", "save_every_s=1e6"]
    words += ["--set", "batch=2"] if recipe == "nano_sft" else ["--set", "stages.0.steps=100000"]
    environment = {"PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 240
    while not (metrics.is_file() and metrics.read_text("utf-8")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert "The same command goes on from there." in told
    last = json.loads(metrics.read_text("utf-8").splitlines()[-1])["step"]
    assert json.loads((folder / "checkpoint" / "state.json").read_text("utf-8"))["step"] >= last > 0


def test_running_means_forget_slowly_and_skip_what_is_no_number() -> None:
    means = RunningMeans()
    means.add({"loss": 2.0, "lines": 0.0, "lines_loss": 2.5, "slot_places": 0.1, "letters": float("nan")})
    means.add({"loss": 1.0, "lines": 1.0, "letters": 0.5})
    means.add({"loss": 1.95, "letters": float("nan")})
    assert means.describe() == "loss 1.950  lines 5 %  letters 50 %"


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "list"]) == 0
    listed = capsys.readouterr().out
    assert {line.split()[0] for line in listed.splitlines()} == set(bundled_recipes())
    name, path = "sft", bundled_recipes()["sft"]
    assert main(["recipes", "show", name]) == 0
    assert capsys.readouterr().out == path.read_text(encoding="utf-8")
    assert main(["recipes", "show", name, "--set", "seed=7"]) == 0
    assert "\nseed: 7\n" in capsys.readouterr().out
    assert main(["recipes", "show", "nano", "--set", "nano_sft_1.seed=7"]) == 0
    members = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [member["seed"] for member in members if member["name"] == "nano_sft_1"] == [7]
    assert main(["recipes", "show", "nano", "--set", "seed=7"]) == 1
    assert "changes no recipe of nano" in capsys.readouterr().err
    assert main(["recipes", "show", "nothing"]) == 1
    assert "nothing" in capsys.readouterr().err
