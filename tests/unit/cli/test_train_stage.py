"""Fine-tuning from the command line, on data of one's own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from PIL import Image, ImageDraw

import minicpmv
from minicpmv.cli.local_processes import train_together
from minicpmv.cli.main import main
from minicpmv.recipes.loader import ChainRecipe, bundled_recipes, load_recipe
from minicpmv.training.recipe import TrainingRecipe

ROOT = Path(__file__).resolve().parents[3]
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


def test_a_dry_run_tells_of_samples_that_cannot_be_used(receipts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (receipts.parent / "0.png").unlink()
    assert command("nano_sft", "--data", receipts, "--dry-run", "--set", "batch=50") == 0
    said = capsys.readouterr().out
    assert re.search(r"\d+ of \d+ samples cannot be used and are not counted: .*:1: .*0.png does not exist", said), said


def test_a_run_in_which_nothing_can_be_used_fails(receipts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for picture in receipts.parent.glob("*.png"):
        picture.unlink()
    words = ("nano_sft", "--data", receipts, "--tiny", "--out", receipts.parent / "run", "--device", "cpu")
    assert command(*words) == 1
    assert "4 of the first 4 samples cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("name", STAGES)
def test_a_dry_run_counts_what_learns_without_a_weight(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(name, "--dry-run") == 0
    said = capsys.readouterr().out
    wanted = "88,907,776" if name == "sft" or name.startswith("8b") else "395,776"
    assert wanted in said
    if name == "nano_pretrain_3":  # the mixture as a tree, with the tokens of what was drawn
        assert re.search(r"── lines  \d+\.\d %  \d+ tokens", said)
        assert re.search(r"── text  \d+\.\d %", said)
        assert re.search(r" +[├└]── told  \d+\.\d %", said)


@pytest.mark.parametrize("name", STAGES)
def test_a_stopped_run_is_continued(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The bundled model has no heads for dense losses beside it; tests/invariants/test_dense_losses.py has some.
    changes = ("--set", "sheet_samples=0", "--set", "dense=null")
    words = (name, "--model", "nano", "--tiny", "--out", tmp_path / "run", "--device", "cpu", *changes)
    assert command(*words, "--max-minutes", "1e-6") == 0
    assert "holds step 1 of 2" in capsys.readouterr().err
    assert command(*words) == 0
    assert "goes on from step 1" in capsys.readouterr().err


def test_a_chain_runs_every_stage_once_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = tmp_path / "two.yaml"
    chain.write_text("name: two\nchain: [nano_sft_1, nano_sft_2]\n", encoding="utf-8")
    changes = [word for name in ("nano_sft_1", "nano_sft_2") for word in ("--set", f"{name}.sheet_samples=0")]
    words = (chain, "--out", tmp_path, "--tiny", "--device", "cpu", *changes, "--set", "nano_sft_1.start=nano")
    words += ("--set", "nano_sft_1.dense.heads=null")  # the bundled model has no heads beside it
    assert command(*words, "--max-minutes", "1e-6") == 0
    assert "nano_sft_1 holds step 1 of 2" in capsys.readouterr().err
    assert command(*words) == 0
    said = capsys.readouterr()
    assert said.out.split() == [str(tmp_path / "nano_sft_1" / "model"), str(tmp_path / "nano_sft_2" / "model")]
    assert "two, 2 of 2: nano_sft_2" in said.err
    assert command(*words) == 0
    assert capsys.readouterr().err.count("is done; remove") == 2
    assert command(*words, "--set", "nano_sft_2.batch=3") == 0
    assert "nano_sft_2 is done with other settings; remove" in capsys.readouterr().err


def test_the_whole_chain_runs_from_blank_weights_and_its_model_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("nano", "--tiny", "--out", tmp_path, "--device", "cpu") == 0
    chain = load_recipe("nano")
    assert isinstance(chain, ChainRecipe)
    last = tmp_path / chain.chain[-1] / "model"
    assert capsys.readouterr().out.split()[-1] == str(last)
    for name in chain.chain[1:]:
        assert json.loads((tmp_path / name / "checkpoint" / "state.json").read_text("utf-8"))["step"] == 2
    assert (
        main(["ask", str(ROOT / "examples" / "sign.png"), "What?", "--model", str(last), "--max-new-tokens", "4"]) == 0
    )


def test_a_dry_run_of_a_chain_describes_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("nano", "--dry-run") == 0
    said = capsys.readouterr().out
    places = [said.index(f"{name}: ") for name in ("nano_towers", "nano_language", "nano_pretrain_1", "nano_sft_2")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("nano_towers", "--lora"), "makes a model from the beginning"),
        (("nano_sft", "--epochs", "2"), "--epochs needs --data"),
        (("nano_sft", "--data", "nothing.jsonl"), "nothing.jsonl"),
        (("nano_sft", "--model", "/no/such/folder"), "/no/such/folder"),
        (("nano_stf",), "Did you mean nano_sft"),
        (("nano_sft", "--epochs", "inf", "--data", "mine.jsonl"), "--epochs is inf"),
        (("nano_sft", "--tiny", "--set", "attention=flash_attention_2"), "flash_attention_2 cannot be used here"),
        (("nano_sft_2",), "goes on from nano_sft_1, and there is no"),
        (("nano_pretrain_1", "--model", "nano"), "no dense heads for this model"),
        (("nano", "--data", "mine.jsonl"), "makes a model from the beginning"),
        (("nano", "--set", "batch=3"), "changes no recipe of nano"),
        (("nano_sft", "--dry-run", "--set", "rows.tokens=8"), "No sample can be used"),
        (("8b_join", "--set", "processor=/no/such/folder"), "/no/such/folder"),
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


@pytest.mark.parametrize(
    ("words", "llm", "resampler"),
    [
        (("--lora",), ("262,144", "0.005"), ("395,776", "0.0003")),
        (("--qlora", "--set", "lora.rank=8"), ("131,072", "0.005"), ("395,776", "0.0003")),
        (("--lora", "--set", "rates.llm=0.002"), ("262,144", "0.002"), ("395,776", "0.0003")),
    ],
)
def test_adapters_are_as_the_help_says_and_as_the_command_line_changes_them(
    words: tuple[str, ...],
    llm: tuple[str, str],
    resampler: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("nano_sft", "--dry-run", "--device", "cpu", *words) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    told = {line[0]: (line[3], line[6]) for line in lines if line[:1] in (["llm"], ["resampler"])}
    assert told == {"llm": llm, "resampler": resampler}


def test_a_file_without_a_usable_record_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text('{"caption": 3}\n', encoding="utf-8")
    assert command("nano_sft", "--data", path) == 1
    assert "no record that can be used" in capsys.readouterr().err


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes find the package whether it is installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(Path(minicpmv.__file__).parents[1]))


@pytest.mark.usefixtures("importable")
def test_several_processes_train_a_stage_together(
    receipts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("nano_sft", "--data", receipts, "--tiny", "--device", "cpu", "--set", "sheet_samples=0", "--threads", "1")
    assert command(*words, "--processes", "2", "--out", tmp_path / "two") == 0
    said = capfd.readouterr()
    assert said.out.strip() == str(tmp_path / "two" / "model")
    assert "step 2 of 2" in said.err
    assert command(*words, "--out", tmp_path / "one") == 0
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("one", "two")
    )
    assert [entry["samples"] for entry in two] == [entry["samples"] for entry in one]
    # In bfloat16 a row of other samples rounds otherwise; float32 is compared in tests/invariants/test_training.py.
    assert [entry["loss"] for entry in two] == pytest.approx([entry["loss"] for entry in one], rel=0.02)


@pytest.mark.usefixtures("importable")
def test_processes_that_fail_say_so_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ("nano_sft", "--model", "/no/such/folder", "--tiny", "--device", "cpu", "--threads", "1")
    assert command(*words, "--processes", "2", "--out", tmp_path / "run") == 1
    errors = capfd.readouterr().err
    assert errors.count("/no/such/folder") == 1
    assert "Traceback" not in errors


def test_a_chain_is_not_started_in_several_processes_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command("nano", "--device", "cpu") == 1
    assert "Start it once, with --processes" in capsys.readouterr().err


def test_a_dry_run_looks_at_the_run_it_would_go_on_from(
    toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(toy_folder, tmp_path / "mine" / "model")
    assert command("nano_sft", "--dry-run", "--set", "start=mine", "--out", tmp_path / "next") == 0
    assert "resampler      395,776" not in capsys.readouterr().out


STUBS = {
    "killed": "import os, signal, time\nos.kill(os.getpid(), signal.SIGKILL) if RANK == 0 else time.sleep(60)",
    "waits": (
        "import time\nopen(f'began-{RANK}', 'w').close()\ntry:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    open(f'stopped-{RANK}', 'w').close()"
    ),
    "threads": (
        "import torch\nfrom accelerate import PartialState\nPartialState(cpu=True)\n"
        "open(f'threads-{RANK}', 'w').write(str(torch.get_num_threads()))"
    ),
    "second": "import sys, time\ntime.sleep(0.2 if RANK else 1.5)\nsys.exit('the reason') if RANK else sys.exit(1)",
}


def write_stub(folder: Path, stub: str) -> Path:
    """A package of our name whose command does something else."""
    package = folder / "stub" / "minicpmv"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(f"import os\nRANK = int(os.environ['RANK'])\n{STUBS[stub]}\n")
    return package.parent


@pytest.mark.parametrize(("stub", "said"), [("killed", "ended by SIGKILL"), ("second", "process-1.log says why")])
def test_the_process_that_fails_first_is_named(
    stub: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(write_stub(tmp_path, stub)))
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    with pytest.raises(typer.Exit):
        train_together([], tmp_path / "run", 2)
    assert time.monotonic() - began < 30
    assert said in capsys.readouterr().err


def test_processes_that_train_together_do_not_take_each_others_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left to itself, accelerate gives each process as many threads as there are cores: ten times slower on two."""
    monkeypatch.setenv("PYTHONPATH", str(write_stub(tmp_path, "threads")))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir(tmp_path)
    train_together([], tmp_path / "run", 2, threads=1)
    assert [(tmp_path / f"threads-{rank}").read_text() for rank in (0, 1)] == ["1", "1"]


def test_a_command_in_the_background_of_a_script_stops_its_processes_gently(tmp_path: Path) -> None:
    """There SIGINT is ignored, and whoever is started inherits that."""
    stub = write_stub(tmp_path, "waits")
    command_line = f"""
import os
from pathlib import Path
from minicpmv.cli.local_processes import train_together
os.environ["PYTHONPATH"] = {str(stub)!r}
train_together([], Path({str(tmp_path)!r}), 2)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", command_line],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(minicpmv.__file__).parents[1])},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509 - no threads in the child yet
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("began-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    process.wait(30)
    assert sorted(path.name for path in tmp_path.glob("stopped-*")) == ["stopped-0", "stopped-1"]
