"""How people ask: two or three wordings per task, so that a model answers the question and not its spelling."""

from numpy.random import Generator

READING = "read"

QUESTIONS: dict[str, tuple[str, ...]] = {
    READING: (
        "What does the text say?",
        "Read the text.",
        "What is written here?",
        "What is written in the picture?",
        "What is written on the page?",
    ),
    "colour_first": ("Which colour appears first?", "What is the first colour?", "Which colour comes first?"),
    "colour_last": ("Which colour appears last?", "What is the last colour?", "Which colour comes last?"),
    "direction": ("Which way does the shape move?", "In which direction does the shape move?", "Where does it move?"),
    "shape": ("What shape is it?", "What shape is in the picture?", "Which shape do you see?"),
    "colour": ("What colour is the shape?", "Which colour does the shape have?", "What colour is it?"),
    "flashes": ("How many times does the shape appear?", "How often does the shape flash?"),
    "num_colours": ("How many colours appear?", "How many different colours do you see?"),
    "digit_first": ("Which digit appears first?", "What is the first digit?"),
    "digit_last": ("Which digit appears last?", "What is the last digit?"),
    "speed": ("Does the shape get faster or slower?", "Is the shape getting faster or slower?"),
    "rising": ("Does the number go up or down?", "Is the number going up or down?"),
    "scroll": ("Which word passes by?", "Which word scrolls past?", "What word moves through the picture?"),
    "digit": ("Which digit is it?", "What digit is in the picture?"),
    "place": ("Where is the shape?", "On which side is the shape?"),
    "colour_of": ("What colour is the {shape}?", "Which colour does the {shape} have?"),
    "relation": ("Where is the {shape}, seen from the {other}?", "On which side of the {other} is the {shape}?"),
    "sign": ("What does the sign say?", "Which word is on the sign?"),
    "count_of": ("How many {shapes} are there?", "Count the {shapes}."),
    "describe": ("What does the picture show?", "Describe the picture."),
    "describe_clip": ("What does every frame show?", "Describe it frame by frame."),
}
"""Wordings by task; `{shape}` and `{other}` are replaced by shapes' names and `{shapes}` by the plural of the first."""


def ask(generator: Generator, task: str, *, shape: str = "", other: str = "") -> str:
    """One wording of a task's question."""
    wordings = QUESTIONS[task]
    plural = shape + ("es" if shape.endswith("s") else "s")
    return wordings[int(generator.random() * len(wordings))].format(shape=shape, shapes=plural, other=other)


def wordings_of_everything() -> list[str]:
    """Every wording of every task, with placeholders left open; useful for tokenizers and tests."""
    return [wording for wordings in QUESTIONS.values() for wording in wordings]
