"""Looking: single pictures of shapes, a digit or a sign, each with a one-word answer."""

from numpy.random import Generator
from PIL import Image

from minicpmv.data.worlds.fonts import find_faces
from minicpmv.data.worlds.scenes import render_scene
from minicpmv.data.worlds.signs import SIGN
from minicpmv.evaluation.question import Question, question
from minicpmv.messages import ImagePart


def scene_question(generator: Generator, kind: str) -> Question:
    """A fresh picture and its question; digits and signs are printed in held-out faces, and signs show held-out words.

    Args:
        generator: source of randomness.
        kind: one of `minicpmv.data.worlds.scenes.SCENE_TASKS`.

    Raises:
        OptionError: an unknown kind, or no held-out face for a digit or a sign is installed.
    """
    faces = find_faces("held_out", system=False) if kind in ("digit", SIGN) else ()
    scene = render_scene(generator, task=kind, faces=faces, split="held_out")
    return question(ImagePart(Image.fromarray(scene.image)), scene.question, scene.answer)
