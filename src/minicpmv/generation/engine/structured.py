"""Answers that have a form: JSON of a schema, a regular expression, one of some choices.

    AnswerForm -> GrammarBook.compile -> Grammar (allowed, accept), one per request

Which tokens may come next is llguidance's work, a grammar library that walks the tokenizer's vocabulary as a tree. It
is optional: `pip install 'minicpmv[serve]'`.
"""

import json
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from minicpmv.errors import EngineError, OptionError

if TYPE_CHECKING:
    from llguidance import LLMatcher


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What an answer looks like: exactly one of these.

    Attributes:
        schema: a JSON schema; `{"type": "object"}` for any object.
        regex: a regular expression that the whole answer matches.
        choices: texts of which the answer is one.

    Raises:
        OptionError: none or several, or an empty one.
    """

    schema: Mapping[str, Any] | None = None
    regex: str | None = None
    choices: Sequence[str] | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("schema", "regex", "choices") if getattr(self, name) is not None]
        if len(given) != 1 or (self.choices is not None and not all(self.choices)) or self.choices == ():
            raise OptionError(
                f"The form of the answer is given by {' and '.join(given) or 'nothing'}.",
                remedy="Give a schema, a regex, or choices that are not empty.",
            )


class GrammarBook:
    """Makes grammars for one tokenizer; made once, since it reads the whole vocabulary.

    Args:
        tokenizer: of the model.
        num_logits: width of the model's logits, at least the vocabulary.
        terminators: ids that end an answer.

    Raises:
        OptionError: llguidance is not installed.
    """

    def __init__(self, tokenizer: Any, num_logits: int, terminators: Collection[int]) -> None:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError:
            raise OptionError(
                "Answers of a form need llguidance.", remedy="Install it: pip install 'minicpmv[serve]'."
            ) from None
        self._vocabulary = from_tokenizer(tokenizer, n_vocab=num_logits, eos_token=sorted(terminators))

    def compile(self, form: AnswerForm) -> "FormGrammar":
        """A grammar for one answer.

        Raises:
            OptionError: the schema or expression cannot be read, or asks for what cannot be done.
        """
        from llguidance import JsonCompiler, LLMatcher

        try:
            if form.schema is not None:
                # White space between tokens of JSON has no end, and small models find none.
                text = JsonCompiler(whitespace_flexible=False).compile(json.dumps(form.schema))
            elif form.regex is not None:
                text = LLMatcher.grammar_from_regex(form.regex)
            else:
                text = LLMatcher.grammar_from_regex("|".join(re.escape(choice) for choice in form.choices or ()))
            matcher = LLMatcher(self._vocabulary, text)
        except (ValueError, TypeError, RecursionError) as error:
            raise OptionError(f"The form of the answer cannot be read: {error}", remedy="See llguidance.") from None
        if matcher.is_error():
            reason = matcher.get_error().strip().splitlines()[0]
            raise OptionError(
                f"The form of the answer cannot be used: {reason}", remedy="Make it simpler, or leave it out."
            )
        return FormGrammar(matcher, self._vocabulary.vocab_size)


class Grammars:
    """A grammar book for a model, made when the first answer of a form is asked for.

    Args:
        model: whose logits count.
        tokenizer: of the model.
        terminators: ids that end an answer.
    """

    def __init__(self, model: Any, tokenizer: Any, terminators: Collection[int]) -> None:
        self._model, self._tokenizer, self._terminators = model, tokenizer, terminators
        self._book: GrammarBook | None = None
        self._making = threading.Lock()

    def compile(self, form: AnswerForm) -> "FormGrammar":
        """As `GrammarBook.compile`, from any thread.

        Raises:
            OptionError: llguidance is not installed, or the form cannot be read.
        """
        with self._making:
            if self._book is None:
                width = int(self._model.get_output_embeddings().weight.shape[0])
                self._book = GrammarBook(self._tokenizer, width, self._terminators)
        return self._book.compile(form)


class FormGrammar:
    """What may come next in one answer.

    Args:
        matcher: of llguidance, at the beginning of the answer.
        num_tokens: of the vocabulary.
    """

    def __init__(self, matcher: "LLMatcher", num_tokens: int) -> None:
        self._matcher, self._num_tokens = matcher, num_tokens
        self._bits = np.zeros((1, -(-num_tokens // 32)), dtype=np.int32)

    def allowed(self) -> Tensor:
        """Bool [vocabulary].

        Raises:
            EngineError: nothing may come next, so the form cannot be met.
        """
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._bits, 0)
        bits = np.unpackbits(self._bits.view(np.uint8)[0], bitorder="little")[: self._num_tokens]
        if self._matcher.is_error() or not bits.any():
            raise EngineError(
                f"No answer has the form that was asked for{self._reason()}.", remedy="Check the schema or expression."
            )
        return torch.from_numpy(bits.astype(np.bool_))

    def accept(self, token: int) -> bool:
        """Follow a token; whether the answer is complete and nothing may come after it."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())

    def _reason(self) -> str:
        error = self._matcher.get_error() if self._matcher.is_error() else ""
        return f" ({error.strip().splitlines()[0]})" if error else ""
