"""The bundled nano model: its limits, and that every way to ask it gives the same answers."""

from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from minicpmv.evaluation.run import evaluate
from minicpmv.evaluation.tasks import select_tasks
from minicpmv.generation.chat import Assistant
from minicpmv.generation.loading import bundled_folder, load
from minicpmv.generation.options import GenerationOptions
from minicpmv.messages import ImagePart, Message, TextPart, VideoPart

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = GenerationOptions(max_new_tokens=24)


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant.load(dtype="float32")


def test_it_keeps_to_its_budget() -> None:
    files = sorted(bundled_folder().glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) <= 25_000_000
    parameters = 0
    for file in files:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (not a mapping)
                values = opened.get_slice(name)
                assert values.get_dtype() == "BF16", name
                size = 1
                for side in values.get_shape():
                    size *= side
                parameters += size
    assert parameters <= 12_000_000


def test_it_reads_the_sign_and_the_label_and_watches_the_clip(assistant: Assistant) -> None:
    """What the README shows."""
    asked = {
        "sign.png": (ImagePart(EXAMPLES / "sign.png"), "What is written in the picture?"),
        "clip.mp4": (VideoPart(EXAMPLES / "clip.mp4", fps=10, packing=6), "Which colour appears first?"),
    }
    answers = {
        name: assistant.ask([Message("user", (part, TextPart(question)))], SHORT).text
        for name, (part, question) in asked.items()
    }
    assert answers["clip.mp4"] == "black"
    assert answers["sign.png"] == "Pasta $7.50"


def test_it_stops_where_it_knows_nothing(assistant: Assistant) -> None:
    """A picture of one pixel's width once made it repeat itself, without a limit of its own for 2048 tokens."""
    thin = ImagePart(Image.new("RGB", (1, 5000), "red"))
    assert assistant.ask([Message("user", (thin, TextPart("What is it?")))]).new_tokens <= 512


def test_a_stream_says_what_one_answer_says(assistant: Assistant) -> None:
    turns = [Message("user", (ImagePart(EXAMPLES / "sign.png"), TextPart("Read the text.")))]
    stream = assistant.stream(turns, SHORT)
    pieces = "".join(delta.text for delta in stream)
    assert pieces == assistant.ask(turns, SHORT).text == stream.answer.text


def test_a_conversation_remembers_what_was_said(assistant: Assistant) -> None:
    conversation = assistant.converse()
    first = conversation.ask((ImagePart(EXAMPLES / "sign.png"), TextPart("Read the text.")), SHORT)
    turns = [
        Message("user", (ImagePart(EXAMPLES / "sign.png"), TextPart("Read the text."))),
        Message("assistant", (TextPart(first.text),)),
        Message("user", (TextPart("What is written here?"),)),
    ]
    assert conversation.ask("What is written here?", SHORT).text == assistant.ask(turns, SHORT).text


def test_a_batch_answers_what_single_questions_answer() -> None:
    """Lines and clips in one padded batch, against one at a time; all 24 answers are the same in float32."""
    loaded = load(dtype="float32")
    scores = []
    for batch_size in (1, 12):
        report = evaluate(loaded, ["lines.held_out_font", "clips.colour_first"], num_samples=12, batch_size=batch_size)
        scores.append([(score.task, score.right.value, score.cer and score.cer.value) for score in report.scores])
    assert scores[0] == scores[1]


def test_its_figures_are_about_those_of_the_readme() -> None:
    """On few questions, so with room for chance; `minicpmv eval` asks all of them."""
    clips = ["clips.colour_first", "clips.colour_last", "clips.colour", "clips.direction"]
    tasks = ["lines.held_out_font", *clips, "scenes.place"]
    report = evaluate(load(), tasks, num_samples=60, seed=1)
    scores = {score.task: score for score in report.scores}
    lines = scores["lines.held_out_font"]
    assert lines.cer is not None
    assert lines.cer.value < 0.1
    assert scores["clips.colour_first"].right.value > 0.8
    assert scores["clips.colour_last"].right.value > 0.9
    assert scores["clips.colour"].right.value > 0.9
    assert scores["clips.direction"].right.value > 0.65
    assert scores["scenes.place"].right.value > 0.85
    assert {task.name for task in select_tasks(list(scores))} == set(scores)
