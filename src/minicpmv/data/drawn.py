"""Samples that worlds draw: a page to read, ask about, restore or reason over; a line, a scene, a clip, a fact.

Studio -> page(kind) -> PageSample -> read | ask | restore | reason -> Sample
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from numpy.random import Generator
from PIL import Image

from minicpmv.data.corruption.calibration import LEVELS, Calibration, Level
from minicpmv.data.corruption.corrupt import LEVEL_SHARES, corrupt
from minicpmv.data.options import (
    checked_flag,
    checked_names,
    checked_number,
    checked_path,
    checked_range,
    checked_share,
    checked_shares,
)
from minicpmv.data.sample import Sample
from minicpmv.data.studio import PAGE_KINDS, Studio
from minicpmv.data.worlds import questions
from minicpmv.data.worlds.clips import CLIP_GRID, CLIP_TASKS, MOST_FRAMES, fewest_frames, render_clip
from minicpmv.data.worlds.glyphs import CharacterBox, with_gaps
from minicpmv.data.worlds.knowledge import article, ask_about
from minicpmv.data.worlds.lines import LINE_SIZES, lines_that_fit, render_line
from minicpmv.data.worlds.paper import PageSample, Question, Region
from minicpmv.data.worlds.reasoning import PROBLEM_KINDS, draw_problem
from minicpmv.data.worlds.scenes import PATCH_PX, SCENE_TASKS, render_scene
from minicpmv.data.worlds.shown import clip_questions, scene_questions
from minicpmv.data.worlds.tables import draw_table, render_table
from minicpmv.data.worlds.text import DESCRIBED_SCENES, TextPair, described_pair, text_pair
from minicpmv.messages import ImagePart, Message, TextPart, VideoPart
from minicpmv.processing.sampling import PACKING_LIMIT

READ = ("What is written on the page?", "Read the page.", "Write down the text.")
RESTORE = ("Write the text in the red boxes, one per line.", "What do the red boxes say?")


_MOST_COUNTED = 100
"""Of words or lines that may be asked for; fewer of them fit into a picture."""

Draw = Callable[[Generator, str], Sample]
"""Source of randomness and key; what a `DrawnFeed` takes."""


def read(studio: Studio, *, kinds: Sequence[str] = PAGE_KINDS, told: float = 0.0) -> Draw:
    """Pages whose whole text is to be written.

    Args:
        studio: what pages are drawn with.
        kinds: kinds of pages.
        told: share of pages that are text already, to be repeated.

    Raises:
        OptionError: an option is none of its kind.
    """
    kinds, told = checked_names("kinds", kinds, PAGE_KINDS), checked_share("told", told)

    def draw(generator: Generator, key: str) -> Sample:
        page = studio.page(generator, _pick(generator, kinds))
        return _told(page_sample(key, page, _pick(generator, READ), page.text, task="read"), page, told, generator)

    return draw


def ask(
    studio: Studio,
    *,
    kinds: Sequence[str] = PAGE_KINDS,
    told: float = 0.0,
    num_questions: int | Sequence[int] = 1,
) -> Draw:
    """Pages with one or some of their questions.

    Args:
        studio: what pages are drawn with.
        kinds: kinds of pages.
        told: share of questions about the page's text instead of its picture; charts are always shown.
        num_questions: asked about every page, a turn each, or the fewest and the most, between which every page draws;
            a page that has fewer is asked all of them.

    Raises:
        OptionError: an option is none of its kind.
    """
    kinds, told = checked_names("kinds", kinds, PAGE_KINDS), checked_share("told", told)
    several = checked_range("num_questions", num_questions, 1)

    def draw(generator: Generator, key: str) -> Sample:
        while True:
            page = studio.page(generator, _pick(generator, kinds))
            if page.questions:
                chosen = page.questions[int(generator.random() * len(page.questions))]
                sample = page_sample(key, page, chosen.question, chosen.answer, task=chosen.task)
                others = [question for question in page.questions if question is not chosen]
                sample = _ask_further(sample, generator, others, several)
                return _told(sample, page, told, generator)

    return draw


def restore(
    studio: Studio,
    *,
    calibration: Calibration | str = "",
    kinds: Sequence[str] = PAGE_KINDS,
    shares: Mapping[Level, float] = LEVEL_SHARES,
) -> Draw:
    """Pages with damaged regions, whose text is to be written in reading order, a line per region.

    Args:
        studio: what pages are drawn with.
        calibration: how strong each level is, or the file that says so; the bundled one if empty.
        kinds: kinds of pages.
        shares: how often a region gets each level.

    Raises:
        OptionError: an option is none of its kind.
    """
    kinds = checked_names("kinds", kinds, PAGE_KINDS)
    levels, shares = levels_of(calibration), checked_shares("shares", shares, LEVELS)

    def draw(generator: Generator, key: str) -> Sample:
        return damaged_sample(generator, key, studio.page(generator, _pick(generator, kinds)), levels, shares)

    return draw


def reason(studio: Studio, *, think: bool = True, kinds: Sequence[str] = PROBLEM_KINDS, told: float = 0.0) -> Draw:
    """Tables with a question that takes several steps.

    Args:
        studio: what tables are drawn with.
        think: the worked steps are there as reasoning.
        kinds: kinds of problems.
        told: share of tables that are text instead of a picture.

    Raises:
        OptionError: an option is none of its kind.
    """
    kinds, told = checked_names("kinds", kinds, PROBLEM_KINDS), checked_share("told", told)
    think = checked_flag("think", think)

    def draw(generator: Generator, key: str) -> Sample:
        table = draw_table(generator, studio.split, 2 + int(generator.random() * 3), 2 + int(generator.random() * 2))
        layouts = studio.layouts("table")
        page = render_table(
            generator, table, faces=studio.faces, layout=layouts[int(generator.random() * len(layouts))]
        )
        problem = draw_problem(generator, table, _pick(generator, kinds))
        sample = _told(
            page_sample(key, page, problem.question, problem.answer, task=problem.kind), page, told, generator
        )
        if not think:
            return sample
        worked = Message("assistant", sample.messages[1].parts, reasoning=problem.trace)
        known = {**sample.metadata, "steps": problem.steps}
        return replace(sample, messages=(sample.messages[0], worked), metadata=known)

    return draw


def lines(studio: Studio, *, max_words: int = 3, most_lines: int = 1) -> Draw:
    """Pictures of one printed line, or of a few below each other.

    Args:
        studio: what they are drawn with.
        max_words: most words of a line.
        most_lines: most lines, where they fit at a size that can be read.

    Raises:
        OptionError: an option is none of its kind.
    """
    max_words = checked_number("max_words", max_words, 1, _MOST_COUNTED)
    most_lines = checked_number("most_lines", most_lines, 1, _MOST_COUNTED)

    def draw(generator: Generator, key: str) -> Sample:
        size = LINE_SIZES[int(generator.random() * len(LINE_SIZES))]
        line = render_line(
            generator,
            faces=studio.faces,
            split=studio.split,
            size=size,
            num_lines=lines_that_fit(generator, size, most_lines),
            max_words=max_words,
        )
        question = questions.ask(generator, questions.READING)
        sample = _answered(key, ImagePart(Image.fromarray(line.image)), question, line.text, "line", "read")
        return replace(sample, characters=tuple(with_gaps(line.text, line.characters)))

    return draw


def scenes(studio: Studio, *, tasks: Sequence[str] = SCENE_TASKS, num_questions: int | Sequence[int] = 1) -> Draw:
    """Pictures of a few shapes, a digit or a sign, with questions about them.

    Args:
        studio: what they are drawn with.
        tasks: what pictures are drawn for.
        num_questions: asked about every picture, a turn each, or the fewest and the most, between which every picture
            draws; those after the first are of any task, and one is to say what the picture shows.

    Raises:
        OptionError: an option is none of its kind.
    """
    tasks = checked_names("tasks", tasks, SCENE_TASKS)
    several = checked_range("num_questions", num_questions, 1)

    def draw(generator: Generator, key: str) -> Sample:
        scene = render_scene(generator, task=_pick(generator, tasks), faces=studio.faces, split=studio.split)
        picture = ImagePart(Image.fromarray(scene.image))
        sample = _answered(key, picture, scene.question, scene.answer, "scene", scene.task)
        if scene.things:
            rows = scene.image.shape[0] // PATCH_PX
            sample = replace(sample, things=scene.targets.reshape(1, rows, -1, 2))
        if several == (1, 1) or not scene.things:
            return sample
        others = [
            question
            for question in scene_questions(generator, scene.things)
            if (question.task, question.answer) != (scene.task, scene.answer)
        ]
        return _ask_further(sample, generator, others, several)

    return draw


def clips(
    studio: Studio,
    *,
    tasks: Sequence[str] = CLIP_TASKS,
    num_frames: int | Sequence[int] = 6,
    num_questions: int | Sequence[int] = 1,
    packing: int | Sequence[int] | None = None,
) -> Draw:
    """Clips of a few frames with the times at which they were taken, and questions about what happens.

    Args:
        studio: what they are drawn with.
        tasks: what clips are drawn for.
        num_frames: of every clip, or the fewest and the most, between which every clip draws; a question that needs
            more frames than that gets them.
        num_questions: asked about every clip, a turn each, or the fewest and the most, between which every clip draws;
            those after the first are of any task, and one is to say what every frame shows.
        packing: frames per pack, or the fewest and the most, in place of the recipe's: a long clip in small packs would
            be longer than a row.

    Raises:
        OptionError: the numbers are no two in order, a clip would be too long or too short, a task is unknown, or a
            size of packs is none.
    """
    several = checked_range("num_questions", num_questions, 1)
    bounds = checked_range("num_frames", num_frames, 1, MOST_FRAMES)
    tasks = checked_names("tasks", tasks, CLIP_TASKS)
    needed = {task: fewest_frames(task) for task in tasks}
    sizes = None if packing is None else checked_range("packing", packing, 1, PACKING_LIMIT)

    def draw(generator: Generator, key: str) -> Sample:
        task = _pick(generator, tasks)
        # One number draws nothing, so that it always gives the same clips.
        num = bounds[0] if bounds[0] == bounds[1] else int(generator.integers(bounds[0], bounds[1] + 1))
        num = max(num, needed[task])
        clip = render_clip(generator, task=task, num_frames=num, faces=studio.faces, split=studio.split)
        frames = tuple(Image.fromarray(frame) for frame in clip.frames)
        size = int(generator.integers(sizes[0], sizes[1] + 1)) if sizes else None
        part = VideoPart(frames=frames, timestamps=clip.times_s, packing=size)
        sample = _answered(key, part, clip.question, clip.answer, "clip", clip.task)
        if task != "scroll":  # letters are none of the kinds
            sample = replace(sample, things=clip.targets.reshape(num, CLIP_GRID[0], CLIP_GRID[1], 2))
        if several == (1, 1):
            return sample
        others = [question for question in clip_questions(generator, clip.shown) if question.task != clip.task]
        return _ask_further(sample, generator, others, several)

    return draw


def facts(studio: Studio, *, open_book: float = 0.5) -> Draw:
    """Questions about the closed world in text alone.

    Args:
        studio: whose entities.
        open_book: share of questions that come with a text in which the answer stands; the others are to be known.

    Raises:
        OptionError: an option is none of its kind.
    """
    open_book = checked_share("open_book", open_book)

    def draw(generator: Generator, key: str) -> Sample:
        entity = studio.entities[int(generator.random() * len(studio.entities))]
        sentences, told = article(generator, entity)
        fact = told[int(generator.random() * len(told))]
        is_open = generator.random() < open_book
        question = ask_about(generator, fact)
        text = f"{' '.join(sentences)}\n{question}" if is_open else question
        turns = (Message("user", (TextPart(text),)), Message("assistant", (TextPart(fact.value),)))
        return Sample(key, turns, {"kind": "text", "task": "open_book" if is_open else "closed_book"})

    return draw


def texts(studio: Studio, *, most_lines: int = 1) -> Draw:
    """Text alone: something to repeat, or a question about a scene or a clip in words.

    Args:
        studio: whose words.
        most_lines: of what is to be repeated.

    Raises:
        OptionError: an option is none of its kind.
    """
    most_lines = checked_number("most_lines", most_lines, 1, _MOST_COUNTED)

    def draw(generator: Generator, key: str) -> Sample:
        return _text_sample(key, text_pair(generator, studio.split, most_lines=most_lines))

    return draw


def described(studio: Studio, *, clips: Sequence[str] = CLIP_TASKS, scenes: Sequence[str] = DESCRIBED_SCENES) -> Draw:
    """Text alone: a clip or a picture in words, and a question about it.

    Args:
        studio: whose words.
        clips: tasks of clips; one that is named twice is drawn twice as often.
        scenes: tasks of pictures, likewise.

    Raises:
        OptionError: an option is none of its kind.
    """
    clips = checked_names("clips", clips, CLIP_TASKS)
    scenes = checked_names("scenes", scenes, DESCRIBED_SCENES)

    def draw(generator: Generator, key: str) -> Sample:
        return _text_sample(key, described_pair(generator, studio.split, clips=clips, scenes=scenes))

    return draw


def _text_sample(key: str, pair: TextPair) -> Sample:
    turns = (Message("user", (TextPart(pair.prompt),)), Message("assistant", (TextPart(pair.answer),)))
    return Sample(key, turns, {"kind": "text", "task": pair.task})


def levels_of(calibration: Calibration | str) -> Calibration:
    """A calibration, from the file that is named, or the bundled one if the name is empty.

    Raises:
        OptionError: there is no such file, or it is none.
    """
    if isinstance(calibration, Calibration):
        return calibration
    return Calibration.bundled() if calibration == "" else Calibration.load(checked_path("calibration", calibration))


def damaged_sample(
    generator: Generator, key: str, page: PageSample, levels: Calibration, shares: Mapping[Level, float]
) -> Sample:
    """A page with damaged regions in red frames, whose text is to be written."""
    damaged = corrupt(generator, page.image, page.regions, levels, shares=shares)
    answer = "\n".join(target.text.replace("\n", " ") for target in damaged.targets)
    sample = page_sample(key, page, _pick(generator, RESTORE), answer, task="restore")
    picture = Message("user", (ImagePart(Image.fromarray(damaged.image)), *sample.messages[0].parts[1:]))
    metadata = {**sample.metadata, "targets": [target.to_dict() for target in damaged.targets]}
    # Letters that are there to be seen, however badly, can be told to a tower.
    covered = {target.region for target in damaged.targets if target.level == "high"}
    left = [region for index, region in enumerate(page.regions) if index not in covered]
    return Sample(key, (picture, sample.messages[1]), metadata, _letters(left))


def _told(sample: Sample, page: PageSample, share: float, generator: Generator) -> Sample:
    """A page's text in the place of its picture, in a share of the samples."""
    if page.kind == "chart" or generator.random() >= share:
        return sample
    question = sample.messages[0].text
    asked = Message("user", (TextPart(f"{page.text}\n{question}"),))
    return Sample(sample.key, (asked, *sample.messages[1:]), {**sample.metadata, "told": True})


