"""What patches and slots should hold lies where the letters are, in slices too."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minicpmv.data.sample import Sample
from minicpmv.data.sources import open_world
from minicpmv.data.worlds.glyphs import on_rows
from minicpmv.data.worlds.shapes import COLOURS
from minicpmv.data.worlds.strips import NUM_CHARACTERS, patch_targets
from minicpmv.errors import CheckpointError, ShapeContractError
from minicpmv.generation.loading import bundled_folder, read_processor
from minicpmv.messages import ImagePart, Message, TextPart
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.processing.slicing import SlicePlan
from minicpmv.recipes.loader import load_stage
from minicpmv.training.dense import DenseHeads, blank_heads, load_heads, save_heads
from minicpmv.training.dense_labels import counts_of, dense_labels, picture_size, things_in_patches
from minicpmv.training.feeding import Share, load_step, recipe_mixture
from minicpmv.training.towers.patch_reading import UNKNOWN
from minicpmv.training.towers.reading_slots import UNASKED, letters_in_slots, slot_scores

SIDE = 14


@pytest.fixture(scope="module")
def processor() -> MiniCPMVProcessor:
    return read_processor(bundled_folder())


def drawn(world: str, seed: int = 0, **options: object) -> Sample:
    return open_world(world, options)(np.random.default_rng(seed), "key")


def plan_of(sample: Sample, processor: MiniCPMVProcessor) -> SlicePlan:
    return processor.image_processor.geometry.plan(picture_size(sample.media[0]), 9)


@pytest.mark.parametrize("seed", range(12))
def test_a_picture_that_is_not_cut_has_the_labels_of_the_towers(seed: int, processor: MiniCPMVProcessor) -> None:
    sample = drawn("lines", seed)
    plan = plan_of(sample, processor)
    assert plan.overview == picture_size(sample.media[0])
    encoded = processor.encode_conversation(sample.messages)
    labels = dense_labels(sample, encoded, plan, np.random.default_rng(0))
    characters = on_rows(sample.characters)
    wanted = patch_targets(characters, plan.overview.height, plan.overview.width)
    assert np.array_equal(labels["letters"][wanted > 0], wanted[wanted > 0])
    assert set(np.unique(labels["letters"][wanted == 0])) <= {0, UNKNOWN}
    slots = letters_in_slots(characters, plan.overview.height, plan.overview.width, 64)
    assert np.array_equal(labels["slot_letters"][0][slots > 0], slots[slots > 0])
    assert set(np.unique(labels["slot_letters"][0][slots == 0])) == {0, UNASKED}, "blanks are known, and few are asked"
    assert counts_of([labels])["slot_letters"] == (labels["slot_letters"] >= 0).sum()


@pytest.mark.parametrize("seed", range(4))
def test_in_slices_the_ink_lies_under_the_labels(seed: int, processor: MiniCPMVProcessor) -> None:
    sample = drawn("read", seed, kinds=["receipt"], longest_side_px=224)
    plan = plan_of(sample, processor)
    assert plan.grid is not None
    encoded = processor.encode_conversation(sample.messages)
    all_labels = dense_labels(sample, encoded, plan, np.random.default_rng(0))
    # A letter belongs to one slice; the tower does not see it in the slice to the left or above.
    in_slots = (all_labels["slot_letters"] > 0).sum()
    assert 0.85 * len(sample.characters) <= in_slots <= len(sample.characters)
    labels = all_labels["letters"]
    (rows,) = encoded.visuals
    overview = int(rows.item_shapes[0].prod())
    assert (labels[:overview] == UNKNOWN).all()
    present = (labels > 0).sum()
    assert 0.9 * len(sample.characters) <= present <= len(sample.characters)
    thirds = rows.pixel_values.reshape(len(rows.pixel_values), 3, SIDE, SIDE).max(1) * 1.0
    contrast = thirds.max((1, 2)) - thirds.min((1, 2))
    has_letter = (labels > 0).any(1)
    is_empty = np.arange(len(labels)) >= overview
    is_empty &= ~has_letter
    # Every patch with a letter shows ink; patches without one are mostly paper, or hold a piece of a letter beside.
    assert (contrast[has_letter] > 0.4).mean() > 0.98
    assert np.median(contrast[is_empty]) < np.median(contrast[has_letter])


@pytest.mark.parametrize(
    ("world", "options"),
    [("clips", {}), ("facts", {}), ("scenes", {}), ("ask", {"kinds": ["form"], "told": 1.0})],
)
def test_what_is_not_known_is_not_asked(world: str, options: dict[str, object], processor: MiniCPMVProcessor) -> None:
    recipe = load_stage(
        "nano_pretrain_1", ["batch=4", f"data={{it: {{weight: 1.0, world: {world}, options: {options}}}}}"]
    )
    batch = load_step(recipe, processor, recipe_mixture(recipe), 0, Share())
    assert not batch.flaws
    assert batch.counts["samples"] == 4
    assert batch.counts["letters"] == batch.counts["slot_letters"] == 0
    patches = 0
    for inputs in batch.passes:
        assert ("letters" in inputs) == ("pixel_values" in inputs)
        if "letters" in inputs:
            patches += len(inputs["letters"])
            assert len(inputs["letters"]) == len(inputs["pixel_values"])
            assert (inputs["letters"] == UNKNOWN).all()
            assert (inputs["slot_letters"] == UNKNOWN).all()
    assert patches == batch.counts["patches"]


def test_known_letters_reach_a_step_in_the_order_of_its_rows(processor: MiniCPMVProcessor) -> None:
    """Lines, a clip and text in one row: the labels stay with the patches of the lines."""
    weights = {"lines": 0.5, "clips": 0.3, "facts": 0.2}
    sources = ", ".join(f"{world}: {{weight: {weight}, world: {world}}}" for world, weight in weights.items())
    recipe = load_stage("nano_pretrain_1", ["batch=12", f"data={{{sources}}}"])
    batch = load_step(recipe, processor, recipe_mixture(recipe), 0, Share())
    assert {source for sources in batch.sources for source, _ in sources} == {"lines", "clips", "facts"}
    assert batch.counts["letters"] > 0
    for inputs in batch.passes:
        present = (inputs["letters"] > 0).any(1)
        pixels = inputs["pixel_values"][present]
        contrast = pixels.amax(1) - pixels.amin(1)
        assert (contrast > 0.4).float().mean() > 0.98


def test_things_lie_in_the_patches_that_show_them(processor: MiniCPMVProcessor) -> None:
    """Scenes, clips and lines in one row: a patch labelled red is red."""
    worlds = (
        "{scenes: {weight: 0.4, world: scenes}, clips: {weight: 0.4, world: clips}, lines: {weight: 0.2, world: lines}}"
    )
    recipe = load_stage("nano_pretrain_1", ["batch=16", f"data={worlds}"])
    batch = load_step(recipe, processor, recipe_mixture(recipe), 0, Share())
    assert {source for sources in batch.sources for source, _ in sources} == {"scenes", "clips", "lines"}
    things = torch.cat([inputs["things"] for inputs in batch.passes])
    pixels = torch.cat([inputs["pixel_values"] for inputs in batch.passes]).unflatten(-1, (3, -1))
    assert batch.counts["things"] == (things != UNKNOWN).sum()
    named = torch.tensor(list(COLOURS.values())) / 127.5 - 1
    shown = things[:, 0] > 0
    assert shown.sum() > 100
    away = (pixels[shown, None] - named[None, :, :, None]).norm(dim=2).amin(-1)  # [patches, colours]
    right = away[torch.arange(len(away)), things[shown, 0] - 1]
    assert (right < 0.3).float().mean() > 0.95
    assert (away.median(-1).values > 0.3).float().mean() > 0.95  # most other colours are nowhere in the patch


def test_things_are_not_asked_where_pictures_are_cut_otherwise(processor: MiniCPMVProcessor) -> None:
    sample = drawn("clips", tasks=["direction"])
    encoded = processor.encode_conversation(sample.messages)
    assert (things_in_patches(sample, encoded, np.random.default_rng(0)) > 0).any()
    assert sample.things is not None
    for other in (sample.things[:, :4], sample.things[1:], None):
        unknown = things_in_patches(replace(sample, things=other), encoded, np.random.default_rng(0))
        assert (unknown == UNKNOWN).all()
        assert unknown.shape == (6 * 64, 2)


def test_letters_of_two_pictures_are_refused(processor: MiniCPMVProcessor) -> None:
    sample = drawn("lines")
    two = Message("user", (*sample.messages[0].parts[:1], ImagePart(Image.new("RGB", (112, 112))), TextPart("What?")))
    wrong = Sample("two", (two, sample.messages[1]), {}, sample.characters)
    encoded = processor.encode_conversation(wrong.messages)
    with pytest.raises(ShapeContractError, match="two has 2 packs"):
        dense_labels(wrong, encoded, plan_of(sample, processor), np.random.default_rng(0))


def test_heads_are_kept_and_a_missing_or_foreign_file_is_one_line(tmp_path: Path) -> None:
    learned = blank_heads(192, 256, 1)
    save_heads(learned.reader, learned.codes, learned.places, tmp_path)
    heads = load_heads(tmp_path, 192, 256)
    for name, weight in learned.state_dict().items():
        assert torch.equal(heads.state_dict()[name], weight), name
    assert not any(parameter.requires_grad for parameter in heads.parameters())
    for folder, width in ((tmp_path / "nowhere", 256), (tmp_path, 128)):
        with pytest.raises(CheckpointError, match="no dense heads") as caught:
            load_heads(folder, 192, width)
        assert "\n" not in str(caught.value)


def test_tokens_are_drawn_to_codes_that_are_known_and_blank_codes_follow_the_tokens(tmp_path: Path) -> None:
    """A language model reads the one, and nobody has ever heard the other."""
    blank = blank_heads(8, 128, 1)
    save_heads(blank.reader, blank.codes, blank.places, tmp_path)
    known = load_heads(tmp_path, 8, 128)
    letters = torch.zeros(1, 4, 6, dtype=torch.long)  # nothing lies there, and it is asked
    pulls = {}
    for heads in (blank, known):
        heads.learn()
        tokens = torch.ones(1, 4, 128, requires_grad=True)
        by_place = slot_scores(tokens, heads.codes.codes.weight)
        missed = torch.nn.functional.cross_entropy(by_place.flatten(0, 2), letters.flatten(), reduction="sum")
        (heads.slot_loss(tokens, letters) - missed).backward()
        pulls[heads] = tokens.grad.abs().sum() > 1e-3, heads.codes.codes.weight.grad
    assert not pulls[blank][0]
    assert pulls[blank][1].abs().sum() > 1e-3
    assert pulls[known][0]
    assert pulls[known][1] is None
    assert not known.codes.codes.weight.requires_grad
    assert all(one.requires_grad for one in known.reader.letters.parameters())


def test_the_losses_are_sums_over_what_is_asked() -> None:
    torch.manual_seed(0)
    heads = DenseHeads(8, 128)
    features, tokens = torch.randn(3, 8), torch.randn(2, 4, 128)
    letters = torch.full((3, 3), UNKNOWN)
    slots = torch.full((2, 4, 6), UNKNOWN)
    assert heads.patch_loss(features, letters) == 0
    assert heads.slot_loss(tokens, slots) == 0
    letters[1, 2], slots[1, 3, 5] = 40, 7
    one, other = heads.patch_loss(features, letters), heads.slot_loss(tokens, slots)
    letters[0, 0], slots[0, 0, 0] = 3, 90
    assert heads.patch_loss(features, letters) > one > 0
    assert heads.slot_loss(tokens, slots) > other > 0
    slots[1, 3] = torch.tensor([UNASKED, 5, 0, 0, UNASKED, 7])
    wanted = heads.codes(slots[1:, 3:])[0, 0]
    near, far = tokens.clone(), tokens.clone()
    near[1, 3], far[1, 3] = wanted, 5 * wanted  # the louder one says the same letters, with more conviction
    assert heads.slot_loss(near, slots) < heads.slot_loss(far, slots)
    logits = heads.reader.letters(features)[1, 2 * NUM_CHARACTERS :]
    assert one.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.tensor(40)).item(), rel=1e-5)
