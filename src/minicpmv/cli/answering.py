"""A model for the terminal: loaded with a sign of life, introduced if it is the small one, and quiet otherwise."""

import sys
from typing import TYPE_CHECKING

from minicpmv.cli.console import say, working

if TYPE_CHECKING:
    from minicpmv.cli.options import ModelFlags
    from minicpmv.generation.chat import Assistant
    from minicpmv.generation.loading import Loaded

NANO_NOTICE = """\
note: this is the bundled nano model, {millions:.1f} million parameters. It knows colours, shapes and places in
note: pictures and short clips, reads short printed lines with one wrong character in nineteen, and guesses at
note: most of a page. For real use add the option --model openbmb/MiniCPM-V-4_5 (17 GB, downloaded once) or name
note: a local folder."""


def open_assistant(run: "ModelFlags") -> "Assistant":
    """Load the model, or the bundled nano and say so.

    Args:
        run: which model, and where.
    """
    from minicpmv.generation.chat import Assistant

    loaded = open_loaded(run)
    return Assistant(loaded.model, loaded.processor, name=loaded.name, is_bundled=loaded.is_bundled)


def open_loaded(run: "ModelFlags") -> "Loaded":
    """The model and its processor, as for `open_assistant`."""
    with working(f"loading {run.model or 'the bundled nano model'}"):
        from minicpmv.generation.loading import load

        hush_libraries(progress=run.model is not None and sys.stderr.isatty())
        loaded = load(run.model, device=run.device, dtype=run.dtype, quantization=run.quantization)
    if loaded.is_bundled:
        for line in NANO_NOTICE.format(millions=loaded.num_parameters / 1e6).splitlines():
            say(line)
    return loaded


def hush_libraries(*, progress: bool) -> None:
    """Keep transformers' advice to developers off the terminal, and its progress bars where nobody watches."""
    import logging

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it wherever it is installed
    if not progress:
        transformers_logging.disable_progress_bar()