def _ask_further(sample: Sample, generator: Generator, others: Sequence[Question], bounds: tuple[int, int]) -> Sample:
    """Some of the other questions in turns of their own, all in random order; the first turn keeps the picture."""
    if bounds == (1, 1):  # draws nothing, so that one question always gives the same samples
        return sample
    num = int(generator.integers(bounds[0], bounds[1] + 1))
    own, answer = sample.messages
    *context, asked = own.parts
    turns = [(asked, answer.parts[0])]
    for index in generator.permutation(len(others))[: num - 1]:
        turns.append((TextPart(others[int(index)].question), TextPart(others[int(index)].answer)))
    mixed = [turns[int(index)] for index in generator.permutation(len(turns))]
    messages: list[Message] = []
    for position, (question, reply) in enumerate(mixed):
        parts = (*context, question) if position == 0 else (question,)
        messages += [Message("user", parts), Message("assistant", (reply,))]
    return replace(sample, messages=tuple(messages))


def _answered(key: str, part: ImagePart | VideoPart, question: str, answer: str, kind: str, task: str) -> Sample:
    turns = (Message("user", (part, TextPart(question))), Message("assistant", (TextPart(answer),)))
    return Sample(key, turns, {"kind": kind, "task": task})


def page_sample(key: str, page: PageSample, question: str, answer: str, *, task: str) -> Sample:
    """A page's picture with a question about it and the answer."""
    sample = _answered(key, ImagePart(Image.fromarray(page.image)), question, answer, page.kind, task)
    return replace(sample, characters=_letters(page.regions), regions=page.regions)


def _letters(regions: Sequence[Region]) -> tuple[CharacterBox, ...]:
    """Boxes of single letters and of gaps; pages of other scripts know the box of a line and not of a letter."""
    boxes = [box for region in regions for line in region.lines for box in with_gaps(line.text, line.characters)]
    return tuple(box for box in boxes if len(box.char) == 1 and box.char.isascii())


def _pick(generator: Generator, names: Sequence[str]) -> str:
    return names[int(generator.random() * len(names))]
