"""A stage learns the same however it is packed, spread, interrupted or fed.

Tolerances between different orders of summation are the measured worst case times three.
"""

import json
import random
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from minicpmv.data.sources import SourceRecipe
from minicpmv.errors import CheckpointError, OptionError
from minicpmv.generation.loading import bundled_folder
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.recipes.loader import load_towers
from minicpmv.training import checkpoint, feeding
from minicpmv.training.checkpoint import Progress
from minicpmv.training.engine import train_stage
from minicpmv.training.recipe import LoraRecipe, RowsRecipe, TrainingRecipe
from minicpmv.training.run_folder import SavingError, TrainingError, kept_passes
from minicpmv.training.schedule import Schedule
from minicpmv.training.stage import set_attention
from minicpmv.training.token_loss import TokenLoss
from minicpmv.training.trainable import counts_by_part
from tests.invariants.training_runs import (
    ACCELERATE,
    LOSS,
    OTHER_ATTENTION,
    TOWERS,
    WEIGHT,
    Diary,
    Filling,
    carried_out,
    distance,
    finish,
    finished,
    kill_after,
    learned,
    losses,
    same,
    saved_state,
    start,
)

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::FutureWarning:transformers")]


class Seeing(Diary):
    """A reporter that also keeps hold of the model."""

    model: nn.Module
    layers: list[nn.Module]

    def begin(self, recipe: TrainingRecipe, model: nn.Module, progress: Progress) -> None:
        self.model = model
        names = ("base_layer", "gate_proj")
        self.layers = [module for name, module in model.named_modules() if name.endswith(names) and "llm" in name]
        self.layers = [module for module in self.layers if not hasattr(module, "base_layer")]


@pytest.fixture(scope="module")
def reference(recipe: TrainingRecipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Diary]:
    folder = tmp_path_factory.mktemp("reference")
    return folder, carried_out(recipe, folder)


def test_a_run_stopped_after_every_step_ends_where_an_uninterrupted_one_does(
    recipe: TrainingRecipe, reference: tuple[Path, Diary], tmp_path: Path
) -> None:
    told: dict[int, dict[str, float]] = {}
    for _ in range(recipe.schedule.steps):
        told |= carried_out(recipe, tmp_path, max_seconds=0).steps
    folder, diary = reference
    assert told == diary.steps
    assert same(learned(tmp_path), learned(folder))
    assert same(finished(tmp_path), finished(folder))


class Impatient(Diary):
    """A reporter whose run is told to stop in every step; SIGINT may be ignored, where tests run in the background."""

    def step(self, progress: Progress, numbers: Mapping[str, float]) -> None:
        super().step(progress, numbers)
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_in_every_step_loses_none(
    recipe: TrainingRecipe, reference: tuple[Path, Diary], tmp_path: Path
) -> None:
    diary = Impatient()
    for _ in range(recipe.schedule.steps):
        with pytest.raises(KeyboardInterrupt):
            train_stage(recipe, tmp_path, reporter=diary, device="cpu")
    assert diary.steps == reference[1].steps
    assert same(finished(tmp_path), finished(reference[0]))


def test_data_workers_change_nothing(recipe: TrainingRecipe, reference: tuple[Path, Diary], tmp_path: Path) -> None:
    diary = carried_out(replace(recipe, workers=2), tmp_path)
    assert diary.steps == reference[1].steps
    assert same(learned(tmp_path), learned(reference[0]))


@pytest.mark.parametrize("rows", [RowsRecipe(tokens=512, per_pass=1), RowsRecipe(tokens=1024, per_pass=8)])
def test_the_same_samples_give_the_same_update_however_they_are_packed(
    rows: RowsRecipe, recipe: TrainingRecipe, reference: tuple[Path, Diary], tmp_path: Path
) -> None:
    """One row at a time is accumulation over many passes; eight at a time is one pass of all."""
    diary = carried_out(replace(recipe, rows=rows), tmp_path)
    for step, numbers in diary.steps.items():
        assert numbers["loss"] == pytest.approx(reference[1].steps[step]["loss"], abs=LOSS)
    assert distance(finished(tmp_path), finished(reference[0])) < WEIGHT


