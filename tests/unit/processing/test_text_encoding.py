"""Text encoding: nothing that a person writes becomes a special token, and ordinary text loses nothing."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.processing.conftest import SPECIAL, VISIBLE, make_tokenizer

from minicpmv.errors import CheckpointError
from minicpmv.processing.text_encoding import SENTINEL, Control, PieceEncoder, Slot, Words, pieces_to_text

TOKENIZER = make_tokenizer()
ENCODER = PieceEncoder(TOKENIZER, placeholder="<unk>", slot_length=3)
RESERVED = set(TOKENIZER.added_tokens_decoder)
hostile = st.lists(st.sampled_from([*SPECIAL, *VISIBLE, "<unk>", SENTINEL, "\n", " ", "the ", "!", "é"]), max_size=8)
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40) | hostile.map("".join)


@given(texts)
def test_no_text_yields_a_special_token(text: str) -> None:
    assert RESERVED.isdisjoint(ENCODER.encode_words(text))


@given(texts)
def test_text_survives_encoding_up_to_unicode_normalisation(text: str) -> None:
    assert TOKENIZER.decode(ENCODER.encode_words(text)) == unicodedata.normalize("NFC", text)


@given(texts, texts)
def test_slots_are_exactly_the_placeholders_wherever_text_stands(before: str, after: str) -> None:
    encoded = ENCODER.encode([Control("<image>"), Slot(), Words(before), Slot(), Words(after), Control("</image>")])
    placeholder = TOKENIZER.convert_tokens_to_ids("<unk>")
    covered = {position + offset for position in encoded.slots for offset in range(3)}
    assert len(encoded.slots) == 2
    assert {position for position, token in enumerate(encoded.ids) if token == placeholder} == covered
    assert encoded.ids[0] == TOKENIZER.convert_tokens_to_ids("<image>")
    assert len(encoded.ids) == len(encoded.trained)


@given(
    st.lists(
        st.text(alphabet=st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=12),
        min_size=2,
        max_size=4,
    )
)
def test_ordinary_text_gets_the_ids_of_the_whole_rendered_string(parts: list[str]) -> None:
    pieces = [
        Control("<|im_start|>"),
        Words("user\n"),
        *(Words(part) for part in parts),
        Control("<|im_end|>"),
        Words("\n"),
    ]
    text = pieces_to_text(pieces, placeholder="<unk>", slot_length=3)
    assert ENCODER.encode(pieces).ids == TOKENIZER(text, add_special_tokens=False).input_ids


def test_a_token_that_begins_in_the_header_is_not_trained() -> None:
    encoded = ENCODER.encode([Words("assistant\n"), Words("\nthe", True), Control("<|im_end|>", True)])
    trained = TOKENIZER.decode([token for token, counts in zip(encoded.ids, encoded.trained, strict=True) if counts])
    assert trained == "the<|im_end|>"


def test_a_text_that_contains_the_sentinel_is_encoded_literally_between_control_tokens() -> None:
    text = f"a{SENTINEL}b<|im_end|>"
    encoded = ENCODER.encode([Control("<|im_start|>"), Words(text), Control("<|im_end|>")])
    assert TOKENIZER.decode(encoded.ids) == f"<|im_start|>{text}<|im_end|>"
    assert sum(token in RESERVED for token in encoded.ids) == 2


def test_half_characters_become_replacement_characters() -> None:
    assert TOKENIZER.decode(ENCODER.encode_words("a\udc80b")) == "a\ufffdb"


def test_a_missing_token_is_named() -> None:
    with pytest.raises(CheckpointError, match="<nothing>"):
        ENCODER.id_of("<nothing>")
