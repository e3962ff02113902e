"""What the model says by now: a few samples with their targets and its own answers, as a page to look at.

recipe, model -> write_sheet -> sheets/step-400.html
"""

from dataclasses import replace
from pathlib import Path

import torch

from minicpmv.data.preview import write_preview
from minicpmv.data.readers import Flaw
from minicpmv.data.sample import Sample
from minicpmv.data.sources import open_mixture
from minicpmv.errors import MiniCPMVError
from minicpmv.generation.chat import Assistant
from minicpmv.generation.options import GenerationOptions
from minicpmv.messages import Message, TextPart
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training.precision import autocast
from minicpmv.training.recipe import TrainingRecipe

LONGEST_ANSWER = 160
"""In tokens."""


def sheet_samples(recipe: TrainingRecipe) -> list[tuple[str, Sample]]:
    """The samples that are shown: of the recipe's mixture, but of worlds none that is learned from."""
    mixture = open_mixture(recipe.data, recipe.seed + 1)
    drawn = [mixture.next() for _ in range(recipe.sheet_samples)]
    return [(name, sample) for name, sample in drawn if not isinstance(sample, Flaw)]


@torch.no_grad()
def write_sheet(
    recipe: TrainingRecipe,
    model: MiniCPMVForConditionalGeneration,
    processor: MiniCPMVProcessor,
    path: Path,
    title: str,
) -> None:
    """Answer the samples and write the page.

    Args:
        recipe: what is trained.
        model: as it is now; its parts are left in the mode they are in.
        processor: its processor.
        path: the page; its folder is made.
        title: of the page.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    assistant = Assistant(model, processor)
    with autocast(model.device, recipe.precision):
        answered = [(name, _answered(assistant, sample)) for name, sample in sheet_samples(recipe)]
        assistant.close()
    for module, mode in modes.items():
        module.training = mode
    path.parent.mkdir(parents=True, exist_ok=True)
    write_preview(answered, path, title=title)


def _answered(assistant: Assistant, sample: Sample) -> Sample:
    """A sample with the model's own answer to its last question beside the right one."""
    last = max(number for number, message in enumerate(sample.messages) if message.role == "assistant")
    options = GenerationOptions(max_new_tokens=LONGEST_ANSWER, think=sample.messages[last].reasoning is not None)
    try:
        answer = assistant.ask(sample.messages[:last], options)
        said = Message("model", (TextPart(answer.text),), answer.reasoning)
    except MiniCPMVError as error:
        said = Message("model", (TextPart(f"(no answer: {error})"),))
    return replace(sample, messages=(*sample.messages, said))
