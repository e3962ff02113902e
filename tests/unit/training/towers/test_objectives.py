"""Dense reading: labels follow their pictures, and the parts that a stage trains get gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch

from minicpmv.data.worlds.fonts import find_faces
from minicpmv.errors import SettingsError
from minicpmv.recipes.loader import load_towers
from minicpmv.training.towers.objectives import READABLE, ReadPatches
from minicpmv.training.towers.reading_slots import PLACES
from minicpmv.training.towers.recipe import TowersRecipe
from minicpmv.training.towers.run import build_learner

TOY = Path(__file__).parents[3] / "toy_recipe.yaml"


@pytest.fixture(scope="module")
def recipe() -> TowersRecipe:
    return load_towers(TOY, [])


def objective_of(recipe: TowersRecipe, slot_loss: float, num_queries: int = 64, place_loss: float = 0.0) -> ReadPatches:
    settings = [f"stages.0.slot_loss={slot_loss}", f"stages.0.place_loss={place_loss}", "stages.0.batch=12"]
    changed = load_towers(TOY, settings)
    return ReadPatches(changed.stages[0], recipe.seed, 0, find_faces("train", system=False), num_queries)


def test_only_pictures_of_text_have_letters_in_slots(recipe: TowersRecipe) -> None:
    objective = objective_of(recipe, 1.0)
    batch = objective.batch(3)
    areas = batch["item_shapes"].prod(-1)
    owner = torch.repeat_interleave(torch.arange(len(areas)), areas)
    of_text = owner[(batch["letter_targets"] > 0).any(-1)].unique()
    assert set(of_text.tolist()) <= set(batch["lettered"].tolist())
    of_things = owner[(batch["thing_targets"] > 0).any(-1)].unique()
    assert len(of_things)
    assert not set(of_things.tolist()) & set(batch["lettered"].tolist())
    assert batch["letters"].shape == (len(batch["lettered"]), 64, PLACES)


def test_without_a_slot_loss_no_slots_are_made(recipe: TowersRecipe) -> None:
    assert not {"letters", "lettered"} & set(objective_of(recipe, 0.0).batch(3))


def test_batches_depend_on_the_step_only(recipe: TowersRecipe) -> None:
    objective = objective_of(recipe, 1.0)
    first, again, other = objective.batch(5), objective.batch(5), objective.batch(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["pixel_values"].shape != other["pixel_values"].shape or not torch.equal(
        first["pixel_values"], other["pixel_values"]
    )


@pytest.mark.parametrize("slot_loss", [0.0, 2.0])
def test_the_slot_loss_reaches_resampler_and_tower(recipe: TowersRecipe, slot_loss: float) -> None:
    learner = build_learner(recipe)
    objective = objective_of(recipe, slot_loss, learner.model.config.query_num)
    loss, numbers = objective.loss(learner, objective.batch(1))
    loss.backward()
    assert all(p.grad is not None for p in learner.patch_reader.letters.parameters())
    assert (learner.model.resampler.query.grad is not None) == bool(slot_loss)
    assert learner.slot_codes.codes.weight.grad is None
    assert ("slot_letters" in numbers) == bool(slot_loss)
    if slot_loss:
        assert 0 < numbers["slot_distance"] < numbers["slot_loss"]
        assert loss.item() == pytest.approx(numbers["patch_loss"] + slot_loss * numbers["slot_loss"], rel=1e-4)


def test_places_teach_the_tower_and_where_queries_look_the_resampler(recipe: TowersRecipe) -> None:
    learner = build_learner(recipe)
    num_queries = learner.model.config.query_num
    without, _ = objective_of(recipe, 1.0, num_queries).loss(learner, objective_of(recipe, 1.0, num_queries).batch(1))
    objective = objective_of(recipe, 1.0, num_queries, place_loss=3.0)
    loss, numbers = objective.loss(learner, objective.batch(1))
    added = 3.0 * (numbers["patch_places"] + numbers["slot_places"])
    assert loss.item() == pytest.approx(without.item() + added, rel=1e-4)
    loss.backward()
    assert all(p.grad is not None for p in learner.place_heads.parameters())
    # A query's place is told by its token: the tower learns its own places only.
    alone = objective_of(recipe, 0.0, num_queries, place_loss=1.0)
    _, numbers = alone.loss(learner, alone.batch(1))
    assert "patch_places" in numbers
    assert "slot_places" not in numbers


@pytest.mark.parametrize("place_loss", ["-1.0", "1.0"])
def test_places_are_for_stages_of_patches(place_loss: str) -> None:
    index = next(i for i, stage in enumerate(load_towers(TOY, []).stages) if stage.objective == "answers")
    with pytest.raises(SettingsError, match=f"has place_loss {place_loss}"):
        load_towers(TOY, [f"stages.{index}.place_loss={place_loss}"])


@pytest.mark.parametrize("world", sorted(READABLE))
def test_every_patch_has_its_labels(world: str) -> None:
    for picture in READABLE[world](np.random.default_rng(2), find_faces("train", system=False), 4, 64):
        height, width, _ = picture.image.shape
        assert len(picture.labels.letters) == len(picture.labels.things) == (height // 14) * (width // 14)
