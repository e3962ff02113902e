"""Makes `AutoModelForImageTextToText`, `AutoProcessor` and their siblings know this family, without importing them.

    import minicpmv -> install() -> (transformers' auto modules are imported, now or later) -> our names in their tables

Registering by class needs the classes, and those need torch: seconds that `minicpmv --help` and data workers should not
pay. transformers' own families are listed by *name* and imported on first use; ours joins them in the same way. A small
module stands for `transformers.models.minicpmv` and loads a class when it is asked for, and the tables of names get one
line each as soon as transformers has made them.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

MODEL_TYPE = "minicpmv"
_ALIAS = f"transformers.models.{MODEL_TYPE}"
_HOMES = {
    "MiniCPMVConfig": "minicpmv.model.configuration",
    "MiniCPMVForConditionalGeneration": "minicpmv.model.modeling",
    "MiniCPMVTokenizerFast": "minicpmv.processing.tokenizer",
    "MiniCPMVImageProcessor": "minicpmv.processing.image_processor",
    "MiniCPMVProcessor": "minicpmv.processing.processor",
}
_MODEL = "MiniCPMVForConditionalGeneration"
_AUTO = "transformers.models.auto"
# In each auto module, the tables of names that a family has to be in.
_TABLES: dict[str, dict[str, Any]] = {
    f"{_AUTO}.configuration_auto": {"CONFIG_MAPPING_NAMES": "MiniCPMVConfig"},
    f"{_AUTO}.modeling_auto": {
        "MODEL_MAPPING_NAMES": _MODEL,
        "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": _MODEL,
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": _MODEL,
        "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES": _MODEL,
    },
    f"{_AUTO}.tokenization_auto": {"TOKENIZER_MAPPING_NAMES": "MiniCPMVTokenizerFast"},
    f"{_AUTO}.image_processing_auto": {"IMAGE_PROCESSOR_MAPPING_NAMES": {"pil": "MiniCPMVImageProcessor"}},
    f"{_AUTO}.processing_auto": {"PROCESSOR_MAPPING_NAMES": "MiniCPMVProcessor"},
}


class _FamilyModule(ModuleType):
    """Stands where transformers would keep the family, and loads a class when it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {_ALIAS!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def _enrol(module: ModuleType) -> None:
    """Add the family to the name tables of an auto module that has been executed."""
    for table, name in _TABLES[module.__name__].items():
        if hasattr(module, table):
            getattr(module, table)[MODEL_TYPE] = name
    for mapping in vars(module).values():
        # Built before the family had a name in the table of configurations; otherwise it is in already.
        by_class = getattr(mapping, "_reverse_config_mapping", None)
        if isinstance(by_class, dict):
            by_class.setdefault("MiniCPMVConfig", MODEL_TYPE)


class _ThenEnrol(Loader):
    """Runs a module with its own loader, then enrols the family."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _enrol(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _AutoModules(MetaPathFinder):
    """Stands before the other finders and wraps the loaders of the auto modules."""

    def __init__(self) -> None:
        self.waiting = set(_TABLES)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.waiting:
            return None
        self.waiting.remove(fullname)  # so that the search below reaches the ordinary finders
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenEnrol(spec.loader)
        return spec


def install() -> None:
    """Join what transformers has already imported, and wait for the rest; calling it again changes nothing."""
    if _ALIAS in sys.modules:
        return
    sys.modules[_ALIAS] = _FamilyModule(_ALIAS)
    finder = _AutoModules()
    for name in _TABLES:
        module = sys.modules.get(name)
        if module is not None:
            finder.waiting.discard(name)
            _enrol(module)
    sys.meta_path.insert(0, finder)
