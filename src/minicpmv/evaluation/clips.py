"""Watching: clips whose frames enter the model as one frame pack, or apart, each with a one-word answer.

`clips` keeps to what training shows; `clips_other` gives packs and paces that no recipe of nano draws.
"""

from numpy.random import Generator
from PIL import Image

from minicpmv.data.worlds.clips import ClipSample, render_clip
from minicpmv.data.worlds.fonts import find_faces
from minicpmv.evaluation.question import Question, question
from minicpmv.messages import VideoPart

NUM_FRAMES = 6
"""Frames per clip, all in one pack. Source: MiniCPM-V 4.5 report (up to six frames share 64 tokens)."""

OTHER_KINDS = ("colour", "colour_first", "digit_last", "flashes")
"""Kinds of questions that are also asked about clips of a make that no recipe of nano draws."""

OTHER_NUM_FRAMES, OTHER_PACKING, OTHER_STEP_S = 7, 4, 1.5
"""Frames of such a clip, frames per pack, seconds between frames. The recipes of nano pack 1, 2, 3, 5 or 6 frames, 0.1
to 1.0 s apart."""

_PRINTED = ("digit_first", "digit_last", "rising", "scroll")


def clip_question(generator: Generator, kind: str, packing: int = NUM_FRAMES) -> Question:
    """A fresh clip and its question; numbers and words are printed in held-out faces, and words are held out.

    Args:
        generator: source of randomness.
        kind: one of `minicpmv.data.worlds.clips.CLIP_TASKS`.
        packing: frames per pack.

    Raises:
        OptionError: an unknown kind, or no held-out face to print with is installed.
    """
    clip = _clip(generator, kind, NUM_FRAMES)
    return _question(clip, clip.times_s, packing)


def other_clip_question(generator: Generator, kind: str) -> Question:
    """A fresh clip in packs and at a pace that no recipe of nano draws, and its question.

    Args:
        generator: source of randomness.
        kind: one of `minicpmv.data.worlds.clips.CLIP_TASKS`.

    Raises:
        OptionError: an unknown kind, or no held-out face to print with is installed.
    """
    times_s = tuple(round(index * OTHER_STEP_S, 1) for index in range(OTHER_NUM_FRAMES))
    return _question(_clip(generator, kind, OTHER_NUM_FRAMES), times_s, OTHER_PACKING)


def _clip(generator: Generator, kind: str, num_frames: int) -> ClipSample:
    faces = find_faces("held_out", system=False) if kind in _PRINTED else ()
    return render_clip(generator, task=kind, num_frames=num_frames, faces=faces, split="held_out")


def _question(clip: ClipSample, times_s: tuple[float, ...], packing: int) -> Question:
    frames = tuple(Image.fromarray(frame) for frame in clip.frames)
    return question(VideoPart(frames=frames, timestamps=times_s, packing=packing), clip.question, clip.answer)
