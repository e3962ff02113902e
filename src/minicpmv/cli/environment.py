"""`minicpmv env`: versions and hardware, for a bug report."""

import importlib.util
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from minicpmv.cli import options as shared

PACKAGES = (
    "minicpmv",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "huggingface_hub",
    "peft",
    "numpy",
    "pillow",
    "av",
    "pypdfium2",
    "typer",
    "rich",
)


def env(as_json: shared.Json = False) -> None:
    """Show versions and hardware, for a bug report."""
    facts = gather()
    if as_json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def gather() -> dict[str, Any]:
    """What a maintainer needs to know, under short names; versions of absent packages are None."""
    facts: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    facts.update({name: _version(name) for name in PACKAGES})
    facts["cpu_cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts["memory_gib"] = _memory_gib()
    facts.update(_devices())
    facts["bundled_nano"] = _has_nano()
    facts["offline"] = os.environ.get("HF_HUB_OFFLINE", "0") not in {"", "0"}
    return facts


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory_gib() -> float | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or sys.platform == "win32":
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _devices() -> dict[str, Any]:
    if importlib.util.find_spec("torch") is None:
        return {"gpus": None}
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"torch_threads": torch.get_num_threads(), "cuda": torch.version.cuda, "gpus": gpus}


def _has_nano() -> bool:
    from importlib.resources import files

    return (files("minicpmv") / "assets" / "nano" / "config.json").is_file()
