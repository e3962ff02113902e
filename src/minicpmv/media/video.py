"""Exact frames of a clip at exact times, handed out one by one.

    source -> read_source -> inspect_video -> Video(info) -> frames(indices) -> Frame(index, time_s, image), ...

Frames are counted in display order and times run from the first frame. Frames that lie close together are decoded
straight through; before a gap the decoder jumps to the last keyframe it can start from, so a few frames of a long film
cost what those frames cost. One decoded picture is held at a time, whatever the length of the clip.
"""

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

from av.buffer import Buffer
from av.video.frame import VideoFrame
from PIL import Image

from minicpmv.errors import MediaError
from minicpmv.media.containers import OpenedVideo, check_video_file, opened_video
from minicpmv.media.fetch import FetchPolicy, read_source
from minicpmv.media.scanning import build_timeline, first_frame, is_last
from minicpmv.media.sources import MediaSource, source_name
from minicpmv.media.timeline import Follower, Timeline

_WORTH_A_JUMP = 12
"""Frames to decode for nothing before a jump is cheaper: a jump empties the decoder's pipeline. Ours."""

_TURNS = {
    (0, 1, -1, 0): (90, Image.Transpose.ROTATE_270),
    (-1, 0, 0, -1): (180, Image.Transpose.ROTATE_180),
    (0, -1, 1, 0): (270, Image.Transpose.ROTATE_90),
    (-1, 0, 0, 1): (0, Image.Transpose.FLIP_LEFT_RIGHT),
    (1, 0, 0, -1): (180, Image.Transpose.FLIP_TOP_BOTTOM),
    (0, 1, 1, 0): (90, Image.Transpose.TRANSPOSE),
    (0, -1, -1, 0): (270, Image.Transpose.TRANSVERSE),
}
"""Signs of the display matrix (a, b, c, d) to degrees clockwise and Pillow's way to get there.
Source: ISO/IEC 14496-12, 6.2.2: x' = a x + c y, y' = b x + d y."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known about a clip before its frames are decoded."""

    width: int
    """Of a frame as it is seen, that is after rotation, in px."""
    height: int
    num_frames: int
    fps: float
    """Average frames per second: num_frames / duration_s."""
    duration_s: float
    """From the first frame until the last one has been seen."""
    rotation: int
    """Degrees clockwise by which the stored frames are turned: 0, 90, 180 or 270."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: its number in display order, the seconds since the first frame, and its RGB pixels, upright."""

    index: int
    time_s: float
    image: Image.Image


@dataclass(frozen=True, slots=True)
class Video:
    """A clip that has been looked at, ready to give frames any number of times. Holds no open file."""

    info: VideoInfo
    _file: Path | bytes
    _name: str
    _timeline: Timeline
    _turn: Image.Transpose | None
    _may_skip: bool

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """The frames with these numbers, one at a time.

        Args:
            indices: in ascending order; one that occurs twice is given twice, with the same image.

        Raises:
            MediaError: an index outside the clip or out of order; or a clip that is damaged or ends early.
        """
        _check_indices(indices, self.info.num_frames, self._name)
        return self._read(indices)

    def times_s(self, indices: Sequence[int]) -> tuple[float, ...]:
        """When the frames with these numbers are seen, in seconds from the first; nothing is decoded.

        True times where the container tells them, also at a variable rate; else number / average rate.

        Raises:
            MediaError: an index outside the clip or out of order.
        """
        _check_indices(indices, self.info.num_frames, self._name)
        return tuple(self._timeline.time_s(index, self._timeline.expected_pts(index)) for index in indices)

    def _read(self, indices: Sequence[int]) -> Iterator[Frame]:
        with opened_video(self._file, self._name) as opened:
            reader = _Reader(opened, self._timeline, self._name, may_skip=self._may_skip)
            previous: Frame | None = None
            for index, decoded in reader.frames(indices):
                if previous is None or previous.index != index:
                    image = _rgb(decoded)
                    if self._turn is not None:
                        image = image.transpose(self._turn)
                    previous = Frame(index, self._timeline.time_s(index, decoded.pts), image)
                yield previous


def inspect_video(source: MediaSource, *, policy: FetchPolicy | None = None) -> Video:
    """Look at a clip: its size, its rate, and where its frames are. One frame is decoded.

    Args:
        source: a path, URL, data: URI, bytes or open file; GIF and APNG animations too.
        policy: what may be read.

    Raises:
        MediaNotFoundError: the path does not exist.
        MediaError: not a clip, truncated, damaged, without a video stream or without frames.
    """
    name = source_name(source)
    file = read_source(source, policy)
    check_video_file(file, name)
    with opened_video(file, name) as opened:
        first = first_frame(opened, name)
        timeline = build_timeline(file, name, opened, first)
        codec = opened.stream.codec_context.name
    rotation, turn = _display_turn(first.frame)
    width, height = first.frame.width, first.frame.height
    if rotation in {90, 270}:
        width, height = height, width
    duration_s = float(Fraction(timeline.num_frames) / timeline.rate)
    info = VideoInfo(width, height, timeline.num_frames, float(timeline.rate), duration_s, rotation)
    # In H.264 a frame marked "not for reference" is never needed by another one; other codecs promise less.
    may_skip = codec == "h264" and not first.frame.interlaced_frame
    return Video(info, file, name, timeline, turn, may_skip)


def probe_video(source: MediaSource, *, policy: FetchPolicy | None = None) -> VideoInfo:
    """Size, number of frames, average rate and length of a clip; see `inspect_video`."""
    return inspect_video(source, policy=policy).info


