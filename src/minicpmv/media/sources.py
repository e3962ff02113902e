"""What a person may hand over as a picture, clip or document, and the local half of reading it.

A path stays a path, so that a film is never read into memory; everything else becomes bytes.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO, TypeAlias
from urllib.parse import urlsplit

from PIL import Image

from minicpmv.errors import MediaError, MediaLimitError, MediaNotFoundError
from minicpmv.messages import Source

MediaSource: TypeAlias = Source | bytearray | memoryview
"""What a message part may name, and the other forms that bytes have."""

_SHOWN_CHARACTERS = 120


def source_name(source: object) -> str:
    """How an error message calls a source: short, on one line, without the contents or the query of a URL.

    >>> source_name("https://example.org/a.png?token=secret"), source_name(b"12345"), source_name("clip.mp4")
    ('https://example.org/a.png', '5 bytes', 'clip.mp4')
    """
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if isinstance(text, bytes):
            text = os.fsdecode(text)
        if text[:5].lower() == "data:":
            return "the data: URI"
        if "://" in text[:32]:
            text = _without_secrets(text)
        return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source)} bytes"
    if isinstance(source, Image.Image):
        return f"the {source.mode} image of {source.width}x{source.height} px"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"the {type(source).__name__} object"


def _without_secrets(url: str) -> str:
    """Scheme, host and path; a user name, password or query may be a secret."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    except ValueError:
        return url.split("?", 1)[0]


def local_file(path: Path) -> Path:
    """The same path, once it is known to be a readable, regular file with something in it.

    Raises:
        MediaNotFoundError: there is no such file.
        MediaError: it is a folder, a device or a pipe, is empty, or may not be read.
    """
    name = source_name(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise MediaNotFoundError(f"{name} does not exist.", remedy="Check the path.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{name} is not a path that can be opened ({reason}).", remedy="Check the path.") from None
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"{name} is a folder.", remedy="Name the file inside it.")
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{name} is a device or pipe, not a file.", remedy="Save its contents to a file first.")
    if status.st_size == 0:
        raise MediaError(f"{name} is empty (0 bytes).", remedy="Copy or download it again.")
    if not os.access(path, os.R_OK):
        raise MediaError(f"{name} may not be read by this user.", remedy="Change its permissions, or copy it.")
    return path


def file_bytes(file: BinaryIO, max_bytes: int) -> bytes:
    """Everything in an open file, from its beginning where it can go back; the file stays open.

    Raises:
        MediaError: it is empty, in text mode, or cannot be read.
        MediaLimitError: it holds more than `max_bytes`.
    """
    name = source_name(file)
    try:
        if file.seekable():
            file.seek(0)
        contents = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise MediaError(f"{name} cannot be read ({error}).", remedy="Open it for reading in binary mode.") from error
    if not isinstance(contents, bytes):
        raise MediaError(f"{name} is open in text mode.", remedy="Open it with mode 'rb'.")
    if len(contents) > max_bytes:
        raise MediaLimitError(f"{name} holds more than {max_bytes} bytes.", remedy="Pass its path instead.")
    return some_bytes(contents)


def some_bytes(contents: bytes | bytearray | memoryview) -> bytes:
    """The same contents as `bytes`, which must not be empty.

    Raises:
        MediaError: there are none.
    """
    if len(contents) == 0:
        raise MediaError("The file's contents are empty (0 bytes).", remedy="Check how they were read.")
    return bytes(contents)
