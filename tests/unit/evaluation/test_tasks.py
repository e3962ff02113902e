import pytest
from PIL import Image

from minicpmv.data.corruption.calibration import LEVELS
from minicpmv.data.studio import PAGE_KINDS
from minicpmv.data.worlds.clips import CLIP_TASKS
from minicpmv.data.worlds.lines import LINE_SIZES
from minicpmv.data.worlds.words import is_held_out
from minicpmv.errors import OptionError
from minicpmv.evaluation import drawn
from minicpmv.evaluation import question as question_module
from minicpmv.evaluation.clips import OTHER_KINDS, OTHER_PACKING
from minicpmv.evaluation.question import Question, question_generator
from minicpmv.evaluation.tasks import TASKS, AnswerTask, LikelihoodTask, select_tasks
from minicpmv.messages import ImagePart, TextPart, VideoPart
from minicpmv.recipes.loader import ChainRecipe, bundled_recipes, load_recipe
from minicpmv.training.recipe import TrainingRecipe


def picture(question: Question) -> Image.Image:
    part = question.messages[0].parts[0]
    assert isinstance(part, ImagePart)
    assert isinstance(part.source, Image.Image)
    return part.source


@pytest.mark.parametrize("name", ["lines.held_out_font", "lines.training_fonts"])
def test_every_line_is_held_out_and_fits_one_item(name: str) -> None:
    questions = list(select_tasks([name])[0].questions(0, 40))
    assert all(is_held_out(question.answer) for question in questions)
    assert all(1 <= len(question.answer.split()) <= 5 for question in questions)  # a date is one word with spaces
    sizes = {picture(question).size[::-1] for question in questions}
    assert len(sizes) > 3
    assert sizes <= set(LINE_SIZES)


