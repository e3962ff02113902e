"""Reading: pictures of one printed line of one to three words that were never printed in training.

held-out words, held-out or training faces -> a picture of any of the trained shapes -> "What does the text say?"
"""

from numpy.random import Generator
from PIL import Image

from minicpmv.data.worlds.fonts import Split, find_faces
from minicpmv.data.worlds.lines import LINE_SIZES, render_line
from minicpmv.data.worlds.questions import READING, ask
from minicpmv.evaluation.question import Question, question
from minicpmv.messages import ImagePart


def line_question(generator: Generator, fonts: Split) -> Question:
    """A picture of a held-out line and the request to read it.

    Args:
        generator: source of randomness; chooses text, face, shape, size, place, colours and wording.
        fonts: print with the faces of training, or with the family that was kept out of it. Faces come from installed
            Python packages alone, so that the figure does not depend on the operating system.

    Raises:
        OptionError: no such face is installed.
    """
    faces = find_faces(fonts, system=False)
    size = LINE_SIZES[int(generator.random() * len(LINE_SIZES))]
    line = render_line(generator, faces=faces, split="held_out", size=size)
    return question(ImagePart(Image.fromarray(line.image)), ask(generator, READING), line.text)
