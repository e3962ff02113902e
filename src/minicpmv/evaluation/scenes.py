"""Looking: single pictures of shapes or a digit, each with a one-word answer."""

from numpy.random import Generator
from PIL import Image

from minicpmv.data.worlds.fonts import find_faces
from minicpmv.data.worlds.scenes import render_scene
from minicpmv.evaluation.question import Question, question
from minicpmv.messages import ImagePart


def scene_question(generator: Generator, kind: str) -> Question:
    """A fresh picture and its question; digits are printed in held-out faces.

    Args:
        generator: source of randomness.
        kind: one of `minicpmv.data.worlds.scenes.SCENE_TASKS`.

    Raises:
        OptionError: an unknown kind, or no held-out face for a digit is installed.
    """
    faces = find_faces("held_out", system=False) if kind == "digit" else ()
    scene = render_scene(generator, task=kind, faces=faces)
    return question(ImagePart(Image.fromarray(scene.image)), scene.question, scene.answer)
