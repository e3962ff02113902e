"""Several processes: the whole model in each (DDP), or a share of everything in each (FSDP2).

TokenLoss -> spread -> the module that is called; accumulating(last) around every pass
"""

import contextlib
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from minicpmv.training.precision import dtype_of
from minicpmv.training.recipe import TrainingRecipe
from minicpmv.training.token_loss import TokenLoss


def spread(losses: TokenLoss, recipe: TrainingRecipe, accelerator: Accelerator) -> nn.Module:
    """The loss on its device, wrapped for as many processes as there are.

    Parameters of a sharded module are new objects under their old names.
    """
    if accelerator.num_processes == 1 or recipe.sharding == "none":
        losses.to(accelerator.device)
    if accelerator.num_processes == 1:
        return losses
    if recipe.sharding == "none":
        wrapped: nn.Module = accelerator.prepare_model(losses)
        return wrapped
    half = dtype_of(recipe.precision, accelerator.device)
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    # Layer after layer is moved to its device and cut there, so that none ever holds the whole model.
    units = set(losses.model._no_split_modules)
    for module in losses.modules():
        if type(module).__name__ in units:
            fully_shard(module, mp_policy=policy)
    fully_shard(losses, mp_policy=policy)
    return losses


@contextlib.contextmanager
def accumulating(losses: nn.Module, accelerator: Accelerator, *, is_last: bool) -> Iterator[None]:
    """Gradients are exchanged in the last pass of a step only."""
    if isinstance(losses, FSDPModule):
        losses.set_requires_gradient_sync(is_last)
        yield
    elif is_last:
        yield
    else:
        with accelerator.no_sync(losses):
            yield


@contextlib.contextmanager
def whole(losses: nn.Module) -> Iterator[None]:
    """All weights in every process for a while, so that one alone can use the model; all have to call this."""
    units = [module for module in losses.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.unshard()
        if unit is not losses:  # the outermost one keeps its weights anyway
            unit.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            if unit is not losses:
                unit.set_reshard_after_forward(True, recurse=False)


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """The whole weights of a sharded model, in the memory of the main process; all have to call this."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if torch.distributed.get_rank() == 0:
            state[name] = whole.cpu()
    return state