def test_a_sample_at_a_time_gives_the_update_of_all_in_one_pass(
    recipe: TrainingRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without packing, too: a row of its own and a pass of its own for every sample."""
    passes: list[int] = []
    forward = TokenLoss.forward
    monkeypatch.setattr(TokenLoss, "forward", lambda self, **inputs: (passes.append(1), forward(self, **inputs))[1])
    short = replace(recipe, schedule=replace(recipe.schedule, steps=2, warmup=0, decay=0))
    together = carried_out(replace(short, rows=RowsRecipe(tokens=1024, per_pass=8)), tmp_path / "together")
    assert len(passes) == 2
    monkeypatch.setattr(feeding, "fill_rows", lambda lengths, longest: [[place] for place in range(len(lengths))])
    alone = carried_out(replace(short, rows=RowsRecipe(tokens=1024, per_pass=1)), tmp_path / "alone")
    assert len(passes) == 2 + 2 * recipe.batch
    for step, numbers in alone.steps.items():
        assert numbers["loss"] == pytest.approx(together.steps[step]["loss"], abs=LOSS)
    assert distance(finished(tmp_path / "alone"), finished(tmp_path / "together")) < WEIGHT


@pytest.mark.parametrize("attention", ["by_sample", "sdpa"])
def test_activations_that_are_computed_again_and_another_attention_change_nothing(
    attention: Literal["by_sample", "sdpa"], recipe: TrainingRecipe, reference: tuple[Path, Diary], tmp_path: Path
) -> None:
    diary = carried_out(replace(recipe, attention=attention, recompute=True), tmp_path)
    for step, numbers in diary.steps.items():
        assert numbers["loss"] == pytest.approx(reference[1].steps[step]["loss"], abs=OTHER_ATTENTION)
    assert distance(finished(tmp_path), finished(reference[0])) < WEIGHT


def test_a_frozen_language_model_forgets_its_activations_too(
    recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Gradients run through it, so its layers would keep everything."""
    calls = []
    forward = Qwen3MLP.forward
    monkeypatch.setattr(Qwen3MLP, "forward", lambda self, states: (calls.append(self), forward(self, states))[1])
    short = replace(recipe, rates={"resampler": 1e-3}, schedule=replace(recipe.schedule, steps=1, warmup=0, decay=0))
    carried_out(short, tmp_path / "kept")
    once = len(calls)
    carried_out(replace(short, recompute=True), tmp_path / "again")
    assert len(calls) == 3 * once  # every layer of the second run is passed twice
    assert same(finished(tmp_path / "kept"), finished(tmp_path / "again"))


def test_text_alone_teaches_a_frozen_language_model_nothing(recipe: TrainingRecipe, tmp_path: Path) -> None:
    """A pass without pictures has no gradient at all; the other passes of the step still teach the resampler."""
    data = {"lines": SourceRecipe(world="lines"), "facts": SourceRecipe(world="facts")}
    rows = RowsRecipe(tokens=128, per_pass=1)
    changed = replace(recipe, data=data, rates={"resampler": 1e-3}, rows=rows, most_flawed=0.5)  # rows are short
    carried_out(changed, tmp_path)
    before, after = load_file(bundled_folder() / "model.safetensors"), finished(tmp_path)
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == {"resampler"}


def test_frozen_parts_do_not_move_by_a_bit(recipe: TrainingRecipe, tmp_path: Path) -> None:
    """In memory, where they are float32: rounded for the disk, weights that decay would look like those that stay."""
    diary = Seeing()
    train_stage(recipe, tmp_path, reporter=diary, device="cpu", max_seconds=0)
    assert list(diary.steps) == [1]
    blank = MiniCPMVForConditionalGeneration.from_pretrained(bundled_folder(), dtype=torch.float32)
    before, after = dict(blank.named_parameters()), dict(diary.model.named_parameters())
    assert before.keys() == after.keys()
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(recipe.rates) == {"llm", "resampler"}


@pytest.mark.parametrize(
    ("number", "changes"), [(1, ()), (2, ()), pytest.param(2, ("sharding=full",), marks=pytest.mark.slow)]
)
def test_a_killed_run_goes_on_to_the_same_losses(
    number: int, changes: tuple[str, ...], recipe: TrainingRecipe, reference: tuple[Path, Diary], tmp_path: Path
) -> None:
    """Killed without warning at a step chosen by the clock; one process, two, and two with a share each."""
    killed, steps = tmp_path / "killed", recipe.schedule.steps
    process = start(number, killed, *changes, hold_in=steps)
    kill_after(process, killed, random.Random(time.time_ns()).randint(1, steps - 1))
    assert saved_state(killed).get("step", 0) < steps
    finish(start(number, killed, *changes))
    for step, numbers in reference[1].steps.items():
        assert losses(killed)[step] == pytest.approx(numbers["loss"], abs=0 if number == 1 else LOSS)
    if number == 1:
        assert same(learned(killed), learned(reference[0]))
        return
    assert distance(finished(killed), finished(reference[0])) < WEIGHT
    whole = tmp_path / "whole"
    finish(start(number, whole, *changes))
    assert losses(killed) == losses(whole)
    assert same(finished(killed), finished(whole))


def test_towers_that_were_killed_grow_to_the_same_weights(tmp_path: Path) -> None:
    """The other engine, at a step of any stage."""
    changes = ("save_every_s=0.0",)
    towers = load_towers(str(TOWERS), changes)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(1, whole, *changes, recipe=TOWERS))
    steps = sum(stage.steps for stage in towers.stages)
    process = start(1, killed, *changes, recipe=TOWERS, hold_in=steps)
    kill_after(process, killed, random.Random(time.time_ns()).randint(1, steps - 1))
    assert saved_state(killed).get("stage", 0) < len(towers.stages)
    finish(start(1, killed, *changes, recipe=TOWERS))
    for stage in towers.stages:
        one, other = (load_file(folder / "stages" / stage.name / "weights.safetensors") for folder in (whole, killed))
        assert same(one, other), stage.name
    assert same(finished(killed), finished(whole))