def read_frames(source: MediaSource, indices: Sequence[int], *, policy: FetchPolicy | None = None) -> Iterator[Frame]:
    """Frames of a clip by number; whoever also needs the info calls `inspect_video` once and then `Video.frames`.

    Raises:
        MediaError: as `inspect_video` and `Video.frames` do.
    """
    return inspect_video(source, policy=policy).frames(indices)


class _Reader:
    """One pass over an open clip, jumping where that is cheaper than decoding on."""

    def __init__(self, opened: OpenedVideo, timeline: Timeline, name: str, *, may_skip: bool) -> None:
        self._container = opened.container
        self._stream = opened.stream
        self._timeline = timeline
        self._name = name
        self._may_skip = may_skip
        self._is_fresh = True

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Each index with its decoded frame."""
        for run in self._runs(indices):
            yield from self._run(deque(run))

    def _runs(self, indices: Sequence[int]) -> list[list[int]]:
        """Indices that are reached from one keyframe without a jump in between."""
        runs: list[list[int]] = []
        for index in indices:
            keyframe = int(self._timeline.keyframes[self._timeline.key_before(index)])
            if runs and keyframe - runs[-1][-1] <= _WORTH_A_JUMP:
                runs[-1].append(index)
            else:
                runs.append([index])
        return runs

    def _run(self, pending: deque[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Decode until nothing is pending.

        A pass that shows to have begun too late, or to have left out a wanted frame, is repeated: first with nothing
        left out, then from earlier keyframes. A frame that the film itself lacks is replaced by the one before it,
        which is what stays on a viewer's screen.
        """
        key = self._timeline.key_before(pending[0])
        skip = self._may_skip and self._timeline.expected_pts(pending[0]) is not None
        while pending:
            before: VideoFrame | None = None
            for index, frame in self._decoded(key, self._wanted(pending) if skip else None):
                too_late = before is None and key > 0
                if index > pending[0] and (skip or too_late):
                    break
                while pending and index >= pending[0]:
                    exact = index == pending[0]
                    yield pending.popleft(), frame if exact or before is None else before
                if not pending:
                    return
                before = frame
            else:
                if before is not None and not skip:
                    self._raise_ended(pending[0])
            if skip:
                skip = False
            elif key > 0:
                key -= 1 if key == self._timeline.key_before(pending[0]) else key
            else:
                self._raise_ended(pending[0])

    def _wanted(self, pending: deque[int]) -> set[int]:
        """The times of the wanted frames, in ticks."""
        times = (self._timeline.expected_pts(index) for index in pending)
        return {time for time in times if time is not None}

    def _decoded(self, key: int, wanted: set[int] | None) -> Iterator[tuple[int, VideoFrame]]:
        """Frames with their numbers, from a keyframe on; with `wanted`, without others that nothing depends on."""
        jumped = not (self._is_fresh and key == 0)
        if jumped:
            self._container.seek(int(self._timeline.key_pts[key]), stream=self._stream)
        self._is_fresh = False
        context = self._stream.codec_context
        follower: Follower | None = None
        earliest: int | None = None
        for packet in self._container.demux(self._stream):
            last = is_last(packet)
            if not last:
                if follower is None:
                    if jumped and not packet.is_keyframe:
                        continue
                    follower = self._timeline.follower(packet)
                    earliest = packet.pts if jumped else None
                    if follower is None:
                        return
                follower.sent(packet)
                leave_out = wanted is not None and packet.pts not in wanted
                context.skip_frame = "NONREF" if leave_out else "DEFAULT"
            for frame in context.decode(None if last else packet):
                # Frames seen before the keyframe but stored after it need what was jumped over.
                if follower is None or (earliest is not None and frame.pts is not None and frame.pts < earliest):
                    continue
                index = follower.index(frame)
                if index is not None:
                    yield index, frame

    def _raise_ended(self, index: int) -> None:
        raise MediaError(
            f"{self._name} ends before frame {index} of {self._timeline.num_frames}: it is truncated or damaged.",
            remedy="Copy or download it again, or convert it: ffmpeg -i IN -c:v libx264 OUT.mp4",
        )


def _check_indices(indices: Sequence[int], num_frames: int, name: str) -> None:
    for position, index in enumerate(indices):
        if not 0 <= index < num_frames:
            raise MediaError(f"{name} has {num_frames} frames; frame {index} was asked for.", remedy="Count from 0.")
        if position and index < indices[position - 1]:
            raise MediaError(
                f"Frame {index} of {name} was asked for after frame {indices[position - 1]}.",
                remedy="Ask for frames in ascending order.",
            )


def _rgb(frame: VideoFrame) -> Image.Image:
    """The pixels that `VideoFrame.to_image` gives, with one copy instead of four."""
    converted = frame.reformat(format="rgb24")
    plane = converted.planes[0]
    rows = memoryview(plane)
    if plane.line_size < 0:  # stored from the bottom up; Pillow counts a negative stride the same way
        return Image.frombytes(
            "RGB", (converted.width, converted.height), bytes(rows), "raw", "RGB", -plane.line_size, -1
        )
    return Image.frombytes("RGB", (converted.width, converted.height), rows, "raw", "RGB", plane.line_size, 1)


def _display_turn(frame: VideoFrame) -> tuple[int, Image.Transpose | None]:
    """Degrees clockwise and the transposition that show a frame as its display matrix says."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 0, None
    a, b, _, c, d, *_ = struct.unpack_from("9i", cast(Buffer, data))
    signs = tuple((value > 0) - (value < 0) for value in (a, b, c, d))
    return _TURNS.get(signs, (0, None))
