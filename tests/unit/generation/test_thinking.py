from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minicpmv.generation.thinking import ReasoningSplitter, Split, split_reasoning

TEXT = st.lists(
    st.sampled_from(["<think>", "</think>", "<thi", "nk>", "</", "think>", " ", "\n", "a", "4 <b", "é"])
).map("".join)


@pytest.mark.parametrize(
    ("text", "thinking", "expected"),
    [
        ("because\n</think>\n\n4", True, Split("because", "4")),
        ("<think>\nbecause\n</think>\n\n4", True, Split("because", "4")),
        ("</think>\n\n4", True, Split("", "4")),
        ("never closed", True, Split("never closed", "")),
        ("4", False, Split(None, "4")),
        ("", False, Split(None, "")),
        ("", True, Split("", "")),
        ("<think>\n\n</think>\n\n4", False, Split("", "4")),
        ("why\n</think>\n4 </think> 5", True, Split("why", "4 </think> 5")),
        ("why\n</think>\n<think> is a tag", True, Split("why", "<think> is a tag")),
        ("1 < 2 and </thin air", False, Split(None, "1 < 2 and </thin air")),
        ("<thinker", False, Split(None, "<thinker")),
        ("<think><think>", False, Split("<think>", "")),
    ],
)
def test_reasoning_and_answer_are_told_apart(text: str, thinking: bool, expected: Split) -> None:
    assert split_reasoning(text, thinking=thinking) == expected


@example(text="<think><think>", thinking=False, cuts=[7])
@given(text=TEXT, thinking=st.booleans(), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_any_way_of_cutting_the_stream_gives_the_same_parts(text: str, thinking: bool, cuts: list[int]) -> None:
    splitter = ReasoningSplitter(thinking=thinking)
    bounds = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [piece for start, end in pairwise(bounds) for piece in splitter.feed(text[start:end])] + splitter.finish()
    parts = {channel: "".join(piece for c, piece in pieces if c == channel) for channel in ("reasoning", "answer")}
    whole = split_reasoning(text, thinking=thinking)
    assert parts["reasoning"].strip() == (whole.reasoning or "")
    assert parts["answer"].strip() == whole.answer
    assert all(piece for _, piece in pieces)


def test_text_is_handed_out_as_soon_as_it_is_certain() -> None:
    splitter = ReasoningSplitter(thinking=True)
    assert splitter.feed("so it ") == [("reasoning", "so it")]
    assert splitter.feed("is</th") == [("reasoning", " is")]
    assert splitter.feed("ink>\n\n") == []
    assert splitter.feed("4 ") == [("answer", "4 ")]
