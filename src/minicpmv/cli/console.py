"""What a person at the terminal sees beside the answer: notes, errors and a sign of life, all on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minicpmv.errors import OptionError


def say(line: str) -> None:
    """Print one line on stderr, never wrapped."""
    print(line, file=sys.stderr, flush=True)


def refuse_folder(option: str, path: Path) -> None:
    """A file can be written there; better known before the work than after it.

    Raises:
        OptionError: it is a folder, or lies in none.
    """
    if not path.name or path.is_dir():
        raise OptionError(f"{option} is '{path}', a folder.", remedy="Name a file.")
    if not path.parent.is_dir():
        raise OptionError(f"{option} is '{path}', and there is no folder {path.parent}.", remedy="Make it first.")


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show a spinner while something takes its time; nothing at all if stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
