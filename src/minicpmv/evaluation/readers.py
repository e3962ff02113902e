"""Who reads bare crops: a model, or Tesseract. What calibrates damage, and what a model is compared with.

crops uint8 [height, width, 3] -> Reader -> texts
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from minicpmv.data.corruption.calibration import Crop, Reader, crop_of
from minicpmv.data.corruption.operators import Pixels
from minicpmv.data.worlds.fonts import Split, find_faces
from minicpmv.data.worlds.lines import LINE_SIZES, render_line
from minicpmv.data.worlds.questions import READING
from minicpmv.errors import OptionError
from minicpmv.evaluation.answering import Answered, answer_batch
from minicpmv.evaluation.question import Question, question
from minicpmv.evaluation.tasks import AnswerTask
from minicpmv.generation.loading import Loaded
from minicpmv.media.image import load_image
from minicpmv.messages import ImagePart, Source

TESSERACT_SCALE = 3
"""Crops are enlarged by this before Tesseract sees them: it is made for 300 dpi, and print of 13 to 32 px is 100."""


def model_reader(loaded: Loaded, *, batch_size: int = 32) -> Reader:
    """A model that is asked what a crop says.

    Args:
        loaded: the model and its processor.
        batch_size: crops per call of `generate`.
    """

    def read(crops: Sequence[Pixels]) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(crops), batch_size):
            asked = [
                question(ImagePart(Image.fromarray(crop)), READING[0], "") for crop in crops[start : start + batch_size]
            ]
            texts += [answered.answer for answered in answer_batch(loaded, asked)]
        return texts

    return read


def tesseract_reader(*, page: bool = False) -> Reader:
    """Tesseract 5, if it is installed.

    Args:
        page: crops are whole pages; otherwise single lines.

    Raises:
        OptionError: there is no `tesseract` to call.
    """
    if shutil.which("tesseract") is None:
        raise OptionError(
            "There is no tesseract on this machine.", remedy="Install it (Debian: apt install tesseract-ocr)."
        )

    def read(crops: Sequence[Pixels]) -> list[str]:
        if not crops:
            return []
        with tempfile.TemporaryDirectory() as folder:
            names = []
            for index, crop in enumerate(crops):
                picture = Image.fromarray(crop)
                size = (picture.width * TESSERACT_SCALE, picture.height * TESSERACT_SCALE)
                path = Path(folder) / f"{index}.png"
                picture.resize(size, Image.Resampling.BICUBIC).save(path)
                names.append(str(path))
            listing = Path(folder) / "crops.txt"
            listing.write_text("\n".join(names), encoding="utf-8")
            mode = "6" if page else "7"
            words = ["tesseract", str(listing), "stdout", "--psm", mode, "-l", "eng", "-c", "page_separator=\f"]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
        texts = done.stdout.split("\f")[: len(crops)]
        return [text.strip() for text in texts]

    return read


def picture_of(question: Question) -> Source | None:
    """The first picture of the last turn, which is what another reader can read; None if there is none."""
    pictures = [part.source for part in question.messages[-1].parts if isinstance(part, ImagePart)]
    return pictures[0] if pictures else None


def read_beside(task: AnswerTask, answers: Sequence[Answered]) -> list[Answered]:
    """What Tesseract makes of the questions of a reading task: the same pictures, or the regions that are asked for.

    Args:
        task: a reading task.
        answers: another reader's answers to its questions.

    Raises:
        OptionError: there is no `tesseract` to call.
    """
    read = tesseract_reader(page=task.is_page)
    crops: list[Pixels] = []
    lengths = []
    for answered in answers:
        source = picture_of(answered.question)
        if source is None:
            raise OptionError(f"{task.name} shows no picture.", remedy="Leave out Tesseract; it reads pictures only.")
        pixels = np.asarray(load_image(source).image)
        boxes = answered.question.boxes
        # Boxes bring two px of paper; beyond them are the frames that tell the model what is asked for.
        crops += [_on_paper(crop_of(pixels, box, margin=0)) for box in boxes] if boxes else [pixels]
        lengths.append(max(1, len(boxes)))
    texts = iter(read(crops))
    return [
        Answered(answered.question, "\n".join(islice(texts, length)), was_cut=False)
        for answered, length in zip(answers, lengths, strict=True)
    ]


def _on_paper(crop: Pixels, px: int = 3) -> Pixels:
    """A crop with more of what is at its edge around it."""
    return np.pad(crop, ((px, px), (px, px), (0, 0)), mode="edge")


def line_crops(number: int, seed: int, *, split: Split = "train") -> list[Crop]:
    """Clean crops of printed lines with their texts.

    Args:
        number: how many.
        seed: which ones.
        split: whose words and faces.
    """
    faces = find_faces(split, system=False)
    crops = []
    for index in range(number):
        generator = np.random.default_rng([seed, index])
        size = LINE_SIZES[int(generator.random() * len(LINE_SIZES))]
        line = render_line(generator, faces=faces, split=split, size=size)
        boxes = np.array([character[1:] for character in line.characters])
        box = (boxes[:, 0].min(), boxes[:, 1].min(), boxes[:, 2].max(), boxes[:, 3].max())
        height = float(np.median(boxes[:, 3] - boxes[:, 1]))
        crops.append(Crop(crop_of(line.image, box), line.text, height))
    return crops
