"""Arithmetic of training: what a recipe says, and what the device multiplies fast."""

import torch

from minicpmv.model.arithmetic import half_or_single
from minicpmv.training.recipe import Precision

IN_WORDS: dict[Precision, str] = {"auto": "bf16 where it is fast", "fp32": "fp32", "bf16": "bf16"}


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """Number format of the products of a pass.

    Args:
        precision: `fp32`, `bf16`, or `auto` for the faster of the two.
        device: on which they are made.

    >>> dtype_of("bf16", torch.device("cpu"))
    torch.bfloat16
    """
    return half_or_single(device) if precision == "auto" else {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Arithmetic of a pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype_of(precision, device) == torch.bfloat16)