def test_lines_in_the_held_out_font_use_no_face_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from minicpmv.evaluation import lines

    used = []
    render = lines.render_line

    def spy(*args: object, **named: object) -> object:
        used.append(named["faces"])
        return render(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(lines, "render_line", spy)
    list(select_tasks(["lines"])[0].questions(0, 1))
    list(select_tasks(["lines"])[1].questions(0, 1))
    assert {face.held_out for face in used[0]} == {True}
    assert {face.held_out for face in used[1]} == {False}


def test_clips_are_six_frames_with_rising_times_in_one_pack() -> None:
    for task in select_tasks(["clips"]):
        (question,) = task.questions(0, 1)
        part = question.messages[0].parts[0]
        assert isinstance(part, VideoPart)
        assert part.frames is not None
        assert part.timestamps is not None
        assert (len(part.frames), part.packing) == (6, 6)
        assert sorted(set(part.timestamps)) == list(part.timestamps)
        assert question.answer
        assert question.messages[0].text.endswith("?")


def test_fewer_questions_are_the_first_ones_and_another_seed_asks_others() -> None:
    (task,) = select_tasks(["lines.held_out_font"])
    few, many, other = (list(task.questions(seed, num)) for seed, num in ((0, 3), (0, 5), (1, 5)))
    assert [question.answer for question in few] == [question.answer for question in many[:3]]
    assert [picture(a).tobytes() for a in few] == [picture(b).tobytes() for b in many[:3]]
    assert [question.answer for question in many] != [question.answer for question in other]


def test_two_tasks_of_one_seed_do_not_share_their_randomness() -> None:
    first, second = (question_generator(0, name, 0).random() for name in ("clips.colour", "clips.shape"))
    assert first != second


def test_no_recipe_trains_on_the_stream_of_evaluation() -> None:
    recipes = [load_recipe(name) for name in bundled_recipes()]
    seeds = {recipe.seed for recipe in recipes if not isinstance(recipe, ChainRecipe)}
    assert question_module.EVALUATION_STREAM not in seeds


def test_groups_and_single_tasks_are_selected_once_and_in_order() -> None:
    names = [task.name for task in select_tasks(["clips.direction", "lines", "clips.direction"])]
    assert names == ["lines.held_out_font", "lines.training_fonts", "clips.direction"]
    assert [task.name for task in select_tasks(["clips"])] == [f"clips.{kind}" for kind in CLIP_TASKS]
    assert [task.num_samples for task in TASKS if isinstance(task, AnswerTask) and task.is_reading] == [
        400,
        400,
        *[100] * (len(PAGE_KINDS) + len(LEVELS) + 2),
    ]
    assert [task.name for task in TASKS if isinstance(task, LikelihoodTask)] == ["perplexity"]


@pytest.mark.parametrize(("group", "other"), [("clips", "clips_apart"), ("reason.short", "reason.long")])
def test_two_ways_of_looking_or_thinking_are_asked_the_same(group: str, other: str) -> None:
    for one, two in zip(select_tasks([group]), select_tasks([other]), strict=True):
        for first, second in zip(one.questions(0, 4), two.questions(0, 4), strict=True):
            assert first.answer == second.answer
            assert first.messages[0].text == second.messages[0].text
    assert {task.think for task in select_tasks(["reason"]) if isinstance(task, AnswerTask)} == {True, False}
    for task in select_tasks(["clips_apart"]):
        (question,) = task.questions(0, 1)
        part = question.messages[0].parts[0]
        assert isinstance(part, VideoPart)
        assert part.packing == 1


def test_other_clips_are_of_a_make_that_no_training_draws() -> None:
    tasks = select_tasks(["clips_other"])
    assert [task.name for task in tasks] == [f"clips_other.{kind}" for kind in OTHER_KINDS]
    for task in tasks:
        (question,) = task.questions(0, 1)
        part = question.messages[0].parts[0]
        assert isinstance(part, VideoPart)
        assert part.frames is not None
        assert part.timestamps == (0.0, 1.5, 3.0, 4.5, 6.0, 7.5, 9.0)
        assert (len(part.frames), part.packing) == (7, 4)
    recipes = [load_recipe(name) for name in bundled_recipes() if name.startswith("nano")]
    media = [recipe.media for recipe in recipes if isinstance(recipe, TrainingRecipe)]
    assert not any(OTHER_PACKING in (some.packing or ()) for some in media)
    assert any(some.packing for some in media)


def test_words_that_run_by_and_the_faces_of_numbers_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from minicpmv.evaluation import clips

    used = {}
    render = clips.render_clip

    def spy(*args: object, **named: object) -> object:
        used[named["task"]] = named["faces"]
        return render(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(clips, "render_clip", spy)
    for task in select_tasks(["clips.scroll", "clips.rising", "clips.digit_first"]):
        questions = list(task.questions(0, 5))
        assert task.name != "clips.scroll" or all(is_held_out(question.answer) for question in questions)
    assert all(faces and all(face.held_out for face in faces) for faces in used.values())
    assert len(used) == 3


def test_text_to_be_weighed_is_text_alone_of_several_worlds() -> None:
    (task,) = select_tasks(["perplexity"])
    questions = list(task.questions(0, 60))
    assert all(isinstance(part, TextPart) for question in questions for part in question.messages[0].parts)
    repeated = [question for question in questions if question.messages[0].text.startswith(f"{question.answer}\n")]
    assert 4 < len(repeated) < 30
    assert max(question.answer.count("\n") for question in repeated) > 2
    assert any(question.messages[0].text.endswith("What is the total?") for question in task.questions(0, 200))
    names = {entity.name for entity in drawn.studio("held_out").entities}
    assert sum(any(name in question.messages[0].text for name in names) for question in questions) > 10


@pytest.mark.parametrize("kind", PAGE_KINDS)
def test_pages_are_of_the_layout_that_training_never_saw(kind: str) -> None:
    held_out = drawn.studio("held_out")
    assert set(held_out.layouts(kind)).isdisjoint(drawn.studio("train").layouts(kind))
    (reading,), (asking,) = select_tasks([f"pages.{kind}"]), select_tasks([f"ask.{kind}"])
    for question in reading.questions(0, 3):
        assert picture(question).width <= 2 * drawn.LONGEST_SIDE_PX
        assert question.answer
    answers = {question.answer for question in asking.questions(0, 20)}
    assert len(answers) > 5


@pytest.mark.parametrize("level", LEVELS)
def test_damaged_regions_are_of_one_level_and_known_by_their_boxes(level: str) -> None:
    (task,) = select_tasks([f"restore.{level}"])
    for question in task.questions(0, 3):
        assert len(question.boxes) == len(question.answer.split("\n"))
        width, height = picture(question).size
        for left, top, right, bottom in question.boxes:
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


def test_facts_to_be_known_are_those_that_training_told() -> None:
    known = {entity.name for entity in drawn.studio("train").entities}
    closed, opened = select_tasks(["facts.closed_book"])[0], select_tasks(["facts.open_book"])[0]
    for question in closed.questions(0, 10):
        assert any(name in question.messages[0].text for name in known)
    for question in opened.questions(0, 10):
        assert question.answer in question.messages[0].text
        assert "\n" in question.messages[0].text


@pytest.mark.parametrize("names", [["lime"], [], ["clips.lines"]])
def test_an_unknown_task_is_named_with_the_known_ones(names: list[str]) -> None:
    with pytest.raises(OptionError, match="lines, clips, clips_apart, clips_other, scenes, pages"):
        select_tasks(names)
