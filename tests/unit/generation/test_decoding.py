import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicpmv.generation.decoding import IncrementalDecoder, cut_at_terminator, decode
from minicpmv.training.towers.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["What does the sign say?", "the shape moves right"], 640)


@given(text=st.text(max_size=30), sizes=st.lists(st.integers(1, 5), min_size=1))
def test_pieces_add_up_to_the_text_and_hold_no_half_character(text: str, sizes: list[int]) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    decoder, pieces, position, turn = IncrementalDecoder(TOKENIZER), [], 0, 0
    while position < len(ids):
        size = sizes[turn % len(sizes)]
        pieces.append(decoder.feed(ids[position : position + size]))
        position, turn = position + size, turn + 1
    whole = decode(TOKENIZER, ids)
    if "\ufffd" not in whole:
        assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) + decoder.finish() == whole


def test_an_incomplete_character_comes_at_the_end_as_a_replacement() -> None:
    ids = TOKENIZER.encode("é", add_special_tokens=False)[:1]
    decoder = IncrementalDecoder(TOKENIZER)
    assert decoder.feed(ids) == ""
    assert decoder.finish() == "\ufffd"


def test_tokens_with_a_meaning_stay_in_the_text() -> None:
    ids = TOKENIZER.convert_tokens_to_ids(["<box>", "</box>", "<|im_end|>"])
    assert decode(TOKENIZER, ids) == "<box></box><|im_end|>"


@pytest.mark.parametrize(
    ("ids", "kept", "ended"),
    [([5, 6, 1, 0, 0], [5, 6], True), ([5, 6], [5, 6], False), ([1], [], True), ([], [], False)],
)
def test_an_answer_ends_at_its_first_terminator(ids: list[int], kept: list[int], ended: bool) -> None:
    assert cut_at_terminator(ids, [1, 2]) == (kept, ended)
