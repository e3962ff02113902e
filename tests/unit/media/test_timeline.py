"""Rates and containers' own lengths, as pure functions."""

import io
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicpmv.media.containers import num_missing_bytes
from minicpmv.media.timeline import constant_rate

NTSC = Fraction(30000, 1001)


@given(
    rate=st.sampled_from([Fraction(24), Fraction(24000, 1001), Fraction(25), NTSC, Fraction(30), Fraction(60)]),
    num_frames=st.integers(100, 2000),
    start=st.integers(-1000, 10**6),
)
def test_a_rate_is_recognised_behind_millisecond_rounding(rate: Fraction, num_frames: int, start: int) -> None:
    ticks = np.array([start + round(number * 1000 / rate) for number in range(num_frames)], np.int64)
    assert constant_rate(ticks, Fraction(1, 1000), [rate]) == rate


def test_a_rate_close_to_the_nominal_one_is_not_mistaken_for_it() -> None:
    ticks = np.array([round(number * 1000 / NTSC) for number in range(3000)], np.int64)
    assert constant_rate(ticks, Fraction(1, 1000), [Fraction(30)]) == NTSC


def test_one_missing_frame_makes_a_rate_variable() -> None:
    ticks = np.delete(np.arange(100, dtype=np.int64) * 33, 50)
    assert constant_rate(ticks, Fraction(1, 1000), [Fraction(30)]) is None


@pytest.mark.parametrize(
    ("contents", "missing"),
    [
        (b"", 0),
        (b"plain text that is no container at all", 0),
        (b"RIFF\x20\x00\x00\x00AVI " + b"\0" * 28, 0),
        (b"RIFF\x20\x00\x00\x00AVI ", 28),
        (b"\0\0\0\x0cftypisom\0\0\0\x10mdat12345678", 0),
        (b"\0\0\0\x0cftypisom\0\0\0\x10mdat123", 5),
        (b"\0\0\0\x0cftypisom\0\0\0\x01mdat\0\0\0\0\0\0\0\x14123", 1),
        (b"\0\0\0\x0cftypisom\0\0\0\x00mdat123", 0),
        (b"\0\0\0\x0cftypisom\xff\xff\xff\xffjunk", 0),
        (b"\x1aE\xdf\xa3\x80\x18\x53\x80\x67\x8512345", 0),
        (b"\x1aE\xdf\xa3\x80\x18\x53\x80\x67\x85123", 2),
        (b"\x1aE\xdf\xa3\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff123", 0),
    ],
)
def test_a_container_tells_how_much_of_it_is_missing(contents: bytes, missing: int) -> None:
    assert num_missing_bytes(io.BytesIO(contents)) == missing
