"""Messages: every form people have is read, and what cannot be read is named by its place."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minicpmv.errors import MessageError
from minicpmv.messages import (
    DocumentPart,
    ImagePart,
    Message,
    TextPart,
    VideoPart,
    group_frames,
    parse_conversations,
    parse_messages,
)

PICTURE = Image.new("RGB", (4, 3))


def only_part(content: Any) -> Any:
    (message,) = parse_messages([{"role": "user", "content": content}])
    (part,) = message.parts
    return part


def test_a_string_is_one_user_message() -> None:
    assert parse_messages("Hi") == [Message("user", (TextPart("Hi"),))]


def test_own_classes_pass_through() -> None:
    message = Message("user", (ImagePart("a.png", max_slices=4), TextPart("?")))
    assert parse_messages([message]) == [message]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "a.png"},
        {"type": "image", "path": "a.png"},
        {"type": "image", "url": "a.png"},
        {"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}},
        {"type": "image_url", "image_url": "a.png"},
        {"type": "input_image", "image_url": "a.png"},
        {"image": "a.png"},
        {"type": "image", "image": "a.png", "text": None, "video": None},
        {"type": "image", "image": {"path": "a.png", "bytes": None}},
    ],
)
def test_every_form_of_a_picture_is_read(part: dict[str, Any]) -> None:
    assert only_part([part]) == ImagePart("a.png")


def test_bytes_and_base64_become_bytes() -> None:
    data = b"\x89PNG"
    assert only_part([{"type": "image", "bytes": data}]) == ImagePart(data)
    assert only_part([{"type": "image", "base64": base64.b64encode(data).decode()}]) == ImagePart(data)
    assert only_part([{"type": "image", "image": {"bytes": data, "path": "x"}}]) == ImagePart(data)


def test_official_lists_mix_pictures_arrays_and_strings() -> None:
    array = np.zeros((3, 4, 3), np.uint8)
    (message,) = parse_messages([{"role": "user", "content": [PICTURE, array, "What?"]}])
    assert message.parts[0] == ImagePart(PICTURE)
    assert isinstance(message.parts[1], ImagePart)
    assert isinstance(message.parts[1].source, Image.Image)
    assert message.parts[2] == TextPart("What?")
    assert message.text == "What?"


def test_options_stay_with_their_part() -> None:
    part = only_part(
        [{"type": "video", "path": "c.mp4", "fps": 10, "packing": 6, "max_frames": 9, "use_image_id": True}]
    )
    assert part == VideoPart("c.mp4", fps=10, packing=6, max_frames=9, use_image_id=True)


def test_clips_may_be_files_urls_or_pictures_with_times() -> None:
    assert only_part([{"type": "video_url", "video_url": {"url": "https://x/c.mp4"}}]) == VideoPart("https://x/c.mp4")
    frames = [PICTURE, PICTURE]
    assert only_part([{"type": "video", "video": frames}]).frames == (PICTURE, PICTURE)
    assert only_part([{"type": "video", "frames": frames, "timestamps": [0, 0.5]}]).timestamps == (0.0, 0.5)
    assert only_part([{"type": "video", "frames": frames, "temporal_ids": [[-1], [3]]}]).temporal_ids == ((-1,), (3,))
    assert len(only_part([{"type": "video", "video": np.zeros((5, 3, 4, 3), np.uint8)}]).frames) == 5


def test_documents_are_read_in_our_form_and_in_that_of_the_openai_api() -> None:
    assert only_part([{"type": "document", "path": "a.pdf", "pages": [1, 3]}]) == DocumentPart("a.pdf", pages=(1, 3))
    assert only_part(
        [{"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}}]
    ) == (DocumentPart("data:application/pdf;base64,AA=="))


def test_open_files_are_sources() -> None:
    file = io.BytesIO(b"x")
    assert only_part([{"type": "image", "image": file}]) == ImagePart(file)


def test_reasoning_and_tool_calls_stay_with_the_assistant() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    (message,) = parse_messages(
        [{"role": "assistant", "content": None, "reasoning_content": "r", "tool_calls": [call]}]
    )
    assert (message.parts, message.reasoning, message.tool_calls) == ((), "r", (call,))


def test_a_batch_is_told_from_a_conversation() -> None:
    one = [{"role": "user", "content": "Hi"}]
    assert parse_conversations(one) == ([parse_messages(one)], False)
    assert parse_conversations([one, one])[1] is True
    assert parse_conversations("Hi")[1] is False
    with pytest.raises(MessageError, match=r"conversation 1: messages\[0\]"):
        parse_conversations([one, [{"role": "bot", "content": "x"}]])


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ([], "non-empty"),
        (None, "NoneType"),
        ([3], r"messages\[0\] is int"),
        ([{"role": "robot", "content": "x"}], "role 'robot'"),
        ([{"role": "user"}], "no content"),
        ([{"role": "user", "content": "x", "reasoning": "r"}], "reasoning"),
        ([{"role": "assistant", "content": [{"type": "image", "image": "a.png"}]}], "assistant"),
        ([{"role": "user", "content": [{"type": "hologram"}]}], r"content\[0\] has the type 'hologram'"),
        ([{"role": "user", "content": ["a", {"type": "text", "text": 3}]}], r"content\[1\] has the text"),
        ([{"role": "user", "content": [{"type": "image", "image": "a", "path": "b"}]}], "more than one source"),
        ([{"role": "user", "content": [{"type": "image", "image": "a", "fsp": 3}]}], "unknown keys: fsp"),
        ([{"role": "user", "content": [{"type": "image", "base64": "%%%"}]}], "base64"),
        ([{"role": "user", "content": [{"type": "image", "image": np.zeros((2, 2, 3))}]}], "float64"),
        ([{"role": "user", "content": [{"type": "video", "path": "a", "timestamps": [0]}]}], "describe frames"),
        ([{"role": "user", "content": [{"type": "video", "frames": []}]}], "empty"),
        (
            [{"role": "user", "content": [{"type": "video", "frames": [PICTURE], "timestamps": [0, 1]}]}],
            "1 frames and 2",
        ),
        ([{"role": "user", "content": [{"type": "video", "frames": [PICTURE], "timestamps": ["x"]}]}], "another form"),
        ([{"role": "user", "content": [{"type": "video", "frames": [PICTURE], "temporal_ids": [1]}]}], "another form"),
        ([{"role": "user", "content": [{"type": "document"}]}], "names no document"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_place(raw: Any, match: str) -> None:
    with pytest.raises(MessageError, match=match):
        parse_messages(raw)


def test_official_time_groups_turn_pictures_into_clips() -> None:
    conversation = parse_messages([{"role": "user", "content": [PICTURE, PICTURE, PICTURE, PICTURE, "What?"]}])
    (message,) = group_frames(conversation, [[-1], [3, 5], [7]])
    assert message.parts[0] == ImagePart(PICTURE)
    assert message.parts[1] == VideoPart(frames=(PICTURE,) * 3, temporal_ids=((3, 5), (7,)))
    assert message.parts[2] == TextPart("What?")


@pytest.mark.parametrize(("groups", "match"), [([[0]], "name 1 pictures"), ([[0, 1], [2]], "spans text")])
def test_time_groups_that_do_not_fit_are_refused(groups: list[list[int]], match: str) -> None:
    conversation = parse_messages([{"role": "user", "content": [PICTURE, "a", PICTURE, PICTURE]}])
    with pytest.raises(MessageError, match=match):
        group_frames(conversation, groups)
