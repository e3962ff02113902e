"""A tokenizer of the released kind, small enough to make in a moment: byte-level BPE, all special names, the layout."""

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from minicpmv.processing.tokenizer import MiniCPMVTokenizerFast

WORDS = "the quick brown fox says what is in the picture and which colour appears first in the clip assistant user "
VISUAL = ["<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>", "<unit>", "</unit>"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *VISUAL]
VISIBLE = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


def make_tokenizer() -> MiniCPMVTokenizerFast:
    """A byte-level vocabulary of a few hundred entries in which, as in the release, `<unk>` is an ordinary entry."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        [WORDS * 3, "\n\n user\n assistant\n Hello! Hi?"],
        trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False),
    )
    vocabulary = learner.get_vocab()
    merges = learner_merges(learner)
    vocabulary["<unk>"] = len(vocabulary)
    tokens = [AddedToken(name, special=True, normalized=False) for name in SPECIAL]
    tokens += [AddedToken(name, special=False, normalized=False) for name in VISIBLE]
    return MiniCPMVTokenizerFast(
        vocab=vocabulary,
        merges=merges,
        unk_token="<unk>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<unk>", *VISUAL],
        added_tokens_decoder=dict(enumerate(tokens, len(vocabulary))),
    )


def learner_merges(learner: Tokenizer) -> list[tuple[str, str]]:
    import json

    merges: list[Any] = json.loads(learner.to_str())["model"]["merges"]
    return [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in merges]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> MiniCPMVTokenizerFast:
    return make_tokenizer()
