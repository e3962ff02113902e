"""`minicpmv data`: a page to look at, and counts that add up."""

import json
from pathlib import Path

from tests.unit.cli.conftest import Run


def write(path: Path) -> Path:
    lines = [json.dumps({"image": "a.png", "caption": f"picture {index}"}) for index in range(3)]
    lines += ["{broken", json.dumps({"prompt": "2 + 2?", "completion": "4"})]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_stats_count_what_is_there_and_say_what_is_left_out(run: Run, tmp_path: Path) -> None:
    code, out, err = run("data", "stats", write(tmp_path / "a.jsonl"), "--json")
    assert (code, err) == (0, "")
    counted = json.loads(out)
    assert (counted["samples"], counted["images"], counted["turns"]) == (4, 3, 8)
    assert [flaw["key"].split("@")[0] for flaw in counted["left_out"]] == ["a.jsonl"]
    code, out, err = run("data", "stats", tmp_path / "a.jsonl")
    assert code == 0
    assert "left out" in out
    assert "a.jsonl@" in err


def test_a_preview_of_a_world_is_written_and_named(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "sheet.html"
    code, out, err = run("data", "preview", "ask", "--out", page, "-n", 3)
    assert code == 0, err
    assert out.strip() == str(page)
    assert page.read_text().count("<article>") == 3


def test_a_preview_of_a_file_shows_all_of_it_if_it_is_short(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "sheet.html"
    assert run("data", "preview", write(tmp_path / "a.jsonl"), "--out", page)[0] == 0
    assert page.read_text().count("<article>") == 5


def test_misuse_is_told_in_one_line(run: Run, tmp_path: Path) -> None:
    for words in (("preview", tmp_path / "none.jsonl"), ("preview", "ask", "-n", 0), ("stats", "read")):
        code, out, err = run("data", *words)
        assert code == 1
        assert out == ""
        assert len(err.strip().splitlines()) == 1
