"""Which frame is the i-th that a viewer sees, when it is seen, and from which keyframe it can be reached.

    TableTimeline      the times of all packets, read once without decoding: any container
    HeaderTimeline     the header of an MP4 lists its packets in decoding order: nothing else has to be read
    UntimedTimeline    no reliable times (AVI, raw streams): frames are counted from the beginning

Frames are counted in display order. A decoder gives a frame's time (`pts`), not its number; a follower, started with
the first packet after a jump, turns one into the other.
"""

from __future__ import annotations  # PyAV's packets are generic for a type checker only

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

Ticks: TypeAlias = npt.NDArray[np.int64]

_ROUNDING_TICKS = 1.01
"""Times of a constant rate that were rounded to the container's ticks differ from it by at most one."""


class Follower(Protocol):
    """Turns decoded frames into their numbers, from one jump to the next."""

    def sent(self, packet: Packet[VideoStream]) -> None:
        """Take note of a packet on its way to the decoder."""

    def index(self, frame: VideoFrame) -> int | None:
        """The number of a frame that came out, or None for one without a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What all three kinds know.

    `keyframes` counts as the kind does (in display order, or in decoding order for a header); `key_pts` are the times
    to jump to, in ticks.
    """

    num_frames: int
    rate: Fraction
    """Frames per second, on average."""
    is_constant: bool
    """Whether frame i is seen at i / rate, up to the container's rounding."""
    time_base: Fraction
    """Seconds per tick."""
    origin: int
    """Time of the first frame, in ticks."""
    keyframes: Ticks
    key_pts: Ticks

    def key_before(self, index: int) -> int:
        """Number of the last keyframe at or before a frame."""
        return max(int(np.searchsorted(self.keyframes, index, side="right")) - 1, 0)

    def expected_pts(self, index: int) -> int | None:
        """The time of a frame in ticks where it is known before decoding."""
        raise NotImplementedError

    def follower(self, landing: Packet[VideoStream]) -> Follower | None:
        """A follower from this packet on, or None if its place among the others is unknown."""
        raise NotImplementedError

    def time_s(self, index: int, pts: int | None) -> float:
        """Seconds from the first frame to this one; `pts` is the time that came with it, in ticks."""
        regular = float(index / self.rate)
        if pts is None:
            return regular
        seen = float((pts - self.origin) * self.time_base)
        is_regular = self.is_constant and abs(seen - regular) <= 2 * _ROUNDING_TICKS * float(self.time_base)
        return regular if is_regular else seen


@dataclass(frozen=True, slots=True, kw_only=True)
class TableTimeline(Timeline):
    """The times of all frames, in display order."""

    pts: Ticks

    def expected_pts(self, index: int) -> int | None:
        """The time of a frame in ticks."""
        return int(self.pts[index])

    def follower(self, landing: Packet[VideoStream]) -> Follower | None:
        """A follower that looks times up."""
        return _TableFollower(self.pts)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderTimeline(Timeline):
    """The keyframes' places in decoding order, by their position in the file."""

    places: dict[int, int]
    step: int | None
    """Ticks between frames where they are all the same."""

    def expected_pts(self, index: int) -> int | None:
        """The time of a frame in ticks, if frames are evenly spaced."""
        return None if self.step is None else self.origin + index * self.step

    def follower(self, landing: Packet[VideoStream]) -> Follower | None:
        """A follower that counts from a keyframe the header lists."""
        place = self.places.get(landing.pos) if landing.pos is not None else None
        return None if place is None else _CountFollower(place)


@dataclass(frozen=True, slots=True, kw_only=True)
class UntimedTimeline(Timeline):
    """Nothing but a count; the only way to a frame is through all before it."""

    def expected_pts(self, index: int) -> int | None:
        """Never known."""
        return None

    def time_s(self, index: int, pts: int | None) -> float:
        """Seconds from the first frame to this one, by its number alone."""
        return float(index / self.rate)

    def follower(self, landing: Packet[VideoStream]) -> Follower | None:
        """A follower that counts from the beginning."""
        return _OrderFollower()


class _TableFollower:
    """Looks the time up."""

    def __init__(self, pts: Ticks) -> None:
        self._pts = pts

    def sent(self, packet: Packet[VideoStream]) -> None:
        pass

    def index(self, frame: VideoFrame) -> int | None:
        if frame.pts is None or frame.pts < self._pts[0]:
            return None
        place = int(np.searchsorted(self._pts, frame.pts, side="left"))
        exact = place < len(self._pts) and self._pts[place] == frame.pts
        return place if exact else place - 1


class _CountFollower:
    """Counts the packets that are seen earlier: those before the keyframe, and those sent since with a smaller time.

    A decoder gives a frame only after everything that is seen before it has been sent.
    """

    def __init__(self, place: int) -> None:
        self._num_passed = place
        self._waiting: list[int] = []

    def sent(self, packet: Packet[VideoStream]) -> None:
        if packet.pts is not None and not packet.is_discard:
            heapq.heappush(self._waiting, packet.pts)

    def index(self, frame: VideoFrame) -> int | None:
        if frame.pts is None:
            return None
        while self._waiting and self._waiting[0] < frame.pts:
            heapq.heappop(self._waiting)
            self._num_passed += 1
        return self._num_passed


class _OrderFollower:
    """Counts the frames that come out."""

    def __init__(self) -> None:
        self._next = 0

    def sent(self, packet: Packet[VideoStream]) -> None:
        pass

    def index(self, frame: VideoFrame) -> int | None:
        self._next += 1
        return self._next - 1


def constant_rate(ticks: Ticks, time_base: Fraction, nominal: Sequence[Fraction | None]) -> Fraction | None:
    """The frame rate whose moments, rounded to ticks, are the given ones; None if there is no such rate.

    Args:
        ticks: times in display order, in ticks of `time_base` seconds.
        time_base: seconds per tick.
        nominal: rates that the container names, tried first.

    >>> constant_rate(np.array([0, 33, 67, 100, 133]), Fraction(1, 1000), [Fraction(30)])
    Fraction(30, 1)
    >>> constant_rate(np.array([0, 33, 67, 200]), Fraction(1, 1000), [Fraction(30)]) is None
    True
    """
    relative = ticks - ticks[0]
    numbers = np.arange(len(ticks))
    fitted = []
    if relative[-1] > 0:
        exact = (len(ticks) - 1) / (Fraction(int(relative[-1])) * time_base)
        whole = [Fraction(round(exact)), Fraction(round(exact * 1001 / 1000) * 1000, 1001)]  # 30 and 29.97 alike
        fitted = [*whole, exact.limit_denominator(1001), exact]
    for rate in (*nominal, *fitted):
        if not rate or rate <= 0:
            continue
        error = np.abs(relative - numbers / float(rate * time_base))
        if float(error.max()) <= _ROUNDING_TICKS:
            return Fraction(rate)
    return None
