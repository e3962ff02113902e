"""Pages of running text about an entity of the closed world: a title, one or two columns, sometimes a caption.

entity -> sentences -> wrapped paragraphs -> PageSample, with questions that the page answers
"""

from collections.abc import Sequence

from numpy.random import Generator

from minicpmv.data.worlds.fonts import Face
from minicpmv.data.worlds.knowledge import Entity, Fact, article, ask_about
from minicpmv.data.worlds.paper import Box, PageSample, Paper, Question, text_width, wrap

ARTICLE_LAYOUTS = ("one_column", "two_columns", "boxed_title", "caption_first")
"""How a page may be laid out."""

_MARGIN = 0.04  # of the shorter side


def render_article(
    generator: Generator,
    entities: Sequence[Entity],
    *,
    faces: Sequence[Face],
    size: tuple[int, int] = (224, 224),
    size_px: int = 14,
    layout: str = "one_column",
) -> PageSample:
    """A page about one entity, with as much text as fits, from a second and third entity if there is room.

    It is larger than asked for where not even one sentence would fit.

    Args:
        generator: source of randomness.
        entities: whom pages may be about.
        faces: faces to choose from.
        size: height and width in px.
        size_px: font size of the running text.
        layout: one of `ARTICLE_LAYOUTS`.
    """
    paper = Paper(size)
    face = faces[int(generator.random() * len(faces))]
    subject = entities[int(generator.random() * len(entities))]
    margin = max(3, round(_MARGIN * min(size)))
    step = round(size_px * (1.15 + 0.2 * generator.random()))
    sentences, told = _sentences(generator, subject, entities)
    columns = 2 if layout == "two_columns" else 1
    gap = 2 * margin
    narrowest = min(_longest_word(face, size_px, text) for text in sentences)
    paper.grow(0, columns * narrowest + (columns - 1) * gap + 2 * margin)
    top = _write_title(generator, paper, face, subject.name, size_px + 3, margin, layout)
    width = (paper.width - 2 * margin - (columns - 1) * gap) // columns
    sentences = [text for text in sentences if _longest_word(face, size_px, text) <= width]
    written: list[str] = []
    if layout == "caption_first" and sentences:
        written.append(sentences.pop(0))
        top = _write_picture(paper, face, size_px, written[0], margin, top, step)
    for column in range(columns):
        left, baseline = margin + column * (width + gap), top + size_px
        while sentences:
            lines = wrap(face, size_px, sentences[0], width)
            if written and baseline + step * (len(lines) - 1) > paper.height - margin:
                break
            paper.write("text", _placed(lines, left, baseline, step), face, size_px)
            baseline += step * len(lines) + (step // 3 if generator.random() < 0.3 else 0)
            written.append(sentences.pop(0))
    questions = [Question("fact", ask_about(generator, told[text]), told[text].value) for text in written]
    return paper.finish(generator, "article", questions)


def _write_title(
    generator: Generator, paper: Paper, face: Face, title: str, size_px: int, margin: int, layout: str
) -> int:
    """The title; returns where the text below may begin."""
    while size_px > 9 and text_width(face, size_px, title) > paper.width - 2 * margin:
        size_px -= 1
    spare = paper.width - 2 * margin - text_width(face, size_px, title)
    left = margin + (max(0, spare) // 2 if generator.random() < 0.5 else 0)
    baseline = margin + size_px
    paper.write("title", [(title, left, baseline)], face, size_px)
    below = baseline + size_px // 2
    if layout == "boxed_title":
        paper.frame(Box(1, 1, paper.width - 1, below))
    return below + 2


def _sentences(generator: Generator, subject: Entity, entities: Sequence[Entity]) -> tuple[list[str], dict[str, Fact]]:
    """Sentences about the subject and two others, and which fact each of them tells."""
    told: dict[str, Fact] = {}
    others = [entities[int(index)] for index in generator.permutation(len(entities))[:2]]
    for entity in [subject, *(other for other in others if other.name != subject.name)]:
        sentences, facts = article(generator, entity)
        told |= dict(zip(sentences, facts, strict=True))
    return list(told), told


def _longest_word(face: Face, size_px: int, text: str) -> int:
    """Width in px that a column needs at least."""
    return max(text_width(face, size_px, word) for word in text.split())


def _write_picture(paper: Paper, face: Face, size_px: int, text: str, margin: int, top: int, step: int) -> int:
    """An empty picture with its caption below; returns where the text below may begin."""
    picture = Box(margin, top, paper.width - margin, top + (paper.height - top) // 4)
    paper.frame(picture)
    lines = wrap(face, size_px, f"Fig. 1: {text}", paper.width - 2 * margin)
    baseline = int(picture.bottom) + step
    paper.write("caption", _placed(lines, margin, baseline, step), face, size_px)
    return baseline + step * (len(lines) - 1) + step // 2


def _placed(lines: Sequence[str], left: int, baseline: int, step: int) -> list[tuple[str, int, int]]:
    return [(line, left, baseline + index * step) for index, line in enumerate(lines)]
