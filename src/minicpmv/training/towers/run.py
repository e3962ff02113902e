"""A recipe carried out: build the parts, find the last checkpoint, run the stages, write the model folder.

train(recipe, folder) -> Position        (call it again to go on)
"""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minicpmv.data.worlds.fonts import find_faces
from minicpmv.data.worlds.text import tokenizer_corpus
from minicpmv.errors import OptionError, SettingsError
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.processing.text_encoding import PieceEncoder
from minicpmv.processing.tokenizer import load_tokenizer
from minicpmv.processing.video_processor import MiniCPMVVideoProcessor
from minicpmv.settings import dump_settings
from minicpmv.training.allocator import keep_freed_memory
from minicpmv.training.dense import save_heads
from minicpmv.training.feeding import Share
from minicpmv.training.model_folder import build_processor, write_model_folder
from minicpmv.training.places import PlaceHeads
from minicpmv.training.run_folder import find_checkpoint, keep_notes, only_one, write_text, writing
from minicpmv.training.stage import find_start
from minicpmv.training.towers import runstate
from minicpmv.training.towers.answers import WORLDS, AnswerQuestions
from minicpmv.training.towers.company import Company, join
from minicpmv.training.towers.initialisation import initialise_resampler
from minicpmv.training.towers.learner import Learner
from minicpmv.training.towers.loop import Reporter, Run, run_stages
from minicpmv.training.towers.objectives import ALONE, READABLE, Objective, ReadPatches
from minicpmv.training.towers.patch_reading import PatchReader
from minicpmv.training.towers.reading_slots import TOKEN_RMS, SlotCodes
from minicpmv.training.towers.recipe import TowersRecipe
from minicpmv.training.towers.runstate import Position
from minicpmv.training.towers.taking_over import take_over
from minicpmv.training.towers.tokenizer import PLACEHOLDER, train_tokenizer


def build_learner(recipe: TowersRecipe) -> Learner:
    """A blank model and its training-only helpers, initialised from the recipe's seed alone."""
    model = build_model(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + 1)
        head = PatchReader(model.config.vision_config.hidden_size)
        codes = SlotCodes(model.config.text_config.hidden_size, TOKEN_RMS)
        places = PlaceHeads(model.config.vision_config.hidden_size, model.config.text_config.hidden_size)
    return Learner(model, head, codes, places)


def build_model(recipe: TowersRecipe) -> MiniCPMVForConditionalGeneration:
    """The recipe's preset with random weights.

    Raises:
        SettingsError: the vocabulary is larger than the model's.
    """
    config = MiniCPMVConfig.preset(recipe.model)
    if recipe.tokenizer.vocabulary > (rows := config.text_config.vocab_size):
        raise SettingsError(
            f"{recipe.name} has a vocabulary of {recipe.tokenizer.vocabulary}.",
            remedy=f"The model {recipe.model} embeds {rows} tokens; use at most as many.",
        )
    config._attn_implementation = recipe.attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = MiniCPMVForConditionalGeneration(config)
    initialise_resampler(model.resampler, output_rms=TOKEN_RMS)
    return model


def train(
    recipe: TowersRecipe,
    folder: Path,
    *,
    reporter: Reporter,
    device: str = "auto",
    max_seconds: float = math.inf,
) -> Position:
    """Run a recipe, or go on with it where its folder stands.

    Started by `train --processes` or `torchrun`, every process calls this. Each draws its share of a batch by itself,
    so another number of processes sees other samples.

    Args:
        recipe: what to do.
        folder: the run's folder; made if absent.
        reporter: shows progress.
        device: `auto`, `cpu`, `cuda`, ...
        max_seconds: save and stop after this time.

    Returns:
        Where the run stands now. When all stages are done, `folder/model` holds the finished model in bf16.

    Raises:
        TrainingError: the loss is not finite, or another run is training in the folder.
        SavingError: a checkpoint, or another file of the run, could not be written.
        OptionError: more processes than samples in a batch.
        CheckpointError: the folder belongs to another model.
    """
    deadline = time.monotonic() + max_seconds
    folder.mkdir(parents=True, exist_ok=True)
    company = join(device)
    fewest = min(stage.batch for stage in recipe.stages)
    if fewest < company.share.world:
        raise OptionError(
            f"{company.share.world} processes cannot share a batch of {fewest}.", remedy=f"Start at most {fewest}."
        )
    with only_one(folder) if company.is_first else contextlib.nullcontext():
        return _train(recipe, folder, reporter, company, deadline)