def test_two_processes_with_a_share_each_learn_what_one_does(reference: tuple[Path, Diary], tmp_path: Path) -> None:
    """FSDP2: weights, gradients and moments are spread over both."""
    folder = tmp_path / "sharded"
    finish(start(2, folder, "sharding=full", "sheet_samples=1"))
    assert sorted(path.name for path in (folder / "checkpoint").iterdir()) == [
        "rank-0-of-2.safetensors",
        "rank-1-of-2.safetensors",
        "state.json",
    ]
    for step, numbers in reference[1].steps.items():
        assert losses(folder)[step] == pytest.approx(numbers["loss"], abs=LOSS)
    assert distance(finished(folder), finished(reference[0])) < WEIGHT
    sheets = [sheet.read_text(encoding="utf-8") for sheet in (folder / "sheets").iterdir()]  # asked by one process
    assert len(sheets) == len(reference[1].steps)
    assert all("model" in sheet and "(no answer" not in sheet for sheet in sheets)


def test_accelerate_launch_starts_processes_that_learn_what_one_does(
    reference: tuple[Path, Diary], tmp_path: Path
) -> None:
    folder = tmp_path / "launched"
    finish(start(2, folder, launcher=ACCELERATE))
    assert Path(f"{folder}.told").read_text(encoding="utf-8") == "2" * len(reference[1].steps), "one of two tells"
    for step, numbers in reference[1].steps.items():
        assert losses(folder)[step] == pytest.approx(numbers["loss"], abs=LOSS)
    assert distance(finished(folder), finished(reference[0])) < WEIGHT


