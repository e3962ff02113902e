"""Clips with what is said about them: captions, subtitles with their times, and clips that cannot be used."""

import builtins
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpmv.data.build import write_dataset
from minicpmv.data.captions import CLIP_QUESTION, MAX_BYTES, SPEECH_QUESTION, read_caption
from minicpmv.data.filters import Sieve, media_open
from minicpmv.data.readers import Clips, Flaw, JsonLines, Position, open_source
from minicpmv.data.sample import Sample
from minicpmv.data.worlds.clip_files import write_clip
from minicpmv.errors import MediaError, MessageError, OptionError
from minicpmv.messages import TextPart, VideoPart

SRT = """1
00:00:01,500 --> 00:00:03,250
<i>Hello</i> there,
you &amp; me

2
00:01:04,000 --> 00:01:05,000 X1:1
{\\an8}Bye {all}
"""

VTT = """WEBVTT - title

STYLE
::cue { color: red }

NOTE nobody sees this

intro
00:01.500 --> 00:03.250 align:start position:0%
<v Bob>Hello</v> <c.yellow>there</c>, <00:00:02.000>you &amp; me

01:00:04.000 --> 01:00:05.000
- Bye
- {all}

01:00:06.000 --> 01:00:07.000
<i></i>
"""


def read(path: Path) -> list[Sample | Flaw]:
    return [found for found, _ in open_source(path).read(Position())]


def turns(found: Sample | Flaw) -> tuple[Any, ...]:
    assert isinstance(found, Sample), found
    return (*found.messages[0].parts, found.messages[1].text)


def frames() -> list[np.ndarray]:
    return [np.full((32, 32, 3), shade, dtype=np.uint8) for shade in (0, 120, 240)]


