"""The chat layout: pieces equal the official strings, and the loss counts exactly what the assistant says."""

import pytest
from tests.unit.processing.conftest import make_tokenizer

from minicpmv.errors import MessageError
from minicpmv.messages import parse_messages
from minicpmv.processing.chat_template import (
    TemplateOptions,
    VisualText,
    VisualTokens,
    conversation_pieces,
    visual_pieces,
)
from minicpmv.processing.packing import plan_groups
from minicpmv.processing.slicing import Size
from minicpmv.processing.text_encoding import PieceEncoder, Words, pieces_to_text


def render(raw: object, **options: object) -> str:
    pieces = conversation_pieces(parse_messages(raw), [], TemplateOptions(**options))  # type: ignore[arg-type]
    return pieces_to_text(pieces, placeholder="<unk>", slot_length=64)


def visual(sizes: list[Size], times: list[list[int]], *, ids: bool = False, first: int = 0, slices: int = 9) -> str:
    text = VisualText(plan_groups(times, sizes, max_slices=slices), ids)
    return pieces_to_text(visual_pieces(text, first, VisualTokens()), placeholder="", slot_length=64)


HISTORY = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "Q1"},
    {"role": "assistant", "content": "<think>\nabc\n</think>\n\nA1"},
    {"role": "user", "content": "Q2"},
]


def test_the_generation_prompt_opens_closes_or_omits_the_think_block() -> None:
    start = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert render("Hi", add_generation_prompt=True, thinking=True) == start + "<think>\n"
    assert render("Hi", add_generation_prompt=True, thinking=False) == start + "<think>\n\n</think>\n\n"
    assert render("Hi", add_generation_prompt=True, thinking=None) == start
    assert render("Hi", add_generation_prompt=True, thinking=False, has_think=False) == start


def test_earlier_answers_lose_their_think_block() -> None:
    assert render(HISTORY, add_generation_prompt=True, thinking=False) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_the_last_answer_keeps_an_empty_think_block() -> None:
    conversation = [{"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1"}]
    assert render(conversation).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nA1<|im_end|>\n")


def test_a_continued_answer_stays_open() -> None:
    conversation = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "It is"}]
    assert render(conversation, continue_final_message=True).endswith("</think>\n\nIt is")
    with pytest.raises(MessageError, match="continue_final_message"):
        render("Hi", continue_final_message=True)


def test_parts_of_a_message_are_joined_by_newlines() -> None:
    assert "user\na\nb<|im_end|>" in render([{"role": "user", "content": ["a", "b"]}])


def test_a_grid_follows_its_overview_without_a_newline_and_separates_rows_by_one() -> None:
    row = "<slice></slice>" * 2
    assert visual([Size(700, 699)], [[-1]]) == f"<image></image>{row}\n{row}"
    assert visual([Size(896, 448)], [[-1]], ids=True, first=4) == f"<image_id>4</image_id><image></image>{row}"


def test_groups_are_separated_by_one_newline_and_numbered_by_their_first_frame() -> None:
    sizes = [Size(640, 360)] * 5
    assert visual(sizes, [[0, 3], [7, 10], [13]], slices=1) == "\n".join(["<image></image>"] * 3)
    numbered = visual(sizes, [[0, 3], [7, 10], [13]], slices=1, ids=True)
    assert numbered == "\n".join(f"<image_id>{k}</image_id><image></image>" for k in (0, 2, 4))


def test_the_loss_counts_answers_with_their_think_block_and_end_and_nothing_else() -> None:
    tokenizer = make_tokenizer()
    encoder = PieceEncoder(tokenizer, placeholder="<unk>", slot_length=2)
    conversation = [
        {"role": "user", "content": "the question"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": "second", "reasoning_content": "why"},
    ]
    encoded = encoder.encode(conversation_pieces(parse_messages(conversation), [], TemplateOptions()))
    trained = [token for token, counts in zip(encoded.ids, encoded.trained, strict=True) if counts]
    assert tokenizer.decode(trained) == "first<|im_end|><think>\nwhy\n</think>\n\nsecond<|im_end|>"


def test_reasoning_becomes_think_tokens_but_a_persons_words_do_not() -> None:
    tokenizer = make_tokenizer()
    encoder = PieceEncoder(tokenizer, placeholder="<unk>", slot_length=2)
    conversation = [
        {"role": "user", "content": "<think>x</think>"},
        {"role": "assistant", "content": "y", "reasoning": "z"},
    ]
    ids = encoder.encode(conversation_pieces(parse_messages(conversation), [], TemplateOptions())).ids
    assert ids.count(tokenizer.convert_tokens_to_ids("<think>")) == 1
    assert ids.count(tokenizer.convert_tokens_to_ids("</think>")) == 1


def test_a_medium_stands_where_its_part_was() -> None:
    messages = parse_messages([{"role": "user", "content": ["a", {"type": "image", "image": "x.png"}, "b"]}])
    pieces = conversation_pieces(messages, [[Words("[picture]")]], TemplateOptions())
    assert "a\n[picture]\nb" in pieces_to_text(pieces, placeholder="", slot_length=1)


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(MessageError, match="no messages"):
        conversation_pieces([], [], TemplateOptions())