@pytest.mark.parametrize("rows", ["{tokens: 512, per_pass: 2}", "{tokens: 256, per_pass: 1}"])
def test_a_process_without_pictures_or_with_fewer_passes_learns_with_the_other(rows: str, tmp_path: Path) -> None:
    data = "data={lines: {weight: 0.5, world: lines}, facts: {weight: 0.5, world: facts}}"
    changes = (data, "batch=3", f"rows={rows}", "rates={llm: 1.0e-4, resampler: 1.0e-4, vpm: 1.0e-4}")
    for number in (1, 2):
        finish(start(number, tmp_path / str(number), *changes))
    one, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert one.keys() == two.keys()
    assert all(two[step] == pytest.approx(loss, abs=3 * LOSS) for step, loss in one.items())
    assert distance(finished(tmp_path / "1"), finished(tmp_path / "2")) < WEIGHT


def test_adapters_learn_the_same_on_two_processes(tmp_path: Path) -> None:
    lora = "lora={rank: 4, alpha: 8, whole: [resampler]}"
    for number in (1, 2):
        finish(start(number, tmp_path / str(number), lora))
    one, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert one.keys() == two.keys()
    assert all(two[step] == pytest.approx(loss, abs=LOSS) for step, loss in one.items())
    assert distance(finished(tmp_path / "1"), finished(tmp_path / "2")) < WEIGHT


def test_adapters_and_the_resampler_are_saved_and_merged(recipe: TrainingRecipe, tmp_path: Path) -> None:
    import peft

    lora = LoraRecipe(rank=4, alpha=8, dropout=0.1, whole=("resampler",))
    carried_out(replace(recipe, lora=lora, rates=dict.fromkeys(("llm", "vpm", "resampler"), 0.01)), tmp_path)
    base = MiniCPMVForConditionalGeneration.from_pretrained(bundled_folder(), dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    before, merged = load_file(bundled_folder() / "model.safetensors"), finished(tmp_path)
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], merged[name])} == {
        "llm",
        "vpm",
        "resampler",
    }
    assert merged.keys() == before.keys()
    state = adapted.state_dict()
    assert all(torch.equal(state[name].bfloat16(), merged[name]) for name in merged)


