"""Records in every usual form, files of every kind, and reading on from any position."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pytest
from PIL import Image

from minicpmv.data.readers import Flaw, Position, Source, open_source
from minicpmv.data.records import CAPTION_QUESTION, sample_from_record
from minicpmv.data.sample import Sample
from minicpmv.errors import MessageError, OptionError
from minicpmv.media.image import load_image
from minicpmv.messages import DocumentPart, ImagePart, TextPart, VideoPart

FOLDER = Path("/data")


def parts(record: dict[str, Any]) -> list[Any]:
    return list(sample_from_record(record, "here", FOLDER).messages[0].parts)


def turns(asked: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": "That."}]


@pytest.mark.parametrize(
    ("asked", "kinds"),
    [
        ("What?", ["/data/a.png", "/data/b.png", "What?"]),
        ("<image>\nand <image>?", ["/data/a.png", "and ", "/data/b.png", "?"]),
        ([{"type": "text", "text": "<image> or"}, "<image>?"], ["/data/a.png", " or", "/data/b.png", "?"]),
        (
            [{"type": "image"}, {"type": "text", "text": "<image>?"}, {"type": "image", "path": None, "text": None}],
            ["/data/a.png", "<image>?", "/data/b.png"],
        ),
    ],
)
def test_media_beside_messages_are_not_lost(asked: Any, kinds: list[str]) -> None:
    """Columns of pictures beside conversations are what TRL and LLaMA-Factory are given."""
    record = {"images": ["a.png", "b.png"], "messages": turns(asked)}
    found = [part.text if isinstance(part, TextPart) else part.source for part in parts(record)]
    assert found == kinds


def test_marks_in_messages_are_text_where_no_media_stand_beside_them() -> None:
    assert parts({"messages": turns("What does <image> mean in HTML?")}) == [
        TextPart("What does <image> mean in HTML?")
    ]


def test_our_own_form_keeps_options_and_resolves_names() -> None:
    record = {
        "id": 7,
        "metadata": {"license": "CC0"},
        "messages": [
            {"role": "user", "content": [{"type": "video", "path": "a.mp4", "packing": 6}, "Which colour?"]},
            {"role": "assistant", "content": "Red.", "reasoning": "It is red."},
        ],
    }
    sample = sample_from_record(record, "here", FOLDER)
    assert sample.messages[0].parts == (VideoPart("/data/a.mp4", packing=6), TextPart("Which colour?"))
    assert sample.messages[1].reasoning == "It is red."
    assert sample.metadata == {"license": "CC0", "id": 7}
    assert sample.media == (VideoPart("/data/a.mp4", packing=6),)
    assert sample.text == "Which colour?\nRed."


def test_urls_bytes_and_absolute_names_stay_as_they_are() -> None:
    for source in ("https://example.org/a.png", "data:image/png;base64,AAAA", "/abs/a.png"):
        assert parts({"image": source, "caption": "A cat."})[0] == ImagePart(source)
    assert parts({"image": {"bytes": b"12", "path": "a.png"}, "caption": "A cat."})[0] == ImagePart(b"12")
    assert parts({"image": {"bytes": None, "path": "a.png"}, "caption": "A cat."})[0] == ImagePart("/data/a.png")


def test_llavas_form_puts_media_where_their_marks_are() -> None:
    record = {
        "images": ["a.png", "b.png"],
        "conversations": [
            {"from": "human", "value": "First <image>\nthen <image> and?"},
            {"from": "gpt", "value": "Both."},
            {"from": "human", "value": "Sure?"},
            {"from": "gpt", "value": "Yes."},
        ],
    }
    sample = sample_from_record(record, "here", FOLDER)
    kinds = [part.text if isinstance(part, TextPart) else part.source for part in sample.messages[0].parts]
    assert kinds == ["First ", "/data/a.png", "then ", "/data/b.png", " and?"]
    assert [message.role for message in sample.messages] == ["user", "assistant"] * 2


def test_how_media_are_looked_at_may_stand_beside_them() -> None:
    record = {"video": "a.mp4", "fps": 2, "packing": 3, "max_frames": 9, "question": "What?", "answer": "That."}
    assert parts(record)[0] == VideoPart("/data/a.mp4", fps=2, packing=3, max_frames=9)
    record = {"document": "a.pdf", "pages": [2], "dpi": 100, "max_slices": 4, "question": "What?", "answer": "That."}
    assert parts(record)[0] == DocumentPart("/data/a.pdf", pages=(2,), dpi=100, max_slices=4)
    record = {"images": ["a.png", "b.png"], "max_slices": 2, "fps": 30, "question": "What?", "answer": "That."}
    assert parts(record)[:2] == [ImagePart("/data/a.png", max_slices=2), ImagePart("/data/b.png", max_slices=2)]


def test_turns_of_conversations_may_have_a_role_and_content() -> None:
    """As in the files that MiniCPM-V's own fine-tuning takes."""
    columns = [{"from": None, "value": None, **turn} for turn in turns("<image>\nWhat?")]
    for said in (turns("<image>\nWhat?"), columns):
        record = {"image": "a.png", "conversations": said}
        assert parts(record) == [ImagePart("/data/a.png"), TextPart("What?")]


