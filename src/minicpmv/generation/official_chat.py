"""`model.chat(...)` with the argument names, meaning and defaults of the released code, for snippets that exist.

    msgs -> messages (images grouped by temporal_ids) -> processor -> generate -> str | list[str] | iterator of str

New code is better served by `minicpmv.generation.chat.Assistant`, which also tells reasoning from answer and counts.

Source: `MiniCPMV.chat` of MiniCPM-V 4.5. Deviations, each of them a silent loss there: a prompt longer than
`max_inp_length` is refused with counts instead of being cut; a stand-alone "!" is neither masked in the prompt nor
dropped from the answer; special tokens in the text of a turn stay text; content of an unknown type is an error; frames
that share a group must stand side by side in one turn; an answer never runs past the model's context.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from PIL.Image import Image

from minicpmv.errors import ContextLengthError, MessageError, OptionError
from minicpmv.generation.decoding import IncrementalDecoder, cut_at_terminator, decode
from minicpmv.generation.running import (
    TokenStream,
    complete,
    context_length,
    count_visual_tokens,
    fit_answer,
    terminator_ids,
)
from minicpmv.generation.thinking import THINK_OPEN
from minicpmv.messages import ImagePart, Message, TextPart, VideoPart, group_frames, parse_messages

if TYPE_CHECKING:
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
    from minicpmv.processing.processor import MiniCPMVProcessor

Groups = Sequence[Sequence[int]]

# Source: MiniCPMV.chat of MiniCPM-V 4.5. What it leaves out when thinking falls back to transformers' own defaults.
SAMPLING = {"do_sample": True, "temperature": 0.7}
SAMPLING_SHORT = {**SAMPLING, "top_p": 0.8, "top_k": 100, "repetition_penalty": 1.03}
BEAMS = {"num_beams": 3, "repetition_penalty": 1.2}
NEUTRAL = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "repetition_penalty": 1.0,
}


def chat(  # noqa: PLR0913 - the released signature
    model: "MiniCPMVForConditionalGeneration",
    image: Image | None = None,
    msgs: Any = None,
    tokenizer: Any = None,
    processor: "MiniCPMVProcessor | None" = None,
    vision_hidden_states: Any = None,
    max_new_tokens: int = 2048,
    min_new_tokens: int = 0,
    sampling: bool = True,
    max_inp_length: int = 16384,
    system_prompt: str = "",
    stream: bool = False,
    max_slice_nums: int | None = None,
    use_image_id: bool | None = None,
    temporal_ids: Any = None,
    enable_thinking: bool = False,
    **kwargs: Any,
) -> str | list[str] | Iterator[str]:
    """Answer one conversation, or a batch of them.

    Args:
        model: the model.
        image: a picture put before the text of the first turn; the older way to pass one.
        msgs: turns `{"role": "user" | "assistant", "content": str or list of PIL images and strings}`, or the same as a
            JSON string, or a list of such lists for a batch. Parts of a turn are joined by a newline.
        tokenizer: accepted for the sake of existing calls; the processor's own is used.
        processor: renders the prompt; without it, the one of the model's own checkpoint is loaded.
        vision_hidden_states: resampled features [packs, queries, d_llm], one tensor per conversation; skips the tower.
        max_new_tokens: longest answer in tokens.
        min_new_tokens: shortest answer in tokens.
        sampling: draw at random; otherwise three beams.
        max_inp_length: longest prompt in tokens.
        system_prompt: prepended as a system turn.
        stream: return an iterator over pieces of text; needs `sampling`.
        max_slice_nums: slices per picture, instead of the checkpoint's setting.
        use_image_id: number the pictures in the prompt, instead of the checkpoint's setting.
        temporal_ids: for clips given as frames: groups of time ids, in 0.1 s, covering all pictures of the conversation
            in order; -1 is no time. For a batch, one such list per conversation.
        enable_thinking: the long mode; the answer then begins with `<think>`.
        **kwargs: values for the sampling options that the mode uses; others have no effect, as in the released code.

    Returns:
        The answer; a list for a batch; an iterator with `stream`.

    Raises:
        MessageError: the turns cannot be read, or `temporal_ids` does not cover the pictures.
        ContextLengthError: the prompt is longer than `max_inp_length`, or does not fit the context with its answer.
        OptionError: options contradict each other.
    """
    if stream and not sampling:
        raise OptionError("stream=True needs sampling=True.", remedy="A beam search knows no token before the last.")
    conversations, batched = _conversations(image, msgs, system_prompt)
    if stream and batched:
        raise OptionError("stream=True answers one conversation.", remedy="Call chat once for each.")
    groups = _groups_per_conversation(temporal_ids, batched, len(conversations))
    if processor is None:
        processor = _processor_of(model)
    grouped = [
        turns if given is None else group_frames(turns, given)
        for turns, given in zip(conversations, groups, strict=True)
    ]
    messages = [_with_options(turns, max_slice_nums, use_image_id) for turns in grouped]
    inputs = processor.apply_chat_template(
        messages if batched else messages[0],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        enable_thinking=enable_thinking,
    )
    inputs = _with_features(dict(inputs), vision_hidden_states)
    terminators = terminator_ids(model, processor.tokenizer)
    arguments = {
        **_arguments(sampling, enable_thinking, min_new_tokens, kwargs),
        "max_new_tokens": _answer_length(model, inputs, max_inp_length, max_new_tokens),
        "eos_token_id": terminators,
        "pad_token_id": terminators[0],
    }
    prefix = f"{THINK_OPEN}\n" if enable_thinking else ""
    if stream:
        return _stream(model, inputs, arguments, processor.tokenizer, terminators, prefix)
    done = complete(model, inputs, arguments)
    kept = [cut_at_terminator(row, terminators)[0] for row in done.ids]
    answers = [prefix + decode(processor.tokenizer, ids).strip() for ids in kept]
    return answers if batched else answers[0]


def _conversations(image: Image | None, msgs: Any, system_prompt: str) -> tuple[list[list[Message]], bool]:
    """Our messages for every conversation, and whether a batch was given."""
    if isinstance(msgs, str):
        msgs = json.loads(msgs)
    if not isinstance(msgs, Sequence) or not msgs:
        raise MessageError("msgs is empty or no list.", remedy='Give [{"role": "user", "content": [...]}].')
    batched = not isinstance(msgs[0], Mapping)
    if batched and image is not None:
        raise MessageError("image= goes with one conversation, but msgs is a batch.", remedy="Put it into the content.")
    conversations = []
    for raw in msgs if batched else [msgs]:
        turns = parse_messages(json.loads(raw) if isinstance(raw, str) else raw)
        if [turn.role for turn in turns[:1]] != ["user"] or any(turn.role == "system" for turn in turns):
            raise MessageError(
                "Roles in msgs are user and assistant, and the first turn is the user's.",
                remedy="Give a system prompt as system_prompt=.",
            )
        if image is not None:
            turns = [Message("user", (ImagePart(image), *turns[0].parts)), *turns[1:]]
        if system_prompt:
            turns = [Message("system", (TextPart(system_prompt),)), *turns]
        conversations.append(turns)
    return conversations, batched


def _groups_per_conversation(temporal_ids: Any, batched: bool, num: int) -> list[Groups | None]:
    """`temporal_ids` for each conversation: depth 2 is one conversation's, depth 3 a batch's."""
    if temporal_ids is None:
        return [None] * num
    try:
        depth = 3 if len(temporal_ids) > 0 and isinstance(temporal_ids[0][0], Sequence) else 2
    except (TypeError, IndexError, KeyError) as error:
        raise MessageError(
            "temporal_ids is no list of groups.", remedy="Give for instance [[0, 3, 7], [10]]."
        ) from error
    groups: list[Groups | None] = list(temporal_ids) if depth == 3 else [temporal_ids]
    if len(groups) != num:
        raise MessageError(f"temporal_ids is for {len(groups)} conversations, msgs holds {num}.")
    return groups


def _with_options(turns: list[Message], max_slices: int | None, use_image_id: bool | None) -> list[Message]:
    """The turns with the call's options on every picture."""
    return [
        replace(
            turn,
            parts=tuple(
                replace(part, max_slices=max_slices, use_image_id=use_image_id)
                if isinstance(part, ImagePart | VideoPart)
                else part
                for part in turn.parts
            ),
        )
        for turn in turns
    ]


