"""Steps of samples: clips looked at as the recipe draws it, shares that add up, a second mixture in the decay."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minicpmv.data.sample import Sample
from minicpmv.data.sources import SourceRecipe
from minicpmv.errors import OptionError
from minicpmv.generation.loading import bundled_folder, read_processor
from minicpmv.messages import Message, TextPart, VideoPart
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.recipes.loader import load_stage
from minicpmv.training.feeding import Share, encode_sample, load_step, recipe_mixture, step_loader
from minicpmv.training.recipe import MediaRecipe, TrainingRecipe

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def processor() -> MiniCPMVProcessor:
    return read_processor(bundled_folder())


@pytest.fixture(scope="module")
def recipe() -> TrainingRecipe:
    return load_stage(str(ROOT / "tests" / "toy_stage.yaml"))


def clip(**options: float) -> Sample:
    part = VideoPart(str(ROOT / "examples" / "clip.mp4"), **options)  # type: ignore[arg-type]
    return Sample("c", (Message("user", (part, TextPart("?"))), Message("assistant", (TextPart("red"),))))


def packs(sample: Sample, media: MediaRecipe, processor: MiniCPMVProcessor) -> set[tuple[int, int]]:
    """Frames and packs that a sample is seen with under many seeds."""
    seen = set()
    for seed in range(40):
        encoded = encode_sample(sample, processor, media, 4096, np.random.default_rng(seed))
        (rows,) = encoded.visuals
        seen.add((len(rows.item_shapes), rows.num_packs))
    return seen


def test_pack_size_and_frame_rate_are_drawn_anew_for_every_clip(processor: MiniCPMVProcessor) -> None:
    fixed = packs(clip(fps=10.0), MediaRecipe(packing=(3,), max_frames=6), processor)
    assert fixed == {(6, 2)}
    drawn = packs(clip(fps=10.0), MediaRecipe(packing=(1, 2, 3, 4, 5, 6), max_frames=6), processor)
    assert {number for _, number in drawn} == {1, 2, 3, 6}  # six frames in packs of 1, 2, 3, 4 or 5, and 6
    rates = packs(clip(packing=1), MediaRecipe(fps=(1.0, 10.0), max_frames=60), processor)
    assert len({frames for frames, _ in rates}) > 3


def test_what_a_sample_says_itself_is_kept(processor: MiniCPMVProcessor) -> None:
    media = MediaRecipe(packing=(1, 2, 3, 4, 5, 6), fps=(1.0, 10.0), max_frames=6)
    assert packs(clip(fps=10.0, packing=2), media, processor) == {(6, 3)}


def test_the_shares_of_all_processes_are_the_step(recipe: TrainingRecipe, processor: MiniCPMVProcessor) -> None:
    whole = load_step(recipe, processor, recipe_mixture(recipe), 0, Share())
    parts = [load_step(recipe, processor, recipe_mixture(recipe), 0, Share(rank, 4)) for rank in range(4)]
    assert sum((part.counts for part in parts), Counter()) == whole.counts
    assert {str(part.stream) for part in parts} == {str(whole.stream)}
    assert max(part.counts["samples"] for part in parts) == 2


def test_the_second_mixture_begins_with_the_decay(recipe: TrainingRecipe, processor: MiniCPMVProcessor) -> None:
    assert recipe.schedule.decay_begins == 2
    changed = replace(recipe, decay_data={"scenes": SourceRecipe(world="scenes")})
    seen = [{name for one in batch.sources for name, _ in one} for batch in step_loader(changed, processor, first=0)]
    assert all("scenes" not in names for names in seen[:2])
    assert seen[2:] == [{"scenes"}, {"scenes"}]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_person_can_mend_comes_out_of_a_worker_as_it_is(
    workers: int, recipe: TrainingRecipe, processor: MiniCPMVProcessor
) -> None:
    state = {"given": 0, "feeds": {"others": 3}}
    with pytest.raises(OptionError, match=r"^The mixture has changed since the run began: .*others") as caught:
        next(step_loader(replace(recipe, workers=workers), processor, first=0, stream=state))
    assert caught.value.remedy.startswith("Go on with the same sources")
