"""The rows of everything the encoder sees of one picture or clip, written as pictures arrive.

    groups -> ItemRows (one array, allocated once) <- write(frame, picture) in any order

Sizes are planned before pixels exist, so the place of every patch is known: a frame is resized, written and forgotten,
and memory does not depend on how large or how many the decoded pictures were. For the same reason several frames can be
written at once: `PictureWriter` does it in threads, while its caller decodes the next ones.
"""

import os
from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from minicpmv.processing.geometry import Geometry
from minicpmv.processing.packing import FrameGroup, ItemPlace, order_items
from minicpmv.processing.patches import FloatRows, write_patches
from minicpmv.processing.slicing import resized_views, slice_boxes


@dataclass(frozen=True, slots=True)
class VisualRows:
    """Patch rows of some items in the form the model takes; packs are counted from 0."""

    pixel_values: FloatRows
    """float32 [patches, 3 * patch * patch]."""
    item_shapes: npt.NDArray[np.int64]
    """int64 [items, 2]: rows and columns of patches."""
    item_packs: npt.NDArray[np.int64]
    """int64 [items]."""
    item_times: npt.NDArray[np.int64]
    """int64 [items]: official time codes, -1 for no time."""

    @property
    def num_packs(self) -> int:
        """Packs of these items."""
        return int(self.item_packs[-1]) + 1 if len(self.item_packs) else 0


class ItemRows:
    """Rows of the items of some groups, allocated at once and filled frame by frame."""

    def __init__(self, groups: Sequence[FrameGroup], geometry: Geometry) -> None:
        self._geometry = geometry
        places = list(order_items(groups))
        patch = geometry.patch
        shapes = np.array([(place.size.height // patch, place.size.width // patch) for place in places], np.int64)
        ends = np.cumsum(shapes[:, 0] * shapes[:, 1])
        self._places: dict[int, list[tuple[ItemPlace, int, int]]] = defaultdict(list)
        for place, start, end in zip(places, [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            self._places[place.frame].append((place, start, end))
        self._plans = {frame: plan for group in groups for frame, plan in zip(group.frames, group.plans, strict=True)}
        self.rows = VisualRows(
            np.empty((int(ends[-1]), 3 * patch * patch), np.float32),
            shapes,
            np.array([place.pack for place in places], np.int64),
            np.array([place.time for place in places], np.int64),
        )

    def write(self, frame: int, image: Image.Image) -> None:
        """Resize one RGB picture as planned, cut it, and write its patches.

        Args:
            frame: its number, as the groups count it.
            image: the decoded picture; nothing of it is kept.
        """
        plan = self._plans[frame]
        overview, refined = resized_views(image, plan)
        views = [np.asarray(overview)]
        if refined is not None:
            pixels = np.asarray(refined)
            views += [pixels[top:bottom, left:right] for left, top, right, bottom in slice_boxes(plan)]
        for place, start, end in self._places[frame]:
            write_patches(
                views[place.position],
                self.rows.pixel_values[start:end],
                patch=self._geometry.patch,
                mean=self._geometry.mean,
                std=self._geometry.std,
            )


class PictureWriter:
    """Writes pictures of some rows in threads of its own: resizing and cutting hold no lock of Python's.

    As a context manager. Leaving it waits for what is still being written; an error in a thread is raised by the next
    `write` or on leaving.

    Args:
        rows: where the pictures belong.
        threads: how many write; at most twice as many pictures wait or are being written, so memory stays bounded.
    """

    def __init__(self, rows: ItemRows, threads: int = min(4, os.cpu_count() or 1)) -> None:
        self._rows = rows
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="picture-writer")
        self._pending: deque[Future[None]] = deque()
        self._most = 2 * threads

    def __enter__(self) -> Self:
        return self

    def write(self, frame: int, image: Image.Image) -> None:
        """See `ItemRows.write`; returns before the picture is written. It must not be changed afterwards."""
        if len(self._pending) >= self._most:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._rows.write, frame, image))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            for future in self._pending:
                future.result()


def concatenate_rows(parts: Sequence[VisualRows]) -> VisualRows:
    """The rows of several pictures and clips one after another, packs counted through; one part is not copied."""
    if len(parts) == 1:
        return parts[0]
    packs, offset = [], 0
    for part in parts:
        packs.append(part.item_packs + offset)
        offset += part.num_packs
    return VisualRows(
        np.concatenate([part.pixel_values for part in parts]),
        np.concatenate([part.item_shapes for part in parts]),
        np.concatenate(packs),
        np.concatenate([part.item_times for part in parts]),
    )
