import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.cli.conftest import Run

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    Image.new("RGB", (300, 200), "red").save(file)
    return file


def one_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize("group", ["data", "recipes", "export"])
def test_a_group_without_its_command_is_a_question_for_help(group: str, run: Run) -> None:
    code, out, err = run(group)
    assert (code, err) == (0, "")
    assert "Commands:\n" in out


def test_help_lists_the_commands(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert all(name in out for name in ("ask", "chat", "plan", "env"))
    assert run() == (code, out, err)


def test_env_names_versions_for_people_and_machines(run: Run) -> None:
    facts = json.loads(run("env", "--json")[1])
    assert facts["torch"]
    assert facts["python"].startswith("3.")
    assert f"torch {' ' * (len(max(facts, key=len)) - 5)} {facts['torch']}" in run("env")[1]


def test_ask_prints_the_answer_and_nothing_else_on_stdout(run: Run, toy_folder: Path, picture: Path) -> None:
    question = ("ask", picture, "What is it?", "--model", toy_folder, "--device", "cpu", "--max-new-tokens", 4)
    code, out, err = run(*question)
    assert code == 0
    assert "cut off after 4 tokens" in err
    answer = json.loads(run(*question, "--json")[1])
    assert out.strip() == answer["text"]
    assert answer["model"] == str(toy_folder)
    assert answer["files"] == [{"file": str(picture), "kind": "image"}]
    assert answer["finish_reason"] == "length"


def test_ask_takes_pictures_pages_and_clips_together(run: Run, toy_folder: Path) -> None:
    files = [EXAMPLES / name for name in ("sign.png", "note.pdf", "clip.mp4")]
    options = ("--model", toy_folder, "--device", "cpu", "--max-new-tokens", 2, "--packing", 6, "--json")
    code, out, err = run("ask", *files, "What is it?", *options)
    assert code == 0, err
    assert [file["kind"] for file in json.loads(out)["files"]] == ["image", "document", "video"]


def test_reasoning_goes_to_stderr(run: Run, toy_folder: Path) -> None:
    options = ("--model", toy_folder, "--device", "cpu", "--max-new-tokens", 8, "--think")
    code, out, err = run("ask", "What is it?", *options)
    assert code == 0
    assert out.strip() == ""
    assert len(err.splitlines()[0].strip()) > 0


def test_sampling_is_repeatable_with_a_seed(run: Run, toy_folder: Path) -> None:
    options = ("--model", toy_folder, "--device", "cpu", "--max-new-tokens", 8, "--temperature", 2)
    answers = [run("ask", "Hi", *options, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_plan_tells_what_each_file_becomes(run: Run, toy_folder: Path, picture: Path) -> None:
    code, out, err = run("plan", picture, "--model", toy_folder, "--json", "--max-slices", 4)
    assert (code, err) == (0, "")
    plan = json.loads(out)
    file = plan["files"][0]
    assert (file["kind"], file["width"], file["height"]) == ("image", 300, 200)
    columns, rows = file["grid"]
    assert len(file["items"]) == columns * rows + 1 == file["packs"]
    assert plan["total"]["visual_tokens"] == file["visual_tokens"] == 64 * file["packs"]
    assert plan["total"]["prompt_tokens"] > file["visual_tokens"]
    assert "slices" in run("plan", picture, "--model", toy_folder)[1]


def test_plan_agrees_with_what_ask_counts(run: Run, toy_folder: Path, picture: Path) -> None:
    model = ("--model", toy_folder, "--json")
    for file in (picture, EXAMPLES / "clip.mp4", EXAMPLES / "note.pdf"):
        planned = json.loads(run("plan", file, "--question", "Hi!", *model)[1])["total"]
        asked = json.loads(run("ask", file, "Hi!", *model, "--device", "cpu", "--max-new-tokens", 1)[1])
        assert planned["prompt_tokens"] == asked["prompt_tokens"]
        assert planned["visual_tokens"] == asked["visual_tokens"]


def test_plan_knows_the_released_model_from_its_configuration(run: Run, official_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1344, 1344)).save(tmp_path / "page.png")
    plan = json.loads(run("plan", tmp_path / "page.png", "--model", official_folder, "--json")[1])
    assert plan["files"][0]["grid"] == [3, 3]
    assert plan["files"][0]["visual_tokens"] == 640
    assert plan["total"]["weights_bytes"] == 17_391_790_560
    assert plan["total"]["kv_bytes"] == 147_456 * plan["total"]["prompt_tokens"]


def test_chat_answers_line_after_line(
    run: Run, toy_folder: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["What is it?", "", f"/add {picture}", "And this?", "/think", "/help", "/nonsense", "/reset", "/quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    code, out, err = run("chat", picture, "--model", toy_folder, "--device", "cpu", "--max-new-tokens", 3)
    assert code == 0
    assert out.count("\n") >= 2
    assert "thinking is on" in err
    assert "/add FILE" in err
    assert "There is no /nonsense" in err


def test_chat_ends_with_its_input_and_fails_with_a_bad_file(
    run: Run, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["/add nowhere.png"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    code, _, err = run("chat", "--model", toy_folder, "--device", "cpu")
    assert code == 1
    assert "nowhere.png" in one_line(err)

    def end(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    assert run("chat", "--model", toy_folder, "--device", "cpu")[0] == 0


def test_options_that_fit_no_file_are_mentioned(run: Run, toy_folder: Path, picture: Path) -> None:
    code, _, err = run("plan", picture, "--model", toy_folder, "--fps", 2, "--pages", "1")
    assert code == 0
    assert "--fps" in err
    assert "--pages" in err


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["ask"], 2, "Ask something"),
        (["frobnicate"], 2, "frobnicate"),
        (["ask", "--frob", "Hi"], 2, "--frob"),
        (["ask", str(EXAMPLES / "sign.png")], 2, "is the question"),
        (["ask", "Hi", "--packing", "many"], 1, "--packing"),
        (["ask", "Hi", "--packing", "7"], 1, "packing is 7"),
        (["ask", "Hi", "--fps", "0"], 1, "fps is 0"),
        (["ask", "Hi", "--max-slices", "0"], 1, "max_slices is 0"),
        (["ask", "Hi", "--max-frames", "0"], 1, "max_frames is 0"),
        (["ask", "Hi", "--max-new-tokens", "0"], 1, "max_new_tokens is 0"),
        (["ask", "Hi", "--thinking-budget", "-1"], 1, "thinking_budget is -1"),
        (["ask", "Hi", "--thinking-budget", "4", "--num-beams", "2"], 1, "Beam search"),
        (["ask", "Hi", "--choice", "a", "--num-beams", "2"], 1, "Beam search"),
        (["ask", "Hi", "--choice", "a", "--regex", "b"], 1, "given by regex and choices"),
        (["ask", "Hi", "--choice", ""], 1, "choices that are not empty"),
        (["ask", "Hi", "--regex", "("], 1, "form of the answer"),
        (["ask", "Hi", "--schema", "nowhere.json"], 1, "nowhere.json"),
        (["ask", "Hi", "--schema", str(EXAMPLES / "sign.png")], 1, "sign.png"),
        (["ask", "Hi", "--temperature", "-1"], 1, "temperature is -1"),
        (["ask", "Hi", "--model", "nowhere"], 1, "nowhere"),
        (["ask", "Hi", "--model", "nobody/nothing"], 1, "nobody/nothing"),
        (["plan", "nowhere.png"], 1, "nowhere.png"),
        (["plan", str(EXAMPLES / "note.pdf"), "--pages", "2"], 1, "page"),
        (["plan", str(EXAMPLES / "note.pdf"), "--pages", "x"], 1, "pages"),
        (["ask", "https://example.org/a.png", "Hi"], 1, "network"),
    ],
)
def test_a_wrong_command_line_ends_in_one_line(
    run: Run, words: list[str], code: int, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    got, out, err = run(*words)
    assert (got, out) == (code, "")
    assert named in one_line(err)


def test_an_answer_has_the_form_of_the_options(run: Run, toy_folder: Path, tmp_path: Path) -> None:
    ask = ("ask", "How many?", "--model", toy_folder, "--device", "cpu", "--max-new-tokens", 40)
    assert run(*ask, "--choice", "seven", "--choice", "eight")[1].strip() in ("seven", "eight")
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
    (tmp_path / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
    assert json.loads(run(*ask, "--schema", tmp_path / "schema.json")[1]) == {"n": 7}
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    code, _, err = run(*ask, "--schema", tmp_path / "list.json")
    assert (code, "no JSON object" in one_line(err)) == (1, True)
    questions, answers = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    questions.write_text('{"question": "How many?"}\n{"question": "And now?"}\n', encoding="utf-8")
    words = ("ask", "--batch", questions, "--out", answers, "--model", toy_folder, "--device", "cpu", "--regex", "[ab]")
    assert run(*words)[0] == 0
    told = [json.loads(line)["answer"] for line in answers.read_text("utf-8").splitlines()]
    assert len(told) == 2
    assert set(told) <= {"a", "b"}


def test_a_prompt_that_does_not_fit_is_refused_with_counts(run: Run, toy_folder: Path, picture: Path) -> None:
    code, out, err = run("ask", *[picture] * 70, "What?", "--model", toy_folder, "--device", "cpu", "--max-slices", 1)
    assert (code, out) == (1, "")
    assert "at least 4160 tokens for pictures; the limit is 4096" in one_line(err)


def test_device_and_dtype_that_do_not_exist_are_named(run: Run, toy_folder: Path) -> None:
    assert "abacus" in one_line(run("ask", "Hi", "--model", toy_folder, "--device", "abacus")[2])
    assert "float128" in one_line(run("ask", "Hi", "--model", toy_folder, "--dtype", "float128")[2])


def minicpmv(*words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "minicpmv", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_program_itself_ends_with_the_code_and_shows_a_traceback_only_when_asked() -> None:
    plain, debug = minicpmv("plan", "nowhere.png"), minicpmv("plan", "nowhere.png", "--debug")
    assert (plain.returncode, debug.returncode) == (1, 1)
    assert plain.stdout == ""
    assert plain.stderr.count("\n") == 1
    assert "Traceback" in debug.stderr
    assert minicpmv("--help").returncode == 0
