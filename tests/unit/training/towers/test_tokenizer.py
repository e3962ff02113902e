"""A small tokenizer has everything the released one has, in the same order."""

import json
from pathlib import Path
from typing import Any

import pytest

from minicpmv.errors import SettingsError
from minicpmv.processing.tokenizer import MiniCPMVTokenizerFast, load_tokenizer
from minicpmv.training.towers.tokenizer import special_tokens, train_tokenizer

TEXTS = ["What does the text say?", "the quick brown fox", "Which colour appears first?"] * 20
Conversation = list[dict[str, Any]]


@pytest.fixture(scope="module")
def tokenizer() -> MiniCPMVTokenizerFast:
    return train_tokenizer(TEXTS, 400)


def test_special_tokens_are_those_of_the_release_in_its_order(official_folder: Path) -> None:
    config = json.loads((official_folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    released = [token for index, token in sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0]))]
    ours = special_tokens()
    assert [token["content"] for token in released[1:]] == [token.content for token in ours]
    assert [token["special"] for token in released[1:]] == [token.special for token in ours]


def test_its_length_is_the_vocabulary_and_the_placeholder_is_an_ordinary_entry(
    tokenizer: MiniCPMVTokenizerFast,
) -> None:
    assert len(tokenizer) == 400
    assert tokenizer.convert_tokens_to_ids("<unk>") == 400 - len(special_tokens()) - 1
    assert tokenizer.convert_tokens_to_ids("<|reserved_62|>") == 399


def test_any_text_survives(tokenizer: MiniCPMVTokenizerFast) -> None:
    text = "Zażółć gęślą 日本語 🙂 12.50 a  b\n\n!"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_it_survives_saving(tokenizer: MiniCPMVTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again("What does the text say?<image>").input_ids == tokenizer("What does the text say?<image>").input_ids
    assert again.chat_template == tokenizer.chat_template


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least 362"):
        train_tokenizer(TEXTS, 300)


CALLS = [{"function": {"name": "f", "arguments": {"a": 1}}}, {"name": "g", "arguments": "{}"}]
CONVERSATIONS: dict[str, Conversation] = {
    "one question": [{"role": "user", "content": "Hi"}],
    "history with thoughts": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q1"},
        {"role": "assistant", "content": "<think>\nabc\n</think>\n\nA1"},
        {"role": "user", "content": "Q2"},
    ],
    "answered": [{"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1"}],
    "functions": [
        {"role": "user", "content": "Q1"},
        {"role": "assistant", "content": "A1", "reasoning_content": "r\n"},
        {"role": "tool", "content": "x"},
        {"role": "tool", "content": "y"},
        {"role": "assistant", "content": "", "tool_calls": CALLS},
    ],
    "a result in a user turn": [
        {"role": "user", "content": "Q1"},
        {"role": "assistant", "content": "A1"},
        {"role": "system", "content": "later"},
        {"role": "user", "content": "<tool_response>\nx\n</tool_response>"},
        {"role": "assistant", "content": "\n\nB"},
    ],
}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


@pytest.mark.parametrize("thinking", [None, False, True])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_our_chat_template_renders_the_released_strings(
    tokenizer: MiniCPMVTokenizerFast,
    official_folder: Path,
    name: str,
    tools: list[dict[str, Any]] | None,
    thinking: bool | None,
) -> None:
    released = json.loads((official_folder / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    options: dict[str, Any] = {"tools": tools, "tokenize": False}
    if thinking is not None:
        options |= {"add_generation_prompt": True, "enable_thinking": thinking}
    ours = tokenizer.apply_chat_template(CONVERSATIONS[name], **options)
    assert ours == tokenizer.apply_chat_template(CONVERSATIONS[name], chat_template=released, **options)