def test_adapters_learn_over_a_language_model_of_4_bits(recipe: TrainingRecipe, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    lora = LoraRecipe(rank=4, alpha=8, whole=("resampler",), bits=4)
    changed = replace(recipe, lora=lora, rates={"llm": 0.01, "resampler": 0.01})
    diary = Seeing()
    train_stage(changed, tmp_path, reporter=diary, device="cpu")
    assert {type(module).__name__ for module in diary.layers} == {"Linear4bit"}
    whole = {part: count[0] for part, count in counts_by_part(diary.model, changed.rates).items()}
    blank = MiniCPMVForConditionalGeneration.from_pretrained(bundled_folder(), dtype=torch.float32)
    adapters = sum(parameter.numel() for name, parameter in diary.model.named_parameters() if ".lora_" in name)
    assert whole["llm"] - adapters == sum(parameter.numel() for parameter in blank.llm.parameters())
    # What was merged is the exact start and what was learned, without the rounding to 4 bits.
    before, merged = load_file(bundled_folder() / "model.safetensors"), finished(tmp_path)
    untouched = "llm.model.embed_tokens.weight"
    assert torch.equal(before[untouched], merged[untouched])
    peft = pytest.importorskip("peft")
    adapted = peft.PeftModel.from_pretrained(blank, tmp_path / "adapter").merge_and_unload().state_dict()
    assert all(torch.equal(adapted[name].bfloat16(), merged[name]) for name in merged)
    moved = [name for name in before if not torch.equal(before[name], merged[name])]
    assert {name.split(".")[0] for name in moved} == {"llm", "resampler"}


def test_numbers_go_to_tensorboard(recipe: TrainingRecipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    diary = carried_out(replace(recipe, trackers=("tensorboard",)), tmp_path)
    events = EventAccumulator(str(tmp_path / recipe.name))
    events.Reload()
    written = {event.step: event.value for event in events.Scalars("loss")}
    assert written == pytest.approx({step: numbers["loss"] for step, numbers in diary.steps.items()})
    assert "rate" in events.Tags()["scalars"]


def test_an_interrupted_run_with_dropout_goes_on_to_the_bit(recipe: TrainingRecipe, tmp_path: Path) -> None:
    changed = replace(recipe, lora=LoraRecipe(rank=2, alpha=4, dropout=0.5))
    whole = carried_out(changed, tmp_path / "whole").steps
    told: dict[int, dict[str, float]] = {}
    for _ in range(recipe.schedule.steps):
        told |= carried_out(changed, tmp_path / "stopped", max_seconds=0).steps
    assert told == whole


def test_samples_that_cannot_be_used_are_counted_and_too_many_stop_the_run(
    recipe: TrainingRecipe, tmp_path: Path
) -> None:
    good = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    broken = {"image": "missing.png", "question": "what?", "answer": "nothing"}
    too_long = {"question": "word " * 2000, "answer": "no"}
    (tmp_path / "empty.mp4").touch()
    no_frames = {"video": "empty.mp4", "question": "what?", "answer": "nothing"}
    two_for_one = {
        "image": "missing.png",
        "conversations": [{"from": "human", "value": "<image> <image> what?"}, {"from": "gpt", "value": "nothing"}],
    }
    records = (good, broken, good, too_long, good, no_frames, two_for_one)
    lines = [json.dumps(record) for record in records] + ["{"]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines), encoding="utf-8")
    own = {"mine": SourceRecipe(path=str(tmp_path / "mine.jsonl"))}
    changed = replace(recipe, data=own, most_flawed=0.7)
    folder = tmp_path / "run"
    progress = train_stage(changed, folder, reporter=Diary(), device="cpu")
    assert progress.counts["samples"] == 9
    assert progress.counts["flawed"] == 15
    told = [json.loads(line) for line in (folder / "flaws.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {entry["source"] for entry in told} == {"mine"}
    reasons = " ".join(entry["reason"] for entry in told)
    assert "missing.png" in reasons
    assert "empty.mp4" in reasons
    assert "2 <image> and 0 <video> marks" in reasons
    assert "limit is 512" in reasons
    longer = replace(changed, most_flawed=0.3, schedule=recipe.schedule.stretched(40))
    with pytest.raises(TrainingError, match="19 of the first 30 samples cannot be used"):
        train_stage(longer, tmp_path / "strict", reporter=Diary(), device="cpu")
    (tmp_path / "mine.jsonl").write_text(json.dumps(good) + "\n", encoding="utf-8")
    mended = train_stage(longer, tmp_path / "strict", reporter=Diary(), device="cpu", max_seconds=0)
    assert (mended.step, mended.counts["flawed"]) == (5, 15)


def test_a_loss_that_is_no_number_stops_and_keeps_the_batch(
    recipe: TrainingRecipe, reference: tuple[Path, Diary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried_out(recipe, tmp_path, max_seconds=0)
    held = (tmp_path / "checkpoint" / "rank-0-of-1.safetensors").read_bytes()
    original = torch.nn.functional.cross_entropy
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda *a, **k: original(*a, **k) * float("nan"))
    with pytest.raises(TrainingError, match="loss is nan") as caught:
        carried_out(recipe, tmp_path)
    monkeypatch.undo()
    kept = tmp_path / "step-1-rank-0.safetensors"
    assert str(kept) in str(caught.value)
    # Done again with the weights that the step began with, the batch gives the loss that it should have given.
    model = MiniCPMVForConditionalGeneration.from_pretrained(bundled_folder(), dtype=torch.float32)
    set_attention(model, recipe.attention)
    stored = load_file(tmp_path / "checkpoint" / "rank-0-of-1.safetensors")
    model.load_state_dict({name[7:]: one for name, one in stored.items() if name.startswith("weight.")}, strict=False)
    told = [TokenLoss(model)(**inputs)[0].detach() for inputs in kept_passes(kept)]
    assert float(torch.cat(told).mean()) == pytest.approx(reference[1].steps[2]["loss"], abs=LOSS)
    assert (tmp_path / "checkpoint" / "rank-0-of-1.safetensors").read_bytes() == held
    carried_out(recipe, tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(
    recipe: TrainingRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried_out(recipe, tmp_path, max_seconds=0)
    held = (tmp_path / "checkpoint" / "rank-0-of-1.safetensors").read_bytes()

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(SavingError, match="No space left"):
        carried_out(recipe, tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "checkpoint" / "rank-0-of-1.safetensors").read_bytes() == held
    carried_out(recipe, tmp_path)
    assert not (tmp_path / "checkpoint.new").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("name", ["metrics.jsonl", "sheets/step-2.html.partial"])
def test_a_full_disk_while_something_else_is_written_is_told_like_one_while_saving(
    name: str, recipe: TrainingRecipe, reference: tuple[Path, Diary], tmp_path: Path
) -> None:
    """Not as an `OSError` without the name of a file; the run goes on where it was saved."""
    carried_out(recipe, tmp_path, max_seconds=0)
    with pytest.raises(SavingError, match=rf"{name.removesuffix('.partial')} could not be written: .*No space left"):
        train_stage(replace(recipe, sheet_samples=1), tmp_path, reporter=Filling(tmp_path / name), device="cpu")
    (tmp_path / name).unlink(missing_ok=True)
    carried_out(recipe, tmp_path)
    assert same(finished(tmp_path), finished(reference[0]))


def test_no_thread_is_left_behind(recipe: TrainingRecipe, tmp_path: Path) -> None:
    carried_out(recipe, tmp_path, max_seconds=0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


@pytest.mark.parametrize(
    ("changes", "device", "reason"),
    [
        ({}, "cuda:1", "CUDA_VISIBLE_DEVICES"),
        ({"trackers": ("nonsense",)}, "cpu", "nonsense"),
    ],
)
def test_a_device_or_tracker_that_is_not_there_is_named(
    changes: dict[str, Any], device: str, reason: str, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=reason):
        train_stage(replace(recipe, **changes), tmp_path, reporter=Diary(), device=device)


def test_a_checkpoint_of_other_parts_is_refused(recipe: TrainingRecipe, tmp_path: Path) -> None:
    carried_out(recipe, tmp_path, max_seconds=0)
    with pytest.raises(CheckpointError, match="does not fit what the recipe trains: vpm"):
        carried_out(replace(recipe, rates={"vpm": 1e-4}), tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"start": str(bundled_folder())}, "start 'nano', not "),
        ({"seed": 1}, "seed '0', not '1'"),
        ({"data": {"lines": SourceRecipe(world="lines", options={"max_words": 2})}}, "data.lines 'lines', not"),
        ({"schedule": Schedule(steps=1, warmup=0, decay=0)}, "holds step 2, and the recipe has 1"),
    ],
)
def test_another_run_does_not_go_on_in_the_folder_of_one(
    changes: dict[str, Any], says: str, recipe: TrainingRecipe, tmp_path: Path
) -> None:
    """It would call the other's model its own."""
    short = replace(recipe, schedule=Schedule(steps=2, warmup=0, decay=0))
    carried_out(short, tmp_path)
    before = (tmp_path / "recipe.yaml").read_bytes()
    with pytest.raises(CheckpointError, match=says) as caught:
        carried_out(replace(short, **changes), tmp_path)
    assert "another --out" in caught.value.remedy
    assert (tmp_path / "recipe.yaml").read_bytes() == before
    carried_out(replace(short, rates={"llm": 2e-4, "resampler": 1e-4}), tmp_path)  # rates may change


def test_a_sheet_shows_what_the_model_says(recipe: TrainingRecipe, tmp_path: Path) -> None:
    carried_out(replace(recipe, sheet_samples=3), tmp_path, max_seconds=0)
    page = (tmp_path / "sheets" / "step-1.html").read_text(encoding="utf-8")
    assert page.count("<article>") == 3
    assert page.count("<dt>model</dt>") == 3
    assert page.count("<dt>assistant</dt>") == 3
