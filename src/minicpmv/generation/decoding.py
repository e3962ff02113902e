"""Token ids to text, all at once or as they come.

Special tokens stay in the text, because some of them carry meaning (`<box>`, `<ref>`, `<think>`); only the token that
ended the answer is cut off.
"""

from collections.abc import Collection, Iterable
from typing import Any

REPLACEMENT = "\ufffd"


def cut_at_terminator(ids: Iterable[int], terminators: Collection[int]) -> tuple[list[int], bool]:
    """The ids before the first terminator, and whether there was one; what follows it in a batch is padding."""
    kept: list[int] = []
    for token in ids:
        if token in terminators:
            return kept, True
        kept.append(token)
    return kept, False


def decode(tokenizer: Any, ids: list[int]) -> str:
    """The text of these ids, nothing cleaned up, nothing dropped."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


class IncrementalDecoder:
    """Turn ids into text piece by piece, never handing out half a character.

    One character may need several byte-level tokens, and some tokenizers put a space in front of a word only if it
    is not the first. So each piece is the difference between two decodings that share a short left context: its cost
    does not grow with the answer.

    Args:
        tokenizer: anything with transformers' `decode`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0
        self._done = 0

    def feed(self, ids: Iterable[int]) -> str:
        """The text that has become complete with these ids, perhaps empty."""
        self._ids.extend(ids)
        return self._advance(final=False)

    def finish(self) -> str:
        """What is left, an incomplete character included."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        known = decode(self._tokenizer, self._ids[self._context : self._done])
        text = decode(self._tokenizer, self._ids[self._context :])
        if len(text) <= len(known) or (text.endswith(REPLACEMENT) and not final):
            return ""
        self._context, self._done = self._done, len(self._ids)
        return text[len(known) :]
