"""The command tree, and what happens when a command fails.

Answers go to stdout, everything else to stderr. A failure is one line that says what, where and what to do; the exit
code is 1, or 2 if the command line itself is wrong. A traceback appears only with `--debug`.

Nothing here imports torch: every command imports what it needs when it runs, so `minicpmv --help` is instant.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from minicpmv.cli.ask import ask
from minicpmv.cli.chat import chat
from minicpmv.cli.console import say
from minicpmv.cli.data import data
from minicpmv.cli.environment import env
from minicpmv.cli.evaluate import evaluate
from minicpmv.cli.export import export
from minicpmv.cli.inputs import MisuseError
from minicpmv.cli.plan import plan
from minicpmv.cli.recipes import recipes
from minicpmv.cli.serve import serve
from minicpmv.cli.train import train
from minicpmv.cli.web import web
from minicpmv.errors import MiniCPMVError

OK, FAILED, MISUSE, INTERRUPTED = 0, 1, 2, 130

_REMEDIES = {
    errno.ENOENT: "Check the path, or make the folder first.",
    errno.EEXIST: "Choose another name: a file is in the way.",
    errno.ENOTDIR: "Choose another name: a file is in the way.",
    errno.EISDIR: "Name a file, not a folder.",
    errno.EACCES: "Choose a place that you may read and write.",
    errno.EPERM: "Choose a place that you may read and write.",
    errno.EROFS: "Choose a place that can be written to.",
    errno.ENOSPC: "Free some space, or choose another disk.",
}

app = typer.Typer(
    name="minicpmv",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Ask MiniCPM-V about pictures, PDF pages and clips.",
)
app.command()(ask)
app.command()(chat)
app.command()(plan)
app.command()(serve)
app.command()(web)
app.command()(train)
app.command("eval")(evaluate)
app.add_typer(data, name="data")
app.add_typer(recipes, name="recipes")
app.add_typer(export, name="export")
app.command()(env)


@app.callback()
def everywhere(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Ask MiniCPM-V about pictures, PDF pages and clips."""


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: the words after `minicpmv`; `--debug` may stand anywhere among them.
    """
    debug = "--debug" in arguments
    words = [word for word in arguments if word != "--debug"] or ["--help"]
    try:
        code = app(args=words, prog_name="minicpmv", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`minicpmv ... | head`); say nothing more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `minicpmv data` alone; typer keeps the class to itself
            print(error.format_message())  # type: ignore[attr-defined]
            return OK
        if debug:
            traceback.print_exc()
        line, code = explain(error)
        say(f"error: {line}")
        return code
    return code if isinstance(code, int) else OK


def explain(error: Exception) -> tuple[str, int]:
    """One line about an error, and the exit code it leads to."""
    if isinstance(error, MiniCPMVError):
        return str(error), FAILED
    if isinstance(error, MisuseError):
        return str(error), MISUSE
    if hasattr(error, "format_message"):  # typer's own complaints about the command line
        # A value that an option does not accept is bad input; an unknown option or a missing argument is misuse.
        bad_value = type(error) is typer.BadParameter
        return f"{_one_line(error.format_message())} See `minicpmv --help`.", FAILED if bad_value else MISUSE
    if isinstance(error, OSError) and error.filename:
        place = str(error.filename).removesuffix(".partial")  # what is written is named so until it is whole
        remedy = _REMEDIES.get(error.errno or 0, "")
        return f"{error.strerror}: '{place}'.{remedy and ' '}{remedy}", FAILED
    return f"{type(error).__name__}: {_one_line(str(error))} Run again with --debug for the traceback.", FAILED


def _one_line(text: str) -> str:
    joined = " ".join(text.split())
    return joined if not joined or joined.endswith((".", "!", "?")) else f"{joined}."


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))
