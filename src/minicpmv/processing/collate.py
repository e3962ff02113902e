"""Encoded samples to one batch: padding, masks from pad lengths, labels, and slots that follow the padding.

    [EncodedSample, ...] -> collate -> input_ids, attention_mask, labels, visual_slots, rows of all pictures

Only tokens are padded. The attention mask comes from the pad lengths and never from an id: officially every token 0,
which is "!" in this vocabulary, counted as padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minicpmv.errors import ContextLengthError, OptionError
from minicpmv.processing.item_rows import VisualRows, concatenate_rows
from minicpmv.processing.tensors import convert, to_tensors

IGNORED = -100
"""Label of a token that does not count in the loss. Source: torch.nn.functional.cross_entropy, `ignore_index`."""


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """One conversation as ids, with the rows of its pictures and clips in the order of its slots."""

    ids: list[int]
    trained: list[bool]
    """Whether each token counts in the loss."""
    slots: list[int]
    """First position of each slot; slot p is filled by pack p of `visuals`, counted through."""
    visuals: tuple[VisualRows, ...]
    slot_length: int


@dataclass(frozen=True, slots=True)
class Padding:
    """How samples of different lengths become one batch.

    Args:
        strategy: "longest", "max_length", or "none", which needs equal lengths for tensors.
        side: "left" or "right".
        max_length: longest prompt that is accepted, in tokens.
        multiple: pad to a multiple of this many tokens.

    Raises:
        OptionError: an unknown strategy or side, or "max_length" without a length.
    """

    strategy: str = "longest"
    side: str = "left"
    max_length: int | None = None
    multiple: int | None = None

    def __post_init__(self) -> None:
        if self.strategy not in ("longest", "max_length", "none"):
            raise OptionError(f"padding is {self.strategy!r}.", remedy='Use true, false, "longest" or "max_length".')
        if self.side not in ("left", "right"):
            raise OptionError(f"padding_side is {self.side!r}.", remedy='Use "left" or "right".')
        if self.strategy == "max_length" and self.max_length is None:
            raise OptionError('padding="max_length" without max_length.', remedy="Give max_length.")

    def length(self, lengths: Sequence[int]) -> int:
        """Tokens per row for samples of these lengths."""
        length = self.max_length if self.strategy == "max_length" and self.max_length else max(lengths)
        if self.multiple:
            length = -(-length // self.multiple) * self.multiple
        return length


def check_lengths(samples: Sequence[EncodedSample], max_length: int | None) -> None:
    """Refuse prompts that are too long; nothing is ever cut, least of all inside a picture.

    Raises:
        ContextLengthError: a sample has more than `max_length` tokens.
    """
    for row, sample in enumerate(samples):
        if max_length is not None and len(sample.ids) > max_length:
            visual = len(sample.slots) * sample.slot_length
            where = f"Prompt {row}" if len(samples) > 1 else "The prompt"
            raise ContextLengthError(
                f"{where} has {len(sample.ids)} tokens, {visual} of them for pictures; the limit is {max_length}.",
                remedy="Use fewer slices or frames, larger frame packs, or a shorter text.",
            )


def collate(
    samples: Sequence[EncodedSample],
    padding: Padding,
    *,
    pad_id: int,
    labels: bool = False,
    assistant_mask: bool = False,
    return_tensors: str | None = "pt",
) -> dict[str, Any]:
    """The model's inputs for some samples.

    Args:
        samples: at least one.
        padding: how lengths are made equal.
        pad_id: id that fills.
        labels: also give `labels`: the ids where they count in the loss, -100 elsewhere.
        assistant_mask: also give `assistant_masks`: 1 where a token counts in the loss.
        return_tensors: "pt", "np", or None for lists of ids and numpy arrays of pixels.

    Returns:
        `input_ids` and `attention_mask` [batch, tokens]; with pictures also `pixel_values`, `item_shapes`,
        `item_packs`, `item_times` and `visual_slots`.

    Raises:
        ContextLengthError: a sample is longer than the limit.
        OptionError: samples of different lengths were not to be padded.
    """
    check_lengths(samples, padding.max_length)
    lengths = [len(sample.ids) for sample in samples]
    padded = padding.strategy != "none"
    if not padded and return_tensors is not None and len(set(lengths)) > 1:
        raise OptionError(
            f"Samples of {min(lengths)} to {max(lengths)} tokens cannot be one tensor without padding.",
            remedy="Use padding=True.",
        )
    width = padding.length(lengths) if padded else 0
    shifts = [width - length if padded and padding.side == "left" else 0 for length in lengths]
    columns: dict[str, tuple[list[list[int]], int]] = {
        "input_ids": ([sample.ids for sample in samples], pad_id),
        "attention_mask": ([[1] * length for length in lengths], 0),
    }
    if labels:
        columns["labels"] = ([_labels(sample) for sample in samples], IGNORED)
    if assistant_mask:
        columns["assistant_masks"] = ([[int(trained) for trained in sample.trained] for sample in samples], 0)
    batch: dict[str, Any] = {}
    for name, (rows, fill) in columns.items():
        if return_tensors is None and not padded:
            batch[name] = rows
        else:
            table = _table(rows, shifts, width or lengths[0], fill)
            batch[name] = table.tolist() if return_tensors is None else convert(table, return_tensors)
    visuals = [rows for sample in samples for rows in sample.visuals]
    if visuals:
        slots = [(row, slot + shifts[row]) for row, sample in enumerate(samples) for slot in sample.slots]
        batch |= to_tensors(concatenate_rows(visuals), return_tensors)
        batch["visual_slots"] = convert(np.array(slots, np.int64), return_tensors)
    return batch


def _labels(sample: EncodedSample) -> list[int]:
    return [token if trained else IGNORED for token, trained in zip(sample.ids, sample.trained, strict=True)]


def _table(rows: Sequence[Sequence[int]], shifts: Sequence[int], width: int, fill: int) -> npt.NDArray[np.int64]:
    """Rows of different lengths in one table."""
    table = np.full((len(rows), width), fill, np.int64)
    for target, row, shift in zip(table, rows, shifts, strict=True):
        target[shift : shift + len(row)] = row
    return table
