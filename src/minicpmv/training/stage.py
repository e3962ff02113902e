"""A stage made ready: model, data processor, what learns, optimiser, checkpoints; and what it leaves behind.

recipe + folder -> open_stage -> Stage ; at a save -> write_stage_sheet ; at the end -> write_results
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from minicpmv.errors import CheckpointNotFoundError
from minicpmv.generation.loading import BUNDLED, find_checkpoint, read_config, read_processor
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.model.row_attention import BY_SAMPLE
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training import checkpoint
from minicpmv.training.checkpoint import Checkpoints, Progress
from minicpmv.training.model_folder import write_model_folder
from minicpmv.training.optim import Optimisers, build_optimiser
from minicpmv.training.recipe import TrainingRecipe
from minicpmv.training.sheets import write_sheet
from minicpmv.training.spreading import gathered, spread
from minicpmv.training.token_loss import TokenLoss
from minicpmv.training.trainable import Trainable, choose_trainable


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything a running stage needs."""

    recipe: TrainingRecipe
    folder: Path
    accelerator: Accelerator
    model: MiniCPMVForConditionalGeneration
    processor: MiniCPMVProcessor
    trainable: Trainable
    losses: nn.Module
    """`TokenLoss`, wrapped for several processes."""
    optimiser: Optimisers
    checkpoints: Checkpoints
    dtype: torch.dtype
    """Number format of the start, in which the finished model is stored."""

    @property
    def shards(self) -> int:
        """Shares in which weights and moments are held: 1, or as many as there are processes."""
        return self.accelerator.num_processes if self.recipe.sharding == "full" else 1

    def restore(self) -> Progress:
        """Weights, moments and place of the folder's checkpoint; the beginning if it has none.

        Raises:
            CheckpointError: it does not fit the recipe.
        """
        saved = checkpoint.find_checkpoint(self.folder)
        if saved is None:
            return Progress()
        rank = self.accelerator.process_index
        checkpoint.restore(saved, self.trainable.parameters, self.optimiser, rank=rank, shards=self.shards)
        return checkpoint.load_progress(saved)


def open_stage(recipe: TrainingRecipe, folder: Path, accelerator: Accelerator) -> Stage:
    """Load the start and make ready what learns.

    Args:
        recipe: the stage.
        folder: of the run.
        accelerator: knows the processes and their devices.

    Raises:
        CheckpointError: the start is missing or damaged.
        OptionError: adapters are wanted and peft is not installed.
    """
    source = find_start(recipe.start, folder)
    stated = read_config(source).dtype
    dtype = stated if isinstance(stated, torch.dtype) else torch.float32
    model = MiniCPMVForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    set_attention(model, recipe.attention)
    processor = read_processor(source)
    if recipe.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trainable = choose_trainable(model, recipe)
    for part in recipe.rates:
        getattr(model, part).train()
    losses = spread(TokenLoss(model), recipe, accelerator)
    learning = dict(model.named_parameters())
    trainable = Trainable(trainable.module, {name: learning[name] for name in trainable.parameters})
    optimiser = build_optimiser(trainable.parameters, recipe.rates, recipe.optimiser, recipe.muon)
    shards = accelerator.num_processes if recipe.sharding == "full" else 1
    checkpoints = Checkpoints(folder, rank=accelerator.process_index, shards=shards)
    return Stage(recipe, folder, accelerator, model, processor, trainable, losses, optimiser, checkpoints, dtype)


def find_start(start: str, folder: Path) -> str | Path:
    """Where a stage's first weights are.

    Args:
        start: as recipes say it.
        folder: of the run; that of another recipe lies beside it.

    Raises:
        CheckpointNotFoundError: nothing is there.
    """
    if start == BUNDLED:
        return find_checkpoint(None)
    before = folder.absolute().parent / start / "model"
    if re.fullmatch(r"\w+", start) and not Path(start).exists() and not before.is_dir():
        raise CheckpointNotFoundError(
            f"This stage goes on from {start}, and there is no {before}.",
            remedy=f"Run `minicpmv train {start}` before, or start from another model with --model.",
        )
    return find_checkpoint(before if before.is_dir() else start)


def set_attention(model: MiniCPMVForConditionalGeneration, attention: str) -> None:
    """Choose the attention of tower and language model by the name that recipes use."""
    model.set_attn_implementation("eager" if attention == BY_SAMPLE else attention)
    if attention == BY_SAMPLE:
        model.config.text_config._attn_implementation = BY_SAMPLE


def write_stage_sheet(stage: Stage, progress: Progress) -> None:
    """Show what the model says by now."""
    # A sharded model can only be asked by all processes together.
    if stage.recipe.sheet_samples and stage.shards == 1 and stage.accelerator.is_main_process:
        path = stage.folder / "sheets" / f"step-{progress.step}.html"
        title = f"{stage.recipe.name}, step {progress.step}"
        # Prompts are no rows; attention by sample would not know what to do with them.
        stage.model.set_attn_implementation("sdpa")
        write_sheet(stage.recipe, stage.model, stage.processor, path, title)
        set_attention(stage.model, stage.recipe.attention)


def write_results(stage: Stage) -> None:
    """The finished model as a folder that everybody can load; adapters also by themselves."""
    model = stage.model
    weights = gathered(model) if stage.shards > 1 else None
    if not stage.accelerator.is_main_process:
        return
    if stage.recipe.lora is not None:
        adapted: Any = stage.trainable.module
        adapted.save_pretrained(stage.folder / "adapter")
        model = adapted.merge_and_unload()
    write_model_folder(
        stage.folder / "model",
        model,
        stage.processor,
        dtype=stage.dtype,
        generation=model.generation_config,
        weights=weights,
    )
