"""A run that was stopped, however often and wherever, ends where an uninterrupted one does: to the bit."""

import json
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor

from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.recipes.loader import load_towers
from minicpmv.training.run_folder import SavingError, TrainingError, find_checkpoint
from minicpmv.training.towers import runstate
from minicpmv.training.towers.recipe import StageRecipe, TowersRecipe
from minicpmv.training.towers.run import build_learner, prepare_tokenizer, train
from minicpmv.training.towers.runstate import Position

RECIPE = Path(__file__).parents[1] / "toy_recipe.yaml"


@dataclass
class Diary:
    """A reporter that remembers every number of every step."""

    entries: dict[tuple[str, int], dict[str, float]] = field(default_factory=dict)
    starts: list[tuple[str, int]] = field(default_factory=list)

    def stage(self, stage: StageRecipe, start: int) -> None:
        self.starts.append((stage.name, start))
        self.current = stage.name

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        assert (self.current, step) not in self.entries, "no step is done twice"
        self.entries[self.current, step] = dict(numbers)


@dataclass(frozen=True)
class Finished:
    """A run that has come to its end."""

    folder: Path
    diary: Diary
    position: Position

    @property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / "checkpoint" / "weights.safetensors")


@pytest.fixture(scope="module")
def recipe() -> TowersRecipe:
    return load_towers(str(RECIPE))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted(recipe: TowersRecipe, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder, diary = tmp_path_factory.mktemp("uninterrupted"), Diary()
    return Finished(folder, diary, train(recipe, folder, reporter=diary, device="cpu"))


@pytest.fixture(scope="module")
def interrupted(recipe: TowersRecipe, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Stopped after every single step."""
    folder, diary = tmp_path_factory.mktemp("interrupted"), Diary()
    position = Position()
    for _ in range(sum(stage.steps for stage in recipe.stages)):
        position = train(recipe, folder, reporter=diary, device="cpu", max_seconds=0)
        if position.stage == len(recipe.stages):
            break
    return Finished(folder, diary, position)


def equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Impatient(Diary):
    """A reporter whose run is told to stop in every step; SIGINT may be ignored, where tests run in the background."""

    def step(self, step: int, numbers: Mapping[str, float]) -> None:
        super().step(step, numbers)
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_in_every_step_loses_none(recipe: TowersRecipe, uninterrupted: Finished, tmp_path: Path) -> None:
    diary = Impatient()
    for _ in uninterrupted.diary.entries:
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path, reporter=diary, device="cpu")
    assert repr(diary.entries) == repr(uninterrupted.diary.entries)
    assert train(recipe, tmp_path, reporter=diary, device="cpu").stage == len(recipe.stages)
    assert equal(load_file(tmp_path / "checkpoint" / "weights.safetensors"), uninterrupted.weights)


def test_both_runs_finish_every_step_once(recipe: TowersRecipe, uninterrupted: Finished, interrupted: Finished) -> None:
    steps = [(stage.name, step + 1) for stage in recipe.stages for step in range(stage.steps)]
    assert list(uninterrupted.diary.entries) == steps
    assert list(interrupted.diary.entries) == steps
    assert len(interrupted.diary.starts) > len(recipe.stages)
    assert uninterrupted.position.stage == interrupted.position.stage == len(recipe.stages)


def test_every_number_of_every_step_is_the_same(uninterrupted: Finished, interrupted: Finished) -> None:
    assert repr(uninterrupted.diary.entries) == repr(interrupted.diary.entries)  # exact, and nan equals nan


def test_the_weights_are_the_same_to_the_bit(uninterrupted: Finished, interrupted: Finished) -> None:
    assert equal(uninterrupted.weights, interrupted.weights)


def test_the_finished_models_are_the_same_files(uninterrupted: Finished, interrupted: Finished) -> None:
    for file in ("model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"):
        first, second = ((run.folder / "model" / file).read_bytes() for run in (uninterrupted, interrupted))
        assert first == second, file


def test_training_moved_what_the_recipe_trains(recipe: TowersRecipe, uninterrupted: Finished) -> None:
    """Otherwise two runs that do nothing would pass the tests above."""
    blank = build_learner(recipe)
    for part, module in blank.parts.items():
        moved = [
            not torch.equal(parameter, uninterrupted.weights[f"{part}.{name}"])
            for name, parameter in module.named_parameters()
        ]
        assert sum(moved) > len(moved) / 2, part


def test_a_stage_moves_the_parts_it_names_and_no_others(recipe: TowersRecipe, tmp_path: Path) -> None:
    """One step of the first stage: only the tower and the dense head."""
    position = train(recipe, tmp_path, reporter=Diary(), device="cpu", max_seconds=0)
    assert (position.stage, position.step) == (0, 1)
    weights = load_file(tmp_path / "checkpoint" / "weights.safetensors")
    for part, module in build_learner(recipe).parts.items():
        same = [torch.equal(parameter, weights[f"{part}.{name}"]) for name, parameter in module.named_parameters()]
        assert any(not unmoved for unmoved in same) if part in recipe.stages[0].rates else all(same), part


def test_a_finished_run_is_left_as_it_is(recipe: TowersRecipe, uninterrupted: Finished) -> None:
    before, diary = uninterrupted.weights, Diary()
    position = train(recipe, uninterrupted.folder, reporter=diary, device="cpu")
    assert position.stage == len(recipe.stages)
    assert diary.starts == []
    assert equal(before, uninterrupted.weights)


def test_a_crash_between_two_renames_loses_nothing(recipe: TowersRecipe, tmp_path: Path) -> None:
    train(recipe, tmp_path, reporter=Diary(), device="cpu", max_seconds=0)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert runstate.load_position(found).step == 1
    diary = Diary()
    train(recipe, tmp_path, reporter=diary, device="cpu", max_seconds=0)
    assert diary.starts == [("vision", 1)]


def test_a_crash_after_one_leaves_what_there_is_until_the_next_is_complete(
    recipe: TowersRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe, tmp_path, reporter=Diary(), device="cpu", max_seconds=0)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")

    def full(tensors: object, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runstate, "save_file", full)
    with pytest.raises(SavingError, match="No space left"):
        train(recipe, tmp_path, reporter=Diary(), device="cpu", max_seconds=0)
    monkeypatch.undo()
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert runstate.load_position(found).step == 1


def test_a_loss_that_is_no_number_stops_and_keeps_the_batch(
    recipe: TowersRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(TrainingError, match=r"gradient norm nan.* kept in .*step-0-rank-0\.safetensors"):
        train(recipe, tmp_path, reporter=Diary(), device="cpu")
    assert load_file(tmp_path / "step-0-rank-0.safetensors")


def test_the_log_of_a_run_is_readable_by_line(uninterrupted: Finished) -> None:
    lines = [json.loads(line) for line in (uninterrupted.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["vision", "language", "all"]
    assert all(line["loss"] > 0 for line in lines)


def test_notes_of_steps_that_are_done_again_are_not_kept(recipe: TowersRecipe, tmp_path: Path) -> None:
    train(recipe, tmp_path, reporter=Diary(), device="cpu", max_seconds=0)
    notes, done = tmp_path / "metrics.jsonl", '{"stage": "vision", "step": 1, "loss": 9.0}\n'
    notes.write_text(done + '{"stage": "vision", "step": 2}\n{"stage": "all", "step": 1}\n{"stage": "vis', "utf-8")
    train(recipe, tmp_path, reporter=Diary(), device="cpu", max_seconds=0)
    assert notes.read_text().startswith(done)
    assert '"step": 1}' not in notes.read_text()
    assert '{"stage": "vision", "step": 2}' not in notes.read_text()


def test_a_tokenizer_is_there_whole_or_not_at_all(recipe: TowersRecipe, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.partial").mkdir()
    (tmp_path / "tokenizer.partial" / "tokenizer_config.json").write_text("{", encoding="utf-8")
    assert len(prepare_tokenizer(recipe, tmp_path)) == recipe.tokenizer.vocabulary
    assert not (tmp_path / "tokenizer.partial").exists()


def test_the_finished_model_can_be_loaded(uninterrupted: Finished) -> None:
    model = MiniCPMVForConditionalGeneration.from_pretrained(uninterrupted.folder / "model")
    stored = uninterrupted.weights["resampler.query"].to(torch.bfloat16)
    assert torch.equal(model.resampler.query, stored)


def test_a_folder_is_trained_in_by_one_process_at_a_time(recipe: TowersRecipe, tmp_path: Path) -> None:
    """Two would overwrite each other's checkpoints without a word."""
    with FileLock(tmp_path / "lock"), pytest.raises(TrainingError, match="Another process"):
        train(recipe, tmp_path, reporter=Diary())
    assert not (tmp_path / "checkpoint").exists()
