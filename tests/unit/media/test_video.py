"""Frames of clips: the right ones, at the right times, by every way of reaching them."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from minicpmv.errors import MediaError
from minicpmv.media import video
from minicpmv.media.timeline import HeaderTimeline, TableTimeline, UntimedTimeline
from minicpmv.media.video import inspect_video, probe_video, read_frames

SHORT_GROUPS = {"x264-params": "keyint=20:min-keyint=20:scenecut=0:bframes=3"}
OPEN_GROUPS = {"x264-params": "keyint=20:min-keyint=20:scenecut=0:bframes=3:open-gop=1"}
FAST_VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "20"}

WAYS = {
    "mp4": ("a.mp4", {"options": SHORT_GROUPS}),
    "open groups": ("a.mp4", {"options": OPEN_GROUPS}),
    "fragmented mp4": ("a.mp4", {"options": SHORT_GROUPS, "mux": {"movflags": "frag_keyframe+empty_moov"}}),
    "faststart mp4": ("a.mp4", {"options": SHORT_GROUPS, "mux": {"movflags": "faststart"}}),
    "mkv": ("a.mkv", {"options": OPEN_GROUPS}),
    "transport stream": ("a.ts", {"options": SHORT_GROUPS}),
    "webm": ("a.webm", {"codec": "libvpx-vp9", "options": FAST_VP9}),
    "avi": ("a.avi", {"codec": "mpeg4", "options": {"b": "4M", "bf": "2"}}),
    "h264 in avi": ("a.avi", {"options": SHORT_GROUPS}),
    "raw h264": ("a.h264", {"options": SHORT_GROUPS}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_frame_is_found_by_its_number_in_every_container(way, write_clip, number_in) -> None:
    name, how = WAYS[way]
    path = write_clip(name, 90, **how)
    clip = inspect_video(path)
    assert (clip.info.num_frames, clip.info.fps, clip.info.duration_s) == (90, 30.0, 3.0)
    wanted = [
        list(range(90)),
        [0],
        [89],
        [0, 89],
        [3, 45, 46, 47, 88],
        list(range(1, 90, 3)),
        *[[19], [20], [21], [40], [41]],
    ]
    for indices in wanted:
        frames = list(clip.frames(indices))
        assert [frame.index for frame in frames] == indices
        assert [number_in(frame.image) for frame in frames] == indices
        assert [frame.time_s for frame in frames] == pytest.approx([index / 30 for index in indices], abs=1e-5)


@pytest.mark.parametrize("way", ["mp4", "open groups", "mkv", "webm"])
def test_a_jump_gives_the_same_pixels_as_decoding_straight_through(way, write_clip) -> None:
    """Bit for bit, as PyAV's own `to_image` gives them: leaving frames out must not change what remains."""
    name, how = WAYS[way]
    path = write_clip(name, 90, **how)
    with av.open(str(path)) as container:
        straight = [np.asarray(frame.to_image()) for frame in container.decode(video=0)]
    for indices in (list(range(90)), [7, 8, 33, 34, 77], list(range(2, 90, 5)), [59, 61]):
        for frame in read_frames(path, indices):
            assert np.array_equal(np.asarray(frame.image), straight[frame.index])


def test_far_frames_are_reached_without_decoding_what_lies_between(write_clip, monkeypatch) -> None:
    path = write_clip("a.mp4", 200, options=SHORT_GROUPS)
    num_decoded = 0
    original = HeaderTimeline.follower

    def counting(self, landing):
        follower = original(self, landing)
        sent = follower.sent

        def count(packet) -> None:
            nonlocal num_decoded
            num_decoded += 1
            sent(packet)

        follower.sent = count
        return follower

    monkeypatch.setattr(HeaderTimeline, "follower", counting)
    assert [frame.index for frame in read_frames(path, [0, 161])] == [0, 161]
    assert num_decoded < 60
    num_decoded = 0
    list(read_frames(path, list(range(0, 200, 4))))
    assert num_decoded <= 200, "dense sampling decodes straight through"


