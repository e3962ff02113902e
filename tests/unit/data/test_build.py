"""A data set that was written reads back as what it was made from."""

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicpmv.cli.main import main
from minicpmv.data.build import with_clip_files, write_dataset
from minicpmv.data.filters import Sieve, media_open
from minicpmv.data.readers import Flaw, Position, open_source
from minicpmv.data.sample import Sample
from minicpmv.data.sources import SourceRecipe, open_mixture
from minicpmv.errors import OptionError
from minicpmv.media.image import load_image
from minicpmv.media.video import inspect_video
from minicpmv.messages import ImagePart, Message, TextPart, VideoPart


def drawn(number: int) -> list[Sample]:
    worlds = {name: SourceRecipe(world=name) for name in ("ask", "clips", "facts", "reason")}
    mixture = open_mixture(worlds, 0)
    samples = [mixture.next()[1] for _ in range(number)]
    return [sample for sample in samples if isinstance(sample, Sample)]


def pixels(sample: Sample) -> list[np.ndarray]:
    pictures = []
    for part in sample.media:
        if isinstance(part, VideoPart):
            assert part.frames is not None
            pictures += [load_image(frame).image for frame in part.frames]
        elif isinstance(part, ImagePart):
            assert part.source is not None
            pictures.append(load_image(part.source).image)
    return [np.asarray(picture) for picture in pictures]


def test_what_is_drawn_reads_back(tmp_path: Path) -> None:
    samples = drawn(24)
    assert write_dataset(samples, tmp_path / "set", Sieve({"media": media_open()})) == (24, 0)
    read = [sample for sample, _ in open_source(tmp_path / "set").read(Position())]
    assert len(read) == 24
    for before, after in zip(samples, read, strict=True):
        assert isinstance(after, Sample)
        assert after.metadata == {**before.metadata, "id": before.key}
        for one, other in zip(before.messages, after.messages, strict=True):
            assert (one.role, one.text, one.reasoning) == (other.role, other.text, other.reasoning)
        assert all(np.array_equal(one, other) for one, other in zip(pixels(before), pixels(after), strict=True))
        for one_part, other_part in zip(before.media, after.media, strict=True):
            if isinstance(one_part, VideoPart) and isinstance(other_part, VideoPart):
                assert one_part.timestamps == other_part.timestamps
    assert not (tmp_path / "set" / "left_out.jsonl").exists()


def test_dates_of_tables_are_kept_as_text_and_half_characters_are_flaws(tmp_path: Path) -> None:
    moment = datetime(2026, 1, 2, 3, 4)
    turns = (Message("user", (TextPart("What?"),)), Message("assistant", (TextPart("This."),)))
    assert write_dataset([Sample("a", turns, {"at": moment})], tmp_path / "set", Sieve({})) == (1, 0)
    (again,) = [sample for sample, _ in open_source(tmp_path / "set").read(Position())]
    assert isinstance(again, Sample)
    assert again.metadata["at"] == str(moment)
    (tmp_path / "half.jsonl").write_text('{"prompt": "a", "completion": "\\ud83d"}\n')
    (flaw,) = [sample for sample, _ in open_source(tmp_path / "half.jsonl").read(Position())]
    assert isinstance(flaw, Flaw)
    assert "half a character" in flaw.reason


