"""Files that clients send once and ask about by name: `/v1/files`, as far as OpenAI's clients use it.

multipart body -> Uploads.take -> {"id": "file-...", ...}        {"type": "file", "file": {"file_id": ...}} -> a part

They lie in a folder of their own that goes with the server, each under a random name; what a client calls a file is
only ever told back.
"""

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from minicpmv.errors import MediaLimitError
from minicpmv.media.kinds import MediaKind, media_kind
from minicpmv.serve.errors import ProblemError, refuse

KEPT_S = 24 * 3600
"""How long a file is kept. Ours."""
MOST_FILES = 10_000
"""Files that are kept at a time. Ours."""
_MOST_NAME = 255


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that a client has sent.

    Attributes:
        id: what it is asked for by.
        name: what the client calls it.
        kind: what it holds.
        path: where it lies.
        num_bytes: its size.
        created: when it came, in seconds since 1970.
        purpose: what the client says it is for.
    """

    id: str
    name: str
    kind: MediaKind
    path: Path
    num_bytes: int
    created: int
    purpose: str

    def told(self) -> dict[str, Any]:
        """The object that clients get."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.num_bytes,
            "created_at": self.created,
            "expires_at": self.created + KEPT_S,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


class Uploads:
    """The files of all clients of a server.

    Args:
        most_bytes: of all of them together.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._folder: Path | None = None
        self._files: dict[str, Upload] = {}
        self._guard = threading.Lock()

    def take(self, content: BinaryIO, name: str, purpose: str) -> Upload:
        """Keep a file.

        Args:
            content: from its beginning.
            name: what the client calls it.
            purpose: what the client says it is for.

        Raises:
            MediaError: it is neither picture, clip nor PDF.
            MediaLimitError: there is no room for it.
        """
        identity = f"file-{secrets.token_hex(16)}"
        path = self._home() / identity
        try:
            with path.open("xb") as file:
                shutil.copyfileobj(content, file, 2**20)
            upload = Upload(
                identity, name[:_MOST_NAME], media_kind(path), path, path.stat().st_size, int(time.time()), purpose
            )
            self._add(upload)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return upload

    def get(self, identity: str) -> Upload:
        """A file by its id.

        Raises:
            ProblemError: there is none, or not any more.
        """
        with self._guard:
            self._forget_old()
            upload = self._files.get(identity)
        if upload is None:
            raise _gone(identity)
        return upload

    def all(self) -> list[Upload]:
        """What there is, newest first."""
        with self._guard:
            self._forget_old()
            return list(self._files.values())[::-1]

    def delete(self, identity: str) -> None:
        """Forget a file; one that is being read is read to its end.

        Raises:
            ProblemError: there is none.
        """
        self.get(identity)
        with self._guard:
            self._drop(identity)

    def close(self) -> None:
        """Delete everything."""
        with self._guard:
            self._files.clear()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None

    def named_by(self, part: Mapping[str, Any]) -> Upload:
        """The file that a part of a message names.

        Raises:
            ProblemError: there is no such file.
        """
        inner = part.get("file")
        named = inner if isinstance(inner, Mapping) else part
        return self.get(str(named.get("file_id")))

    def read(self, upload: Upload) -> bytes:
        """What a file holds.

        Raises:
            ProblemError: it is not there any more.
        """
        try:
            return upload.path.read_bytes()
        except FileNotFoundError:
            raise _gone(upload.id) from None

    def as_part(self, part: Mapping[str, Any], held: Mapping[str, bytes]) -> dict[str, Any]:
        """The part of a message that names an uploaded file, as one that holds it; its options stay.

        Args:
            part: of a message, with a `file_id`.
            held: contents by id.

        Raises:
            ProblemError: there is no such file.
        """
        upload = self.named_by(part)
        gone = ("type", "file", "file_id", "filename", "file_data", "detail")
        options = {key: value for key, value in part.items() if key not in gone}
        return {"type": upload.kind, upload.kind: held[upload.id], **options}

    def _home(self) -> Path:
        with self._guard:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="minicpmv-uploads-"))
            return self._folder

    def _add(self, upload: Upload) -> None:
        with self._guard:
            self._forget_old()
            held = sum(file.num_bytes for file in self._files.values())
            if held + upload.num_bytes > self.most_bytes or len(self._files) >= MOST_FILES:
                raise MediaLimitError(
                    f"There is no room for {upload.num_bytes} bytes; {held} of {self.most_bytes} are taken.",
                    remedy="Delete files that are not needed any more.",
                )
            self._files[upload.id] = upload

    def _forget_old(self) -> None:
        now = time.time()
        for identity in [file.id for file in self._files.values() if now - file.created > KEPT_S]:
            self._drop(identity)

    def _drop(self, identity: str) -> None:
        upload = self._files.pop(identity, None)
        if upload is not None:
            upload.path.unlink(missing_ok=True)


def _gone(identity: str) -> ProblemError:
    said = f"There is no file {identity[:64]!r} here."
    return refuse(said, status=404, param="file_id", code="file_not_found")


def names_upload(part: Any) -> bool:
    """Whether a part of a message names an uploaded file."""
    if not isinstance(part, Mapping):
        return False
    inner = part.get("file")
    return "file_id" in part or (isinstance(inner, Mapping) and "file_id" in inner)
