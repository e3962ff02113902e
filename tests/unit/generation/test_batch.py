"""Questions from a file: answers in their order, errors in their place, and a killed run that goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.errors import OptionError
from minicpmv.generation import batch
from minicpmv.generation.chat import Assistant
from minicpmv.generation.options import GenerationOptions

EXAMPLES = Path(__file__).parents[3] / "examples"
SHORT = GenerationOptions(max_new_tokens=12)


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant.load(dtype="float32", device="cpu")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    sign = (EXAMPLES / "sign.png").read_bytes()
    (tmp_path / "sign.png").write_bytes(sign)
    lines: list[Any] = [
        {"question": "What is written?", "image": "sign.png", "id": "a"},
        {"question": "Repeat: tea"},
        {"question": "What is written?", "image": "missing.png"},
        {"messages": [{"role": "user", "content": [{"type": "image", "path": "sign.png"}, "What is written?"]}]},
        {"image": "sign.png"},
        [1],
        {"messages": None},
        {"messages": [{"role": "user", "content": [{"type": ["a"]}]}]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"function": "f"}]}]},
        *({"question": f"Repeat: {number}", "id": number} for number in range(30)),
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "in.jsonl").write_text(text + "\n\n{broken\n", encoding="utf-8")
    return tmp_path / "in.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_line_gets_its_answer_or_its_error_in_its_place(
    assistant: Assistant, questions: Path, tmp_path: Path
) -> None:
    assert batch.count_lines(questions) == 40
    written, failed = batch.answer_file(assistant, questions, tmp_path / "out.jsonl", SHORT)
    assert (written, failed) == (40, 7)
    out = read(tmp_path / "out.jsonl")
    assert [line["line"] for line in out] == list(range(1, 41))
    assert out[0]["id"] == "a"
    assert out[0]["answer"] == out[3]["answer"] == "Pasta $7.50"
    assert out[0]["visual_tokens"] == 64
    assert [line["line"] for line in out if "error" in line] == [3, 5, 6, 7, 8, 9, 40]
    assert "missing.png" in out[2]["error"]
    for line in out[9:39]:
        alone = assistant.ask([{"role": "user", "content": f"Repeat: {line['id']}"}], SHORT)
        assert line["answer"] == alone.text


def test_a_killed_run_goes_on_behind_its_last_whole_line(assistant: Assistant, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    batch.answer_file(assistant, questions, out, SHORT)
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:9]) + lines[9][:7])
    called = []
    written, _ = batch.answer_file(assistant, questions, out, SHORT, on_answer=lambda: called.append(1))
    assert written == len(called) == 31
    again = read(out)
    assert [line["line"] for line in again] == list(range(1, 41))
    same = ("line", "answer", "error")
    wanted = [json.loads(line) for line in lines]
    assert [[line.get(name) for name in same] for line in again] == [
        [line.get(name) for name in same] for line in wanted
    ]
    assert batch.answer_file(assistant, questions, out, SHORT) == (0, 0)


def test_files_that_are_none_are_refused(assistant: Assistant, questions: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        batch.answer_file(assistant, tmp_path / "nowhere.jsonl", tmp_path / "out.jsonl", SHORT)
    (tmp_path / "other.jsonl").write_text('{"question": "mine"}\n')
    with pytest.raises(OptionError, match="something else"):
        batch.answer_file(assistant, questions, tmp_path / "other.jsonl", SHORT)
    assert (tmp_path / "other.jsonl").read_text() == '{"question": "mine"}\n'
