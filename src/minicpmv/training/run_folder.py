"""A run's folder: one process at a time, checkpoints that are complete or not there, notes that are whole.

    run/
      lock               held while somebody trains here
      recipe.yaml        what is carried out
      checkpoint/        the newest complete one; between two renames, checkpoint.old is
      metrics.jsonl      a line per report

Both engines keep theirs this way; what stands in a checkpoint is their own matter.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minicpmv.errors import CheckpointError, MiniCPMVError


class TrainingError(MiniCPMVError, RuntimeError):
    """Training cannot go on, for example because the loss is not a number."""


class SavingError(MiniCPMVError, OSError):
    """A checkpoint, or a file beside it, could not be written; the last complete checkpoint is intact."""


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Nobody else trains in the folder.

    Raises:
        TrainingError: somebody does.
    """
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise TrainingError(
            f"Another process is training in {folder}.", remedy="Wait for it, stop it, or name another --out."
        ) from None


def write_text(path: Path, text: str) -> None:
    """A text file that is there as a whole or as it was before."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def replace_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Finish `checkpoint.new` by its `state.json`, make sure that it is on the disk, and rename it into its place."""
    fresh, place, old = (folder / name for name in ("checkpoint.new", "checkpoint", "checkpoint.old"))
    (fresh / "state.json").write_text(json.dumps(state), encoding="utf-8")
    for path in fresh.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if place.exists():  # without it, checkpoint.old is the only complete one
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def find_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, also after a crash between two renames."""
    for name in ("checkpoint", "checkpoint.old"):
        if (folder / name / "state.json").is_file():
            return folder / name
    return None


def read_state(checkpoint: Path, wanted: Collection[str]) -> dict[str, Any]:
    """The `state.json` of a checkpoint.

    Args:
        checkpoint: its folder.
        wanted: names that it has to hold.

    Raises:
        CheckpointError: it is damaged, or of another kind of run.
    """
    path = checkpoint / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}", remedy="Name another --out folder, or remove the damaged checkpoint."
        ) from None
    if not isinstance(state, dict) or not state.keys() >= set(wanted):
        raise CheckpointError(
            f"{checkpoint.parent} holds a run of another kind of recipe.", remedy="Name another --out folder."
        )
    return state


def keep_notes(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Of a file with a JSON object per line, keep those that are wanted.

    A line that was cut off while it was written, or that lacks what is asked of it, is not kept. Without the file,
    nothing happens.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        with contextlib.suppress(ValueError, LookupError, TypeError):
            if wanted(json.loads(line)):
                kept.append(line)
    write_text(path, "".join(kept))


def add_note(path: Path, note: Mapping[str, Any]) -> None:
    """Add a line to a file with a JSON object per line.

    Raises:
        SavingError: it could not be written.
    """
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(note) + "\n")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around whatever writes a file or folder of a run; a full disk has no name of a file to tell.

    Raises:
        SavingError: it could not be written.
    """
    try:
        yield
    except MiniCPMVError:
        raise  # it says what to do already
    except (OSError, SafetensorError) as error:
        raise _not_written(path, error) from error


def not_saved(folder: Path, failure: object) -> SavingError:
    """What to say when a checkpoint could not be written."""
    return _not_written(folder / "checkpoint.new", failure)


def _not_written(path: Path, failure: object) -> SavingError:
    return SavingError(
        f"{path} could not be written: {failure}",
        remedy="The last complete checkpoint is intact. Free some space and run the same command again.",
    )


def kept_passes(path: Path) -> list[dict[str, Tensor]]:
    """The passes of a stage's batch that was kept, as inputs of `TokenLoss`, to do the step again and look into it."""
    passes: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_file(path).items():
        number, _, inner = name.partition(".")
        passes.setdefault(int(number), {})[inner] = tensor
    return [inputs for _, inputs in sorted(passes.items())]


def not_finite(path: Path, step: int, loss: float, norm: float, tensors: Mapping[str, Tensor]) -> TrainingError:
    """Keep the batch after which loss or gradients were no numbers, and say so."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    return TrainingError(
        f"At step {step} the loss is {loss} and the gradient norm {norm}. The batch is kept in {path}.",
        remedy="The last checkpoint is intact; look at the batch, or lower the rates with --set, and run again.",
    )
