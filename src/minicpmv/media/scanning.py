"""Finding out about a film before its frames are read: how many, how fast, which way up.

The header is believed where it lists every packet (an ordinary MP4); otherwise the packets are counted, which reads the
file once and decodes nothing. One frame is always decoded: it shows that the film can be, and where its time begins.
"""

from __future__ import annotations  # PyAV's packets are generic for a type checker only

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from minicpmv.errors import MediaError
from minicpmv.media.containers import OpenedVideo, opened_video
from minicpmv.media.timeline import HeaderTimeline, TableTimeline, Ticks, Timeline, UntimedTimeline, constant_rate

_GUESSED_TIMES = {"avi", "h264", "hevc", "mpegvideo"}
"""Containers that store no display times: what the demuxer gives is a guess, and wrong for reordered frames."""


@dataclass(frozen=True, slots=True)
class FirstFrame:
    """The first frame that can be decoded, and the packets that it took."""

    frame: VideoFrame
    first_packet: Packet[VideoStream]
    lowest_pts: int | None
    """Smallest time among the packets sent so far; None if one of them had none."""


def is_last(packet: Packet[VideoStream]) -> bool:
    """Whether this is the empty packet that tells the decoder to give what it still holds."""
    return packet.size == 0 and packet.pts is None and packet.dts is None


def first_frame(opened: OpenedVideo, name: str) -> FirstFrame:
    """Decode from the beginning until a frame comes out.

    Raises:
        MediaError: there is none.
    """
    sent: list[Packet[VideoStream]] = []
    context = opened.stream.codec_context
    for packet in opened.container.demux(opened.stream):
        last = is_last(packet)
        if not last and not packet.is_discard:
            sent.append(packet)
        for frame in context.decode(None if last else packet):
            times = [each.pts for each in sent]
            known = [time for time in times if time is not None]
            return FirstFrame(frame, sent[0], min(known) if known and len(known) == len(times) else None)
    raise MediaError(f"{name} holds no frames.", remedy="Check the file: it has no picture that can be decoded.")


def build_timeline(file: Path | bytes, name: str, opened: OpenedVideo, first: FirstFrame) -> Timeline:
    """Where every frame is, in the cheapest way that is exact.

    Args:
        file: the film, opened a second time if its packets have to be counted.
        name: what errors call it.
        opened: the film at any position.
        first: its first frame.

    Raises:
        MediaError: the film holds no frames.
    """
    timeline = _from_header(opened, first)
    if timeline is not None:
        return timeline
    with opened_video(file, name) as fresh:
        return _from_packets(fresh, first, name)


def _from_header(opened: OpenedVideo, first: FirstFrame) -> HeaderTimeline | None:
    """The timeline that the header of an MP4 tells, or None where it does not tell everything.

    Left to counting: fragmented files, edit lists that hide frames, a variable rate, and a beginning that cannot be
    decoded.
    """
    stream, packet, time_base = opened.stream, first.first_packet, opened.stream.time_base
    listed = getattr(stream, "index_entries", None)  # older PyAV has none: packets are counted
    if "mp4" not in opened.container.format.name.split(",") or listed is None or time_base is None:
        return None
    if not 0 < stream.frames == len(listed) or packet.pts is None or packet.dts is None:
        return None
    entries = list(listed)
    if any(entry.is_discard for entry in entries) or not entries[0].is_keyframe:
        return None
    origin = first.frame.pts
    if origin is None or origin != first.lowest_pts or packet.pos != entries[0].pos:
        return None
    times = np.array([entry.timestamp for entry in entries], np.int64)
    places = [place for place, entry in enumerate(entries) if entry.is_keyframe]
    steps = np.diff(times)
    step = int(steps[0]) if len(steps) and steps[0] > 0 and (steps == steps[0]).all() else None
    key_pts = times[places] + (packet.pts - packet.dts)
    rate, is_constant = _rate(times, stream, None, step)
    if not is_constant:  # the header lists when frames are decoded; when they are seen stands with the packets
        return None
    return HeaderTimeline(
        num_frames=len(entries),
        rate=rate,
        is_constant=True,
        time_base=time_base,
        origin=origin,
        keyframes=np.array(places, np.int64),
        key_pts=key_pts,
        places={entries[place].pos: place for place in places},
        step=step,
    )


