"""How an answer is generated, in one frozen record, and what that means for transformers' `generate`.

    GenerationOptions + the checkpoint's generation config -> resolve() -> keyword arguments of `generate`

transformers fills every value that is left out from the checkpoint's own generation config. Here every value that
matters is written out instead, so that the same options mean the same thing with every checkpoint.
"""

from dataclasses import dataclass
from typing import Any

from minicpmv.errors import OptionError
from minicpmv.generation.engine.requests import RequestOptions
from minicpmv.generation.engine.sampling import SamplingParams
from minicpmv.generation.engine.structured import AnswerForm

DEFAULT_MAX_NEW_TOKENS = 2048
"""Tokens an answer may have if neither the caller nor the checkpoint says otherwise. Source: the official `chat`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationOptions:
    """How to answer. The defaults give the most probable answer, the same one every time.

    Giving `temperature`, `top_p`, `top_k` or `seed` asks for sampling, unless `do_sample` says otherwise or the
    temperature is 0.
    """

    think: bool = False
    """Let the model reason before it answers (the long mode)."""

    max_new_tokens: int | None = None
    """Longest answer in tokens, reasoning included. None: the checkpoint's, else 2048, or less where the
    context leaves less."""

    min_new_tokens: int = 0
    """Shortest answer in tokens."""

    do_sample: bool | None = None
    """Draw tokens at random. None: only if an option of sampling is given."""

    temperature: float | None = None
    """Flattens (above 1) or sharpens (below 1) the distribution. None: the checkpoint's. 0 turns sampling off."""

    top_p: float | None = None
    """Draw from the most probable tokens that together have this probability. None: the checkpoint's."""

    top_k: int | None = None
    """Draw from this many most probable tokens; 0 means all. None: the checkpoint's."""

    repetition_penalty: float = 1.0
    """Above 1, tokens that the answer already holds become less probable. The prompt does not count."""

    num_beams: int = 1
    """Above 1, beam search."""

    thinking_budget: int | None = None
    """Longest reasoning in tokens; then the block is closed and the answer follows. None: as long as it takes."""

    stop: tuple[str, ...] = ()
    """Strings that end the answer and are no part of it."""

    form: AnswerForm | None = None
    """What the answer looks like, after any reasoning: JSON of a schema, a regular expression, one of some choices."""

    guard: bool = True
    """End an answer that says the same thing over and over."""

    seed: int | None = None
    """Makes sampling repeatable without touching the random state of the process."""

    def __post_init__(self) -> None:
        at_least = {"max_new_tokens": 1, "min_new_tokens": 0, "temperature": 0, "top_k": 0, "num_beams": 1, "seed": 0}
        at_least["thinking_budget"] = 0
        for name, lowest in at_least.items():
            value = getattr(self, name)
            if value is not None and not value >= lowest:
                raise OptionError(f"{name} is {value}.", remedy=f"It must be at least {lowest}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise OptionError(f"top_p is {self.top_p}.", remedy="It must be above 0 and at most 1.")
        if not self.repetition_penalty > 0:
            raise OptionError(f"repetition_penalty is {self.repetition_penalty}.", remedy="It must be above 0.")
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise OptionError(
                f"min_new_tokens is {self.min_new_tokens} but max_new_tokens is {self.max_new_tokens}.",
                remedy="Raise max_new_tokens.",
            )

        if self.num_beams > 1 and (self.stop or self.thinking_budget is not None or self.form is not None):
            raise OptionError(
                "Beam search takes no stop strings, no thinking budget and no form.", remedy="Leave num_beams at 1."
            )

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        if self.temperature == 0:
            return False
        if self.do_sample is not None:
            return self.do_sample
        return any(value is not None for value in (self.temperature, self.top_p, self.top_k, self.seed))

    def resolve(self, checkpoint: Any) -> dict[str, Any]:
        """Keyword arguments for `generate` that leave nothing to the checkpoint unsaid.

        The length and the repetition penalty are not among them: both depend on the prompt.

        Args:
            checkpoint: the model's `generation_config`; gives the sampling values that these options leave open.
        """
        arguments: dict[str, Any] = {"do_sample": self.samples, "num_beams": self.num_beams, "repetition_penalty": 1.0}
        # Without sampling, these are transformers' neutral values; anything else makes it warn.
        neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}
        for name, default in neutral.items():
            given = getattr(self, name)
            suggested = getattr(checkpoint, name, None)
            value = given if given is not None else suggested if suggested is not None else default
            arguments[name] = value if self.samples else default
        if self.min_new_tokens:
            arguments["min_new_tokens"] = self.min_new_tokens
        return arguments

    def for_engine(self, checkpoint: Any, max_new_tokens: int) -> RequestOptions:
        """The same for the engine.

        Args:
            checkpoint: as for `resolve`.
            max_new_tokens: what the context leaves of the length that was asked for.
        """
        values = self.resolve(checkpoint)
        sampling = SamplingParams(
            temperature=float(values["temperature"]) if self.samples else 0.0,
            top_p=float(values["top_p"]),
            top_k=int(values["top_k"]) if self.samples else 0,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
        )
        return RequestOptions(
            max_new_tokens=max_new_tokens,
            min_new_tokens=self.min_new_tokens,
            sampling=sampling,
            stop=self.stop,
            think=self.think,
            thinking_budget=self.thinking_budget,
            guard=self.guard,
        )
