"""Everything that can be asked about known contents: the answers are those of the worlds that drew them."""

import numpy as np
import pytest

from minicpmv.data.worlds.clips import CLIP_TASKS, MOST_FRAMES, fewest_frames, plan_clip, render_clip
from minicpmv.data.worlds.questions import QUESTIONS
from minicpmv.data.worlds.scenes import THING_TASKS, plan_scene, render_scene
from minicpmv.data.worlds.shapes import Thing
from minicpmv.data.worlds.shown import clip_questions, scene_questions


def about(frames: list[Thing | None]) -> dict[str, str]:
    """Answers by task."""
    return {asked.task: asked.answer for asked in clip_questions(np.random.default_rng(0), frames)}


@pytest.mark.parametrize("task", CLIP_TASKS)
def test_a_clip_answers_the_question_that_it_was_drawn_for(task: str) -> None:
    for seed in range(200):
        generator = np.random.default_rng(seed)
        num_frames = int(generator.integers(fewest_frames(task), MOST_FRAMES + 1))
        plan = plan_clip(generator, task, num_frames)
        answers = {asked.task: asked.answer for asked in clip_questions(generator, plan.frames)}
        assert answers["describe_clip"] == plan.description
        if task in answers:
            assert answers[task] == plan.answer
        else:  # what is the same in all frames has no first and no last
            assert task in ("num_colours", "flashes")
            assert plan.answer == "1"


@pytest.mark.parametrize("task", ["colour", "shape", "digit", "place", "colour_of", "relation"])
def test_a_picture_answers_the_question_that_it_was_drawn_for(task: str) -> None:
    for seed in range(200):
        generator = np.random.default_rng(seed)
        plan = plan_scene(generator, task)
        known = {(asked.task, asked.answer) for asked in scene_questions(generator, plan.things)}
        assert (task, plan.answer) in known
        assert ("describe", plan.symbolic) in known


def test_a_place_is_asked_for_only_near_the_middle_of_a_side() -> None:
    def place(kind: str, x: float, y: float) -> str | None:
        found = {one.task: one.answer for one in scene_questions(np.random.default_rng(0), [Thing(kind, "red", x, y)])}
        return found.get("place")

    assert place("star", 0.1, 0.6) == "left"
    assert place("star", 0.6, 1.0) == "bottom"
    assert place("star", 0.1, 0.1) is None
    assert place("star", 0.5, 0.5) is None
    assert place("7", 0.1, 0.6) is None


def test_shapes_are_counted_where_there_are_several() -> None:
    pair = [Thing("circle", "red", 0, 0), Thing("star", "blue", 1, 0), Thing("circle", "pink", 0, 1)]
    asked = [(one.task, one.answer) for one in scene_questions(np.random.default_rng(0), pair)]
    # There are two circles, so "the circle" has no colour and no place.
    assert asked == [
        ("describe", "red circle 0 0, blue star 9 0, pink circle 0 9"),
        ("count_of", "2"),
        ("count_of", "1"),
        ("colour_of", "blue"),
    ]


def test_what_is_seen_in_the_pixels_is_what_is_said() -> None:
    """A word that runs by is seen otherwise in pixels than in the plan: letters are not equally wide."""
    clip = render_clip(np.random.default_rng(3), task="scroll")
    said = about(list(clip.shown))
    assert said["scroll"] == clip.answer
    assert [frame.split(maxsplit=1)[1] for frame in said["describe_clip"].split(", ")] == clip.symbolic.split()
    scene = render_scene(np.random.default_rng(3), task="count_of")
    assert scene.symbolic == scene_questions(np.random.default_rng(0), scene.things)[0].answer
    assert render_scene(np.random.default_rng(3), task="sign").things == ()


def test_movement_is_told_only_where_there_is_one() -> None:
    def moved(*places: float) -> dict[str, str]:
        return about([Thing("star", "red", place, 0.5) for place in places])

    assert moved(0.0, 0.05, 0.2, 0.6, 1.0)["speed"] == "faster"
    assert moved(1.0, 0.5, 0.2, 0.1, 0.0)["direction"] == "left"
    assert "speed" not in moved(0.0, 0.3, 0.6, 0.9)
    assert not {"direction", "speed"} & set(moved(0.4, 0.5, 0.5, 0.45))
    corner = about([Thing("star", "red", place, 0.9 * place) for place in (0.1, 0.5, 0.9)])
    assert "direction" not in corner
    assert "speed" not in moved(0.4, 0.6, 0.8, 1.0, 1.0, 1.0)
    blinking = about([Thing("star", "red", 0, 0.5), None, Thing("star", "red", 1, 0.5), None])
    assert blinking["flashes"] == "2"
    assert "direction" not in blinking


def test_every_question_has_its_wordings() -> None:
    for task in (*CLIP_TASKS, *THING_TASKS, "relation", "describe", "describe_clip"):
        assert QUESTIONS[task]
