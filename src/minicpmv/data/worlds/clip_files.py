"""Write rendered frames as a real video file, so that examples and tests go through a decoder like a person's clip."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from minicpmv.errors import OptionError

_LAST_FRAME_S = 0.1  # how long the last frame stays if there is only one


def write_clip(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    times_s: Sequence[float],
    *,
    frame_rate: int = 30,
    scale: int = 1,
) -> None:
    """Write an H.264 file in which each frame stays until the next one's time.

    Args:
        path: file to write; its suffix chooses the container, usually `.mp4`.
        frames: uint8 [height, width, 3] each, all of one even size.
        times_s: start of each frame in seconds, the first 0; the last frame stays as long as the one before it.
        frame_rate: constant rate of the file in frames per second.
        scale: every pixel becomes a square of this side, for people who want to watch the clip.

    Raises:
        OptionError: no frames, odd sizes, or times that do not start at 0, do not grow or do not match the frames.
    """
    if not frames or len(frames) != len(times_s):
        raise OptionError(f"{len(frames)} frames have {len(times_s)} times.", remedy="Give one time per frame.")
    height, width, _ = frames[0].shape
    if height * scale % 2 or width * scale % 2:
        raise OptionError(f"Frames of {width}x{height} px cannot be encoded.", remedy="Use even sides.")
    repeats = _repeats(times_s, frame_rate)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=frame_rate, options={"crf": "14", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width * scale, height * scale, "yuv420p"
        stream.time_base = Fraction(1, frame_rate)
        position = 0
        for frame, num in zip(frames, repeats, strict=True):
            picture = av.VideoFrame.from_ndarray(frame.repeat(scale, axis=0).repeat(scale, axis=1), format="rgb24")
            for _ in range(num):
                picture.pts = position
                container.mux(stream.encode(picture))
                position += 1
        container.mux(stream.encode())


def _repeats(times_s: Sequence[float], frame_rate: int) -> list[int]:
    """How many frames of the file each picture fills."""
    last_s = times_s[-1] - times_s[-2] if len(times_s) > 1 else _LAST_FRAME_S
    edges = [round(time_s * frame_rate) for time_s in (*times_s, times_s[-1] + last_s)]
    repeats = [end - start for start, end in zip(edges[:-1], edges[1:], strict=True)]
    if edges[0] != 0 or min(repeats) < 1:
        raise OptionError(
            f"Frame times {list(times_s)} do not fit {frame_rate} frames per second.",
            remedy="Start at 0 and leave at least one frame between two times.",
        )
    return repeats
