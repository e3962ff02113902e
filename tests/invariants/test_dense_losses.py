"""Losses on letters, things and places are as indifferent to packing, processes and stops as those of answers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minicpmv.data.sources import SourceRecipe
from minicpmv.training.dense import FILE, blank_heads, save_heads
from minicpmv.training.recipe import DenseRecipe, LoraRecipe, RowsRecipe, TrainingRecipe
from tests.invariants.training_runs import LOSS, WEIGHT, carried_out, distance, finish, finished, same, start

NAMES = ("letters_in_patches", "letters_in_slots", "things_in_patches", "places_of_patches", "places_of_slots")

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::FutureWarning:transformers")]


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of towers that has left heads for the bundled model's widths."""
    folder = tmp_path_factory.mktemp("runs") / "towers"
    folder.mkdir()
    heads = blank_heads(192, 256, 0)
    save_heads(heads.reader, heads.codes, heads.places, folder)
    return folder


def test_dense_losses_are_the_same_however_rows_are_packed_(recipe: TrainingRecipe, towers: Path) -> None:
    rates = {"llm": 1e-4, "resampler": 1e-4, "vpm": 1e-4}
    dense = replace(recipe, rates=rates, dense=DenseRecipe(heads="towers", rate=1e-3, things=0.2, places=1.0))
    one = carried_out(dense, towers.with_name("one"))
    other = carried_out(replace(dense, rows=RowsRecipe(tokens=1024, per_pass=8)), towers.with_name("other"))
    for step, numbers in one.steps.items():
        for name in ("loss", *NAMES):
            assert other.steps[step][name] == pytest.approx(numbers[name], rel=10 * LOSS), (step, name)
    assert all(numbers[name] > 0.1 for name in NAMES)  # blank heads know nothing
    assert distance(finished(towers.with_name("one")), finished(towers.with_name("other"))) < WEIGHT


def test_dense_losses_teach_the_tower_its_letters(recipe: TrainingRecipe, towers: Path) -> None:
    lines = {"lines": SourceRecipe(world="lines")}
    longer = replace(recipe, data=lines, rates={"vpm": 1e-3}, schedule=replace(recipe.schedule, steps=12, decay=1))
    numbers = {}
    for patches in (0.0, 1.0):
        dense = DenseRecipe(heads="towers", patches=patches, slots=0.0)
        numbers[patches] = carried_out(replace(longer, dense=dense), towers.with_name(f"patches-{patches}")).steps
    plain = carried_out(longer, towers.with_name("plain")).steps
    # Counted as nothing they change nothing; counted, the tower learns what blank heads call letters.
    assert [one["norm"] for one in numbers[0.0].values()] == [one["norm"] for one in plain.values()]
    first, last = numbers[1.0][1], numbers[1.0][12]
    assert first["letters_in_patches"] == numbers[0.0][1]["letters_in_patches"]
    assert last["letters_in_patches"] < 0.9 * first["letters_in_patches"]
    assert numbers[0.0][12]["letters_in_patches"] > 0.95 * first["letters_in_patches"]


@pytest.mark.parametrize("part", ["vpm", "resampler"])
def test_places_teach_whoever_learns_to_say_where_it_looks(part: str, recipe: TrainingRecipe, towers: Path) -> None:
    scenes = {"scenes": SourceRecipe(world="scenes")}
    longer = replace(recipe, data=scenes, rates={part: 1e-3}, schedule=replace(recipe.schedule, steps=12, decay=1))
    numbers = {}
    for places in (0.0, 1.0):
        dense = DenseRecipe(heads="towers", patches=0.0, slots=0.0, places=places)
        numbers[places] = carried_out(replace(longer, dense=dense), towers.with_name(f"{part}-{places}")).steps
    # The heads are fixed and blank: what became better is the part.
    name = "places_of_patches" if part == "vpm" else "places_of_slots"
    assert numbers[1.0][1][name] == numbers[0.0][1][name]
    told, plain = (sum(numbers[places][step][name] for step in range(9, 13)) for places in (1.0, 0.0))
    assert told < 0.7 * plain  # measured: 0.43 of it, and 0.57


