"""Find a checkpoint and bring it into memory: the bundled nano, a local folder, or a name on the hub.

Everything that can be wrong with it, from a mistyped name to a truncated weight file, ends in one line of ours rather
than in a page of transformers' advice.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from minicpmv.errors import CheckpointError, CheckpointNotFoundError, MiniCPMVError, OptionError
from minicpmv.model.packed_linear import check_quantization, pack_linears

if TYPE_CHECKING:
    from minicpmv.model.configuration import MiniCPMVConfig
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration
    from minicpmv.processing.processor import MiniCPMVProcessor

BUNDLED = "nano"
DTYPES = ("auto", "float32", "bfloat16", "float16")

_SMALL = 256 * 2**20
"""Bytes of weights that a CPU may as well hold in float32."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to answer, with the processor that belongs to it."""

    model: "MiniCPMVForConditionalGeneration"
    processor: "MiniCPMVProcessor"
    name: str
    is_bundled: bool
    num_parameters: int
    """Of the model before its weights were packed."""


def bundled_folder() -> Path:
    """Where the nano checkpoint lies inside the package.

    Raises:
        CheckpointNotFoundError: this installation has none.
    """
    folder = Path(str(files("minicpmv"))) / "assets" / BUNDLED
    if not (folder / "config.json").is_file():
        raise CheckpointNotFoundError(
            "This installation holds no bundled nano model.",
            remedy="Name a model with --model (in Python: load('folder or hub id')), or make one with "
            "`minicpmv train nano`.",
        )
    return folder


def load(
    model: str | Path | None = None, *, device: str = "auto", dtype: str = "auto", quantization: str | None = None
) -> Loaded:
    """Load a checkpoint for answering.

    Args:
        model: a folder, a hub id such as `openbmb/MiniCPM-V-4_5`, or `nano` or None for the bundled one.
        device: `auto` takes all GPUs there are, or else the CPU; otherwise a torch device such as `cpu` or `cuda:1`.
        dtype: `auto` keeps the checkpoint's, except for folders as small as nano on a CPU, which is faster in float32.
        quantization: `int8` or `int4` packs the weights of the language model, which writes faster on a CPU that way.

    Raises:
        CheckpointNotFoundError: nothing is there, or the hub cannot be reached.
        CheckpointError: tensors are missing, unexpected or misshaped, or a file is damaged.
        OptionError: no such device, dtype or quantization, or one that does not go with the device.
    """
    place = checked_device(device)
    if dtype not in DTYPES:
        raise OptionError(f"The dtype is {dtype!r}.", remedy=f"Choose one of {', '.join(DTYPES)}.")
    if quantization is not None:
        check_quantization(quantization, place)
    source = find_checkpoint(model)
    is_bundled = is_bundled_name(model)
    if dtype == "auto" and place.type == "cpu" and _is_small(source):
        dtype = "float32"
    loaded = _read_model(source, device=place, spread=device == "auto", dtype=dtype)
    num_parameters = loaded.num_parameters()
    if quantization is not None:
        pack_linears(loaded.llm, quantization)
    return Loaded(loaded, read_processor(source), BUNDLED if is_bundled else str(model), is_bundled, num_parameters)


def checked_device(device: str) -> torch.device:
    """The torch device of this name; `auto` is the first GPU or else the CPU.

    Raises:
        OptionError: it is no device, or not one of this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise OptionError(f"The device {device!r} cannot be used: {reason}", remedy="Try --device cpu.") from error
    return place


def find_checkpoint(model: str | Path | None) -> str | Path:
    """Where a checkpoint is: a folder that exists, or a hub id that is taken at its word.

    Raises:
        CheckpointNotFoundError: it can be neither.
    """
    if model is None or is_bundled_name(model):
        return bundled_folder()
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointNotFoundError(
                f"The folder '{model}' has no config.json.", remedy="Name the folder that `save_pretrained` wrote."
            )
        return folder
    text = str(model)
    if isinstance(model, Path) or text.startswith((".", "/", "~")) or text.count("/") != 1 or folder.exists():
        raise CheckpointNotFoundError(
            f"There is no folder '{model}'.", remedy="Name a local folder or a hub id such as openbmb/MiniCPM-V-4_5."
        )
    return text


def is_bundled_name(model: str | Path | None) -> bool:
    """Whether the bundled nano is meant: by no name, or by its own where no folder is called so."""
    return model is None or (str(model) == BUNDLED and not Path(BUNDLED).exists())


def _is_small(source: str | Path) -> bool:
    return isinstance(source, Path) and sum(one.stat().st_size for one in source.glob("*.safetensors")) < _SMALL


def _read_model(
    source: str | Path, *, device: torch.device, spread: bool, dtype: str
) -> "MiniCPMVForConditionalGeneration":
    from minicpmv.model.modeling import MiniCPMVForConditionalGeneration

    with explained(source):
        model: MiniCPMVForConditionalGeneration = MiniCPMVForConditionalGeneration.from_pretrained(
            source,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            device_map="auto" if spread and device.type != "cpu" else device,
        )
    model.eval()
    return model


def read_config(source: str | Path) -> "MiniCPMVConfig":
    """The configuration of a checkpoint, without its weights.

    Args:
        source: a folder or a hub id.

    Raises:
        CheckpointError: it is missing or cannot be read.
    """
    from minicpmv.model.configuration import MiniCPMVConfig

    with explained(source):
        config: MiniCPMVConfig = MiniCPMVConfig.from_pretrained(source)
    return config


def read_processor(source: str | Path) -> "MiniCPMVProcessor":
    """The processor of a checkpoint.

    Args:
        source: a folder or a hub id.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    from minicpmv.processing.processor import MiniCPMVProcessor

    with explained(source):
        processor: MiniCPMVProcessor = MiniCPMVProcessor.from_pretrained(source)
    return processor


class explained:  # noqa: N801 - reads as a phrase
    """Turns what transformers, the hub client and safetensors raise about a checkpoint into one line of ours."""

    def __init__(self, source: str | Path) -> None:
        self._source = source

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, MiniCPMVError) or not isinstance(error, Exception):
            return
        from safetensors import SafetensorError

        if isinstance(error, SafetensorError):
            raise CheckpointError(
                f"A weight file of '{self._source}' is damaged or incomplete: {_first_line(error)}.",
                remedy="Download or copy it again.",
            ) from error
        if isinstance(error, OSError):
            raise self._unreachable(error) from error
        if isinstance(error, ValueError | KeyError | RuntimeError):
            raise CheckpointError(f"The checkpoint '{self._source}' cannot be read: {_first_line(error)}.") from error

    def _unreachable(self, error: OSError) -> MiniCPMVError:
        if isinstance(self._source, Path):
            return CheckpointNotFoundError(
                f"A file of the checkpoint '{self._source}' is missing: {_first_line(error)}."
            )
        return CheckpointNotFoundError(
            f"The model '{self._source}' is neither a folder nor in the hub cache, and the hub did not provide it.",
            remedy="Check the name and the connection, or download it first and name the folder.",
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