def test_an_ordinary_mp4_is_understood_from_its_header_and_others_by_counting(write_clip) -> None:
    kinds = {
        "a.mp4": ({}, HeaderTimeline),
        "b.mp4": ({"mux": {"movflags": "frag_keyframe+empty_moov"}}, TableTimeline),
        "c.mkv": ({}, TableTimeline),
        "d.avi": ({"codec": "mpeg4"}, UntimedTimeline),
    }
    for name, (how, kind) in kinds.items():
        assert type(inspect_video(write_clip(name, 10, **how))._timeline) is kind, name


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60), Fraction(7)])
def test_a_constant_rate_survives_containers_that_round_to_milliseconds(rate, write_clip) -> None:
    path = write_clip("a.mkv", 60, rate=rate)
    clip = inspect_video(path)
    assert clip.info.fps == pytest.approx(float(rate), rel=1e-12)
    for frame in clip.frames(range(60)):
        assert abs(frame.time_s - frame.index / float(rate)) < 1e-9


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_variable_rate_keeps_the_true_time_of_every_frame(name, write_clip, number_in) -> None:
    times_ms = [0, 40, 80, 500, 520, 1700, 1800, 2900, 2910, 4000]
    path = write_clip(name, 10, rate=1000, times_ms=times_ms)
    clip = inspect_video(path)
    assert clip.info.num_frames == 10
    assert clip.info.fps == pytest.approx(10 / clip.info.duration_s)
    assert 4.0 < clip.info.duration_s < 5.2
    for indices in (range(10), [3, 7]):
        for frame in clip.frames(indices):
            assert number_in(frame.image) == frame.index
            assert frame.time_s == pytest.approx(times_ms[frame.index] / 1000, abs=1e-4)


def test_times_run_from_the_first_frame(write_clip) -> None:
    path = write_clip("a.mkv", 5, rate=1000, times_ms=[5000, 5100, 5250, 5300, 5900])
    times_s = [frame.time_s for frame in read_frames(path, range(5))]
    assert times_s == pytest.approx([0, 0.1, 0.25, 0.3, 0.9], abs=1e-3)


def test_a_beginning_that_cannot_be_decoded_is_not_counted(write_clip, remux, number_in) -> None:
    """Without its first keyframe a clip begins, for a viewer, at the second."""
    path = remux(write_clip("a.mp4", 60, options=SHORT_GROUPS), "b.mp4", skip=5)
    clip = inspect_video(path)
    assert clip.info.num_frames == 40
    assert [number_in(frame.image) for frame in clip.frames([0, 1, 39])] == [20, 21, 59]


@pytest.mark.parametrize("rotation", [-90, 90, 180])
def test_a_rotated_clip_is_shown_upright(rotation, write_clip) -> None:
    """-90 is what a phone held upright writes: the decoder's angle is counterclockwise."""
    path = write_clip("a.mp4", 3, rotation=rotation)
    info = probe_video(path)
    assert info.rotation == -rotation % 360
    assert (info.width, info.height) == ((160, 48) if rotation == 180 else (48, 160))
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_image()
    (frame,) = read_frames(path, [0])
    assert frame.image.size == (info.width, info.height)
    assert np.array_equal(np.asarray(frame.image), np.asarray(stored.rotate(rotation, expand=True)))


@pytest.mark.parametrize("size", [(161, 49), (147, 17), (145, 333)])
def test_odd_sizes_keep_every_row_and_column(size, write_clip, number_in) -> None:
    path = write_clip("a.mp4", 4, size=size, pix_fmt="yuv444p")
    frames = list(read_frames(path, range(4)))
    assert {frame.image.size for frame in frames} == {size}
    assert [number_in(frame.image) for frame in frames] == [0, 1, 2, 3]


def test_bytes_files_and_paths_give_the_same(write_clip, number_in) -> None:
    path = write_clip("a.mp4", 30)
    with path.open("rb") as file:
        for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), file):
            assert [number_in(frame.image) for frame in read_frames(source, [3, 29])] == [3, 29]