def heads_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / FILE)


def test_blank_heads_learn_beside_a_model_and_are_left_to_the_next_stage(recipe: TrainingRecipe, towers: Path) -> None:
    lines = {"lines": SourceRecipe(world="lines")}
    longer = replace(
        recipe, data=lines, rates={"resampler": 1e-5}, schedule=replace(recipe.schedule, steps=12, decay=1)
    )
    blank = towers.with_name("blank")
    told = carried_out(replace(longer, dense=DenseRecipe(rate=3e-3)), blank).steps
    fixed = replace(longer, dense=DenseRecipe(heads="blank"), seed=longer.seed)
    after = carried_out(fixed, towers.with_name("after-blank")).steps
    for name in ("letters_in_patches", "letters_in_slots"):
        assert told[12][name] < 0.8 * told[1][name]  # the tower is frozen: what became better is the heads
        assert after[1][name] < 0.85 * told[1][name]  # the same pictures, with what the heads have learned
    assert same(heads_of(towers.with_name("after-blank")), heads_of(blank))
    learning = carried_out(replace(fixed, dense=DenseRecipe(heads="blank", rate=1e-3)), towers.with_name("on")).steps
    assert learning[1]["letters_in_slots"] == after[1]["letters_in_slots"]
    assert learning[12]["letters_in_patches"] < after[12]["letters_in_patches"]
    names = {
        name for name, kept in heads_of(blank).items() if not torch.equal(kept, heads_of(towers.with_name("on"))[name])
    }
    assert names == {"reader.letters.weight", "reader.letters.bias"}  # codes are what is read, and stay


@pytest.mark.parametrize("lora", [None, LoraRecipe(rank=2, alpha=4, whole=("resampler",))])
def test_a_run_with_dense_losses_goes_on_where_it_stopped(
    lora: LoraRecipe | None, recipe: TrainingRecipe, towers: Path
) -> None:
    rates = {"llm": 1e-4, "resampler": 1e-4, "vpm": 1e-4}
    asked = DenseRecipe(heads="towers", rate=1e-3, things=0.2, places=1.0)
    dense = replace(recipe, rates=rates, dense=asked, lora=lora)
    whole, stopped = (towers.with_name(f"{name}-{lora is None}") for name in ("whole", "stopped"))
    diary = carried_out(dense, whole)
    told: dict[int, dict[str, float]] = {}
    for _ in range(recipe.schedule.steps):
        told |= carried_out(dense, stopped, max_seconds=0).steps
    assert told == diary.steps
    assert same(finished(stopped), finished(whole))
    assert same(heads_of(stopped), heads_of(whole))
    blank = blank_heads(192, 256, recipe.seed)
    assert not torch.equal(heads_of(whole)["places.slots.weight"], blank.places.slots.weight)


@pytest.mark.parametrize(
    ("sharding", "heads"),
    [
        ("none", "heads: towers, rate: 1.0e-3, things: 0.2, places: 1.0"),
        pytest.param("full", "heads: towers, things: 0.2, places: 1.0", marks=pytest.mark.slow),
    ],
)
def test_dense_losses_are_the_same_on_two_processes(sharding: str, heads: str, towers: Path) -> None:
    dense = (f"dense={{{heads}}}", "rates={llm: 1.0e-4, resampler: 1.0e-4, vpm: 1.0e-4}")
    numbers = {}
    for number in (1, 2):
        folder = towers.with_name(f"processes-{number}-{sharding}")
        finish(start(number, folder, *dense, *((f"sharding={sharding}",) if number > 1 else ())))
        numbers[number] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    one_heads, two_heads = (heads_of(towers.with_name(f"processes-{number}-{sharding}")) for number in (1, 2))
    assert distance(one_heads, two_heads) < WEIGHT
    for one, two in zip(numbers[1], numbers[2], strict=True):
        for name in ("loss", *NAMES):
            assert two[name] == pytest.approx(one[name], rel=10 * LOSS)
