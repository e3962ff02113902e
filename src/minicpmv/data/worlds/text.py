"""Plain text pairs: what a small language model learns before it gets eyes.

    copy      a printed line's text, "What does the text say?" -> the text
    symbolic  a picture or clip in words, its question -> its answer

The context stands where the visual slots will stand, so that later only the form of the context changes. Also here:
the corpus for a small tokenizer, made of the same texts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from numpy.random import Generator

from minicpmv.data.worlds.clips import CLIP_TASKS, plan_clip
from minicpmv.data.worlds.fonts import PRINTABLE, Split
from minicpmv.data.worlds.questions import READING, ask, wordings_of_everything
from minicpmv.data.worlds.scenes import THING_TASKS, plan_scene
from minicpmv.data.worlds.words import dictionary, random_line

DESCRIBED_SCENES = (*THING_TASKS, "relation")
"""What can be asked about a picture in words."""

LEARNED_SLOWLY = (
    ("direction", "speed", "flashes", "scroll", "rising", *5 * ("num_colours",)),
    (*6 * ("colour_of",), *6 * ("count_of",), *6 * ("relation",)),
)
"""Tasks of clips and of pictures that a small language model does not learn by the way, even in words.

Named as often as they should be asked beyond once.
"""

_COPY_SHARE = 0.5
_FULL_DESCRIPTION_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class TextPair:
    """A context, a question about it and the answer."""

    context: str
    question: str
    answer: str
    task: str

    @property
    def prompt(self) -> str:
        """Context and question as a user would send them."""
        return f"{self.context}\n{self.question}"


def copy_pair(generator: Generator, split: Split = "train", *, max_words: int = 3, num_lines: int = 1) -> TextPair:
    """A text to repeat word for word."""
    text = "\n".join(random_line(generator, split, max_words=max_words) for _ in range(num_lines))
    return TextPair(text, ask(generator, READING), text, READING)


def symbolic_clip(
    generator: Generator, task: str, *, num_frames: int = 6, full: bool = False, split: Split = "train"
) -> TextPair:
    """A clip's question about the clip in words.

    Args:
        generator: source of randomness.
        task: one of `clips.CLIP_TASKS`.
        num_frames: frames described.
        full: colour, kind and place of every frame instead of only what the question is about.
        split: whose words run by.
    """
    plan = plan_clip(generator, task, num_frames, split)
    return TextPair(plan.description if full else plan.symbolic, plan.question, plan.answer, task)


def symbolic_scene(generator: Generator, task: str) -> TextPair:
    """A picture's question about the picture in words; `task` is one of `scenes.THING_TASKS` or `relation`."""
    plan = plan_scene(generator, task)
    return TextPair(plan.symbolic, plan.question, plan.answer, task)


def text_pair(generator: Generator, split: Split = "train", *, most_lines: int = 1) -> TextPair:
    """One pair of the mixture: half copying, half symbolic clips and pictures, all tasks equally often.

    Args:
        generator: source of randomness.
        split: vocabulary of what is copied and of words that run by.
        most_lines: what is copied has one line, or any number up to this one.
    """
    if generator.random() < _COPY_SHARE:
        num_lines = 1 if most_lines == 1 else 1 + int(generator.random() * most_lines)
        return copy_pair(generator, split, num_lines=num_lines)
    task = int(generator.random() * (len(CLIP_TASKS) + len(THING_TASKS)))
    if task >= len(CLIP_TASKS):
        return symbolic_scene(generator, THING_TASKS[task - len(CLIP_TASKS)])
    full = generator.random() < _FULL_DESCRIPTION_SHARE
    return symbolic_clip(generator, CLIP_TASKS[task], full=full, split=split)


def described_pair(
    generator: Generator,
    split: Split = "train",
    *,
    clips: Sequence[str] = CLIP_TASKS,
    scenes: Sequence[str] = DESCRIBED_SCENES,
) -> TextPair:
    """A clip or a picture in words and a question about it; half of the clips are described in full.

    Args:
        generator: source of randomness.
        split: whose words run by.
        clips: some of `clips.CLIP_TASKS`, each as likely as the next; named twice, twice as likely.
        scenes: some of `DESCRIBED_SCENES`, likewise.
    """
    task = int(generator.random() * (len(clips) + len(scenes)))
    if task >= len(clips):
        return symbolic_scene(generator, scenes[task - len(clips)])
    return symbolic_clip(generator, clips[task], full=generator.random() < 0.5, split=split)


def tokenizer_corpus(generator: Generator, num: int) -> Iterator[str]:
    """`num` texts for training a tokenizer: each wording and training word once at least, then random pairs.

    Held-out words are absent, so the tokenizer cannot know them as whole pieces.
    """
    fixed = [PRINTABLE, *(text for text in wordings_of_everything() if "{" not in text), *dictionary("train")]
    yield from fixed[:num]
    for _ in range(num - len(fixed)):
        pair = text_pair(generator)
        yield f"{pair.question}\n{pair.answer}" if generator.random() < 0.5 else pair.prompt
