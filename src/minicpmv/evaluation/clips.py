"""Watching: clips of six frames that enter the model as one frame pack, or apart, each with a one-word answer."""

from numpy.random import Generator
from PIL import Image

from minicpmv.data.worlds.clips import render_clip
from minicpmv.data.worlds.fonts import find_faces
from minicpmv.evaluation.question import Question, question
from minicpmv.messages import VideoPart

NUM_FRAMES = 6
"""Frames per clip, all in one pack. Source: MiniCPM-V 4.5 report (up to six frames share 64 tokens)."""


def clip_question(generator: Generator, kind: str, packing: int = NUM_FRAMES) -> Question:
    """A fresh clip and its question; digits are printed in held-out faces.

    Args:
        generator: source of randomness.
        kind: one of `minicpmv.data.worlds.clips.CLIP_TASKS`.
        packing: frames per pack.

    Raises:
        OptionError: an unknown kind, or no held-out face for a digit is installed.
    """
    faces = find_faces("held_out", system=False) if kind.startswith("digit") else ()
    clip = render_clip(generator, task=kind, num_frames=NUM_FRAMES, faces=faces)
    frames = tuple(Image.fromarray(frame) for frame in clip.frames)
    part = VideoPart(frames=frames, timestamps=clip.times_s, packing=packing)
    return question(part, clip.question, clip.answer)
