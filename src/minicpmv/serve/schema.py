"""What may be asked of `/v1/chat/completions`, and what is refused by name.

    JSON -> ChatRequest -> sampling, form of the answer, options of media

Names are OpenAI's; what OpenAI has no name for is called as in vLLM. A field that nobody knows is refused with the
nearest name that somebody does, since `max_token` would otherwise change nothing without a word.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from minicpmv.generation.engine.sampling import SamplingParams
from minicpmv.generation.engine.structured import AnswerForm

IGNORED = frozenset(
    {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "prompt_cache_key", "safety_identifier"}
)
"""Fields that change nothing about an answer here, and that clients send."""

MEDIA_OPTIONS = ("max_slices", "fps", "packing", "max_frames", "use_image_id")
_OTHER_NAMES = {"max_slice_nums": "max_slices", "num_frames": "max_frames", "max_num_frames": "max_frames"}
MOST_ANSWERS = 16


class Loose(BaseModel):
    """Refuses what it does not know, and suggests what was meant."""

    model_config = ConfigDict(extra="forbid", strict=False)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        known = [*cls.model_fields, *(field.alias for field in cls.model_fields.values() if field.alias)]
        kept = {name: value for name, value in given.items() if name not in IGNORED}
        for name in kept:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                raise ValueError(f"There is no field {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return kept


class JsonSchema(Loose):
    """Of a `response_format`."""

    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Loose):
    """`text`, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Loose):
    """The form of an answer in vLLM's words; one of them."""

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None


class StreamOptions(Loose):
    """Of a streamed answer."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False


class Asked(Loose):
    """What both APIs take."""

    model: str | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: str | list[str] | None = None
    stream: bool = False
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=10)
    min_tokens: int = Field(default=0, ge=0)
    structured_outputs: StructuredOutputs | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = Field(default=None, ge=0)
    mm_processor_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, dict[str, Any]] | None = None
    max_slices: int | None = None
    fps: float | None = None
    packing: int | None = None
    max_frames: int | None = None
    repetition_guard: bool = True
    timeout_s: float | None = Field(default=None, gt=0)

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop: Any) -> Any:
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > 16 or not all(0 < len(one) <= 1000 for one in stops):
            raise ValueError("Give at most 16 strings that are not empty.")
        return stop

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def thinks(self, effort: str | None) -> bool:
        """Whether the model reasons first, however the client says so.

        Args:
            effort: OpenAI's `reasoning_effort`; "none" and "minimal" are the short mode.
        """
        template = (self.chat_template_kwargs or {}).get("enable_thinking")
        if self.enable_thinking is not None:
            return self.enable_thinking
        if isinstance(template, bool):
            return template
        return effort is not None and effort not in ("none", "minimal")

    def media_options(self) -> dict[str, Any]:
        """Options of pictures and clips for the whole request, wherever they stand.

        Raises:
            ValueError: one that does not exist.
        """
        found: dict[str, Any] = {}
        video = (self.media_io_kwargs or {}).get("video", {})
        for source in (video, self.mm_processor_kwargs or {}):
            for name, value in source.items():
                option = _OTHER_NAMES.get(name, name)
                if option not in MEDIA_OPTIONS:
                    near = difflib.get_close_matches(name, MEDIA_OPTIONS, 1)
                    hint = f" Did you mean {near[0]!r}?" if near else f" Known are {', '.join(MEDIA_OPTIONS)}."
                    raise ValueError(f"There is no option {name!r} of media.{hint}")
                found[option] = value
        own = {name: value for name in MEDIA_OPTIONS if (value := getattr(self, name, None)) is not None}
        return found | own

    def sampling(self, *, logprobs: int | None = None, answer: int = 0) -> SamplingParams:
        """How tokens are chosen.

        Args:
            logprobs: how many are told.
            answer: number of this answer among several; each draws differently.
        """
        asks = any(value is not None for value in (self.temperature, self.top_p, self.top_k, self.min_p, self.seed))
        temperature = self.temperature if self.temperature is not None else 1.0 if asks else 0.0
        return SamplingParams(
            temperature=temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            seed=None if self.seed is None else self.seed + answer,
            logprobs=logprobs,
        )

    def form(self, response_format: ResponseFormat | None) -> AnswerForm | None:
        """The form of the answer, if one is asked for."""
        forms: list[AnswerForm] = []
        if response_format is not None and response_format.type == "json_object":
            forms.append(AnswerForm(schema={"type": "object"}))
        if response_format is not None and response_format.type == "json_schema":
            schema = response_format.json_schema
            if schema is None or schema.schema_ is None:
                raise ValueError("response_format has no json_schema.schema.")
            forms.append(AnswerForm(schema=schema.schema_))
        if (asked := self.structured_outputs) is not None:
            schema_given = asked.json_ if isinstance(asked.json_, dict) else None
            forms.append(AnswerForm(schema_given, asked.regex, tuple(asked.choice) if asked.choice else None))
        if len(forms) > 1:
            raise ValueError("response_format and structured_outputs both say what the answer looks like.")
        return forms[0] if forms else None


class ChatRequest(Asked):
    """`POST /v1/chat/completions`."""

    messages: list[Any] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int = Field(default=1, ge=1, le=MOST_ANSWERS)
    stream_options: StreamOptions | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    logit_bias: dict[str, float] | None = None

    @model_validator(mode="after")
    def _possible(self) -> "ChatRequest":
        if self.tools or self.functions:
            raise ValueError("Tools are not supported.")
        if self.logit_bias:
            raise ValueError("logit_bias is not supported.")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true.")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true.")
        return self

    @property
    def longest(self) -> int | None:
        """Longest answer that was asked for."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
