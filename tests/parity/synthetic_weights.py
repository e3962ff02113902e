"""The seeded parameters that the recorded outputs of the official modules were made with.

Parameter `name` is `RandomState(rank).standard_normal(shape)`, where `rank` is its 1-based place among the sorted
names, times a scale that depends on its kind.
"""

import math

import numpy as np
import torch
from torch import nn


def fill(module: nn.Module, *, vision: bool) -> None:
    """Set every parameter of `module` by the recorded rule."""
    parameters = dict(module.named_parameters())
    for rank, name in enumerate(sorted(parameters), start=1):
        parameter = parameters[name]
        noise = np.random.RandomState(rank).standard_normal(tuple(parameter.shape)).astype(np.float32)
        parameter.data.copy_(torch.from_numpy(_scaled(name, noise, parameter, vision=vision)))


def _scaled(name: str, noise: np.ndarray, parameter: torch.Tensor, *, vision: bool) -> np.ndarray:
    is_norm = "norm" in name or name.startswith("ln_")
    if is_norm and name.endswith("weight"):
        return 1 + np.float32(0.1) * noise
    if name.endswith("bias"):
        return np.float32(0.1) * noise
    if vision:
        if "position_embedding" in name:
            return noise
        return noise / np.float32(math.sqrt(parameter[0].numel()))
    if name == "query":
        return noise
    return noise / np.float32(math.sqrt(48 if name.startswith("kv_proj") else 256))
