"""A small tokenizer of the released kind: Qwen2's byte-level BPE, the release's special tokens, its chat layout.

    texts -> merges -> MiniCPMVTokenizerFast with the control tokens in the release's order after the ordinary entries

As in the release, the placeholder `<unk>` is an ordinary entry promoted to a special token, and everything else that is
special follows the ordinary vocabulary.
"""

import json
from collections.abc import Iterable
from importlib.resources import files

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from minicpmv.errors import SettingsError
from minicpmv.processing.tokenizer import MiniCPMVTokenizerFast

PLACEHOLDER = "<unk>"
_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>")
_GROUNDING = ("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>")
_QWEN_VISION = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
# Not "special" in the release: they stay visible when an answer is decoded.
_VISIBLE: tuple[str, ...] = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
)
_VISIBLE += ("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>")
_VISUAL = tuple(
    f"<{slash}{name}>"
    for name in ("image", "ref", "box", "quad", "point", "slice", "image_id", "unit")
    for slash in ("", "/")
)
_RESERVED = tuple(f"<|reserved_{index}|>" for index in range(63))


def special_tokens() -> list[AddedToken]:
    """The release's added tokens after the ordinary vocabulary, in its order."""
    names = (*_CONTROL, *_GROUNDING, *_QWEN_VISION, *_VISIBLE, *_VISUAL, *_RESERVED)
    return [AddedToken(name, special=name not in _VISIBLE, normalized=False) for name in names]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> MiniCPMVTokenizerFast:
    """Learn merges and put the release's special tokens behind them.

    Args:
        texts: what to learn merges from.
        vocabulary: length of the finished tokenizer.

    Raises:
        SettingsError: too few entries for all bytes and special tokens.
    """
    specials = special_tokens()
    ordinary = vocabulary - len(specials) - 1
    if ordinary < 256:
        raise SettingsError(
            f"A vocabulary of {vocabulary} has no room for 256 bytes and {len(specials) + 1} special tokens.",
            remedy=f"Use at least {257 + len(specials)}.",
        )
    blank = Tokenizer(models.BPE())
    blank.normalizer = Qwen2Tokenizer().backend_tokenizer.normalizer
    blank.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=ordinary, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    blank.train_from_iterator(texts, trainer)
    learned = json.loads(blank.to_str())["model"]
    entries = {**learned["vocab"], PLACEHOLDER: len(learned["vocab"])}
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in learned["merges"]]
    tokenizer = MiniCPMVTokenizerFast(
        vocab=entries,
        merges=merges,  # type: ignore[arg-type]  # pairs are what the backend takes
        unk_token=PLACEHOLDER,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=[PLACEHOLDER, *_VISUAL, *_RESERVED],
        added_tokens_decoder=dict(enumerate(specials, start=len(entries))),
    )
    tokenizer.chat_template = chat_template()
    return tokenizer


def chat_template() -> str:
    """A jinja template that renders the release's layout, for programs that read templates."""
    return files("minicpmv.training.towers").joinpath("chat_template.jinja").read_text(encoding="utf-8")
