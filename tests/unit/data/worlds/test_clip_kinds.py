"""Pace, counting and running words: what the pixels show, measured without the plan."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from minicpmv.data.worlds.clips import ClipSample, plan_clip, render_clip
from minicpmv.data.worlds.fonts import Split, find_faces
from minicpmv.data.worlds.glyphs import draw_text, glyph_sheet
from minicpmv.data.worlds.scrolling import FEWEST_FRAMES, LETTERS, draw_ticker, draw_word, set_ticker
from minicpmv.data.worlds.shapes import BUILT_IN_FACE, COLOURS, DIGITS, SHAPES, Style
from minicpmv.data.worlds.text import symbolic_clip
from minicpmv.data.worlds.words import dictionary
from minicpmv.errors import OptionError

Picture = NDArray[np.uint8]
FACES = (*find_faces("train", system=False), *find_faces("held_out", system=False))


def difference(picture: Picture) -> NDArray[np.float64]:
    usual = np.median(picture.reshape(-1, 3), axis=0)
    return np.linalg.norm(picture - usual, axis=2)


def centre(picture: Picture) -> NDArray[np.float64]:
    """Middle of the pixels that differ clearly from the picture's most usual colour, in px."""
    rows, columns = np.nonzero(difference(picture) > 62)
    return np.array([columns.mean(), rows.mean()])


def steps_px(clip: ClipSample) -> NDArray[np.float64]:
    """How far the thing goes from frame to frame, in px."""
    moves = np.diff([centre(frame) for frame in clip.frames], axis=0)
    distances: NDArray[np.float64] = np.linalg.norm(moves, axis=1)
    return distances


def pace(steps: NDArray[np.float64]) -> str:
    half = len(steps) // 2
    return "faster" if steps[-half:].sum() > steps[:half].sum() else "slower"


@pytest.mark.parametrize("num_frames", [4, 5, 6, 9, 12])
@pytest.mark.parametrize("size", [(56, 56), (84, 84), (56, 112), None])
def test_pace_follows_from_the_places_in_the_frames(num_frames: int, size: tuple[int, int] | None) -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        clip = render_clip(generator, task="speed", num_frames=num_frames, size=size)
        steps = steps_px(clip)
        assert pace(steps) == clip.answer
        late = steps if clip.answer == "faster" else steps[::-1]
        assert late[-1] > 2 * late[0] + 1 or num_frames > 9  # of many frames the steps are but a few px
        assert (np.diff(late) > -1.6).all()  # steps are whole px


def test_the_direction_of_a_thing_does_not_tell_its_pace() -> None:
    generator = np.random.default_rng(2)
    ways: Counter[tuple[str, str]] = Counter()
    for _ in range(800):
        plan = plan_clip(generator, "speed")
        (x0, y0), (x1, y1) = (map(int, plan.symbolic.split()[end].split(",")) for end in (0, -1))
        x, y = x1 - x0, y1 - y0
        ways["x" if abs(x) > abs(y) else "y", "+" if x + y > 0 else "-"] += plan.answer == "faster"
    assert len(ways) == 4
    assert all(70 < count < 130 for count in ways.values()), ways


def read_number(picture: Picture) -> str:
    """The number in a picture, by laying every number in every size over it."""
    ink = difference(picture)
    ink = np.clip(ink / np.quantile(ink[ink > 62], 0.9), 0, 1)
    rows, columns = np.nonzero(ink > 0.5)
    crop = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    best = {number: float(np.abs(crop - template).mean()) for number, template in templates().get(crop.shape, [])}
    return min(best, key=lambda number: best[number])


_TEMPLATES: dict[tuple[int, ...], list[tuple[str, NDArray[np.float64]]]] = {}


def templates() -> dict[tuple[int, ...], list[tuple[str, NDArray[np.float64]]]]:
    if not _TEMPLATES:
        for size_px in (24, 28, 32, 36, 40, 48):
            for number in range(100):
                mask = np.zeros((80, 120), np.uint8)
                draw_text(mask, glyph_sheet(BUILT_IN_FACE, size_px), str(number), 10, 60)
                rows, columns = np.nonzero(mask > 127)
                crop = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] / 255
                _TEMPLATES.setdefault(crop.shape, []).append((str(number), crop))
    return _TEMPLATES


def test_a_number_is_read_in_every_frame_and_goes_the_way_that_is_answered() -> None:
    generator = np.random.default_rng(3)
    right = 0
    for _ in range(40):
        clip = render_clip(generator, task="rising", size=(84, 84))
        shown = [int(word) for word in clip.symbolic.split()]
        assert set(np.diff(shown)) <= ({1, 2} if clip.answer == "up" else {-1, -2})
        try:
            right += [read_number(frame) for frame in clip.frames] == clip.symbolic.split()
        except ValueError:  # grain moved the crop by a pixel, and no number has that shape
            continue
    assert right > 25


