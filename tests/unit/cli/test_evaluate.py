import json
from pathlib import Path

import pytest
from PIL import Image

from minicpmv.cli.main import main
from minicpmv.evaluation.tasks import TASKS, select_tasks


def evaluate(*words: object) -> int:
    return main(["eval", *(str(word) for word in words), "--device", "cpu"])


def test_the_figures_go_to_stdout_and_progress_to_stderr(toy_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(toy_folder, "--tasks", "lines.held_out_font,clips.flashes", "--samples", 2) == 0
    said = capsys.readouterr()
    lines = [line.split() for line in said.out.splitlines()]
    (reading,) = [line for line in lines if line[:1] == ["lines.held_out_font"]]
    (watching,) = [line for line in lines if line[:1] == ["clips.flashes"]]
    assert reading[1] == watching[1] == "2"
    assert "0.6 M parameters" in said.out
    assert "1/2 lines.held_out_font: 0.0 % right" in said.err
    assert "2/2 clips.flashes" in said.err


def test_json_is_one_object_with_every_figure(toy_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(toy_folder, "--tasks", "clips.direction", "--samples", 3, "--seed", 5, "--batch", 2, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["seed"], report["batch_size"]) == (str(toy_folder), 5, 2)
    (score,) = report["scores"]
    assert (score["task"], score["num_samples"], score["cer"]) == ("clips.direction", 3, None)
    assert score["right"]["low"] <= score["right"]["value"] <= score["right"]["high"]


@pytest.mark.parametrize("name", [".", "", "nowhere/a.jsonl"])
def test_answers_that_could_not_be_kept_are_not_asked_for(
    name: str, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate(toy_folder, "--tasks", "scenes.colour", "--samples", 1, "--answers", name) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --answers is ")


def test_answers_can_be_recorded_one_a_line(
    toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "answers.jsonl"
    assert evaluate(toy_folder, "--tasks", "scenes.colour", "--samples", 3, "--answers", file) == 0
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line["task"] for line in lines] == ["scenes.colour"] * 3
    assert all(line["question"].endswith("?") and line["truth"] for line in lines)
    assert list(tmp_path.iterdir()) == [file]


def test_a_perplexity_is_no_percentage(toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(toy_folder, "--tasks", "perplexity", "--samples", 3, "--answers", tmp_path / "a.jsonl") == 0
    said = capsys.readouterr()
    (row,) = [line.split() for line in said.out.splitlines() if line.split()[:1] == ["perplexity"]][-1:]
    assert row[1] == "3"
    assert float(row[3]) > 100
    assert "right, %" not in said.out
    assert "per token" in said.err


def test_answers_that_cannot_be_known_are_recorded_with_their_probability(
    toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "answers.jsonl"
    tasks = "restore.nothing,scenes.colour"
    assert evaluate(toy_folder, "--tasks", tasks, "--samples", 2, "--answers", file) == 0
    said = capsys.readouterr()
    assert "invented, %" in said.out
    assert "confidently invented" in said.err
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [("probability" in line) for line in lines] == [line["task"] == "restore.nothing" for line in lines]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--tasks", "lime"), "no task 'lime'"),
        (("--tasks", ","), "No task"),
        (("--tasks", "lines", "--samples", "0"), "number of samples"),
        (("--tasks", "lines", "--batch", "0"), "batch size"),
    ],
)
def test_a_wrong_value_is_one_line_and_leaves_no_file(
    toy_folder: Path, tmp_path: Path, words: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(toy_folder, *words, "--answers", tmp_path / "answers.jsonl") == 1
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert reason in line
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path / "nothing") == 1
    assert "nothing" in capsys.readouterr().err


def test_questions_of_ones_own_are_asked_in_their_order(
    toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (112, 56), "white").save(tmp_path / "a.png")
    lines = [{"image": "a.png", "question": f"What is {number}?", "answer": str(number)} for number in range(3)]
    mine = tmp_path / "mine.jsonl"
    mine.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert evaluate(toy_folder, "--data", mine, "--answers", tmp_path / "answers.jsonl", "--json") == 0
    (score,) = json.loads(capsys.readouterr().out)["scores"]
    assert (score["task"], score["num_samples"]) == ("mine", 3)
    asked = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["question"], line["truth"]) for line in asked] == [(f"What is {n}?", str(n)) for n in range(3)]
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "mine.jsonl"
    twin.write_text(json.dumps({"question": "Who?", "answer": "me"}) + "\n", encoding="utf-8")
    assert evaluate(toy_folder, "--data", mine, "--data", twin, "--samples", 1, "--json") == 0
    assert [score["task"] for score in json.loads(capsys.readouterr().out)["scores"]] == [str(mine), str(twin)]
    assert evaluate(toy_folder, "--data", mine, "--tasks", "scenes.colour", "--samples", 1, "--json") == 0
    assert [score["task"] for score in json.loads(capsys.readouterr().out)["scores"]] == ["scenes.colour", "mine"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "no record"), ('{"question": "What?"}\n', "mine.jsonl"), ('{"image": "no.png", "question": 3}\n', "mine")],
)
def test_data_that_cannot_be_asked_is_named(
    text: str, reason: str, toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.jsonl").write_text(text, encoding="utf-8")
    assert evaluate(toy_folder, "--data", tmp_path / "mine.jsonl") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert reason in line


def test_a_question_beyond_the_context_is_named_with_its_own_counts(
    toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.jsonl"
    questions = ["Who is it?", "Who is it? " * 2000, "Who?"]
    lines = [{"question": text, "answer": "me"} for text in questions]
    mine.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert evaluate(toy_folder, "--data", mine) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"{mine}, mine.jsonl:2: The prompt has" in line
    assert "0 of them for pictures" in line


def test_all_tasks_are_asked_unless_some_are_named() -> None:
    assert select_tasks() == select_tasks(["all"]) == TASKS
