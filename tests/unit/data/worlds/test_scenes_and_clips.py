"""Answers are true to the pixels: they are derived again from the pictures alone."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from minicpmv.data.worlds.clip_files import write_clip
from minicpmv.data.worlds.clips import CLIP_TASKS, MOST_FRAMES, ClipSample, fewest_frames, plan_clip, render_clip
from minicpmv.data.worlds.fonts import Split, find_faces
from minicpmv.data.worlds.scenes import RELATIONS, THING_TASKS, plan_scene, render_scene
from minicpmv.data.worlds.shapes import COLOURS
from minicpmv.data.worlds.signs import perspective, render_sign
from minicpmv.data.worlds.text import copy_pair, symbolic_clip, symbolic_scene, text_pair
from minicpmv.data.worlds.words import is_held_out
from minicpmv.errors import OptionError

Picture = NDArray[np.uint8]
NAMES = tuple(COLOURS)
VALUES = np.array([COLOURS[name] for name in NAMES])


def thing_mask(picture: Picture) -> NDArray[np.bool_]:
    """Where a picture differs clearly from its own most usual colour."""
    usual = np.median(picture.reshape(-1, 3), axis=0)
    mask: NDArray[np.bool_] = np.linalg.norm(picture - usual, axis=2) > 62
    return mask


def colour_in(picture: Picture) -> str | None:
    """Name of the colour that is seen, or None in an empty picture."""
    mask = thing_mask(picture)
    if mask.sum() < 20:
        return None
    usual = np.median(picture.reshape(-1, 3), axis=0)
    difference = np.linalg.norm(picture - usual, axis=2)
    seen = np.median(picture[difference > 0.85 * np.quantile(difference[mask], 0.9)], axis=0)
    return NAMES[int(np.linalg.norm(VALUES - seen, axis=1).argmin())]


def centre(picture: Picture) -> NDArray[np.float64]:
    rows, columns = np.nonzero(thing_mask(picture))
    return np.array([columns.mean(), rows.mean()])


def direction_in(clip: ClipSample) -> str:
    x, y = centre(clip.frames[-1]) - centre(clip.frames[0])
    return ("right" if x > 0 else "left") if abs(x) > abs(y) else ("down" if y > 0 else "up")


def num_runs(clip: ClipSample) -> int:
    shown = [colour_in(frame) is not None for frame in clip.frames]
    return sum(now and not before for before, now in zip([False, *shown], shown, strict=False))


def num_parts(mask: NDArray[np.bool_]) -> int:
    """Connected parts of at least 20 px."""
    left, parts = {(int(row), int(column)) for row, column in np.argwhere(mask)}, 0
    while left:
        front, size = [left.pop()], 0
        while front:
            row, column = front.pop()
            size += 1
            near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & left
            left -= near
            front += near
        parts += size >= 20
    return parts


ORACLES: dict[str, Callable[[ClipSample], str | None]] = {
    "colour_first": lambda clip: colour_in(clip.frames[0]),
    "colour_last": lambda clip: colour_in(clip.frames[-1]),
    "colour": lambda clip: colour_in(clip.frames[3]),
    "num_colours": lambda clip: str(len({colour_in(frame) for frame in clip.frames})),
    "direction": direction_in,
    "flashes": lambda clip: str(num_runs(clip)),
}


@pytest.mark.parametrize("task", list(ORACLES))
@pytest.mark.parametrize("size", [(56, 56), (84, 84), (56, 112), None])
def test_clip_answers_follow_from_the_frames(task: str, size: tuple[int, int] | None) -> None:
    generator = np.random.default_rng(11)
    for _ in range(40):
        clip = render_clip(generator, task=task, size=size)
        assert ORACLES[task](clip) == clip.answer, clip.symbolic


@pytest.mark.parametrize("task", CLIP_TASKS)
def test_clips_repeat_by_seed_and_keep_their_promises(task: str) -> None:
    one, same = (render_clip(np.random.default_rng(5), task=task, size=(56, 70)) for _ in range(2))
    assert (one.question, one.answer, one.times_s, one.symbolic) == (
        same.question,
        same.answer,
        same.times_s,
        same.symbolic,
    )
    assert all(np.array_equal(frame, other) for frame, other in zip(one.frames, same.frames, strict=True))
    assert {frame.shape for frame in one.frames} == {(56, 70, 3)}
    assert len(one.times_s) == len(one.frames) == len(one.symbolic.split()) == 6
    steps = np.diff(one.times_s)
    assert np.allclose(steps, steps[0])
    assert 0.1 - 1e-9 <= steps[0] <= 1 + 1e-9
    assert " " not in one.answer


@pytest.mark.parametrize("task", [*CLIP_TASKS, *THING_TASKS, "relation"])
def test_answers_are_balanced(task: str) -> None:
    """Each answer's share is within five standard deviations of an equal share."""
    generator = np.random.default_rng(0)
    plans: list[str] = []
    for _ in range(1500):
        if task in CLIP_TASKS:
            plans.append(plan_clip(generator, task).answer)
        else:
            plans.append(plan_scene(generator, task).answer)
    counts = Counter(plans)
    share = 1 / len(counts)
    allowed = 5 * np.sqrt(share * (1 - share) / len(plans))
    slack = 0.05 if task == "colour_of" else 0.0
    assert len(counts) > (1 if task in ("speed", "rising") else 2)
    assert all(abs(count / len(plans) - share) <= allowed + slack for count in counts.values()), counts