def _train(recipe: TowersRecipe, folder: Path, reporter: Reporter, company: Company, deadline: float) -> Position:
    keep_freed_memory()
    learner = build_learner(recipe)
    checkpoint = find_checkpoint(folder)
    position = Position()
    if checkpoint is not None:
        position = runstate.load_position(checkpoint)
        runstate.load_weights(checkpoint, learner.parts)
    learner.to(company.device)
    if company.is_first:
        write_text(folder / "recipe.yaml", dump_settings(recipe))  # it fits what is there
        prepare_tokenizer(recipe, folder)
    company.wait()
    if company.is_first:
        # Steps behind the checkpoint are done again.
        order = {stage.name: index for index, stage in enumerate(recipe.stages)}
        done = (position.stage, position.step)
        keep_notes(folder / "metrics.jsonl", lambda note: (order[note["stage"]], note["step"]) <= done)
    tokenizer = prepare_tokenizer(recipe, folder)
    if recipe.start is not None and checkpoint is None:
        take_over(learner.model, find_start(recipe.start, folder), tokenizer)
    objectives = build_objectives(recipe, learner, tokenizer, company.share)
    run = Run(recipe, folder, learner, objectives, company, reporter, deadline)
    position = run_stages(run, position)
    if position.stage == len(recipe.stages) and company.is_first:
        clips = MiniCPMVVideoProcessor(**asdict(recipe.clips))
        processor = build_processor(learner.model, tokenizer, clips)
        with writing(folder / "model"):
            save_heads(learner.patch_reader, learner.slot_codes, learner.place_heads, folder)
            write_model_folder(folder / "model", learner.model, processor, dtype=torch.bfloat16)
    return position


def prepare_tokenizer(recipe: TowersRecipe, folder: Path) -> Any:
    """The run's tokenizer, trained once and kept in its folder."""
    home = folder / "tokenizer"
    if not home.exists():
        texts = tokenizer_corpus(np.random.default_rng(recipe.seed), recipe.tokenizer.texts)
        partial = folder / "tokenizer.partial"
        train_tokenizer(texts, recipe.tokenizer.vocabulary).save_pretrained(partial)
        partial.replace(home)  # several files: all of them or none
    return load_tokenizer(home)


def build_objectives(
    recipe: TowersRecipe, learner: Learner, tokenizer: Any, share: Share = ALONE
) -> Mapping[str, Objective]:
    """One objective per stage, for a process's share of its batches.

    Raises:
        SettingsError: a stage draws from a world that its objective does not know.
    """
    faces = find_faces("train", system=False)  # the same list on every machine with the pinned packages
    config = learner.model.config
    encoder = PieceEncoder(tokenizer, placeholder=PLACEHOLDER, slot_length=config.query_num)
    objectives: dict[str, Objective] = {}
    for index, stage in enumerate(recipe.stages):
        known: Sequence[str] = tuple(READABLE if stage.objective == "patches" else WORLDS)
        if unknown := [world for world in stage.worlds if world not in known]:
            raise SettingsError(
                f"Stage {stage.name!r} ({stage.objective}) draws from {', '.join(unknown)}.",
                remedy=f"Worlds are {', '.join(known)}.",
            )
        if stage.objective == "patches":
            objectives[stage.name] = ReadPatches(stage, recipe.seed, index, faces, config.query_num, share)
        else:
            objectives[stage.name] = AnswerQuestions(
                stage,
                recipe.seed,
                index,
                faces,
                encoder,
                tokenizer.pad_token_id,
                config.scale_resolution,
                share,
            )
    return objectives
