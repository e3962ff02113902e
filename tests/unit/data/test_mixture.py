"""A stream of many sources: shares as asked, the same every time, and from any state the same rest."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from numpy.random import Generator
from rich.console import Console

from minicpmv.data.mixture import Branch, DrawnFeed, FileFeed, Mixture
from minicpmv.data.readers import open_source
from minicpmv.data.sample import Sample
from minicpmv.errors import OptionError
from minicpmv.messages import Message, TextPart


def draw(generator: Generator, key: str) -> Sample:
    text = str(int(generator.random() * 1_000_000))
    return Sample(key, (Message("user", (TextPart("?"),)), Message("assistant", (TextPart(text),))))


def write(path: Path, num: int, start: int = 0) -> Path:
    lines = [json.dumps({"prompt": "?", "completion": str(start + index)}) for index in range(num)]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def answers(feed: FileFeed, num: int) -> list[str]:
    found = [feed.next() for _ in range(num)]
    return [sample.messages[1].text for sample in found if isinstance(sample, Sample)]


def mixture(folder: Path, seed: int = 0) -> Mixture:
    files = FileFeed(open_source(write(folder / "a.jsonl", 7)), seed, block=3)
    pages = {
        "receipts": Branch(1, DrawnFeed("receipts", draw, seed)),
        "forms": Branch(3, DrawnFeed("forms", draw, seed)),
    }
    return Mixture({"pages": Branch(0.8, parts=pages), "own": Branch(0.2, files)}, seed)


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_an_epoch_gives_every_record_once(tmp_path: Path, block: int) -> None:
    feed = FileFeed(open_source(write(tmp_path / "a.jsonl", 7)), 0, block=block)
    first, second = answers(feed, 7), answers(feed, 7)
    assert sorted(first) == sorted(second) == [str(number) for number in range(7)]
    if block == 1:
        assert first == second == [str(number) for number in range(7)]
    if block == 100:
        assert first != second, "every epoch has an order of its own"


def test_a_block_ends_where_its_media_are_large(tmp_path: Path) -> None:
    """Records of tars and tables bring their media; a thousand photos do not fit into memory."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(6):
            for suffix, content in (("png", b"x" * 1000), ("txt", str(number).encode())):
                entry = tarfile.TarInfo(f"{number}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    feed = FileFeed(open_source(tmp_path / "a.tar"), 0, most_bytes=2000)
    epoch = answers(feed, 6)
    assert [sorted(epoch[first : first + 2]) for first in (0, 2, 4)] == [["0", "1"], ["2", "3"], ["4", "5"]]
    state, rest = feed.state, answers(feed, 5)
    again = FileFeed(open_source(tmp_path / "a.tar"), 0, most_bytes=2000)
    again.restore(state)
    assert answers(again, 5) == rest


@pytest.mark.parametrize("done", range(16))
def test_a_file_goes_on_from_any_state(tmp_path: Path, done: int) -> None:
    source = open_source(write(tmp_path / "a.jsonl", 7))
    feed = FileFeed(source, 5, block=3)
    answers(feed, done)
    state = json.loads(json.dumps(feed.state))
    rest = answers(feed, 12)
    resumed = FileFeed(source, 5, block=3)
    resumed.restore(state)
    assert resumed.state == state
    assert answers(resumed, 12) == rest


@pytest.mark.parametrize("done", range(1, 9))
@pytest.mark.parametrize("left", [1, 2, 5, 6])
def test_a_file_that_was_mended_is_read_from_its_beginning(tmp_path: Path, done: int, left: int) -> None:
    """Places in it mean nothing any more; whoever mends data may well take records out."""
    feed = FileFeed(open_source(write(tmp_path / "a.jsonl", 7)), 5, block=3)
    answers(feed, done)
    state = json.loads(json.dumps(feed.state))
    mended = FileFeed(open_source(write(tmp_path / "a.jsonl", left, start=100)), 5, block=3)
    mended.restore(state)
    assert sorted(answers(mended, left)) == [str(100 + number) for number in range(left)]
    assert mended.state["epoch"] == state["epoch"] + 1


@pytest.mark.parametrize("done", range(1, 9))
@pytest.mark.parametrize("left", [1, 2, 5, 6])
def test_a_state_that_does_not_know_its_files_goes_on_in_a_shorter_one(tmp_path: Path, done: int, left: int) -> None:
    """As earlier versions wrote it."""
    feed = FileFeed(open_source(write(tmp_path / "a.jsonl", 7)), 5, block=3)
    answers(feed, done)
    state = {name: value for name, value in feed.state.items() if name != "sizes"}
    shorter = FileFeed(open_source(write(tmp_path / "a.jsonl", left)), 5, block=3)
    shorter.restore(state)
    assert set(answers(shorter, 4 * left)) == {str(number) for number in range(left)}


def test_a_state_that_does_not_know_its_files_goes_on_where_it_stood(tmp_path: Path) -> None:
    feed = FileFeed(open_source(write(tmp_path / "a.jsonl", 7)), 5, block=3)
    answers(feed, 5)
    state = {name: value for name, value in feed.state.items() if name != "sizes"}
    again = FileFeed(open_source(tmp_path / "a.jsonl"), 5, block=3)
    again.restore(state)
    assert answers(again, 9) == answers(feed, 9)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(OptionError, match="a has no records"):
        FileFeed(open_source(tmp_path / "a.jsonl"), 0).next()


def test_shares_are_as_asked(tmp_path: Path) -> None:
    mixed = mixture(tmp_path)
    assert mixed.shares == pytest.approx({"pages/receipts": 0.2, "pages/forms": 0.6, "own": 0.2})
    counts = Counter(mixed.next()[0] for _ in range(3000))
    for name, share in mixed.shares.items():
        assert counts[name] / 3000 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("done", [0, 1, 5, 40])
def test_a_mixture_goes_on_from_any_state(tmp_path: Path, done: int) -> None:
    mixed = mixture(tmp_path)
    for _ in range(done):
        mixed.next()
    state = json.loads(json.dumps(mixed.state))
    rest = [mixed.next() for _ in range(30)]
    resumed = mixture(tmp_path)
    resumed.restore(state)
    assert [resumed.next() for _ in range(30)] == rest


def test_another_seed_gives_another_stream(tmp_path: Path) -> None:
    streams = []
    for seed in (0, 1):
        mixed = mixture(tmp_path, seed)
        streams.append([mixed.next()[1] for _ in range(20)])
    assert streams[0] != streams[1]


def test_a_state_of_other_sources_is_refused(tmp_path: Path) -> None:
    state = mixture(tmp_path).state
    other = Mixture({"own": Branch(1, DrawnFeed("own", draw, 0))}, 0)
    with pytest.raises(OptionError, match="pages/forms, pages/receipts"):
        other.restore(state)


@pytest.mark.parametrize("fields", [{"weight": 0}, {"weight": 1}, {"weight": -1}])
def test_impossible_branches_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="weight"):
        Branch(**fields)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 0])
def test_weights_of_feeds_are_numbers(weight: float) -> None:
    with pytest.raises(OptionError, match="weight"):
        Branch(weight, DrawnFeed("forms", draw, 0))


def test_it_draws_itself(tmp_path: Path) -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(mixture(tmp_path).tree({"pages/forms": 1200, "own": 5}))
    drawn = console.export_text()
    assert "forms  60.0 %  1,200 tokens" in drawn
    assert "pages  80.0 %  1,200 tokens" in drawn
    assert "receipts  20.0 %\n" in drawn