@pytest.mark.parametrize("num_frames", [2, 3, 5, 8, 12, MOST_FRAMES])
def test_clips_of_other_lengths_are_possible(num_frames: int) -> None:
    generator = np.random.default_rng(1)
    for task in CLIP_TASKS:
        if num_frames < fewest_frames(task):
            continue
        clip = render_clip(generator, task=task, num_frames=num_frames)
        assert len(clip.frames) == num_frames
        assert clip.targets.shape == (num_frames, 64, 2)
        assert task not in ORACLES or task == "colour" or ORACLES[task](clip) == clip.answer


def test_one_frame_cannot_show_what_comes_first() -> None:
    with pytest.raises(OptionError, match="at least 2 frames"):
        plan_clip(np.random.default_rng(0), "colour_first", 1)
    with pytest.raises(OptionError, match=f"at most {MOST_FRAMES}"):
        plan_clip(np.random.default_rng(0), "colour_first", MOST_FRAMES + 1)
    with pytest.raises(OptionError, match="Choose one of colour_first"):
        plan_clip(np.random.default_rng(0), "weather")
    with pytest.raises(OptionError, match="Choose one of colour, "):
        plan_scene(np.random.default_rng(0), "weather")


@pytest.mark.parametrize("task", [*THING_TASKS, "relation"])
def test_scenes_show_as_many_things_as_they_say(task: str) -> None:
    generator = np.random.default_rng(2)
    for _ in range(25):
        scene = render_scene(generator, task=task)
        assert scene.image.shape == (112, 112, 3)
        if task != "digit":
            assert num_parts(thing_mask(scene.image)) == len(scene.symbolic.split(",")), scene.symbolic


def test_colour_and_place_of_a_scene_are_seen_in_its_pixels() -> None:
    generator = np.random.default_rng(3)
    for _ in range(40):
        scene = render_scene(generator, task="colour", size=(84, 84))
        assert colour_in(scene.image) == scene.answer
        scene = render_scene(generator, task="place")
        x, y = centre(scene.image) - 56
        side = ("left" if x < 0 else "right") if abs(x) > abs(y) else ("top" if y < 0 else "bottom")
        assert side == scene.answer


def test_a_shape_lies_where_the_answer_says_seen_from_the_other() -> None:
    """As planned; `test_seen_in_pixels` looks at the pixels."""
    generator = np.random.default_rng(8)
    for _ in range(60):
        plan = plan_scene(generator, "relation")
        one, other = plan.things[:2]
        assert {
            word for word in plan.question.rstrip("?").replace(",", "").split() if word in (one.kind, other.kind)
        } == {
            one.kind,
            other.kind,
        }
        x, y = one.x - other.x, one.y - other.y
        side = ("left" if x < 0 else "right") if abs(x) > abs(y) else ("above" if y < 0 else "below")
        assert side == plan.answer
        assert min(abs(x), abs(y)) < 0.11 < 0.38 < max(abs(x), abs(y))
    assert set(RELATIONS) == {"left", "right", "above", "below"}


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_sign_is_in_the_picture_where_its_corners_are(split: Split) -> None:
    """Looked at from the front again, the picture shows the sign as it was made."""
    generator = np.random.default_rng(9)
    alike = []
    for _ in range(30):
        sign = render_sign(generator, faces=find_faces(split, system=False), split=split)
        assert is_held_out(sign.word) == (split == "held_out")
        height, width, _ = sign.board.shape
        corners = np.array(sign.corners)
        assert (corners >= 0).all()
        assert (corners <= 112).all()
        flat = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=float)
        back = Image.fromarray(sign.image).transform(
            (width, height), Image.Transform.PERSPECTIVE, perspective(flat, corners), Image.Resampling.BILINEAR
        )
        inside = (slice(2, -2), slice(2, -2))
        seen, made = (np.asarray(picture, dtype=float)[inside].flatten() for picture in (back, sign.board))
        alike.append(np.corrcoef(seen, made)[0, 1])
    assert min(alike) > 0.75
    assert np.mean(alike) > 0.9