def test_one_number_alone_hardly_tells_which_way_it_goes() -> None:
    """The best guess from one frame is right in half of the clips, plus half of what the two answers do not share."""
    generator = np.random.default_rng(4)
    seen: dict[str, list[list[int]]] = {"up": [], "down": []}
    for _ in range(6000):
        plan = plan_clip(generator, "rising")
        seen[plan.answer].append([int(word) for word in plan.symbolic.split()])
    for place in range(6):
        one, other = (np.bincount(np.array(seen[answer])[:, place] // 10, minlength=10) for answer in ("up", "down"))
        apart = np.abs(one / one.sum() - other / other.sum()).sum() / 2
        assert 0.5 + apart / 2 < 0.57


def test_labels_of_a_number_name_each_digit_where_it_stands() -> None:
    generator = np.random.default_rng(5)
    kinds = (*SHAPES, *DIGITS)
    for _ in range(20):
        clip = render_clip(generator, task="rising", size=(84, 84))
        for number, targets in zip(clip.symbolic.split(), clip.targets, strict=True):
            named = {kinds[kind - 1] for kind in targets[:, 1] if kind}
            assert named
            assert named <= set(number)
            tens, ones = (
                np.nonzero(targets[:, 1] == 1 + kinds.index(digit))[0] % 8 for digit in (number[0], number[-1])
            )
            if number[0] != number[-1] and tens.size and ones.size:  # a thin 1 may cover no patch by a fifth
                assert tens.mean() < ones.mean()


@pytest.mark.parametrize("num_frames", [FEWEST_FRAMES, 4, 6, 12])
@pytest.mark.parametrize("size", [(56, 56), (84, 84), (56, 112), (70, 56)])
def test_every_letter_is_whole_in_one_frame_and_no_frame_has_the_whole_word(
    num_frames: int, size: tuple[int, int]
) -> None:
    """A frame is a piece of the word that is printed on a wide strip; its pixels say which piece."""
    generator = np.random.default_rng([6, num_frames, *size])
    ink, paper = np.float32([20, 20, 20]), np.float32([220, 220, 220])
    for _ in range(60):
        word = draw_word(generator, "train")
        face = FACES[int(generator.integers(len(FACES)))]
        ticker = set_ticker(generator, word, face, size, num_frames)
        style = Style({"black": ink}, np.tile(paper, (*size, 1)), 0.0, 10, 0.0, face)
        frames, passing = draw_ticker(generator, ticker, "black", style)
        strip = np.zeros((size[0], 2000), np.uint8)
        boxes = draw_text(strip, ticker.sheet, word, 1000, ticker.baseline)
        assert all(box.y0 >= 0 and box.y1 <= size[0] for box in boxes)
        inked = np.nonzero(strip.any(axis=0))[0]
        seen: set[int] = set()
        pens = []
        for frame, shown in zip(frames, passing, strict=True):
            window = frame[:, ticker.left : ticker.left + ticker.width, 0].astype(int)
            starts = [
                start
                for start in range(inked[0] - ticker.width + 1, inked[-1] + 1)
                if np.abs(220 - strip[:, start : start + ticker.width] / 255 * 200 - window).max() < 2
            ]
            start = starts[0]
            pens.append(start)
            whole = [i for i, box in enumerate(boxes) if start <= box.x0 and box.x1 <= start + ticker.width]
            assert len(whole) < len(word)
            assert not starts[1:] or len(word) == 0
            assert shown.seen == (f"{whole[0] + 1},{word[whole[0] : whole[-1] + 1]}" if whole else "none")
            seen |= set(whole)
        assert seen == set(range(len(word))), (word, face, passing)
        assert (np.diff(pens) > 0).all()  # the strip moves to the left


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_running_word_is_of_its_split_and_its_parts_add_up(split: Split) -> None:
    generator = np.random.default_rng(7)
    for index in range(120):
        if index % 2:
            pair = symbolic_clip(generator, "scroll", split=split, num_frames=3 + index % 10)
            told, answer = pair.context, pair.answer
        else:
            clip = render_clip(generator, task="scroll", split=split, faces=FACES, num_frames=3 + index % 10)
            assert not clip.targets.any()
            told, answer = clip.symbolic, clip.answer
        letters: dict[int, str] = {}
        for part in told.split():
            if part != "none":
                first, text = part.split(",")
                letters |= dict(enumerate(text, int(first)))
                assert len(text) < len(answer)
        assert "".join(letters[place] for place in sorted(letters)) == answer
        assert answer in dictionary(split)
        assert LETTERS[0] <= len(answer) <= LETTERS[1]


def test_no_part_of_a_running_word_of_training_is_a_held_out_word() -> None:
    """A frame may show any part of it alone: `along` shows `long`."""
    generator = np.random.default_rng(8)
    held_out = dictionary("held_out")
    words = {draw_word(generator, "train") for _ in range(12_000)}
    assert len(words) > 1000
    assert [word for word in words if any(other in word for other in held_out)] == []


def test_symbolic_pace_and_numbers_can_be_answered_from_the_words_alone() -> None:
    generator = np.random.default_rng(9)
    for index in range(300):
        num_frames = 4 + index % 9
        for full in (False, True):
            pair = symbolic_clip(generator, "speed", num_frames=num_frames, full=full)
            frames = pair.context.split(", " if full else " ")
            places = [frame.split()[-2:] if full else frame.split(",") for frame in frames]
            moves = np.diff(np.array(places, dtype=float), axis=0)
            along = np.abs(moves[:, np.abs(moves.sum(axis=0)).argmax()])
            assert pace(along) == pair.answer, pair.context
            pair = symbolic_clip(generator, "rising", num_frames=num_frames, full=full)
            frames = pair.context.split(", " if full else " ")
            numbers = [int(frame.split()[1] if full else frame) for frame in frames]
            assert ("up" if numbers[-1] > numbers[0] else "down") == pair.answer


@pytest.mark.parametrize(("task", "fewest"), [("speed", 4), ("rising", 2), ("scroll", 3)])
def test_too_few_frames_are_refused(task: str, fewest: int) -> None:
    render_clip(np.random.default_rng(0), task=task, num_frames=fewest)
    with pytest.raises(OptionError, match=f"at least {fewest} frames"):
        render_clip(np.random.default_rng(0), task=task, num_frames=fewest - 1)


def test_every_colour_may_run_or_count() -> None:
    generator = np.random.default_rng(10)
    for task in ("rising", "scroll"):
        plans = [plan_clip(generator, task) for _ in range(200)]
        assert {plan.frames[0].colour for plan in plans if plan.frames[0]} == set(COLOURS)
