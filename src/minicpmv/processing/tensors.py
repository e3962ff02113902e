"""Arrays to the tensor type that was asked for."""

from dataclasses import fields
from typing import Any

import numpy as np

from minicpmv.errors import OptionError
from minicpmv.processing.item_rows import VisualRows


def convert(value: Any, return_tensors: str | None) -> Any:
    """An array as a torch tensor that shares its memory, as numpy, or, for None, as it is.

    Raises:
        OptionError: a tensor type other than "pt" and "np".
    """
    kind = getattr(return_tensors, "value", return_tensors)
    if kind == "pt":
        import torch

        return torch.from_numpy(np.ascontiguousarray(value))
    if kind in ("np", None):
        return value
    raise OptionError(f"return_tensors is {kind!r}.", remedy='Use "pt", "np" or None.')


def to_tensors(rows: VisualRows, return_tensors: str | None) -> dict[str, Any]:
    """The four visual arrays by the names of the model's arguments."""
    return {item.name: convert(getattr(rows, item.name), return_tensors) for item in fields(rows)}
