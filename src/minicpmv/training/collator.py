"""Batches for other people's trainers: transformers' `Trainer`, TRL's `SFTTrainer`.

    [{"messages" | "prompt" + "completion", "images"}, ...] -> ConversationCollator -> inputs with labels

Trainers that tokenise prompts and answers apart and push them together afterwards lose the places of the pictures. With
this collator the processor sees whole conversations, and labels are those of our own engine: the answers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from minicpmv.errors import MessageError
from minicpmv.processing.processor import MiniCPMVProcessor


class ConversationCollator:
    """Conversations to a padded batch with labels.

    Args:
        processor: of the model that is trained.
        **options: of `MiniCPMVProcessor.apply_chat_template`, for example `max_slices` or `max_length`.
    """

    def __init__(self, processor: MiniCPMVProcessor, **options: Any) -> None:
        self.processor = processor
        self._options = options

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """One batch; see `minicpmv.processing.collate` for its tensors.

        Args:
            examples: rows with `messages`, or `prompt` and `completion`; `images` fill the picture parts in order, or
                stand before the first question if it has none.

        Raises:
            MessageError: a row has neither form, or pictures and places for them differ in number.
        """
        batch = self.processor.apply_chat_template(
            [_conversation(example) for example in examples],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_labels=True,
            padding_side="right",
            **self._options,
        )
        return dict(batch)


def _conversation(example: Mapping[str, Any]) -> list[dict[str, Any]]:
    turns = example.get("messages") or [*(example.get("prompt") or ()), *(example.get("completion") or ())]
    if not turns:
        raise MessageError(
            f"An example has the columns {', '.join(sorted(example))}.",
            remedy="Give messages, or prompt and completion.",
        )
    pending = list(example.get("images") or ())
    conversation = [{**turn, "content": _parts(turn["content"])} for turn in turns]
    places = [part for turn in conversation for part in turn["content"] if _waits(part)]
    if pending and not places:
        first = next((turn for turn in conversation if turn["role"] == "user"), conversation[0])
        places = [{"type": "image"} for _ in pending]
        first["content"] = [*places, *first["content"]]
    if len(places) != len(pending):
        raise MessageError(
            f"An example has {len(pending)} images and {len(places)} places for them.", remedy="Give one of each."
        )
    for part, picture in zip(places, pending, strict=True):
        part["image"] = picture
    return conversation


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None:  # a turn that only calls tools
        return []
    # Columns of a data set give every part every key; those without a value say nothing.
    return [{key: value for key, value in part.items() if value is not None} for part in content]


def _waits(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "image" and set(part) == {"type"}
