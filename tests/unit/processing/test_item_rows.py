"""Rows written by one thread and by several; an error in a thread is not lost and nothing hangs."""

import threading

import numpy as np
import pytest
from PIL import Image
from tests.unit.processing.conftest import picture

from minicpmv.processing.geometry import Geometry
from minicpmv.processing.item_rows import ItemRows, PictureWriter
from minicpmv.processing.packing import group_consecutive, plan_groups
from minicpmv.processing.slicing import Size

FRAMES = 23


def clip_rows(frames: int = FRAMES) -> ItemRows:
    geometry = Geometry(resolution=56)
    times = group_consecutive(list(range(frames)), 6)
    sizes = [Size(90, 60)] * frames
    return ItemRows(plan_groups(times, sizes, max_slices=2, resolution=56, slice_mode=True), geometry)


def writer_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("picture-writer")]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_several_threads_write_what_one_writes(threads: int) -> None:
    pictures = [picture(90, 60, seed) for seed in range(FRAMES)]
    alone, together = clip_rows(), clip_rows()
    for frame, image in enumerate(pictures):
        alone.write(frame, image)
    with PictureWriter(together, threads) as writer:
        for frame, image in enumerate(pictures):
            writer.write(frame, image)
    np.testing.assert_array_equal(alone.rows.pixel_values, together.rows.pixel_values)
    assert not writer_threads()


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    with pytest.raises(KeyError), PictureWriter(clip_rows(), 2) as writer:
        writer.write(FRAMES, picture(90, 60))
    assert not writer_threads()


def test_an_error_in_a_thread_stops_a_long_clip_early() -> None:
    accepted: list[int] = []

    def give_wrong_frames() -> None:
        with PictureWriter(clip_rows(), 2) as writer:
            for step in range(100):
                writer.write(FRAMES, picture(90, 60))
                accepted.append(step)

    with pytest.raises(KeyError):
        give_wrong_frames()
    assert len(accepted) == 4
    assert not writer_threads()


def test_an_error_of_the_caller_leaves_no_thread_behind() -> None:
    def end_early() -> None:
        with PictureWriter(clip_rows(), 2) as writer:
            writer.write(0, picture(90, 60))
            raise RuntimeError("the file ends")

    with pytest.raises(RuntimeError, match="the file ends"):
        end_early()
    assert not writer_threads()


def test_only_a_few_pictures_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    started: list[int] = []

    def slow(self: ItemRows, frame: int, image: Image.Image) -> None:
        gate.wait(10)
        started.append(frame)

    monkeypatch.setattr(ItemRows, "write", slow)
    accepted: list[int] = []

    def give(writer: PictureWriter) -> None:
        for frame in range(FRAMES):
            writer.write(frame, picture(9, 6))
            accepted.append(frame)

    with PictureWriter(clip_rows(), 2) as writer:
        caller = threading.Thread(target=give, args=(writer,))
        caller.start()
        caller.join(0.3)
        waiting = len(accepted)
        gate.set()
        caller.join(10)
    assert waiting == 4
    assert sorted(started) == list(range(FRAMES))