def without_webvtt(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fake(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "webvtt":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", fake)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clip of every kind, and files that are none."""
    (tmp_path / "b").mkdir()
    write_clip(tmp_path / "a.mp4", frames(), (0.0, 0.5, 1.0))
    (tmp_path / "a.txt").write_text("\ufeffIt grows\nbrighter.\n", encoding="utf-8")
    (tmp_path / "a.srt").write_text(SRT)
    (tmp_path / "b" / "a.MOV").write_bytes(b"cut off")
    (tmp_path / "b" / "a.srt").write_text(SRT.replace("\n", "\r\n"))
    (tmp_path / "c.webm").write_bytes(b"")
    (tmp_path / "c.vtt").write_text(VTT)
    (tmp_path / "d.mkv").write_bytes(b"nothing is said about this one")
    (tmp_path / "e.avi").write_bytes(b"")
    (tmp_path / "e.txt").write_text(" \n")
    (tmp_path / "f.mp4").write_bytes(b"")
    (tmp_path / "f.srt").write_text("no subtitles at all")
    (tmp_path / "g.txt").write_text("A caption without a clip.")
    (tmp_path / "._a.mp4").write_bytes(b"what another system leaves behind")
    return tmp_path


def test_a_folder_of_clips_is_a_sample_each(folder: Path) -> None:
    pytest.importorskip("webvtt")
    assert isinstance(open_source(folder), Clips)
    found = read(folder)
    assert [one.key for one in found] == ["a.mp4", "b/a.MOV", "c.webm", "d.mkv", "e.avi", "f.mp4"]
    assert turns(found[0]) == (VideoPart(str(folder / "a.mp4")), TextPart(CLIP_QUESTION), "It grows\nbrighter.")
    said = "1.5-3.2 s: Hello there, you &amp; me\n64.0-65.0 s: Bye {all}"
    assert turns(found[1]) == (VideoPart(str(folder / "b" / "a.MOV")), TextPart(SPEECH_QUESTION), said)
    said = "1.5-3.2 s: Hello there, you & me\n3604.0-3605.0 s: - Bye - {all}"
    assert turns(found[2]) == (VideoPart(str(folder / "c.webm")), TextPart(SPEECH_QUESTION), said)
    reasons = [one.reason for one in found[3:] if isinstance(one, Flaw)]
    assert len(reasons) == 3
    for reason, says in zip(reasons, ("no d.txt, d.srt or d.vtt", "says nothing", "no subtitles"), strict=True):
        assert says in reason


def test_a_run_goes_on_with_the_next_clip(folder: Path) -> None:
    pytest.importorskip("webvtt")
    source = open_source(folder)
    everything = list(source.read(Position()))
    assert len(everything) == 6
    for done, (_, start) in enumerate(everything, 1):
        assert [found for found, _ in source.read(start)] == [found for found, _ in everything[done:]]


def test_clips_that_cannot_be_opened_are_left_out_when_they_are_needed(folder: Path, toy_folder: Path) -> None:
    pytest.importorskip("webvtt")
    from minicpmv.processing.processor import MiniCPMVProcessor
    from minicpmv.training.feeding import encode_sample
    from minicpmv.training.recipe import MediaRecipe

    processor = MiniCPMVProcessor.from_pretrained(toy_folder)
    good, broken, empty = (one for one in read(folder) if isinstance(one, Sample))
    encoded = encode_sample(good, processor, MediaRecipe(), 4096, np.random.default_rng(0))
    assert len(encoded.visuals) == 1
    for sample in (broken, empty):
        with pytest.raises(MediaError):
            encode_sample(sample, processor, MediaRecipe(), 4096, np.random.default_rng(0))
        assert isinstance(Sieve({"media": media_open()})(sample), Flaw)


def test_a_data_set_made_of_clips_reads_back(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("webvtt")
    out = tmp_path_factory.mktemp("made") / "set"
    assert write_dataset(read(folder), out, Sieve({"media": media_open()})) == (1, 5)
    assert isinstance(open_source(out), JsonLines)
    (found,) = read(out)
    part, question, answer = turns(found)
    assert Path(part.source).read_bytes() == (folder / "a.mp4").read_bytes()
    assert (question.text, answer) == (CLIP_QUESTION, "It grows\nbrighter.")


def test_what_records_name_is_no_data_set_of_its_own(folder: Path) -> None:
    (folder / "data.jsonl").write_text(json.dumps({"video": "a.mp4", "question": "What?", "answer": "Light."}) + "\n")
    (found,) = read(folder)
    assert turns(found) == (VideoPart(str(folder / "a.mp4")), TextPart("What?"), "Light.")


def test_a_tar_holds_clips_with_captions_or_subtitles(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("webvtt")
    clip = (folder / "a.mp4").read_bytes()
    groups: list[dict[str, bytes]] = [
        {"mp4": clip, "txt": b"It grows."},
        {"vtt": VTT.encode(), "mp4": clip},
        {"json": b'{"duration": 1.5}', "mp4": clip, "txt": b"It grows."},
        {"json": b'{"question": "Does it grow?"}', "mp4": clip, "txt": b"Yes."},
        {"mp4": clip},
        {"mp4": clip, "srt": b"nothing"},
    ]
    place = tmp_path / "shards" / "0.tar"
    place.parent.mkdir()
    with tarfile.open(place, "w") as archive:
        for number, members in enumerate(groups):
            for suffix, content in members.items():
                entry = tarfile.TarInfo(f"{number:04d}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    found = read(place)
    assert turns(found[0]) == (VideoPart(clip), TextPart(CLIP_QUESTION), "It grows.")
    assert turns(found[1])[1] == TextPart(SPEECH_QUESTION)
    assert turns(found[1])[2].startswith("1.5-3.2 s: Hello there")
    assert turns(found[2]) == turns(found[0])
    assert turns(found[3])[1:] == (TextPart("Does it grow?"), "Yes.")
    assert all(isinstance(one, Flaw) for one in found[4:])


@pytest.mark.parametrize(
    ("content", "suffix", "says"),
    [
        (b"caf\xe9", ".txt", "not UTF-8"),
        (b"\n", ".txt", "says nothing"),
        (b"x" * (MAX_BYTES + 1), ".txt", "bytes"),
        (b"1\n00:00:01,000 --> 00:00:02,000\n<i> </i>\n", ".srt", "says nothing"),
        (b"words", ".vtt", "no subtitles"),
        (b"", ".vtt", "no subtitles"),
    ],
)
def test_what_is_wrong_with_a_caption_is_said(content: bytes, suffix: str, says: str) -> None:
    pytest.importorskip("webvtt")
    with pytest.raises(MessageError, match=says) as caught:
        read_caption(content, suffix)
    assert caught.value.remedy


def test_utf_16_is_told_by_its_mark() -> None:
    assert read_caption("Größer".encode("utf-16"), ".txt") == (CLIP_QUESTION, "Größer")


def test_without_the_package_captions_are_read_and_subtitles_say_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_webvtt(monkeypatch)
    stream = open_source(folder).read(Position())
    assert isinstance(next(stream)[0], Sample)
    with pytest.raises(OptionError, match=r"pip install 'minicpmv\[data\]'"):
        next(stream)