def test_an_index_asked_for_twice_is_given_twice(write_clip) -> None:
    frames = list(read_frames(write_clip("a.mp4", 10), [2, 2, 5]))
    assert [frame.index for frame in frames] == [2, 2, 5]


def test_an_iterator_left_half_way_closes_its_file(write_clip) -> None:
    frames = read_frames(write_clip("a.mp4", 30), range(30))
    assert next(frames).index == 0
    frames.close()


@pytest.mark.parametrize(("indices", "says"), [([30], "30 frames"), ([-1], "frame -1"), ([5, 4], "after frame 5")])
def test_indices_that_make_no_sense_are_refused_at_once(indices, says, write_clip) -> None:
    path = write_clip("a.mp4", 30)
    with pytest.raises(MediaError, match=says):
        read_frames(path, indices)


def test_an_animated_gif_can_be_read_as_a_clip_with_its_own_times(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (40, 30), (40 * shade, 0, 0)) for shade in range(5)]
    path = tmp_path / "a.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100, 200, 100, 300, 100])
    frames = list(read_frames(path, range(5)))
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.1, 0.3, 0.4, 0.7])
    assert [frame.image.getpixel((5, 5)) for frame in frames] == [(40 * shade, 0, 0) for shade in range(5)]


def test_a_still_png_is_no_clip(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="is a picture"):
        probe_video(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_clip_is_refused_before_anything_is_decoded(name, share, write_clip) -> None:
    contents = write_clip(name, 60, codec="mpeg4" if name == "a.avi" else "libx264").read_bytes()
    with pytest.raises(MediaError, match=r"truncated|damaged"):
        probe_video(contents[: int(len(contents) * share)])


def test_a_truncated_clip_with_its_header_in_front_is_refused_too(write_clip) -> None:
    contents = write_clip("a.mp4", 60, mux={"movflags": "faststart"}).read_bytes()
    with pytest.raises(MediaError, match="truncated: 1 bytes are missing"):
        probe_video(contents[:-1])


def test_a_clip_whose_frames_are_overwritten_is_an_error_not_a_picture(write_clip) -> None:
    contents = bytearray(write_clip("a.mp4", 60, options=SHORT_GROUPS, mux={"movflags": "faststart"}).read_bytes())
    middle = contents.index(b"mdat") + 4
    contents[middle:] = b"\xff" * (len(contents) - middle)
    with pytest.raises(MediaError, match=r"damaged|no frames"):
        list(read_frames(bytes(contents), [0, 30]))


def test_a_clip_without_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()
    with pytest.raises(MediaError, match=r"no frames|no video|damaged"):
        probe_video(path)


def test_sound_alone_is_no_clip(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(MediaError, match="no video stream"):
        probe_video(path)


def test_a_playlist_named_mp4_opens_nothing(tmp_path: Path, write_clip) -> None:
    write_clip("real.mp4", 3)
    for text in ("#EXTM3U\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile real.mp4\n"):
        (tmp_path / "list.mp4").write_text(text)
        with pytest.raises(MediaError, match="not a clip"):
            probe_video(tmp_path / "list.mp4")


def test_frames_that_are_too_large_are_refused(write_clip, monkeypatch) -> None:
    monkeypatch.setattr("minicpmv.media.containers.MAX_FRAME_PIXELS", 160 * 48 - 1)
    with pytest.raises(MediaError, match="160x48"):
        probe_video(write_clip("a.mp4", 2))


def test_a_display_matrix_of_every_orientation_turns_pixels_where_it_says() -> None:
    """x' = a x + c y, y' = b x + d y, applied to the corner pixels of a 3 x 2 picture."""
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    for (a, b, c, d), (_, turn) in video._TURNS.items():
        turned = np.asarray(image.transpose(turn))
        moved = {(a * x + c * y, b * x + d * y): y * 3 + x for y in range(2) for x in range(3)}
        left, top = min(x for x, _ in moved), min(y for _, y in moved)
        assert {(x - left, y - top): value for (x, y), value in moved.items()} == {
            (x, y): int(turned[y, x]) for y in range(turned.shape[0]) for x in range(turned.shape[1])
        }
