"""Samples of pages: what is kept for evaluation stays out of training, and every task says what was drawn."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from minicpmv.data.corruption.calibration import Calibration, Curve
from minicpmv.data.corruption.operators import FILLS, OPERATORS
from minicpmv.data.drawn import Draw, ask, clips, read, reason, restore, scenes
from minicpmv.data.mixture import Branch, DrawnFeed, Mixture
from minicpmv.data.sample import Sample
from minicpmv.data.studio import LAYOUTS, PAGE_KINDS, Studio
from minicpmv.data.worlds.clips import render_clip
from minicpmv.data.worlds.fonts import Split
from minicpmv.data.worlds.paper import Box
from minicpmv.data.worlds.words import is_held_out
from minicpmv.errors import OptionError
from minicpmv.messages import ImagePart, VideoPart

TRAIN, HELD_OUT = Studio.open("train"), Studio.open("held_out")
CALIBRATION = Calibration(
    "made up", 1, 0.0, {name: Curve((0.0, 0.2, 0.3, 1.0), (0.0, 0.03, 0.3, 1.0)) for name in OPERATORS}
)


@pytest.mark.parametrize("kind", PAGE_KINDS)
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_kind_of_page_shows_all_that_it_says_however_small_it_should_be(split: Split, kind: str) -> None:
    for side in (56, 112, 224):
        studio = Studio.open(split, longest_side_px=side)
        for seed in range(8):
            page = studio.page(np.random.default_rng(seed), kind)
            height, width, _ = page.image.shape
            assert max(height, width) <= 300
            assert page.regions
            for region in page.regions:
                box = region.box
                assert -1 <= box.left < box.right <= width, (side, seed, region.text)
                assert -1 <= box.top < box.bottom <= height, (side, seed, region.text)
            boxes = [(region.box, region.text) for region in page.regions]
            for index, (one, text) in enumerate(boxes):
                inner = Box(one.left + 1, one.top + 1, one.right - 1, one.bottom - 1)
                assert [other for box, other in boxes[index + 1 :] if inner.overlaps(box)] == [], (side, seed, text)


@pytest.mark.parametrize("kind", PAGE_KINDS)
def test_no_training_page_prints_a_held_out_word(kind: str) -> None:
    sums = re.compile(r"^\d+\.\d\d$")  # of a receipt, which follow from what is bought
    for seed in range(60):
        page = TRAIN.page(np.random.default_rng(seed), kind)
        words = [word for word in page.text.split() if not sums.match(word)]
        assert [word for word in words if len(word) > 3 and is_held_out(word)] == [], seed


@pytest.mark.parametrize("kind", PAGE_KINDS)
def test_one_layout_and_all_held_out_names_are_kept_for_evaluation(kind: str) -> None:
    assert not set(TRAIN.layouts(kind)) & set(HELD_OUT.layouts(kind))
    assert {*TRAIN.layouts(kind), *HELD_OUT.layouts(kind)} == set(LAYOUTS[kind])
    assert not {face.family for face in TRAIN.faces} & {face.family for face in HELD_OUT.faces}
    assert not any(is_held_out(entity.name) for entity in TRAIN.entities)


def test_reading_writes_down_every_line() -> None:
    sample = read(TRAIN, kinds=["receipt"])(np.random.default_rng(0), "read:0")
    assert isinstance(sample.messages[0].parts[0], ImagePart)
    assert any(line.startswith("Total ") for line in sample.messages[1].text.split("\n"))
    assert sample.metadata == {"kind": "receipt", "task": "read"}


def test_questions_are_those_of_the_page() -> None:
    seen = {ask(TRAIN)(np.random.default_rng(seed), str(seed)).metadata["task"] for seed in range(60)}
    assert len(seen) > 10


def test_restoring_names_every_target_in_order() -> None:
    draw = restore(TRAIN, calibration=CALIBRATION)
    levels = set()
    for seed in range(20):
        sample = draw(np.random.default_rng(seed), str(seed))
        targets = sample.metadata["targets"]
        assert sample.messages[1].text.split("\n") == [target["text"].replace("\n", " ") for target in targets]
        levels |= {target["level"] for target in targets}
        assert all((target["operator"] in FILLS) == (target["level"] == "high") for target in targets)
        again = np.random.default_rng(seed)
        clean = TRAIN.page(again, PAGE_KINDS[int(again.random() * len(PAGE_KINDS))])
        covered = {target["region"] for target in targets if target["level"] == "high"}
        seen = [region.text for index, region in enumerate(clean.regions) if index not in covered]
        letters = [box.char for box in sample.characters if box.char != " "]
        assert sorted(letters) == sorted("".join("".join(seen).split()))
    assert levels == {"low", "moderate", "high"}


@pytest.mark.parametrize("think", [False, True])
def test_problems_have_their_steps_as_reasoning_in_the_long_mode_only(think: bool) -> None:
    sample = reason(TRAIN, think=think)(np.random.default_rng(3), "reason:0")
    assert (sample.messages[1].reasoning is not None) == think
    short = reason(TRAIN, think=False)(np.random.default_rng(3), "reason:0")
    assert short.messages[1].text == sample.messages[1].text


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(OptionError, match="no kind of page"):
        TRAIN.page(np.random.default_rng(0), "poster")


def test_drawn_samples_are_a_feed_of_a_mixture() -> None:
    mixture = Mixture(
        {"read": Branch(1, DrawnFeed("read", read(TRAIN), 0)), "ask": Branch(1, DrawnFeed("ask", ask(TRAIN), 0))}, 0
    )
    names, samples = zip(*(mixture.next() for _ in range(12)), strict=True)
    assert set(names) == {"read", "ask"}
    assert all(isinstance(sample, Sample) for sample in samples)
    assert len({sample.key for sample in samples}) == 12


def frames_of(sample: Sample) -> int:
    part = sample.messages[0].parts[0]
    assert isinstance(part, VideoPart)
    assert part.frames is not None
    assert part.timestamps is not None
    assert len(part.timestamps) == len(part.frames)
    return len(part.frames)


def test_clips_have_as_many_frames_as_asked_or_as_their_question_needs() -> None:
    draw = clips(TRAIN, num_frames=[2, 5])
    seen = {}
    for seed in range(150):
        sample = draw(np.random.default_rng(seed), str(seed))
        seen.setdefault(sample.metadata["task"], set()).add(frames_of(sample))
    assert seen["speed"] == {4, 5}
    assert seen["scroll"] == {3, 4, 5}
    assert set.union(*seen.values()) == {2, 3, 4, 5}
    assert len(seen) == 12


def test_one_number_of_frames_draws_the_clips_it_always_drew() -> None:
    for number in (6, [6, 6]):
        sample = clips(TRAIN, tasks=["colour_first"], num_frames=number)(np.random.default_rng(1), "")
        clip_generator = np.random.default_rng(1)
        clip_generator.random()
        clip = render_clip(clip_generator, task="colour_first", faces=TRAIN.faces)
        assert sample.messages[1].text == clip.answer
        assert sample.messages[0].parts[0].timestamps == clip.times_s  # type: ignore[union-attr]


def test_words_that_run_by_are_of_the_studios_split() -> None:
    for studio in (TRAIN, HELD_OUT):
        for seed in range(20):
            sample = clips(studio, tasks=["scroll"])(np.random.default_rng(seed), "")
            assert is_held_out(sample.messages[1].text) == (studio is HELD_OUT)


@pytest.mark.parametrize("number", [0, 37, [3], [5, 4], [0, 4], [2, 37]])
def test_numbers_of_frames_that_make_no_sense_are_refused(number: int | list[int]) -> None:
    with pytest.raises(OptionError, match="num_frames"):
        clips(TRAIN, num_frames=number)
    with pytest.raises(OptionError, match="tasks is"):
        clips(TRAIN, tasks=["weather"])


def test_long_clips_name_the_size_of_their_packs() -> None:
    draw = clips(TRAIN, num_frames=[30, 36], packing=[5, 6])
    parts = [draw(np.random.default_rng(seed), "").media[0] for seed in range(12)]
    assert {part.packing for part in parts if isinstance(part, VideoPart)} == {5, 6}
    assert all(isinstance(part, VideoPart) and part.frames and len(part.frames) >= 30 for part in parts)
    part = clips(TRAIN)(np.random.default_rng(0), "").media[0]
    assert isinstance(part, VideoPart)
    assert part.packing is None
    with pytest.raises(OptionError, match="packing is 7"):
        clips(TRAIN, packing=7)


@pytest.mark.parametrize(
    "make",
    [lambda **more: ask(TRAIN, **more), lambda **more: clips(TRAIN, **more), lambda **more: scenes(TRAIN, **more)],
)
def test_several_questions_about_one_picture_are_turns_of_which_the_first_has_it(make: Callable[..., Draw]) -> None:
    draw, lengths = make(num_questions=[1, 4]), set()
    for seed in range(60):
        sample = draw(np.random.default_rng(seed), str(seed))
        asked, answers = sample.messages[::2], sample.messages[1::2]
        assert {message.role for message in asked} == {"user"}
        assert {message.role for message in answers} == {"assistant"}
        assert [len(message.parts) for message in asked] == [2] + [1] * (len(asked) - 1)
        assert len({message.text for message in asked}) == len(asked)
        assert all(message.text for message in sample.messages)
        lengths.add(len(asked))
    assert lengths == {1, 2, 3, 4}


def test_one_question_draws_what_it_always_drew() -> None:
    """Seeds of runs that are over go on giving their samples."""
    for make in (ask, scenes, clips):
        one = make(TRAIN)(np.random.default_rng(5), "a")
        several = make(TRAIN, num_questions=3)(np.random.default_rng(5), "a")
        assert one.messages[0].text in {message.text for message in several.messages}
        assert len(one.messages) == 2


def test_text_in_the_place_of_a_page_stands_before_the_first_of_several_questions() -> None:
    sample = ask(TRAIN, kinds=["table"], told=1.0, num_questions=3)(np.random.default_rng(2), "a")
    lengths = [message.text.count("\n") for message in sample.messages[::2]]
    assert lengths[0] >= 2
    assert lengths[1:] == [0, 0]
