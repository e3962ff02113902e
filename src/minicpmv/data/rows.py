"""Row packing: several samples in one training sequence, none of which sees another.

    EncodedSample, ... -> fill_rows -> rows -> collate_rows -> input_ids, position_ids, labels, slots, patches

Samples of 50 and of 5000 tokens in one padded batch would be mostly padding. Here a row holds as many samples as fit;
the positions start again at 0 with each of them, and the language model takes that as the border of what may be looked
at (transformers' masks for packed sequences). Not to be confused with frame packing, which happens inside a sample.
"""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from minicpmv.errors import ContextLengthError
from minicpmv.processing.collate import IGNORED, EncodedSample
from minicpmv.processing.item_rows import concatenate_rows
from minicpmv.processing.tensors import convert, to_tensors


def fill_rows(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Which samples share a row: as few rows as a best fit finds, filled as evenly as can be.

    Rows that go through the model together are as long as the longest of them; in rows of 1020 and 300 tokens a third
    would be padding.

    Args:
        lengths: tokens of each sample.
        row_length: tokens of a row.

    Returns:
        Numbers of samples per row, ascending within a row; rows in the order of their first samples.

    Raises:
        ContextLengthError: a sample is longer than a row.

    >>> fill_rows([6, 3, 4, 1], 10)
    [[0, 3], [1, 2]]
    """
    if lengths and max(lengths) > row_length:
        raise ContextLengthError(
            f"A sample has {max(lengths)} tokens and a row only {row_length}.",
            remedy="Use longer rows, or fewer slices or frames.",
        )
    by_room: dict[int, list[int]] = {}  # free tokens -> rows
    rows: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[index]
        room = min((room for room in by_room if room >= length), default=None)
        if room is None:
            rows.append([])
            place, room = len(rows) - 1, row_length
        else:
            place = by_room[room].pop()
            if not by_room[room]:
                del by_room[room]
        rows[place].append(index)
        by_room.setdefault(room - length, []).append(place)
    even = _dealt_out(lengths, len(rows))
    if max((sum(lengths[index] for index in row) for row in even), default=0) <= row_length:
        rows = even
    return sorted(sorted(row) for row in rows)


def _dealt_out(lengths: Sequence[int], num_rows: int) -> list[list[int]]:
    """Samples in so many rows, the longest first, each into the emptiest."""
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    emptiest = [(0, place) for place in range(num_rows)]
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        tokens, place = emptiest[0]
        rows[place].append(index)
        heapq.heapreplace(emptiest, (tokens + lengths[index], place))
    return rows


def collate_rows(
    rows: Sequence[Sequence[EncodedSample]], row_length: int, *, pad_id: int, return_tensors: str = "pt"
) -> dict[str, Any]:
    """The model's inputs for rows of samples, with labels.

    There is no attention mask: padding at the end of a row counts as one more sample, from which nothing is learned.

    Args:
        rows: samples of each row, in order.
        row_length: tokens of a row.
        pad_id: id that fills what is left.
        return_tensors: "pt" or "np".

    Returns:
        `input_ids`, `position_ids`, `labels` [rows, row_length]; with pictures also `pixel_values`, `item_shapes`,
        `item_packs`, `item_times` and `visual_slots`. `num_targets` is the number of tokens that are learned.

    Raises:
        ContextLengthError: the samples of a row do not fit into it.
    """
    ids = np.full((len(rows), row_length), pad_id, np.int64)
    labels = np.full_like(ids, IGNORED)
    positions = np.zeros_like(ids)
    slots: list[tuple[int, int]] = []
    for row, samples in enumerate(rows):
        start = 0
        for sample in samples:
            end = start + len(sample.ids)
            if end > row_length:
                raise ContextLengthError(
                    f"The samples of a row have {sum(len(one.ids) for one in samples)} tokens, the row {row_length}.",
                    remedy="Choose rows with fill_rows.",
                )
            ids[row, start:end] = sample.ids
            # Nothing predicts the first token of a sample but the sample before it, which must not.
            trained = np.array(sample.trained, dtype=bool)
            trained[:1] = False
            labels[row, start:end] = np.where(trained, sample.ids, IGNORED)
            positions[row, start:end] = np.arange(end - start)
            slots += [(row, start + slot) for slot in sample.slots]
            start = end
        positions[row, start:] = np.arange(row_length - start)
    columns = {"input_ids": ids, "position_ids": positions, "labels": labels}
    batch: dict[str, Any] = {name: convert(column, return_tensors) for name, column in columns.items()}
    batch["num_targets"] = int((labels != IGNORED).sum())
    visuals = [part for samples in rows for sample in samples for part in sample.visuals]
    if visuals:
        batch |= to_tensors(concatenate_rows(visuals), return_tensors)
        batch["visual_slots"] = convert(np.array(slots, np.int64), return_tensors)
    return batch
