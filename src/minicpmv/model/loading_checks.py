"""A checkpoint either fits or is refused, with every offending tensor named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from minicpmv.errors import CheckpointError


def refuse_incomplete(load: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run transformers' `from_pretrained` and turn what it would only warn about into one error.

    Args:
        load: the bound `from_pretrained` of the parent class.
        *args: passed on.
        **kwargs: passed on.

    Raises:
        CheckpointError: tensors are missing, unexpected or misshaped.
    """
    quantized = kwargs.get("quantization_config") is not None
    model, report = load(*args, **{**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True})
    problems = []
    # A quantised checkpoint stores extra tensors beside the weights; only what is absent counts there.
    unexpected = () if quantized or hasattr(model, "hf_quantizer") else report["unexpected_keys"]
    for title, names in (("missing", report["missing_keys"]), ("unexpected", unexpected)):
        if names:
            problems.append(f"{len(names)} {title}: {_listed(names)}")
    if report["mismatched_keys"] and not kwargs.get("ignore_mismatched_sizes"):
        shapes = [f"{key[0]} is {tuple(key[1])}, expected {tuple(key[2])}" for key in report["mismatched_keys"]]
        problems.append(f"{len(shapes)} misshaped: {_listed(shapes)}")
    if problems:
        where = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        raise CheckpointError(
            f"The checkpoint {where!s} does not fit its config.json. {'; '.join(problems)}.",
            remedy="Check that config.json and the weights belong together.",
        )
    return model


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(str(name) for name in names))
