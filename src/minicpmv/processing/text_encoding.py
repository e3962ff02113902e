"""Text to token ids in which nothing that a person writes can become a special token.

    pieces (words, control tokens, runs of placeholders) -> PieceEncoder.encode -> ids, trained, slots

The words of a prompt are tokenised with a copy of the tokenizer's own model that knows no added tokens at all, so
`<|im_end|>`, `<image>` or `<think>` inside a question stay the characters they are. Between control tokens the words
are tokenised in one stretch, as they would be in the rendered string, so ordinary text gets exactly the ids that
tokenising the whole string gives: a sentinel stands where each control token is, and is replaced afterwards.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tokenizers import AddedToken, Tokenizer

from minicpmv.errors import CheckpointError

SENTINEL = "\ufdd0\U0010fffeminicpmv-control\U0010fffe\ufdd0"
"""Stands for a control token while words are tokenised; text that contains it is tokenised apart."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Words:
    """Text of a prompt; `trained` words count in the loss."""

    text: str
    trained: bool = False


@dataclass(frozen=True, slots=True)
class Control:
    """One special token, by name."""

    name: str
    trained: bool = False


@dataclass(frozen=True, slots=True)
class Slot:
    """A run of placeholder tokens that one resampler output fills."""


Piece: TypeAlias = Words | Control | Slot


@dataclass(frozen=True, slots=True)
class EncodedPieces:
    """Token ids, whether each counts in the loss, and the first position of every slot."""

    ids: list[int]
    trained: list[bool]
    slots: list[int]


def pieces_to_text(pieces: Iterable[Piece], *, placeholder: str, slot_length: int) -> str:
    """The string that the pieces stand for, as the official processor would render it."""
    texts = []
    for piece in pieces:
        if isinstance(piece, Words):
            texts.append(piece.text)
        elif isinstance(piece, Control):
            texts.append(piece.name)
        else:
            texts.append(placeholder * slot_length)
    return "".join(texts)


class PieceEncoder:
    """Turns pieces into ids with a given tokenizer.

    Args:
        tokenizer: a transformers tokenizer with a `tokenizers` backend.
        placeholder: name of the token that fills slots.
        slot_length: tokens per slot.

    Raises:
        CheckpointError: the tokenizer lacks the placeholder.
    """

    def __init__(self, tokenizer: Any, *, placeholder: str, slot_length: int) -> None:
        backend: Tokenizer = tokenizer.backend_tokenizer
        self.slot_length = slot_length
        self._ids = {token.content: index for index, token in backend.get_added_tokens_decoder().items()}
        self._vocabulary = backend
        self._plain = _without_added_tokens(backend)
        self._marked = _without_added_tokens(backend)
        self._marked.add_special_tokens([AddedToken(SENTINEL, special=True, normalized=False)])
        self._sentinel = self._marked.token_to_id(SENTINEL)
        self._placeholder = self.id_of(placeholder)
        self._reserved = frozenset(self._ids.values()) | {self._placeholder}

    def knows(self, name: str) -> bool:
        """Whether the tokenizer has an added token of this name."""
        return name in self._ids

    def id_of(self, name: str) -> int:
        """Id of a special token.

        Raises:
            CheckpointError: the tokenizer has no such token.
        """
        index = self._ids.get(name)
        if index is None:  # a sentencepiece vocabulary may hold its control tokens among the ordinary entries
            index = self._vocabulary.token_to_id(name)
        if index is None:
            raise CheckpointError(
                f"The tokenizer has no token {name}.", remedy="Use the tokenizer files of a MiniCPM-V checkpoint."
            )
        return int(index)

    def encode_words(self, text: str) -> list[int]:
        """Ids of text in which nothing is special."""
        return self.encode([Words(text)]).ids

    def encode(self, pieces: Sequence[Piece]) -> EncodedPieces:
        """Ids of a prompt, which of them count in the loss, and where the slots are.

        A token that begins in words before the trained ones (a newline of the header merged with one of the answer)
        does not count: at inference it is part of the prompt.
        """
        result = EncodedPieces([], [], [])
        if any(isinstance(piece, Words) and SENTINEL in piece.text for piece in pieces):
            for piece in pieces:
                self._append(piece, result)
            return result
        text, trained = _joined(pieces)
        controls = iter(piece for piece in pieces if not isinstance(piece, Words))
        encoding = self._marked.encode(text, add_special_tokens=False)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token == self._sentinel:
                self._append(next(controls), result)
            elif token in self._reserved:
                self._append_apart(text[start:end], trained[start], result)
            else:
                result.ids.append(token)
                result.trained.append(start < len(trained) and trained[start])
        return result

    def _append(self, piece: Piece, result: EncodedPieces) -> None:
        """Add one piece by itself."""
        if isinstance(piece, Words):
            for token in self._plain.encode(_valid(piece.text), add_special_tokens=False).ids:
                if token in self._reserved:
                    raise CheckpointError(f"The tokenizer turns plain text into the reserved id {token}.")
                result.ids.append(token)
                result.trained.append(piece.trained)
        elif isinstance(piece, Control):
            result.ids.append(self.id_of(piece.name))
            result.trained.append(piece.trained)
        else:
            result.slots.append(len(result.ids))
            result.ids.extend([self._placeholder] * self.slot_length)
            result.trained.extend([False] * self.slot_length)

    def _append_apart(self, text: str, trained: bool, result: EncodedPieces) -> None:
        """Add words that the model's merges turned into a reserved id, one character at a time."""
        for character in text:
            for token in self._plain.encode(character, add_special_tokens=False).ids:
                result.ids.append(token)
                result.trained.append(trained)


def _valid(text: str) -> str:
    """Text without half characters, which a terminal or broken JSON can produce; each becomes U+FFFD."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def _joined(pieces: Sequence[Piece]) -> tuple[str, list[bool]]:
    """The words with a sentinel per control token or slot, and whether each character counts in the loss."""
    texts = [_valid(piece.text) if isinstance(piece, Words) else SENTINEL for piece in pieces]
    trained: list[bool] = []
    for piece, text in zip(pieces, texts, strict=True):
        trained.extend([isinstance(piece, Words) and piece.trained] * len(text))
    return "".join(texts), trained


def _without_added_tokens(backend: Tokenizer) -> Tokenizer:
    """The same model, normaliser and pre-tokeniser without added tokens; the vocabulary is shared, not copied."""
    plain = Tokenizer(backend.model)
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        plain.pre_tokenizer = backend.pre_tokenizer
    return plain
