"""A stage made ready: model, data processor, what learns, optimiser, checkpoints; and what it leaves behind.

recipe + folder -> open_stage -> Stage ; at a save -> write_stage_sheet ; at the end -> write_results
"""

import importlib.util
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from minicpmv.errors import CheckpointNotFoundError, OptionError
from minicpmv.generation.loading import explained, find_checkpoint, is_bundled_name, read_config, read_processor
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.model.row_attention import BY_SAMPLE
from minicpmv.processing.processor import MiniCPMVProcessor
from minicpmv.training import checkpoint
from minicpmv.training.checkpoint import Checkpoints, Progress, load_progress, refuse_another_run
from minicpmv.training.dense import DenseHeads, blank_heads, load_heads, write_heads
from minicpmv.training.model_folder import write_model_folder
from minicpmv.training.optim import Optimisers, build_optimiser
from minicpmv.training.precision import dtype_of
from minicpmv.training.recipe import TrainingRecipe, origin_of
from minicpmv.training.run_folder import find_checkpoint as find_run_checkpoint
from minicpmv.training.run_folder import writing
from minicpmv.training.sheets import write_sheet
from minicpmv.training.spreading import gathered, spread, whole
from minicpmv.training.token_loss import TokenLoss
from minicpmv.training.trainable import Trainable, choose_trainable

HEADS = "heads"
"""Name of the heads of dense losses among what learns; they are no part of the model."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything a running stage needs."""

    recipe: TrainingRecipe
    folder: Path
    accelerator: Accelerator
    model: MiniCPMVForConditionalGeneration
    heads: DenseHeads | None
    """Of dense losses."""
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
        origin = origin_of(self.recipe)
        saved = find_run_checkpoint(self.folder)
        if saved is None:
            return Progress(origin=origin)
        progress = load_progress(saved)
        refuse_another_run(progress, origin, self.recipe.schedule.steps, saved)
        rank = self.accelerator.process_index
        checkpoint.restore(saved, self.trainable.parameters, self.optimiser, rank=rank, shards=self.shards)
        return replace(progress, origin=origin)


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
    model = _read_start(source, recipe, accelerator.device)
    set_attention(model, recipe.attention)
    processor = read_processor(source)
    trainable = choose_trainable(model, recipe, accelerator.device)
    for part in recipe.rates:
        getattr(model, part).train()
    if recipe.recompute:
        _recompute(model)
    model.training = True  # a process without pictures then still takes part in the tower's gradients
    heads = _dense_heads(recipe, folder, model)
    losses = spread(TokenLoss(model, heads), recipe, accelerator)
    learning = dict(model.named_parameters())
    parameters, rates = {name: learning[name] for name in trainable.parameters}, dict(recipe.rates)
    if heads is not None and recipe.dense is not None and recipe.dense.rate:
        parameters |= {f"{HEADS}.{name}": one for name, one in heads.named_parameters() if one.requires_grad}
        rates[HEADS] = recipe.dense.rate
    trainable = Trainable(trainable.module, parameters)
    optimiser = build_optimiser(trainable.parameters, rates, recipe.optimiser, recipe.muon)
    shards = accelerator.num_processes if recipe.sharding == "full" else 1
    checkpoints = Checkpoints(folder, rank=accelerator.process_index, shards=shards)
    return Stage(recipe, folder, accelerator, model, heads, processor, trainable, losses, optimiser, checkpoints, dtype)


def _recompute(model: MiniCPMVForConditionalGeneration) -> None:
    """Forget the activations of every layer until they are needed."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # transformers does so only in a layer that trains. Gradients run through a frozen language model as well; the
    # layer alone is told that it trains, and what is inside of it is not.
    for module in model.llm.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def _read_start(source: str | Path, recipe: TrainingRecipe, device: torch.device) -> MiniCPMVForConditionalGeneration:
    """The start's model; its language model in 4 bits where adapters are all that learns of it."""
    if recipe.lora is None or recipe.lora.bits != 4:
        with explained(str(source)):
            model: MiniCPMVForConditionalGeneration = MiniCPMVForConditionalGeneration.from_pretrained(
                source, dtype=torch.float32
            )
        return model
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise OptionError(
            "Weights of 4 bits need bitsandbytes, which is not installed.",
            remedy="Install it: pip install 'minicpmv[qlora]'",
        )
    half = dtype_of(recipe.precision, device)
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=half,
        llm_int8_skip_modules=["lm_head", "vpm", "resampler"],
    )
    quantised: MiniCPMVForConditionalGeneration = MiniCPMVForConditionalGeneration.from_pretrained(
        source, dtype=half, quantization_config=four_bits, device_map={"": device}
    )
    return quantised


