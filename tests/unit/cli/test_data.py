"""`minicpmv data`: a page to look at, and counts that add up."""

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.cli.conftest import Run


def write(path: Path) -> Path:
    Image.new("RGB", (56, 56)).save(path.with_name("a.png"))
    lines = [json.dumps({"image": "a.png", "caption": f"picture {index}"}) for index in range(3)]
    lines += ["{broken", json.dumps({"prompt": "2 + 2?", "completion": "4"})]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_stats_count_what_is_there_and_say_what_is_left_out(run: Run, tmp_path: Path) -> None:
    code, out, err = run("data", "stats", write(tmp_path / "a.jsonl"), "--json")
    assert (code, err) == (0, "")
    counted = json.loads(out)
    assert (counted["samples"], counted["images"], counted["turns"]) == (4, 3, 8)
    assert [flaw["key"] for flaw in counted["left_out"]] == ["a.jsonl:4"]
    code, out, err = run("data", "stats", tmp_path / "a.jsonl")
    assert code == 0
    assert "left out" in out
    assert "a.jsonl:" in err


def test_stats_find_media_that_are_not_there(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl")
    (tmp_path / "a.png").write_bytes(b"")
    lines = [{"video": "b.mp4", "caption": "c"}, {"image": "https://example.org/a.png", "caption": "c"}]
    path.write_text(path.read_text() + "\n".join(map(json.dumps, lines)) + "\n")
    counted = json.loads(run("data", "stats", path, "--json")[1])
    assert counted["samples"] == 2
    reasons = [(flaw["key"], flaw["reason"]) for flaw in counted["left_out"]]
    assert reasons[0] == ("a.jsonl:1", f"{tmp_path / 'a.png'} is empty.")
    assert reasons[-1] == ("a.jsonl:6", f"{tmp_path / 'b.mp4'} does not exist.")
    assert len(reasons) == 5


def test_stats_say_how_many_more_are_left_out(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{\n" * 23)
    told = run("data", "stats", path)[2].splitlines()
    assert len(told) == 21
    assert told[-1] == "and 3 more; --json lists all"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are Unicode")
def test_names_that_are_no_utf_8_are_written_as_they_are_read(run: Run, tmp_path: Path) -> None:
    """As old archives hold them, in Latin-1."""
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (56, 56)).save(tmp_path / name)
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"id": name, "image": name, "caption": "a cup"}) + "\n" + json.dumps({"id": name}))
    code, _, err = run("data", "build", source, "--out", tmp_path / "set")
    assert code == 0, err
    record = json.loads((tmp_path / "set" / "data.jsonl").read_text(encoding="utf-8"))
    assert record["id"] == "a.jsonl:1"
    assert record["metadata"] == {"id": name}
    assert run("data", "preview", source, "--out", tmp_path / "sheet.html")[0] == 0
    assert (tmp_path / "sheet.html").read_text(encoding="utf-8").count("<article>") == 2


def test_nothing_in_is_no_success(run: Run, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert run("data", "stats", empty)[1].split() == ["samples", "0", "left", "out", "0"]
    code, out, err = run("data", "build", empty, "--out", tmp_path / "one")
    assert (code, out) == (1, "")
    assert "no sample that can be used" in err
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{\n")
    code, _, err = run("data", "build", broken, "--out", tmp_path / "other")
    assert code == 1
    assert f"0 samples, 1 left out: 1 unreadable; see {tmp_path / 'other' / 'left_out.jsonl'}" in err


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
    for words in (
        ("preview", tmp_path / "none.jsonl"),
        ("preview", "ask", "-n", 0),
        ("preview", "ask", "--out", tmp_path),
        ("preview", "ask", "--out", ""),
        ("preview", "ask", "--out", tmp_path / "nowhere" / "sheet.html"),
        ("preview", "ask", "--seed", -1),
        ("calibrate", "--out", tmp_path),
        ("stats", "read"),
    ):
        code, out, err = run("data", *words)
        assert code == 1
        assert out == ""
        assert len(err.strip().splitlines()) == 1