def _from_packets(opened: OpenedVideo, first: FirstFrame, name: str) -> Timeline:
    """The timeline that all packets tell together."""
    stream = opened.stream
    times, keys = array("q"), array("q")
    num_packets, last_duration = 0, 0
    for packet in _shown_packets(opened.container.demux(stream), stream.codec_context.name):
        num_packets += 1
        if packet.pts is None:
            continue
        if not times or packet.pts >= times[-1]:
            last_duration = packet.duration or 0
        times.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
    if num_packets == 0:
        raise MediaError(f"{name} holds no frames.", remedy="Check the file: it has no pictures.")
    time_base, origin = stream.time_base, first.frame.pts
    guessed = bool(_GUESSED_TIMES & set(opened.container.format.name.split(",")))
    if guessed or len(times) < num_packets or time_base is None or origin is None:
        return _untimed(num_packets, stream)
    pts = np.sort(np.frombuffer(times, np.int64))
    pts = pts[pts >= origin]  # what lies before the first frame that can be decoded is never seen
    key_pts = np.unique(np.frombuffer(keys, np.int64)) if keys else pts[:1]
    key_pts = key_pts[key_pts >= origin] if (key_pts >= origin).any() else pts[:1]
    span_s = float(int(pts[-1] - pts[0] + last_duration) * time_base) if last_duration else None
    rate, is_constant = _rate(pts, stream, span_s, None)
    return TableTimeline(
        num_frames=len(pts),
        rate=rate,
        is_constant=is_constant,
        time_base=time_base,
        origin=origin,
        keyframes=np.searchsorted(pts, key_pts).astype(np.int64),
        key_pts=key_pts,
        pts=pts,
    )


def _untimed(num_frames: int, stream: VideoStream) -> UntimedTimeline:
    """A plain count at the rate that the stream names."""
    rate = stream.guessed_rate or stream.average_rate or Fraction(25)
    start = np.zeros(1, np.int64)
    return UntimedTimeline(
        num_frames=num_frames,
        rate=Fraction(rate),
        is_constant=True,
        time_base=1 / Fraction(rate),
        origin=0,
        keyframes=start,
        key_pts=start,
    )


def _shown_packets(packets: Iterable[Packet[VideoStream]], codec: str) -> Iterable[Packet[VideoStream]]:
    """The packets that become a frame. VP8 has packets that are only referred to; bit 4 of the first byte tells."""
    for packet in packets:
        if is_last(packet) or packet.is_discard:
            continue
        if codec in {"vp8", "libvpx"} and packet.size and not memoryview(packet)[0] & 0x10:
            continue
        yield packet


def _rate(times: Ticks, stream: VideoStream, duration_s: float | None, step: int | None) -> tuple[Fraction, bool]:
    """Frames per second, and whether they are evenly spaced.

    Args:
        times: in ticks, ascending.
        stream: names the nominal rates.
        duration_s: from the first frame to the end of the last, in seconds, where it is known.
        step: ticks between frames where they are all the same.
    """
    time_base = stream.time_base or Fraction(1, 1000)
    if step is not None:
        return 1 / (step * time_base), True
    nominal = [stream.average_rate, stream.guessed_rate, stream.base_rate]
    constant = constant_rate(times, time_base, nominal)
    if constant is not None:
        return constant, True
    if duration_s is None or duration_s <= 0:
        span_s = float(int(times[-1] - times[0]) * time_base)
        duration_s = span_s * len(times) / max(len(times) - 1, 1)
    rate = Fraction(len(times)) / Fraction(duration_s).limit_denominator(1_000_000) if duration_s > 0 else Fraction(25)
    return rate, False
