"""Time codes say when a frame was seen, whatever the frame rate does."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from minicpmv.media.video import inspect_video
from minicpmv.processing.geometry import Geometry
from minicpmv.processing.options import MediaOptions
from minicpmv.processing.sampling import temporal_ids
from minicpmv.processing.video_processor import MiniCPMVVideoProcessor


def write(path: Path, times_ms: list[int]) -> Path:
    """A clip whose frames are seen at the given times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 7 % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["slow.mp4", "slow.mkv"])
def test_a_variable_rate_gives_the_codes_of_the_true_times(name: str, tmp_path: Path) -> None:
    """Ten frames in the first second, then one a second: by number alone the second half would come far too early."""
    times = [*range(0, 1000, 100), *range(1000, 11000, 1000)]
    video = inspect_video(write(tmp_path / name, times))
    plan, text = MiniCPMVVideoProcessor().plan_file(video, MediaOptions(fps=10, packing=6), Geometry())
    codes = [code for group in text.groups for code in group.times]
    for index, code in zip(plan.indices, codes, strict=True):
        assert abs(code - times[index] / 100) <= 1, (index, code)
    assert video.times_s([0, 10, 19]) == pytest.approx([0.0, 1.0, 10.0], abs=0.002)


def test_a_constant_rate_gives_the_official_codes(tmp_path: Path) -> None:
    video = inspect_video(write(tmp_path / "even.mp4", [round(number * 40) for number in range(100)]))
    plan, text = MiniCPMVVideoProcessor().plan_file(video, MediaOptions(), Geometry())
    codes = tuple(code for group in text.groups for code in group.times)
    assert codes == temporal_ids(plan.indices, video.info.fps, video.info.num_frames)
