"""Text comes out once, in order, in the right channel, and ends before a stop string."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicpmv.generation.engine.writing import Writer, loops


class Pieces:
    """A tokenizer whose ids are places in a list of pieces."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(self.pieces[index] for index in ids)


def written(pieces: Sequence[str], *, thinking: bool = False, stop: Sequence[str] = ()) -> tuple[str, str, Writer]:
    writer = Writer(Pieces(pieces), thinking=thinking, stop=stop)
    text = {"reasoning": "", "answer": ""}
    for index in range(len(pieces)):
        for delta in writer.feed(index):
            text[delta.channel] += delta.text
        if writer.stopped_by is not None:
            break
    for delta in writer.finish():
        text[delta.channel] += delta.text
    return text["reasoning"], text["answer"], writer


def test_a_stop_string_ends_the_answer_wherever_it_is_cut() -> None:
    for cut in range(1, 12):
        pieces = ["one two END three"[:cut], "one two END three"[cut:]]
        _, answer, writer = written(pieces, stop=["END", "four"])
        assert answer == "one two "
        assert writer.stopped_by == "END"


def test_the_first_of_several_stop_strings_counts() -> None:
    assert written(["abcdef"], stop=["ef", "cd"])[1] == "ab"
    _, answer, writer = written(["ab", "xa", "bx"], stop=["xabxy", "bxa"])
    assert answer == "a"
    assert writer.stopped_by == "bxa"


def test_what_only_begins_like_a_stop_string_is_not_lost() -> None:
    assert written(["STO", "RE"], stop=["STOP"])[1] == "STORE"
    assert written(["ends with ST"], stop=["STOP"])[1] == "ends with ST"


def test_a_stop_string_in_the_reasoning_means_nothing() -> None:
    reasoning, answer, _ = written(["is it END?", "</think>", "\n\n", "no", " END"], thinking=True, stop=["END"])
    assert (reasoning, answer) == ("is it END?", "no ")


@given(st.text(alphabet="ab<>/thinkENDS \n", max_size=60), st.data())
def test_cutting_text_into_pieces_changes_nothing(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    ends = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in zip(ends, ends[1:], strict=False)]
    thinking = data.draw(st.booleans())
    one = written([text], thinking=thinking, stop=["END", "a b"])
    other = written(pieces, thinking=thinking, stop=["END", "a b"])
    assert one[:2] == other[:2]


@pytest.mark.parametrize(
    ("ids", "is_loop"),
    [
        ([7] * 96, True),
        ([7] * 95, False),
        ([1, 2, 3, *[4, 5] * 48], True),
        ([*range(64)] * 8, True),
        ([*range(64)] * 7, False),
        ([*range(65)] * 20, False),
        ([*([4, 5] * 48), 6], False),
        (list(range(1000)), False),
    ],
)
def test_a_loop_is_many_repeats_up_to_the_end(ids: list[int], is_loop: bool) -> None:
    assert loops(ids) is is_loop
