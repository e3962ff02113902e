"""The exception family: every failure a caller can cause has one type here.

Each message is one line that says what happened, where, and what to do about it. The command line prints exactly
that line and exits with 1; a traceback appears only with `--debug`. All of them derive from `MiniCPMVError`, so an
application needs a single `except`; each also derives from the built-in exception a Python user would expect.
"""

from typing import Any


class MiniCPMVError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: what happened and where, with the numbers that matter.
        remedy: what the reader can do about it; appended to the message.
    """

    def __init__(self, what: str, *, remedy: str = "") -> None:
        self.what = " ".join(what.split())
        self.remedy = " ".join(remedy.split())
        end = "" if self.what.endswith((".", "!", "?")) else "."
        super().__init__(f"{self.what}{end} {self.remedy}".strip())

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.what, self.remedy)


def _rebuilt(kind: type[MiniCPMVError], what: str, remedy: str) -> MiniCPMVError:
    """An error that comes from another process."""
    return kind(what, remedy=remedy)


class MediaError(MiniCPMVError, ValueError):
    """A picture, clip or document cannot be used: empty, truncated, encrypted, or not what its name says."""


class MediaNotFoundError(MediaError, FileNotFoundError):
    """The file does not exist."""


class MediaLimitError(MediaError):
    """A file is larger than a limit that protects memory or time."""


class FetchError(MediaError):
    """A URL was refused by policy, or could not be read within the limits."""


class OptionError(MiniCPMVError, ValueError):
    """An option has a value outside its range, or is not an option at all."""


class MessageError(MiniCPMVError, ValueError):
    """A conversation is not in a form we can read: roles, parts, or a count of media that does not fit the text."""


class ContextLengthError(MiniCPMVError, ValueError):
    """The prompt and the requested answer do not fit the model's context."""


class QueueFullError(MiniCPMVError):
    """More requests are waiting than may wait."""


class EngineError(MiniCPMVError):
    """The engine has stopped, or a step of it went wrong."""


class ShapeContractError(MiniCPMVError, ValueError):
    """Tensors handed to the model contradict each other."""


class ConfigurationError(MiniCPMVError, ValueError):
    """A model configuration is incomplete or inconsistent."""


class CheckpointError(MiniCPMVError, ValueError):
    """A checkpoint is missing tensors, has extra ones, or has them in other shapes; all are named."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """The folder or hub id holds no checkpoint that can be reached."""


class SettingsError(MiniCPMVError, ValueError):
    """A recipe or settings file has an unknown key, a wrong type, or a value out of range."""
