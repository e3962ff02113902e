"""An independent, native transformers implementation of MiniCPM-V 4.5 and 4.0.

Public names are loaded on first use: `import minicpmv` alone touches neither torch nor transformers, so that
`minicpmv --help` is instant and data workers stay light. transformers' Auto classes know the family from then on.

    from minicpmv import MiniCPMVForConditionalGeneration, MiniCPMVProcessor
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from minicpmv.registration import install

if TYPE_CHECKING:  # the same names for type checkers and editors
    from minicpmv.generation.chat import Assistant as Assistant
    from minicpmv.generation.loading import load as load
    from minicpmv.messages import Message as Message
    from minicpmv.messages import parse_messages as parse_messages
    from minicpmv.model.configuration import MiniCPMVConfig as MiniCPMVConfig
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration as MiniCPMVForConditionalGeneration
    from minicpmv.processing.image_processor import MiniCPMVImageProcessor as MiniCPMVImageProcessor
    from minicpmv.processing.processor import MiniCPMVProcessor as MiniCPMVProcessor
    from minicpmv.processing.video_processor import MiniCPMVVideoProcessor as MiniCPMVVideoProcessor

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
