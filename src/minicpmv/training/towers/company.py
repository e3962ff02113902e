"""Several processes that grow towers together: each draws its share of a batch, and all take the mean of the gradients.

    join -> Company -> share (whose samples), average (gradients), agreed (what the first process decided)

A process on its own is a company of one, for which all of this is nothing.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from minicpmv.training.feeding import Share

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Company:
    """The processes that train together, as one of them sees them."""

    share: Share
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.share.rank == 0

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give everybody the mean of all gradients; who has none of a parameter counts as zero."""
        if self.share.world == 1:
            return
        parameters = list(parameters)
        reached = torch.tensor([float(one.grad is not None) for one in parameters], device=self.device)
        torch.distributed.all_reduce(reached)
        # What no process has reached stays without a gradient, so that it is not decayed either.
        met = [one for one, count in zip(parameters, reached.tolist(), strict=True) if count]
        flat = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in met])
        torch.distributed.all_reduce(flat)
        flat /= self.share.world
        for one, mean in zip(met, flat.split([one.numel() for one in met]), strict=True):
            one.grad = mean.view_as(one)

    def agreed(self, *decided: T) -> tuple[T, ...]:
        """What the first process says, for all; clocks differ, and only it writes."""
        if self.share.world == 1:
            return decided
        told = list(decided)
        broadcast_object_list(told)
        return tuple(told)

    def wait(self) -> None:
        """Until everybody is here."""
        if self.share.world > 1:
            torch.distributed.barrier()


def join(device: str) -> Company:
    """The company that whoever started this process has made, as `torchrun` and `train --processes` do.

    Args:
        device: `auto`, `cpu`, `cuda`, ...; with several processes each has its own GPU, or all share the CPU.
    """
    has_gpu = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Company(Share(), torch.device(("cuda" if has_gpu else "cpu") if device == "auto" else device))
    state = PartialState(cpu=device == "cpu" or not has_gpu)
    return Company(Share(state.process_index, state.num_processes), state.device)
