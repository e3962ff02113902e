"""Opening a film file: which formats, whether it is complete, and its one video stream.

Only containers on a list are tried: a playlist or a concatenation script would make the decoder open further files and
addresses that its author chose. Three containers state their own length; a file that is shorter was cut off, and says
so here instead of ending early.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from minicpmv.errors import MediaError, MediaLimitError
from minicpmv.media.kinds import sniff, wrong_kind

MAX_FRAME_PIXELS = 64 * 2**20
"""Largest width * height of a frame; 8K has 33 million. Ours."""

_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,asf,ogg,mpeg,mpegts,mpegvideo,h264,hevc,ivf,gif,apng"
)
_BOXES_THAT_COUNT = {b"moov", b"mdat", b"moof"}
_MAX_THREADS = 8


@dataclass(frozen=True, slots=True)
class OpenedVideo:
    """An open container and its video stream, decoder ready."""

    container: InputContainer
    stream: VideoStream


@contextmanager
def opened_video(file: Path | bytes, name: str) -> Iterator[OpenedVideo]:
    """The video stream of a file; everything is closed afterwards.

    Raises:
        MediaError: not a film, damaged, or without a video stream.
        MediaLimitError: its frames are too large.
    """
    # An absolute path cannot be taken for the address of one of the decoder's protocols.
    source = io.BytesIO(file) if isinstance(file, bytes) else os.path.abspath(file)
    with video_errors(name):
        options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
        container = av.open(source, mode="r", options=options, metadata_errors="replace")
    with container, video_errors(name):
        yield OpenedVideo(container, _video_stream(container, name))


def check_video_file(file: Path | bytes, name: str) -> None:
    """Refuse what is not a film, and a film whose file has been cut off.

    Raises:
        MediaError: it is something else, or shorter than it says itself.
    """
    found = sniff(file)
    if found is None or (found.kind != "video" and not found.is_animation):
        raise wrong_kind(file, name, "video")
    with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as stream:
        missing = num_missing_bytes(stream)
    if missing > 0:
        raise MediaError(
            f"{name} is truncated: {missing} bytes are missing at its end.", remedy="Copy or download it again."
        )


@contextmanager
def video_errors(name: str) -> Iterator[None]:
    """Whatever the decoder raises, as one error that names the film."""
    try:
        yield
    except MediaError:
        raise
    except (av.error.FFmpegError, OSError, EOFError, ValueError, IndexError, OverflowError, MemoryError) as error:
        # FFmpeg's own errors, and what PyAV raises where a damaged file contradicts itself.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise MediaError(
            f"{name} is a damaged, truncated or unsupported clip ({reason}).",
            remedy="Copy or download it again, or convert it: ffmpeg -i IN -c:v libx264 OUT.mp4",
        ) from error


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    """The first real video stream; the cover picture of a song is none."""
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        raise MediaError(f"{name} has no video stream.", remedy="Check that it is a film and not only sound.")
    stream = streams[0]
    context = stream.codec_context
    if context is None:
        raise MediaError(f"{name} uses a video codec that is not known here.", remedy="Convert it to H.264.")
    if context.width * context.height > MAX_FRAME_PIXELS:
        raise MediaLimitError(
            f"{name} has frames of {context.width}x{context.height} px, more than the limit of {MAX_FRAME_PIXELS} "
            "pixels.",
            remedy="Scale it down: ffmpeg -i IN -vf scale=1920:-2 OUT.mp4",
        )
    # Whole frames in parallel: decoding goes on while the caller works on the last frame.
    stream.thread_type = "AUTO"
    context.thread_count = min(os.cpu_count() or 1, _MAX_THREADS)
    return stream


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def num_missing_bytes(stream: BinaryIO) -> int:
    """Bytes that a file lacks by its own account; 0 when it is complete or its container does not tell."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(64)
    if head.startswith(b"\x1aE\xdf\xa3"):
        return max(_matroska_end(head) - size, 0)
    if head.startswith(b"RIFF"):
        return max(8 + int.from_bytes(head[4:8], "little") - size, 0)
    if head[4:8].isalpha():
        return max(_mp4_end(stream, size) - size, 0)
    return 0


def _mp4_end(stream: BinaryIO, size: int) -> int:
    """Where the last box of an MP4 file ends by its own header."""
    at = 0
    while at + 8 <= size:
        stream.seek(at)
        header = stream.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: as far as the file goes; anything else is no box
            return 0
        if at + length > size:
            return at + length if header[4:8] in _BOXES_THAT_COUNT else 0
        at += length
    return at


def _matroska_end(head: bytes) -> int:
    """Where the segment of a Matroska file ends, or 0 if it was written without knowing."""
    header_bytes, width = _matroska_size(head, 4)
    at = 4 + width + header_bytes
    if header_bytes < 0 or head[at : at + 4] != b"\x18\x53\x80\x67":
        return 0
    segment_bytes, width = _matroska_size(head, at + 4)
    return at + 4 + width + segment_bytes if segment_bytes >= 0 else 0


def _matroska_size(head: bytes, at: int) -> tuple[int, int]:
    """The variable-length integer at a position and its width in bytes; -1 when it means "unknown"."""
    if at >= len(head) or head[at] == 0:
        return -1, 1
    width = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + width], "big") & ((1 << (7 * width)) - 1)
    return (-1 if value == (1 << (7 * width)) - 1 else value), width