def _processor_of(model: "MiniCPMVForConditionalGeneration") -> "MiniCPMVProcessor":
    """The processor of the checkpoint that the model was loaded from."""
    from minicpmv.generation.loading import read_processor

    place = str(getattr(model.config, "_name_or_path", ""))
    if not place:
        raise OptionError(
            "chat was called without a processor.", remedy="Pass processor=MiniCPMVProcessor.from_pretrained(...)."
        )
    return read_processor(place)


def _with_features(inputs: dict[str, Any], features: Any) -> dict[str, Any]:
    """Given features in place of pixels."""
    if features is None:
        return inputs
    tensors = [features] if isinstance(features, torch.Tensor) else [part for part in features if len(part)]
    pixels = ("pixel_values", "item_shapes", "item_packs", "item_times")
    kept = {name: value for name, value in inputs.items() if name not in pixels}
    return {**kept, "visual_features": torch.cat(tensors)}


def _answer_length(model: Any, inputs: Mapping[str, Any], max_inp_length: int, max_new_tokens: int) -> int:
    """Tokens the answer may have: as many as asked for, or what the context leaves."""
    prompt, visual = int(inputs["input_ids"].shape[1]), count_visual_tokens(model, inputs)
    if prompt > max_inp_length:
        raise ContextLengthError(
            f"The prompt has {prompt} tokens, {visual} of them visual; max_inp_length is {max_inp_length}.",
            remedy="Raise max_inp_length, or give fewer pictures or frames.",
        )
    return fit_answer(prompt=prompt, visual=visual, context=context_length(model), wanted=None, default=max_new_tokens)


def _arguments(sampling: bool, thinking: bool, min_new_tokens: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `generate`; the caller's values count only where the mode has such an option."""
    options: dict[str, Any] = dict((SAMPLING if thinking else SAMPLING_SHORT) if sampling else BEAMS)
    if min_new_tokens > 0:
        options["min_new_tokens"] = min_new_tokens
    options.update({name: given[name] for name in options.keys() & given.keys()})
    return {**NEUTRAL, **options}


def _stream(
    model: "MiniCPMVForConditionalGeneration",
    inputs: Mapping[str, Any],
    arguments: Mapping[str, Any],
    tokenizer: Any,
    terminators: list[int],
    prefix: str,
) -> Iterator[str]:
    """Pieces of text as they become certain."""
    if prefix:
        yield prefix
    decoder = IncrementalDecoder(tokenizer)
    for token in TokenStream(model, inputs, arguments):
        if token not in terminators and (text := decoder.feed([token])):
            yield text
    if text := decoder.finish():
        yield text
