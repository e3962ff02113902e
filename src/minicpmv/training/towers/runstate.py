"""What a run keeps on disk, so that it can be killed at any moment and go on as if nothing had happened.

    run/
      recipe.yaml              the resolved recipe
      tokenizer/               made once at the start
      checkpoint/              state.json, weights.safetensors, optimiser.safetensors
      stages/NAME/             the same, as it was at the end of each stage
      metrics.jsonl            one line per report

A checkpoint is written to a folder beside the old one and swapped in by renaming, so there is always a complete one.
Everything is safetensors and JSON; nothing is pickled.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minicpmv.errors import CheckpointError
from minicpmv.training.optim import Optimisers, refuse_other_moments
from minicpmv.training.run_folder import not_saved, read_state, replace_checkpoint

_MOMENTS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")
"""Of AdamW, and of Muon."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands: `step` updates of stage number `stage` are done."""

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    """Training time so far, over all sessions."""


def save_checkpoint(
    folder: Path,
    position: Position,
    parts: Mapping[str, nn.Module],
    trainable: Mapping[str, nn.Parameter],
    optimiser: Optimisers,
) -> None:
    """Replace the run's checkpoint atomically.

    Args:
        folder: the run's folder.
        position: what has been done.
        parts: modules by part name; all their parameters are stored.
        trainable: parameters the optimiser holds, by name.
        optimiser: whose moments are stored by parameter name.

    Raises:
        SavingError: it could not be written; the checkpoint before it is intact.
    """
    fresh = folder / "checkpoint.new"
    shutil.rmtree(fresh, ignore_errors=True)
    weights = {
        f"{part}.{name}": p.detach().contiguous() for part, m in parts.items() for name, p in m.named_parameters()
    }
    try:
        fresh.mkdir(parents=True)
        save_file(weights, fresh / "weights.safetensors")
        save_file(_moments(trainable, optimiser), fresh / "optimiser.safetensors")
        replace_checkpoint(folder, asdict(position))
    except (OSError, SafetensorError) as error:
        raise not_saved(folder, error) from error


def keep_stage(folder: Path, name: str) -> None:
    """Keep the current checkpoint as the end of stage `name`; a later stage can be started from it again."""
    kept, fresh = folder / "stages" / name, folder / "stages" / f"{name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(folder / "checkpoint", fresh)
    shutil.rmtree(kept, ignore_errors=True)
    fresh.rename(kept)


def _moments(trainable: Mapping[str, nn.Parameter], optimiser: Optimisers) -> dict[str, Tensor]:
    stored = {}
    for name, parameter in trainable.items():
        for moment, value in optimiser.state_of(parameter).items():
            stored[f"{moment}.{name}"] = value.detach().clone().contiguous()
    return stored


def load_position(checkpoint: Path) -> Position:
    """Where the run stood when the checkpoint was written.

    Raises:
        CheckpointError: it is damaged, or of another kind of run.
    """
    names = [field.name for field in fields(Position)]
    state = read_state(checkpoint, names)
    return Position(**{name: state[name] for name in names})


def load_weights(checkpoint: Path, parts: Mapping[str, nn.Module]) -> None:
    """Fill all parts from a checkpoint.

    Raises:
        CheckpointError: the names or shapes differ from the recipe's model.
    """
    stored = load_file(checkpoint / "weights.safetensors")
    for part, module in parts.items():
        parameters = {f"{part}.{name}": parameter for name, parameter in module.named_parameters()}
        wrong = [name for name, p in parameters.items() if name not in stored or stored[name].shape != p.shape]
        if wrong:
            raise CheckpointError(
                f"{checkpoint} does not fit the recipe's model: {', '.join(wrong)}.",
                remedy="Use another --out folder, or the recipe this run was started with.",
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(stored[name])


def load_optimiser(checkpoint: Path, trainable: Mapping[str, nn.Parameter], optimiser: Optimisers) -> None:
    """Give an optimiser back its moments.

    Raises:
        CheckpointError: they are of another kind of optimiser.
    """
    stored = load_file(checkpoint / "optimiser.safetensors")
    refuse_other_moments(checkpoint, stored, trainable, optimiser)
    for name, parameter in trainable.items():
        state = {moment: stored[f"{moment}.{name}"] for moment in _MOMENTS if f"{moment}.{name}" in stored}
        if state:
            device = parameter.device
            optimiser.state_of(parameter).update({key: value.to(device) for key, value in state.items()})