def test_a_scene_with_a_sign_asks_for_its_word() -> None:
    scene = render_scene(np.random.default_rng(10), task="sign")
    assert scene.image.shape == (112, 112, 3)
    assert scene.symbolic == f"sign {scene.answer}"
    assert "sign" in scene.question
    with pytest.raises(OptionError, match="no plan in words"):
        plan_scene(np.random.default_rng(0), "sign")


def test_text_pairs_copy_training_text_or_ask_what_the_pictures_ask() -> None:
    generator = np.random.default_rng(4)
    for _ in range(300):
        pair = copy_pair(generator, "held_out", num_lines=2)
        assert pair.context == pair.answer
        assert all(is_held_out(line) for line in pair.context.split("\n"))
        pair = text_pair(generator)
        assert pair.prompt == f"{pair.context}\n{pair.question}"
        assert pair.task != "read" or not is_held_out(pair.answer)


def test_symbolic_questions_can_be_answered_from_the_words_alone() -> None:
    generator = np.random.default_rng(5)
    for _ in range(200):
        pair = symbolic_clip(generator, "colour_last")
        assert pair.context.split()[-1] == pair.answer
        pair = symbolic_clip(generator, "flashes", full=True)
        shown = [part != "none" for part in pair.context.split(", ")]
        assert str(sum(now and not old for old, now in zip([False, *shown], shown, strict=False))) == pair.answer
        pair = symbolic_clip(generator, "direction")
        (x0, y0), (x1, y1) = (map(int, pair.context.split()[end].split(",")) for end in (0, -1))
        x, y = x1 - x0, y1 - y0
        way = ("right" if x > 0 else "left") if abs(x) > abs(y) else ("down" if y > 0 else "up")
        assert way == pair.answer
        pair = symbolic_scene(generator, "count_of")
        kind = pair.question.rstrip("?.").replace("How many ", "").replace(" are there", "").replace("Count the ", "")
        kind = {"crosses": "cross"}.get(kind, kind.rstrip("s"))
        assert str(pair.context.split().count(kind)) == pair.answer


def test_a_written_clip_decodes_to_its_frames_at_their_times(tmp_path: Path) -> None:
    clip = render_clip(np.random.default_rng(6), task="colour_first", size=(56, 84))
    path = tmp_path / "clip.mp4"
    write_clip(path, clip.frames, clip.times_s, scale=2)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 30
        decoded = {round(frame.time, 3): frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)}
    step = clip.times_s[1]
    assert len(decoded) == round(6 * step * 30)
    for time_s, frame in zip(clip.times_s, clip.frames, strict=True):
        small = decoded[round(time_s, 3)][::2, ::2].astype(np.int64)
        assert small.shape == frame.shape
        assert np.abs(small - frame).mean() < 8
        assert colour_in(small.astype(np.uint8)) == colour_in(frame)


def test_frames_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    frame = np.zeros((56, 56, 3), dtype=np.uint8)
    with pytest.raises(OptionError, match="one time per frame"):
        write_clip(tmp_path / "a.mp4", [frame], [0.0, 1.0])
    with pytest.raises(OptionError, match="even sides"):
        write_clip(tmp_path / "a.mp4", [frame[1:]], [0.0])
    with pytest.raises(OptionError, match="Start at 0"):
        write_clip(tmp_path / "a.mp4", [frame, frame], [0.0, 0.01])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(56, 56), (70, 70), (84, 84), (112, 112)])
def test_labels_of_a_clips_patches_are_true_to_its_pixels(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(11)
    for _ in range(12):
        clip = render_clip(generator, task="colour_last", size=size)
        assert clip.targets.shape == (6, 64, 2)
        for frame, targets in zip(clip.frames, clip.targets, strict=True):
            mask = Image.fromarray(thing_mask(frame).astype(np.float32)).resize((8, 8), Image.Resampling.BOX)
            shares = np.asarray(mask).flatten()
            colour = 1 + NAMES.index(str(colour_in(frame)))
            assert set(targets[shares > 0.6, 0]) <= {colour}
            assert (shares > 0.6).any() or (shares[targets[:, 0] == colour] > 0.15).all()
            assert not targets[shares < 0.05].any()