def test_a_json_document_is_refused_with_the_way_to_lines(tmp_path: Path) -> None:
    (tmp_path / "llava.json").write_text("[]")
    with pytest.raises(OptionError, match=r"jq -c"):
        open_source(tmp_path / "llava.json")


def test_without_marks_media_come_first() -> None:
    record = {"image": "a.png", "video": "b.mp4", "question": "What?", "answer": "That."}
    assert parts(record) == [ImagePart("/data/a.png"), VideoPart("/data/b.mp4"), TextPart("What?")]
    assert parts({"video": "b.mp4", "text": "A walk."}) == [VideoPart("/data/b.mp4"), TextPart(CAPTION_QUESTION)]
    assert parts({"prompt": "2 + 2?", "completion": "4"}) == [TextPart("2 + 2?")]
    record = {"document": "a.pdf", "image": "b.png", "question": "<image>What?", "answer": "That."}
    assert parts(record) == [DocumentPart("/data/a.pdf"), ImagePart("/data/b.png"), TextPart("What?")]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ([], "a record is [], not an object"),
        ({}, "a record is empty"),
        ({"image": "a.png"}, "has the keys image"),
        ({"conversations": [{"from": "cat", "value": "x"}]}, "lacks from or value"),
        ({"image": "a.png", "conversations": [{"from": "human", "value": "<image> <image>"}]}, "2 <image>"),
        ({"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}]}, "0 pictures"),
        (
            {"image": "a.png", "prompt": "<video>", "completion": "x"},
            "1 <video> marks stand in the text, but 1 pict",
        ),
        ({"conversations": []}, "no list of turns"),
        ({"conversations": 5}, "no list of turns"),
        ({"conversations": [{"from": [], "value": "x"}]}, "lacks from or value"),
        ({"prompt": "a", "completion": "b", "metadata": 5}, "metadata is 5"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": 5}]}, "tool_calls int 5"),
        ({"messages": [{"role": "user", "content": [{"type": "video", "frames": 5}]}]}, "frames int 5"),
        ({"messages": [{"role": "user", "content": [{"document": "a.pdf", "pages": ["x"]}]}]}, "pages list ['x']"),
        ({"messages": "hello"}, "messages is not a list"),
        ({"messages": [{"role": "user", "content": "hello"}]}, "no assistant"),
        ({"messages": [{"role": "cat", "content": "hello"}]}, "role"),
        ({"prompt": "a", "completion": 3}, "3 is no text"),
        ({"question": 4.5, "answer": "x"}, "4.5 is no text"),
        ({"question": "What?", "image": "a.png"}, "has the keys image, question"),
        ({"img": "a.png", "messages": turns("What?")}, "has the key img"),
        ({"images": ["a.png"], "messages": turns("<image> <image>")}, "2 <image>"),
        ({"image": "a.png", "messages": turns([{"type": "image"}, {"type": "image"}])}, "2 <image>"),
        ({"image": "a.png", "messages": turns([{"type": "image", "path": "b.png"}])}, "others beside"),
        ({"image": "a.png", "messages": turns("What?")[1:]}, "nobody who asks"),
        ({"img": "a.png", "prompt": "What?", "completion": "That."}, "has the key img"),
        ({"document": "a.pdf", "conversations": [{"from": "gpt", "value": "x"}]}, "nobody who asks"),
        ({"messages": turns([{"type": "image"}, "What?"])}, "has no source"),
        ({"document": "a.pdf", "pages": 12, "question": "What?", "answer": "That."}, "pages is 12"),
        ({"image": {"<image_00>": "a.png"}, "question": "What?", "answer": "That."}, "has no source"),
        ({"image": "a.png", "max_slices": -5, "question": "What?", "answer": "That."}, "max_slices is -5"),
        ({"messages": turns([{"type": "image", "path": "a.png", "max_slices": -5}])}, "max_slices is -5"),
        ({"video": "a.mp4", "packing": "six", "question": "What?", "answer": "That."}, "packing is 'six'"),
        ({"video": {"path": "a.mp4", "fps": 2}, "question": "What?", "answer": "That."}, "fps inside of its source"),
        ({"messages": turns([{"video": ["a.png", "b.png"], "timestamps": [5, -2]}])}, "do not rise from 0"),
        ({"image": "a.png", "question": "What?", "answer": "   "}, "no assistant's turn says anything"),
    ],
)
def test_what_is_wrong_with_a_record_is_said_with_its_place(record: Any, says: str) -> None:
    with pytest.raises(MessageError, match="here: ") as caught:
        sample_from_record(record, "here", FOLDER)
    assert says in caught.value.what
    assert caught.value.remedy


def test_columns_of_a_table_that_say_nothing_are_passed_over() -> None:
    nothing = dict.fromkeys(("messages", "conversations", "image", "metadata", "question", "answer"))
    assert parts({**nothing, "prompt": "2 + 2?", "completion": "4"}) == [TextPart("2 + 2?")]


def test_pictures_and_clips_stand_at_the_marks_of_their_kind() -> None:
    record = {"image": "a.png", "video": "b.mp4", "prompt": "<video>\nor <image>\nor?", "completion": "That."}
    assert parts(record) == [VideoPart("/data/b.mp4"), TextPart("or "), ImagePart("/data/a.png"), TextPart("or?")]


def question(number: int) -> dict[str, Any]:
    return {"prompt": f"{number} + 1?", "completion": str(number + 1)}


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_jsonl(folder: Path) -> Path:
    for file in range(2):
        lines = [json.dumps(question(10 * file + line)) for line in range(4)]
        lines.insert(2, "{not json")
        lines.insert(1, "")
        (folder / f"{file}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write_tar(folder: Path) -> Path:
    for file in range(2):
        with tarfile.open(folder / f"{file}.tar", "w") as archive:
            for index in range(4):
                stem = f"sample{index}"
                members = {"png": png(index), "txt": f"shade {index}".encode()}
                if index == 3:
                    members = {"json": json.dumps({"question": "Shade?", "answer": "3"}).encode(), "png": png(3)}
                if index == 2:
                    members = {"json": b"{broken", "png": png(2)}
                for suffix, content in members.items():
                    entry = tarfile.TarInfo(f"{stem}.{suffix}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return folder


def write_parquet(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for file in range(2):
        records = [{**question(10 * file + row), "image": {"bytes": png(row), "path": None}} for row in range(5)]
        parquet.write_table(pyarrow.Table.from_pylist(records), folder / f"{file}.parquet", row_group_size=2)
    return folder


def write_arrow(folder: Path) -> Path:
    """A stream, as `datasets` writes it, and a file with an index; in batches of two rows."""
    pyarrow = pytest.importorskip("pyarrow")

    for file, make in enumerate((pyarrow.ipc.new_stream, pyarrow.ipc.new_file)):
        records = [{**question(10 * file + row), "image": {"bytes": png(row), "path": None}} for row in range(5)]
        table = pyarrow.Table.from_pylist(records)
        with make(folder / f"data-0000{file}-of-00002.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text("{}")
    (folder / "cache-1234.arrow").write_bytes(b"what was computed once")
    return folder


def write_pdfs(folder: Path) -> Path:
    from minicpmv.data.worlds.examples import write_label

    write_label(folder / "a.pdf", "Flour 21 Sep")
    blank = pypdfium2.PdfDocument.new()
    blank.new_page(100, 50)
    blank.save(folder / "b.pdf")
    (folder / "c.pdf").write_bytes(b"%PDF-1.4 cut off")
    write_label(folder / "d.pdf", "Pasta")
    return folder


WRITERS = {"jsonl": write_jsonl, "tar": write_tar, "parquet": write_parquet, "arrow": write_arrow, "pdf": write_pdfs}


@pytest.fixture(params=sorted(WRITERS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return open_source(WRITERS[request.param](tmp_path), "these")


def test_reading_on_from_any_position_gives_the_rest(source: Source) -> None:
    everything = list(source.read(Position()))
    assert source.name == "these"
    assert any(isinstance(found, Sample) for found, _ in everything)
    for done in range(len(everything) + 1):
        start = Position() if done == 0 else everything[done - 1][1]
        rest = list(source.read(start))
        assert rest == everything[done:], (done, start)  # places as well: a run may stop and go on many times


def test_keys_are_different_and_flaws_say_why(source: Source) -> None:
    found = [found for found, _ in source.read(Position())]
    assert len({one.key for one in found}) == len(found)
    assert all(one.reason for one in found if isinstance(one, Flaw))


def test_json_lines_skip_empty_lines_and_report_broken_ones(tmp_path: Path) -> None:
    found = [found for found, _ in open_source(write_jsonl(tmp_path)).read(Position())]
    assert [type(one).__name__ for one in found] == ["Sample", "Sample", "Flaw", "Sample", "Sample"] * 2
    assert [one.messages[1].text for one in found if isinstance(one, Sample)] == [
        "1",
        "2",
        "3",
        "4",
        "11",
        "12",
        "13",
        "14",
    ]


def test_a_tars_groups_hold_their_media_as_bytes(tmp_path: Path) -> None:
    found = [found for found, _ in open_source(write_tar(tmp_path)).read(Position())]
    assert [type(one).__name__ for one in found] == ["Sample", "Sample", "Flaw", "Sample"] * 2
    first, last = found[0], found[3]
    assert isinstance(first, Sample)
    assert first.messages[0].parts == (ImagePart(png(0)), TextPart(CAPTION_QUESTION))
    assert isinstance(last, Sample)
    assert last.messages[1].text == "3"


def test_parquet_rows_hold_their_pictures(tmp_path: Path) -> None:
    found = [found for found, _ in open_source(write_parquet(tmp_path)).read(Position())]
    assert len(found) == 10
    assert isinstance(found[7], Sample)
    assert found[7].messages[0].parts == (ImagePart(png(2)), TextPart("12 + 1?"))


def test_arrow_rows_are_those_of_parquet(tmp_path: Path) -> None:
    (tmp_path / "arrow").mkdir()
    (tmp_path / "parquet").mkdir()
    found = [found for found, _ in open_source(write_arrow(tmp_path / "arrow")).read(Position())]
    same = [found for found, _ in open_source(write_parquet(tmp_path / "parquet")).read(Position())]
    assert len(found) == 10
    assert all(isinstance(one, Sample) for one in found)
    assert [replace(one, key="") for one in found] == [replace(one, key="") for one in same]


def test_a_folder_that_datasets_has_saved_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    picture = Image.new("RGB", (30, 20), "red")
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    columns = {"image": [picture] * 3, "question": ["Which colour?"] * 3, "answer": ["red", "rot", "rouge"]}
    datasets.Dataset.from_dict(columns, features).select([2, 0]).save_to_disk(tmp_path / "saved")
    found = [found for found, _ in open_source(tmp_path / "saved").read(Position())]
    assert [one.messages[1].text for one in found if isinstance(one, Sample)] == ["rouge", "red"]
    assert isinstance(found[0], Sample)
    (part,) = found[0].media
    assert isinstance(part, ImagePart)
    assert part.source is not None
    assert load_image(part.source).image.getpixel((5, 5)) == (255, 0, 0)


def test_pages_are_pictures_with_their_own_text(tmp_path: Path) -> None:
    found = [found for found, _ in open_source(write_pdfs(tmp_path)).read(Position())]
    assert [type(one).__name__ for one in found] == ["Sample", "Flaw", "Flaw", "Sample"]
    first = found[0]
    assert isinstance(first, Sample)
    part = first.messages[0].parts[0]
    assert isinstance(part, DocumentPart)
    assert part.pages == (1,)
    assert first.messages[1].text == "Flour 21 Sep"
    assert np.all([one.reason for one in found[1:3] if isinstance(one, Flaw)])


def test_a_folder_of_several_kinds_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="nothing that can be read"):
        open_source(tmp_path)
    with pytest.raises(OptionError, match="missing.jsonl does not exist"):
        open_source(tmp_path / "missing.jsonl")
    write_jsonl(tmp_path)
    write_tar(tmp_path)
    with pytest.raises(OptionError, match=r"\.jsonl, \.tar"):
        open_source(tmp_path)


@pytest.mark.parametrize("text", ["[1]", "null", '"q"', "3", "[" * 100_000])
def test_a_record_of_a_tar_that_is_no_object_is_a_flaw(text: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for name, content in (("a.json", text.encode()), ("a.txt", b"hello"), ("b.txt", b"fine"), ("b.jpg", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    found = [sample for sample, _ in open_source(tmp_path / "shard.tar").read(Position())]
    assert isinstance(found[0], Flaw)
    assert not isinstance(found[1], Flaw)


def test_one_name_in_two_folders_of_a_tar_is_two_records(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for name in ("one/page.png", "one/page.txt", "two/page.png", "two/page.txt"):
            content = name.encode() if name.endswith("txt") else png(3)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    found = [one for one, _ in open_source(tmp_path / "shard.tar").read(Position())]
    assert [(one.key, one.messages[-1].text) for one in found if isinstance(one, Sample)] == [
        ("shard.tar:one/page", "one/page.txt"),
        ("shard.tar:two/page", "two/page.txt"),
    ]


@pytest.mark.parametrize("name", ["broken.tar", "broken.parquet", "broken.arrow"])
def test_a_damaged_file_is_one_flaw_and_the_next_is_read(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(b"this is not what it is called" * 100)
    whole = tmp_path / f"whole{(tmp_path / name).suffix}"
    if whole.suffix == ".tar":
        with tarfile.open(whole, "w") as archive:
            for member_name, content in (("a.txt", b"fine"), ("a.jpg", b"x")):
                member = tarfile.TarInfo(member_name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    else:
        import pyarrow
        from pyarrow.feather import write_feather
        from pyarrow.parquet import write_table

        write = write_table if whole.suffix == ".parquet" else write_feather
        write(pyarrow.table({"question": ["who?"], "answer": ["me"]}), whole)
    found = [sample for sample, _ in open_source(tmp_path).read(Position())]
    assert isinstance(found[0], Flaw)
    assert "damaged" in found[0].reason
    assert len(found) == 2
    assert not isinstance(found[1], Flaw)


def test_lines_that_are_not_json_or_not_text_are_left_out_in_words(tmp_path: Path) -> None:
    lines = [b"{not json", b'{"prompt": "\xff"}', b"null", json.dumps(question(1)).encode()]
    (tmp_path / "mixed.jsonl").write_bytes(b"\n".join(lines))
    found = [sample for sample, _ in open_source(tmp_path / "mixed.jsonl").read(Position())]
    reasons = [sample.reason for sample in found if isinstance(sample, Flaw)]
    assert [reason[:24] for reason in reasons] == [
        "This is not JSON: Expect",
        "This is not text in UTF-",
        "a record is None, not an",
    ]
