"""Screenshots: a piece of program text in an editor, and a window with menu, message and buttons.

statements -> numbered lines of a monospaced face -> PageSample(kind "code")
title, menu, message, buttons -> PageSample(kind "window")
"""

from collections.abc import Sequence

from numpy.random import Generator

from minicpmv.data.worlds.fonts import Face, Split
from minicpmv.data.worlds.paper import Box, PageSample, Paper, Question, text_width, wrap
from minicpmv.data.worlds.words import dictionary

SCREEN_LAYOUTS = ("code", "numbered_code", "window", "dialog")
"""What a screenshot may show."""

MENU = ("File", "Edit", "View", "Help", "Tools", "Window")
BUTTONS = ("OK", "Cancel", "Yes", "No", "Retry", "Save", "Close", "Open")
_MESSAGES = (
    "Save changes to {word}?",
    "The file {word} was not found.",
    "{word} is already open.",
    "Delete {word} now?",
    "Copy of {word} is ready.",
)


def render_screen(
    generator: Generator,
    *,
    faces: Sequence[Face],
    split: Split,
    num_lines: int = 5,
    size: tuple[int, int] = (112, 224),
    size_px: int = 14,
    layout: str = "code",
) -> PageSample:
    """A screenshot.

    Args:
        generator: source of randomness.
        faces: faces to choose from; code takes a monospaced one if there is one.
        split: vocabulary of names.
        num_lines: lines of code.
        size: height and width of a window in px, larger if it has to be; code is as high as it needs to be.
        size_px: font size.
        layout: one of `SCREEN_LAYOUTS`.
    """
    if layout.endswith("code"):
        return _render_code(generator, faces, split, num_lines, size[1], size_px, numbered=layout == "numbered_code")
    return _render_window(generator, faces, split, size, size_px, has_menu=layout == "window")


def _render_code(
    generator: Generator,
    faces: Sequence[Face],
    split: Split,
    num_lines: int,
    width: int,
    size_px: int,
    *,
    numbered: bool,
) -> PageSample:
    even = [face for face in faces if "Mono" in face.family or "Courier" in face.family] or list(faces)
    face = even[int(generator.random() * len(even))]
    lines, questions = _program(generator, split, num_lines)
    step = round(size_px * 1.35)
    left = 6 + (text_width(face, size_px, "00 ") if numbered else 0)
    while size_px > 9 and _code_width(face, size_px, left, lines) > width:
        size_px -= 1
    paper = Paper((step * num_lines + step // 2, max(width, _code_width(face, size_px, left, lines))))
    if numbered:
        numbers = [(str(index + 1), 4, step * (index + 1)) for index in range(num_lines)]
        for text, x, y in numbers:
            paper.write("label", [(text, x, y)], face, size_px)
    space = text_width(face, size_px, " ")
    placed = [
        (line.lstrip(), left + space * (len(line) - len(line.lstrip())), step * (index + 1))
        for index, line in enumerate(lines)
    ]
    paper.write("code", placed, face, size_px)
    return paper.finish(generator, "code", questions)


def _code_width(face: Face, size_px: int, left: int, lines: Sequence[str]) -> int:
    return left + max(text_width(face, size_px, line) for line in lines) + 4


def _program(generator: Generator, split: Split, num_lines: int) -> tuple[list[str], list[Question]]:
    """Assignments, some of them in a loop, and what they assign."""
    words = [word for word in dictionary(split) if 3 <= len(word) <= 7]
    names = [words[int(index)] for index in generator.permutation(len(words))[:num_lines]]
    values = [1 + int(generator.random() * 99) for _ in names]
    looped = int(generator.random() * num_lines)
    lines = []
    for index, (name, value) in enumerate(zip(names, values, strict=True)):
        indent = "  " if 0 < looped < index else ""
        is_loop = 0 < looped == index and index + 1 < num_lines
        lines.append(f"for {name} in range({value}):" if is_loop else f"{indent}{name} = {value}")
    assigned = [index for index, line in enumerate(lines) if "=" in line]
    place = assigned[int(generator.random() * len(assigned))]
    return lines, [
        Question("code_value", f"Which value does {names[place]} get?", str(values[place])),
        Question("code_lines", "How many lines of code are there?", str(num_lines)),
    ]


def _render_window(
    generator: Generator, faces: Sequence[Face], split: Split, size: tuple[int, int], size_px: int, *, has_menu: bool
) -> PageSample:
    face = faces[int(generator.random() * len(faces))]
    words = [word for word in dictionary(split) if 3 <= len(word) <= 8]
    title, word = (words[int(index)].title() for index in generator.permutation(len(words))[:2])
    message = _MESSAGES[int(generator.random() * len(_MESSAGES))].format(word=word)
    buttons = [BUTTONS[int(index)] for index in generator.permutation(len(BUTTONS))[: 1 + int(generator.random() * 2)]]
    menu = MENU[: 2 + int(generator.random() * 2)] if has_menu else ()
    widths = {text: text_width(face, size_px, text) for text in (title, *menu, *message.split(), *buttons)}
    bar, step = size_px + 8, round(size_px * 1.25)
    width = max(
        size[1],
        12 + widths[title],
        12 + sum(widths[entry] + size_px for entry in menu),
        16 + max(widths[word] for word in message.split()),
        16 + sum(widths[name] + 16 for name in buttons),
    )
    lines = wrap(face, size_px, message, width - 16)
    top = bar + (size_px + 8 if has_menu else 0)
    paper = Paper((max(size[0], top + step * len(lines) + step // 2 + size_px + 12), width))
    paper.frame(Box(1, 1, paper.width - 1, paper.height - 1))
    paper.rule(Box(1, bar, paper.width - 1, bar + 1))
    paper.write("title", [(title, 6, size_px + 3)], face, size_px)
    left = 6
    for entry in menu:
        paper.write("button", [(entry, left, bar + size_px + 3)], face, size_px)
        left += widths[entry] + size_px
    paper.write("text", [(line, 8, top + step * (index + 1)) for index, line in enumerate(lines)], face, size_px)
    right, baseline = paper.width - 8, paper.height - 9
    for name in buttons:
        left = right - widths[name] - 8
        paper.frame(Box(left, baseline - size_px, right, baseline + 5))
        paper.write("button", [(name, left + 4, baseline)], face, size_px)
        right = left - 8
    return paper.finish(
        generator,
        "window",
        [
            Question("window_title", "What is the title of the window?", title),
            Question("window_message", "What does the message say?", message),
            Question("window_buttons", "Which button is on the right?", buttons[0]),
        ],
    )
