"""An independent, native transformers implementation of MiniCPM-V 4.5 and 4.0.

Public names are loaded on first use: `import minicpmv` alone touches neither torch nor transformers, so that
`minicpmv --help` is instant and data workers stay light. transformers' Auto classes know the family from then on.

    from minicpmv import MiniCPMVForConditionalGeneration, MiniCPMVProcessor
"""

from importlib import import_module
from typing import Any

from minicpmv.registration import install

_HOMES = {
    "Message": "minicpmv.messages",
    "parse_messages": "minicpmv.messages",
    "MiniCPMVConfig": "minicpmv.model.configuration",
    "MiniCPMVForConditionalGeneration": "minicpmv.model.modeling",
    "MiniCPMVImageProcessor": "minicpmv.processing.image_processor",
    "MiniCPMVVideoProcessor": "minicpmv.processing.video_processor",
    "MiniCPMVProcessor": "minicpmv.processing.processor",
    "Assistant": "minicpmv.generation.chat",
    "load": "minicpmv.generation.loading",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'minicpmv' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__


install()