def _dense_heads(recipe: TrainingRecipe, folder: Path, model: MiniCPMVForConditionalGeneration) -> DenseHeads | None:
    """The heads of dense losses, from the run that has left them or blank."""
    if recipe.dense is None:
        return None
    widths = model.config.vision_config.hidden_size, model.config.text_config.hidden_size
    if recipe.dense.heads is None:
        heads = blank_heads(*widths, recipe.seed)
    else:
        heads = load_heads(folder.absolute().parent / recipe.dense.heads, *widths)
    if recipe.dense.rate:
        heads.learn(things=recipe.dense.things > 0, places=recipe.dense.places > 0)
    return heads


def find_start(start: str, folder: Path) -> str | Path:
    """Where a stage's first weights are.

    Args:
        start: as recipes say it.
        folder: of the run; that of another recipe lies beside it.

    Raises:
        CheckpointNotFoundError: nothing is there.
    """
    if is_bundled_name(start) or (Path(start) / "config.json").is_file():
        return find_checkpoint(start)
    before = folder.absolute().parent / start / "model"
    if re.fullmatch(r"[\w.-]+", start) and not Path(start).exists() and not before.is_dir():
        raise CheckpointNotFoundError(
            f"This stage goes on from {start}, and there is no {before}.",
            remedy=f"Run `minicpmv train {start}` before, or check the name if it is a model's folder (--model).",
        )
    return find_checkpoint(before if before.is_dir() else start)


def set_attention(model: MiniCPMVForConditionalGeneration, attention: str) -> None:
    """Choose the attention of tower and language model by the name that recipes use.

    Raises:
        OptionError: it needs a package that is not installed, or a GPU.
    """
    try:
        model.set_attn_implementation("eager" if attention == BY_SAMPLE else attention)
    except (ImportError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OptionError(f"attention: {attention} cannot be used here: {reason}", remedy="Use sdpa.") from None
    if attention == BY_SAMPLE:
        model.config.text_config._attn_implementation = BY_SAMPLE


def write_stage_sheet(stage: Stage, progress: Progress) -> None:
    """Show what the model says by now; all processes call this, and the main one asks."""
    if not stage.recipe.sheet_samples:
        return
    with whole(stage.losses):
        if stage.accelerator.is_main_process:
            path = stage.folder / "sheets" / f"step-{progress.step}.html"
            title = f"{stage.recipe.name}, step {progress.step}"
            # Prompts are no rows; attention by sample would not know what to do with them.
            stage.model.set_attn_implementation("sdpa")
            with writing(path):
                write_sheet(stage.recipe, stage.model, stage.processor, path, title)
            set_attention(stage.model, stage.recipe.attention)


def write_results(stage: Stage) -> None:
    """The finished model as a folder that everybody can load; adapters also by themselves.

    Raises:
        SavingError: it could not be written.
    """
    model = stage.model
    is_sharded = stage.shards > 1
    weights = gathered(model) if is_sharded else None
    heads = None
    if stage.heads is not None:
        heads = gathered(stage.heads) if is_sharded else stage.heads.state_dict()
    if not stage.accelerator.is_main_process:
        return
    with writing(stage.folder / "model"):
        if heads is not None:
            write_heads(heads, stage.folder)
        if stage.recipe.lora is not None:
            adapted: Any = stage.trainable.module
            adapted.save_pretrained(stage.folder / "adapter")
            model = _exact_twin(stage) if stage.recipe.lora.bits == 4 else adapted.merge_and_unload()
        write_model_folder(
            stage.folder / "model",
            model,
            stage.processor,
            dtype=stage.dtype,
            generation=model.generation_config,
            weights=weights,
        )


def _exact_twin(stage: Stage) -> MiniCPMVForConditionalGeneration:
    """The start in full precision with what was learned merged into it.

    Merged into 4-bit weights, the sum would keep their rounding for good.
    """
    from peft import PeftModel

    source = find_start(stage.recipe.start, stage.folder)
    base = MiniCPMVForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    adapted: Any = PeftModel.from_pretrained(base, stage.folder / "adapter")
    merged: MiniCPMVForConditionalGeneration = adapted.merge_and_unload()
    return merged
