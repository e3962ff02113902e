"""Fine-tuning from the command line, on data of one's own."""

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from minicpmv.cli.main import main
from minicpmv.recipes.loader import bundled_recipes, load_recipe
from minicpmv.training.recipe import TrainingRecipe

STAGES = [name for name in bundled_recipes() if isinstance(load_recipe(name), TrainingRecipe)]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")


def command(*words: object) -> int:
    return main([str(word) for word in ("train", *words)])


@pytest.fixture
def receipts(tmp_path: Path) -> Path:
    """A data set as a person would have it."""
    folder = tmp_path / "receipts"
    folder.mkdir()
    lines = []
    for number in range(5):
        picture = Image.new("RGB", (112, 56), "white")
        ImageDraw.Draw(picture).text((8, 20), f"Total {number}.00", fill="black")
        picture.save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", "question": "What is the total?", "answer": f"{number}.00"})
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder / "train.jsonl"


@pytest.mark.parametrize("lora", [(), ("--lora",)])
def test_a_data_set_is_learned_from_and_the_model_answers(
    lora: tuple[str, ...], receipts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert command("nano_sft", "--data", receipts, "--tiny", *lora, "--out", folder, "--device", "cpu") == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(folder / "model")
    assert "resampler" in said.err
    assert "step 2 of 2" in said.err
    assert (folder / "adapter" / "adapter_model.safetensors").exists() == bool(lora)
    assert (folder / "sheets" / "step-2.html").exists()
    asked = ["ask", str(receipts.parent / "0.png"), "What is the total?", "--model", str(folder / "model")]
    assert main([*asked, "--device", "cpu", "--max-new-tokens", "4"]) == 0


def test_epochs_are_counted_over_the_records(receipts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("nano_sft", "--data", receipts, "--epochs", "8", "--set", "batch=2", "--dry-run")
    assert command(*words) == 0
    assert "20 steps of 2 samples, 1 of warm-up, 19 of cosine decay" in capsys.readouterr().out


@pytest.mark.parametrize("name", STAGES)
def test_a_dry_run_counts_what_learns_without_a_weight(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(name, "--dry-run") == 0
    said = capsys.readouterr().out
    wanted = "88,907,776" if name == "sft" else "395,776"
    assert wanted in said


def test_a_stopped_run_is_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("nano_sft", "--tiny", "--out", tmp_path / "run", "--device", "cpu")
    assert command(*words, "--max-minutes", "1e-6") == 0
    assert "holds step 1 of 2" in capsys.readouterr().err
    assert command(*words) == 0
    assert "goes on from step 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("nano_first", "--lora"), "grows a model from nothing"),
        (("nano_sft", "--epochs", "2"), "--epochs needs --data"),
        (("nano_sft", "--data", "nothing.jsonl"), "nothing.jsonl"),
        (("nano_sft", "--model", "/no/such/folder"), "/no/such/folder"),
        (("nano_stf",), "Did you mean nano_sft"),
    ],
)
def test_a_wrong_value_is_one_line(
    words: tuple[str, ...],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*words, "--device", "cpu") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert reason in line


def test_a_file_without_a_usable_record_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text('{"caption": 3}\n', encoding="utf-8")
    assert command("nano_sft", "--data", path) == 1
    assert "no record that can be used" in capsys.readouterr().err
