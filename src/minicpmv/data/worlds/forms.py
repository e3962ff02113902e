"""Forms and invoices: named fields with values, in boxes, on lines or behind colons.

fields -> keys and values in one or two columns -> PageSample, with a question per field
"""

from collections.abc import Sequence

from numpy.random import Generator

from minicpmv.data.worlds.fonts import Face, Split
from minicpmv.data.worlds.knowledge import Entity
from minicpmv.data.worlds.paper import Box, PageSample, Paper, Question, text_width
from minicpmv.data.worlds.words import code, dictionary, number, of_split, phone, price, time_or_date

FORM_LAYOUTS = ("colon", "boxes", "lines", "stacked")
"""How the fields of a form may be laid out."""

TITLES = ("Invoice", "Order form", "Delivery note", "Registration", "Application", "Service report")


def draw_fields(generator: Generator, split: Split, people: Sequence[Entity], num_fields: int) -> list[tuple[str, str]]:
    """Different fields with plausible values, in random order.

    Args:
        generator: source of randomness.
        split: vocabulary of the values.
        people: persons of the closed world, for names and towns.
        num_fields: at most 10.
    """
    person = people[int(generator.random() * len(people))]
    words = dictionary(split)
    fields = {
        "Name": person.name,
        "Town": person.value("home"),
        "Date": of_split(generator, split, time_or_date),
        "Number": of_split(generator, split, code),
        "Amount": of_split(generator, split, price),
        "Quantity": str(1 + int(generator.random() * 99)),
        "Item": words[int(generator.random() * len(words))].title(),
        "Phone": of_split(generator, split, phone),
        "Member": ("yes", "no")[int(generator.random() * 2)],
        "Code": of_split(generator, split, number),
    }
    keys = [list(fields)[int(index)] for index in generator.permutation(len(fields))[:num_fields]]
    return [(key, fields[key]) for key in keys]


def render_form(
    generator: Generator,
    *,
    faces: Sequence[Face],
    split: Split,
    people: Sequence[Entity],
    num_fields: int = 5,
    width: int = 196,
    size_px: int = 14,
    layout: str = "colon",
) -> PageSample:
    """A form as high as it needs to be.

    Args:
        generator: source of randomness.
        faces: faces to choose from.
        split: vocabulary of the values.
        people: persons of the closed world.
        num_fields: at most 10.
        width: in px; wider if a field needs it.
        size_px: font size.
        layout: one of `FORM_LAYOUTS`.
    """
    fields = draw_fields(generator, split, people, num_fields)
    face = faces[int(generator.random() * len(faces))]
    title = TITLES[int(generator.random() * len(TITLES))]
    step = round(size_px * (2.6 if layout == "stacked" else 1.7 if layout == "boxes" else 1.45))
    left = 5
    if layout != "stacked":
        left += max(text_width(face, size_px, f"{key}: ") for key, _ in fields) + 4
    needed = left + max(text_width(face, size_px, value) for _, value in fields) + 8
    paper = Paper((2 * size_px + step * num_fields + size_px // 2, max(width, needed)))
    paper.write("title", [(title, 5, size_px + 3)], face, size_px)
    baseline = 2 * size_px + size_px
    for key, value in fields:
        if layout == "stacked":
            small = max(9, size_px - 3)
            paper.write("key", [(key, 5, baseline)], face, small)
            paper.write("value", [(value, left, baseline + size_px + 1)], face, size_px)
        else:
            paper.write("key", [(key + (":" if layout == "colon" else ""), 5, baseline)], face, size_px)
            paper.write("value", [(value, left, baseline)], face, size_px)
        if layout == "boxes":
            paper.frame(Box(left - 4, baseline - size_px, paper.width - 4, baseline + size_px // 3 + 2))
        if layout == "lines":
            paper.rule(Box(left - 2, baseline + 3, paper.width - 4, baseline + 4))
        baseline += step
    questions = [Question("form_field", f"What is written in the field {key}?", value) for key, value in fields]
    return paper.finish(generator, "form", [*questions, Question("form_title", "What kind of form is it?", title)])
