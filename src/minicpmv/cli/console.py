"""What a person at the terminal sees beside the answer: notes, errors and a sign of life, all on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def say(line: str) -> None:
    """Print one line on stderr, never wrapped."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show a spinner while something takes its time; nothing at all if stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
