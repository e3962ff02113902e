"""Muon in the number format that a device multiplies fast, its work shared out between processes.

    gradients, alike everywhere -> own share: orthogonalise, step -> broadcast -> weights, alike everywhere

`torch.optim.Muon` orthogonalises in bfloat16 everywhere. A processor without instructions for it needs five times what
float32 takes, more than half of a small step. And what a step of Muon costs depends on the matrices and not on how many
samples are in a batch, so that processes which share a batch would all pay the whole of it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from minicpmv.model.arithmetic import half_or_single


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with the same outcome: to the bit where bfloat16 is fast, else to its rounding.

    Every process keeps the moments of all matrices, so a checkpoint of any of them is whole.

    Args:
        matrices: groups, as for `torch.optim.Muon`, with `adjust_lr_fn="match_rms_adamw"`.
        are_shared: whether all processes hold these matrices and see the same gradients; they share the work then.
        **settings: as for `torch.optim.Muon`.
    """

    def __init__(self, matrices: Any, *, are_shared: bool = False, **settings: Any) -> None:
        super().__init__(matrices, adjust_lr_fn="match_rms_adamw", **settings)
        self._are_shared = are_shared

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every matrix that has a gradient.

        Args:
            closure: not used; as with other optimisers.
        """
        reached = [one for group in self.param_groups for one in group["params"] if one.grad is not None]
        world, rank = (distributed.get_world_size(), distributed.get_rank()) if self._are_shared else (1, 0)
        shares = share_out(reached, world)
        own = {id(one) for one in shares[rank]}
        for group in self.param_groups:
            for one in group["params"]:
                if one.grad is None:
                    continue
                state = self.state[one]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(one.grad)
                moments = state["momentum_buffer"]
                moments.lerp_(one.grad, 1 - group["momentum"])
                if id(one) in own:
                    self._step_of(one, one.grad.lerp(moments, group["momentum"]), group)
        if world > 1:
            for owner, share in enumerate(shares):
                if share:
                    _broadcast(share, owner, is_owner=owner == rank)

    def _step_of(self, matrix: Tensor, direction: Tensor, group: dict[str, Any]) -> None:
        update = orthogonalise(
            direction, group["ns_coefficients"], group["ns_steps"], group["eps"], half_or_single(matrix.device)
        )
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        # "match_rms_adamw": a rate means about the same length of step as with AdamW.
        matrix.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonalise(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, smallest: float, dtype: torch.dtype
) -> Tensor:
    """Bring the singular values of a matrix near 1 by the iteration of Newton and Schulz.

    Args:
        matrix: [rows, columns], not changed.
        coefficients: of x, x³ and x⁵, which singular values are sent through.
        steps: how often.
        smallest: norm that a matrix of zeros is taken to have.
        dtype: of the products.

    Returns:
        [rows, columns] in `dtype`. Source: Muon as published (github.com/KellerJordan/Muon).
    """
    linear, cubic, quintic = coefficients
    is_tall = matrix.size(0) > matrix.size(1)
    turned = (matrix.T if is_tall else matrix).to(dtype, copy=True)
    turned.div_(turned.norm().clamp(min=smallest))
    for _ in range(steps):
        gram = turned @ turned.T
        turned = torch.addmm(turned, torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic), turned, beta=linear)
    return turned.T if is_tall else turned


def share_out(matrices: Sequence[Tensor], number: int) -> list[list[Tensor]]:
    """Matrices in shares of about the same work, the same ones in every process.

    Args:
        matrices: [rows, columns] each.
        number: of shares.

    >>> sizes = [torch.empty(2, 8), torch.empty(4, 4), torch.empty(2, 2)]
    >>> [[tuple(one.shape) for one in share] for share in share_out(sizes, 2)]
    [[(4, 4)], [(2, 8), (2, 2)]]
    """
    work = [0] * number
    shares: list[list[Tensor]] = [[] for _ in range(number)]
    for one in sorted(matrices, key=_work, reverse=True):  # a stable order, so everybody decides alike
        least = work.index(min(work))
        shares[least].append(one)
        work[least] += _work(one)
    return shares


def _work(matrix: Tensor) -> int:
    """Multiplications of a step of Newton and Schulz, about: three products, one of them of the short side only."""
    short, long = sorted(matrix.shape)
    return short * short * (2 * long + short)


def _broadcast(share: Sequence[Tensor], owner: int, *, is_owner: bool) -> None:
    """Give everybody what the owner of these matrices has made of them."""
    flat = torch.cat([one.flatten() for one in share]) if is_owner else share[0].new_empty(sum(map(torch.numel, share)))
    distributed.broadcast(flat, src=owner)
    if not is_owner:
        for one, made in zip(share, flat.split([one.numel() for one in share]), strict=True):
            one.copy_(made.view_as(one))
