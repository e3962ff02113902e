"""Muon for processes that hold the same matrices: each makes the steps of a share of them, and all get the outcome.

    gradients, alike everywhere -> own share: orthogonalise, step -> broadcast -> weights, alike everywhere

What a step of Muon costs depends on the matrices and not on how many samples are in a batch, so that processes which
share a batch would all pay the whole of it. On two cores it was a quarter of a small step of the nano recipe.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, distributed


class SharedMuon(torch.optim.Muon):
    """`torch.optim.Muon` with the same outcome to the bit, in as many shares as there are processes.

    Every process keeps the moments of all matrices, so a checkpoint of any of them is whole.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every matrix that has a gradient.

        Args:
            closure: not used; as with other optimisers.
        """
        rank = distributed.get_rank()
        reached = [one for group in self.param_groups for one in group["params"] if one.grad is not None]
        shares = share_out(reached, distributed.get_world_size())
        others = {id(one) for owner, share in enumerate(shares) if owner != rank for one in share}
        put_aside: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for one in group["params"]:
                if id(one) not in others:
                    continue
                state = self.state[one]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(one.grad)
                state["momentum_buffer"].lerp_(one.grad, 1 - group["momentum"])
                put_aside.append((one, one.grad))
                one.grad = None
        super().step()
        for one, gradient in put_aside:
            one.grad = gradient
        for owner, share in enumerate(shares):
            if share:
                _broadcast(share, owner, is_owner=owner == rank)


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