def test_files_and_bytes_are_collected_and_flaws_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "somewhere" / "a.PNG"
    path.parent.mkdir()
    Image.new("RGB", (40, 40), "red").save(path, "PNG")

    def sample(key: str, source: object) -> Sample:
        asked = Message("user", (ImagePart(source), TextPart("?")))  # type: ignore[arg-type]
        return Sample(key, (asked, Message("assistant", (TextPart("red"),))))

    samples = [sample("file", path), sample("bytes", path.read_bytes()), sample("gone", tmp_path / "no.png")]
    written = write_dataset([*samples, Flaw("x:3", "broken")], tmp_path / "set", Sieve({"media": media_open()}))
    assert written == (2, 2)
    assert sorted(file.name for file in (tmp_path / "set" / "media").iterdir()) == ["000000-0.png", "000001-0.png"]
    listed = (tmp_path / "set" / "left_out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["key"] for line in listed] == ["gone", "x:3"]
    with pytest.raises(OptionError, match="exists already"):
        write_dataset([], tmp_path / "set", Sieve({}))


def test_the_command_freezes_a_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "receipts"
    words = ["data", "build", "ask", "--options", "{kinds: [receipt]}", "-n", "6", "--no-duplicates", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out)
    kept = len((out / "data.jsonl").read_text(encoding="utf-8").splitlines())
    assert f"{kept} samples, {6 - kept} left out" in said.err
    assert main(["data", "stats", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == kept


def test_drawn_clips_can_be_written_as_video_files(tmp_path: Path) -> None:
    words = ["data", "build", "clips", "--options", "{tasks: [colour_first, direction]}", "-n", "3", "--seed", "4"]
    assert main([*words, "--clips", "mp4", "--out", str(tmp_path / "files")]) == 0
    assert main([*words, "--out", str(tmp_path / "pictures")]) == 0
    assert {file.suffix for file in (tmp_path / "files" / "media").iterdir()} == {".mp4"}
    read = [[sample for sample, _ in open_source(tmp_path / name).read(Position())] for name in ("files", "pictures")]
    assert len(read[0]) == 3
    for filed, pictured in zip(*read, strict=True):
        assert isinstance(filed, Sample)
        assert isinstance(pictured, Sample)
        assert (filed.text, filed.metadata) == (pictured.text, pictured.metadata)
        (clip,), (frames,) = filed.media, pictured.media
        assert isinstance(clip, VideoPart)
        assert isinstance(frames, VideoPart)
        assert clip.source is not None
        assert frames.timestamps is not None
        assert clip.fps == pytest.approx(1 / frames.timestamps[1])
        video = inspect_video(clip.source)
        indices = [round(time_s * 30) for time_s in frames.timestamps]
        for seen, drawn_frame in zip(video.frames(indices), pixels(pictured), strict=True):
            assert np.abs(np.asarray(seen.image).astype(int) - drawn_frame).mean() < 8
    flaw = Flaw("a", "broken")
    assert with_clip_files(flaw) is flaw
    still = Sample("a", (Message("user", (ImagePart("a.png"), VideoPart("a.mp4"))),))
    assert with_clip_files(still) == still


def test_the_command_leaves_out_pictures_without_words_and_words_that_say_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    records = [
        {"id": "good", "image": "a.png", "prompt": "Who won?", "completion": "Marie Curie, in 1903 and 1911."},
        {"id": "empty", "prompt": "how is it", "completion": "it is so very nice to be here"},
        {"id": "pictures", "images": ["a.png"] * 3, "prompt": "Who?", "completion": "Marie Curie"},
    ]
    (tmp_path / "some.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    words = ["data", "build", str(tmp_path / "some.jsonl"), "--most-media", "50", "--least-knowledge", "0.1"]
    assert main([*words, "--out", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().err
    assert "1 samples, 2 left out: 1 balance, 1 knowledge" in " ".join(said.split())
    (kept,) = (tmp_path / "set" / "data.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(kept)["metadata"]["id"] == "good"
    assert main([*words[:3], "--out", str(tmp_path / "all")]) == 0
    assert "3 samples, 0 left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["ask", "-n", "1", "--most-media", "0"], "--most-media is 0"),
        (["ask", "-n", "1", "--least-knowledge", "5"], "--least-knowledge is 5"),
        (["clips", "-n", "1", "--clips", "avi"], "--clips is 'avi'"),
        (["ask"], "--number"),
        (["ask", "-n", "0"], "--number is 0"),
        (["ask", "-n", "2", "--options", "kinds"], "--options is 'kinds'"),
        (["ask", "-n", "2", "--options", "{kind: [receipt]}"], "Did you mean 'kinds'"),
        (["nothing.jsonl", "--options", "{a: 1}"], "no world"),
        (["read", "-n", "1", "--options", "{longest_side_px: 20}"], "longest_side_px is 20"),
        (["own_pages", "-n", "1", "--options", "{pages: nothing.png}"], "nothing.png"),
    ],
)
def test_a_wrong_value_is_one_line_and_writes_nothing(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "build", *words, "--out", str(tmp_path / "set")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert reason in line
    assert list(tmp_path.iterdir()) == []
