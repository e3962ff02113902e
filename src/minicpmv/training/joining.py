"""A model of the released architecture out of two published ones: a language model and a vision tower.

    JoinRecipe(llm, vpm) -> join_parts -> folder with a model whose resampler is blank

Where pre-training begins. The report starts from Qwen3-8B and SigLIP2-400M (arXiv 2509.18154, section 2.1); what it
does with their vocabulary and position table is not said. Ours: a token that both vocabularies spell alike keeps its
row, any other begins as the mean of all rows taken over; the position table is resized by bicubic interpolation.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, SiglipVisionModel

from minicpmv.errors import CheckpointError
from minicpmv.generation.loading import explained, read_processor
from minicpmv.model.configuration import MiniCPMVConfig
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.training.model_folder import write_model_folder
from minicpmv.training.recipe import JoinRecipe

OF_TOWER = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size")
"""Sizes in which a tower has to agree with the model it becomes part of."""

OF_LANGUAGE = (*OF_TOWER[:-1], "num_key_value_heads", "head_dim")
"""Those in which a language model has to."""


def join_parts(recipe: JoinRecipe, folder: Path) -> Path:
    """Write the joined model.

    Args:
        recipe: what is joined.
        folder: of the run; made if absent.

    Returns:
        `folder/model`.

    Raises:
        CheckpointError: a part is missing, damaged, or of other sizes.
    """
    config = MiniCPMVConfig.preset(recipe.preset)
    processor = read_processor(recipe.processor)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        with torch.device("meta"):
            model: Any = MiniCPMVForConditionalGeneration(config)
        model = model.to(torch.bfloat16)
        model.resampler.to_empty(device="cpu")
        model.resampler.apply(model._init_weights)
    model.llm.load_state_dict(_language(recipe, config, processor.tokenizer.get_vocab()), assign=True)
    model.vpm.load_state_dict(_vision(recipe, config), assign=True)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = processor.tokenizer
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    generation = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    write_model_folder(folder / "model", model, processor, dtype=torch.bfloat16, generation=generation)
    return folder / "model"


def _language(recipe: JoinRecipe, config: MiniCPMVConfig, vocabulary: Mapping[str, int]) -> dict[str, Tensor]:
    """Weights of the language model, its rows in the order of another vocabulary."""
    with explained(recipe.llm):
        own = AutoTokenizer.from_pretrained(recipe.llm).get_vocab()
        llm: Any = AutoModelForCausalLM.from_pretrained(recipe.llm, dtype=torch.bfloat16)
    refuse_other_sizes(recipe.llm, llm.config, config.text_config, OF_LANGUAGE)
    weights: dict[str, Tensor] = dict(llm.state_dict())
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    if max(vocabulary.values()) >= config.text_config.vocab_size:
        raise CheckpointError(
            f"{recipe.processor} has tokens beyond the {config.text_config.vocab_size} of {recipe.preset}.",
            remedy="Take the tokenizer that belongs to the preset.",
        )
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = rows_by_token(weights[name], own, vocabulary, config.text_config.vocab_size)
    return weights


def rows_by_token(rows: Tensor, own: Mapping[str, int], wanted: Mapping[str, int], size: int) -> Tensor:
    """Rows of a vocabulary in the order of another one.

    Args:
        rows: [tokens, width].
        own: the place of each token in `rows`.
        wanted: the place of each token in the result.
        size: rows of the result.

    Returns:
        [size, width]; a token that `own` does not know has the mean of all rows taken over.

    Raises:
        CheckpointError: the two have no token in common.
    """
    shared = [token for token in wanted if own.get(token, len(rows)) < len(rows)]
    if not shared:
        raise CheckpointError("The two vocabularies share no token.", remedy="Take a tokenizer of the same family.")
    taken = rows[[own[token] for token in shared]]
    result = taken.float().mean(0).to(rows.dtype).repeat(size, 1)
    result[[wanted[token] for token in shared]] = taken
    return result


def _vision(recipe: JoinRecipe, config: MiniCPMVConfig) -> dict[str, Tensor]:
    """Weights of the tower, its position table as large as ours; its pooling head is left behind."""
    with explained(recipe.vpm):
        tower: Any = SiglipVisionModel.from_pretrained(recipe.vpm, dtype=torch.bfloat16)
    refuse_other_sizes(recipe.vpm, tower.config, config.vision_config, OF_TOWER)
    weights = {name.removeprefix("vision_model."): tensor for name, tensor in tower.state_dict().items()}
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    table = "embeddings.position_embedding.weight"
    weights[table] = resized_table(weights[table], config.vision_config.position_buckets)
    return weights


def resized_table(table: Tensor, side: int) -> Tensor:
    """A square table of positions with `side` rows and columns.

    Args:
        table: [old_side ** 2, width].
        side: of the result.

    Returns:
        [side ** 2, width].
    """
    old = round(len(table) ** 0.5)
    if old == side:
        return table
    square = table.float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, (side, side), mode="bicubic", align_corners=False)
    return square.permute(0, 2, 3, 1).reshape(side**2, -1).to(table.dtype)


def refuse_other_sizes(source: str, found: Any, wanted: Any, names: tuple[str, ...]) -> None:
    """A part fits or is refused, with every size that differs."""
    wrong = [
        f"{name} {getattr(found, name, None)} instead of {getattr(wanted, name)}"
        for name in names
        if getattr(found, name, None) != getattr(wanted, name)
    ]
    if wrong:
        raise CheckpointError(f"{source} has {', '.join(wrong)}.", remedy="Name a part of the preset's sizes.")
