"""How much does it cost to turn pictures and clips into model inputs, beyond what decoding and resizing cost anyway?

Peer: Pillow (for clips PyAV and Pillow) doing only the unavoidable part: decode the file, and resize and cut to exactly
the sizes that our plan asks for. The peer writes no patches, normalises nothing and keeps no time codes.

Fairness: both read the same file from disk, use the same resampling filter and the same sizes, and the clip is decoded
by the same library with its own default threads; both visit each wanted frame once. Rounds alternate.

Goals: at most 1.3 times the peer for a 4000 x 3000 JPEG, and for a clip of 60 s at 1280 x 720, looked at with 10 frames
a second in packs of 6. Memory for the same number of frames must not depend on the length of the clip.
"""

from __future__ import annotations

import json
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from measure import Report, argument_parser, in_fresh_process, interleaved, memory_status
from PIL import Image

from minicpmv.media.fetch import FetchPolicy
from minicpmv.media.video import inspect_video
from minicpmv.messages import VideoPart
from minicpmv.processing.image_processor import MiniCPMVImageProcessor
from minicpmv.processing.item_rows import VisualRows
from minicpmv.processing.options import MediaOptions
from minicpmv.processing.slicing import Size, plan_slices, resized_views, slice_boxes
from minicpmv.processing.video_processor import MiniCPMVVideoProcessor

FRAMES_FOR_MEMORY = 48


def texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3] with detail at several scales, like a photograph's."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for cell, strength in ((256, 90.0), (32, 40.0), (4, 18.0), (1, 6.0)):
        coarse = generator.integers(0, 256, (height // cell + 2, width // cell + 2, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(smooth, np.float32) - 128) * (strength / 128)
    return np.clip(total + 128, 0, 255).astype(np.uint8)


def write_picture(path: Path, width: int, height: int) -> None:
    """A JPEG of ordinary quality."""
    Image.fromarray(texture(width, height)).save(path, quality=92)


def write_clip(path: Path, *, width: int, height: int, duration_s: int, fps: int) -> None:
    """A camera that pans over a textured scene while a square crosses it: motion vectors and residuals everywhere."""
    scene = texture(width + 512, height + 256)
    square = 255 - texture(height // 4, height // 4, seed=1)
    side = square.shape[0]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=fps, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, fps)
        for index in range(duration_s * fps):
            left, top = abs(index * 3 % 1024 - 512), abs(index % 512 - 256)
            picture = scene[top : top + height, left : left + width].copy()
            x, y = index * 7 % (width - side), index * 2 % (height - side)
            picture[y : y + side, x : x + side] = square
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def decode_and_resize_picture(path: Path) -> list[Image.Image]:
    """The peer for a picture."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    plan = plan_slices(Size(*picture.size))
    overview, refined = resized_views(picture, plan)
    cut = [] if refined is None else [refined.crop(box) for box in slice_boxes(plan)]
    for piece in cut:
        piece.load()
    return [overview, *cut]


def decode_and_resize_clip(path: Path, indices: set[int], size: Size) -> list[Image.Image]:
    """The peer for a clip: one pass, frames counted in display order, only the wanted ones converted."""
    resized = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for index, frame in enumerate(container.decode(stream)):
            if index in indices:
                resized.append(frame.to_image().resize(size, Image.Resampling.BICUBIC))
    return resized


def encode_clip(path: Path, options: MediaOptions) -> VisualRows:
    """Ours for a clip: patch rows, shapes, packs and time codes."""
    geometry = MiniCPMVImageProcessor().geometry
    return MiniCPMVVideoProcessor().encode(VideoPart(path), options, geometry, FetchPolicy())[1]


def race_picture(report: Report, folder: Path, *, small: bool, rounds: int) -> None:
    """A photograph, file to tensors."""
    width, height = (800, 600) if small else (4000, 3000)
    path = folder / "picture.jpg"
    write_picture(path, width, height)
    processor = MiniCPMVImageProcessor()
    rivals = {
        "Pillow: decode, resize, cut": lambda: decode_and_resize_picture(path),
        "picture to model inputs": lambda: processor.preprocess(path, return_tensors="pt"),
    }
    times = interleaved(rivals, rounds=rounds)
    report.race(f"JPEG {width}x{height}", times, *reversed(rivals), at_most=1.3)


def race_clip(report: Report, folder: Path, *, small: bool, rounds: int) -> None:
    """A clip, file to patch rows in packs."""
    width, height, duration_s = (320, 180, 3) if small else (1280, 720, 60)
    path = folder / "clip.mp4"
    write_clip(path, width=width, height=height, duration_s=duration_s, fps=30)
    options = MediaOptions(fps=10, packing=6)
    processor = MiniCPMVVideoProcessor()
    plan, text = processor.plan_file(inspect_video(path), options, MiniCPMVImageProcessor().geometry)
    size = text.groups[0].plans[0].overview
    indices = set(plan.indices)
    report.figure("frames looked at", len(indices))
    report.figure("frame packs", len(text.groups))
    rivals = {
        "PyAV and Pillow: decode, resize": lambda: decode_and_resize_clip(path, indices, size),
        "clip to model inputs": lambda: encode_clip(path, options),
    }
    times = interleaved(rivals, rounds=rounds)
    report.race(f"clip {width}x{height}, {duration_s} s", times, *reversed(rivals), at_most=1.3)


def compare_memory(report: Report, folder: Path, *, small: bool) -> None:
    """The same number of frames from ever longer clips; the peak of a process that does nothing else."""
    growth = {}
    for minutes in (1, 5, 20):
        path = folder / f"{minutes}.mp4"
        duration_s = minutes * (10 if small else 60)
        write_clip(path, width=320, height=180, duration_s=duration_s, fps=5)
        measured = in_fresh_process(__file__, "--peak-of", str(path))
        growth[minutes] = measured["peak"] - measured["before"]
        report.figure(f"memory for {FRAMES_FOR_MEMORY} frames of {duration_s} s", growth[minutes] / 2**20, "MiB")
    report.goal("memory, longest clip to shortest", growth[20] / growth[1], at_most=1.1)


def print_peak(path: Path) -> None:
    """Encode one clip in this process and print what it took."""
    import torch  # noqa: F401  (loaded before the baseline: it is not part of the clip's memory)

    before = memory_status()["VmRSS"]
    encode_clip(path, MediaOptions(max_frames=FRAMES_FOR_MEMORY, fps=10))
    print(json.dumps({"before": before, "peak": memory_status()["VmHWM"]}))


def main() -> None:
    """Run the parts that were asked for."""
    parser = argument_parser(__doc__)
    parser.add_argument("--only", choices=("picture", "clip", "memory"), help="one part of the three")
    parser.add_argument("--peak-of", type=Path, help=argument_help())
    arguments = parser.parse_args()
    if arguments.peak_of is not None:
        print_peak(arguments.peak_of)
        return
    report = Report("preprocess: files to model inputs, against decoding and resizing alone")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.only in (None, "picture"):
            race_picture(report, folder, small=arguments.small, rounds=arguments.rounds)
        if arguments.only in (None, "clip"):
            race_clip(report, folder, small=arguments.small, rounds=max(arguments.rounds // 2, 1))
        if arguments.only in (None, "memory"):
            compare_memory(report, folder, small=arguments.small)
    report.write(arguments.json)


def argument_help() -> str:
    """Said of the option by which the script starts itself."""
    return "encode this clip, print the memory it took, and stop (used by the script itself)"


if __name__ == "__main__":
    sys.exit(main())
