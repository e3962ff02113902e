"""Who learns: the parts with a rate whole or through adapters, everything else frozen; and a table that says so.

model, recipe -> choose_trainable -> Trainable(module, parameters) -> table
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import nn

from minicpmv.errors import OptionError
from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
from minicpmv.training.optim import part_of, select_trainable
from minicpmv.training.precision import dtype_of
from minicpmv.training.recipe import PARTS, LoraRecipe, TrainingRecipe

_ADAPTED: Mapping[str, str] = {
    "llm": r"llm\.model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
    "vpm": r"vpm\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])",
    "resampler": r"resampler\.(kv_proj|attn\.out_proj)",
}
"""What gets adapters in each part: all its linear layers."""


@dataclass(frozen=True, slots=True)
class Trainable:
    """A model made ready to learn."""

    module: nn.Module
    """The model, or its twin with adapters."""

    parameters: dict[str, nn.Parameter]
    """What learns, by its name in the model."""


def choose_trainable(
    model: MiniCPMVForConditionalGeneration, recipe: TrainingRecipe, device: torch.device
) -> Trainable:
    """Freeze, adapt and unfreeze as a recipe says.

    What learns is held in float32. With bf16 arithmetic the rest is held in bfloat16: nobody needs its last bits.

    Args:
        model: changed in place.
        recipe: whose `rates` and `lora` count.
        device: on which it will train.

    Raises:
        OptionError: adapters are wanted and peft is not installed.
    """
    parts = {part: getattr(model, part) for part in PARTS}
    if recipe.lora is None:
        chosen = select_trainable(parts, recipe.rates)
        module: nn.Module = model
    else:
        module = _adapted(model, recipe.lora, recipe.rates, recipe.seed)
        chosen = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    is_half = dtype_of(recipe.precision, device) == torch.bfloat16
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
        elif parameter.is_floating_point() and is_half and recipe.sharding == "none":
            # A shard holds one number format; weights of 4 bits keep theirs.
            parameter.data = parameter.data.bfloat16()
    return Trainable(module, chosen)


def _adapted(
    model: MiniCPMVForConditionalGeneration, lora: LoraRecipe, rates: Mapping[str, float], seed: int
) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise OptionError(
            "Adapters need peft, which is not installed.", remedy="Install it: pip install 'minicpmv[train]'"
        ) from None
    targets = [_ADAPTED[part] for part in PARTS if part in rates and part not in lora.whole]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=f"({'|'.join(targets)})",
        modules_to_save=list(lora.whole) or None,
    )
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # adapters begin at random
        warnings.simplefilter("ignore", FutureWarning)  # peft calls names that transformers has renamed
        adapted: nn.Module = get_peft_model(model, config)
    return adapted


def counts_by_part(model: nn.Module, rates: Mapping[str, float]) -> dict[str, tuple[int, int, float | None]]:
    """For every part all its parameters, those that learn, and the peak rate (None if frozen).

    Args:
        model: after `choose_trainable`.
        rates: of the recipe.
    """
    counts: dict[str, list[int]] = {part: [0, 0] for part in PARTS}
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue  # peft keeps the old weights of a part that learns whole beside the new ones
        count = counts[part_of(name)]
        packed = getattr(parameter, "quant_state", None)  # of 4 bits: two weights in a number
        count[0] += parameter.numel() if packed is None else packed.shape.numel()
        count[1] += parameter.numel() * parameter.requires_grad
    return {part: (whole, learning, rates.get(part)) for part, (whole, learning) in counts.items()}


def trainable_table(model: nn.Module, rates: Mapping[str, float]) -> Table:
    """`counts_by_part` as a table for people."""
    table = Table("part", "parameters", "learning", "peak rate", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for part, (whole, learning, rate) in counts_by_part(model, rates).items():
        table.add_row(part, f"{whole:,}", f"{learning:,}", "frozen" if rate is None else f"{rate:g}")
    return table
