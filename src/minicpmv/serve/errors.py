"""Errors as clients of the OpenAI API expect them: a status, and one object that says what, where, and what to do.

MiniCPMVError | pydantic.ValidationError -> Problem(status, type, message, param) -> {"error": {...}}
"""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from minicpmv.errors import (
    ContextLengthError,
    EngineError,
    FetchError,
    MediaLimitError,
    MiniCPMVError,
    QueueFullError,
)

RETRY_AFTER_S = 2
"""What a client is told to wait when the queue is full. Ours."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An error on its way to a client."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        """The object of the answer."""
        message = self.message.encode("utf-8", "replace").decode()  # it may quote what cannot be sent
        return {"error": {"message": message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        return {"Retry-After": str(RETRY_AFTER_S)} if self.status == 429 else {}


class ProblemError(Exception):
    """Raised where a request is refused; carries what the client is told."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def refuse(message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> ProblemError:
    """A refusal for the caller to raise."""
    kind = {401: "authentication_error", 404: "not_found_error", 413: "invalid_request_error"}
    return ProblemError(Problem(status, message, kind.get(status, "invalid_request_error"), param, code))


def problem_of(error: BaseException) -> Problem:
    """What a client is told about an error; of one that nobody foresaw, only that there was one."""
    if isinstance(error, ProblemError):
        return error.problem
    if isinstance(error, ValidationError):
        return _of_validation(error)
    if isinstance(error, QueueFullError):
        return Problem(429, str(error), "rate_limit_error", code="queue_full")
    if isinstance(error, EngineError):
        return Problem(503, str(error), "server_error", code="engine")
    if isinstance(error, ContextLengthError):
        return Problem(400, str(error), param="messages", code="context_length_exceeded")
    if isinstance(error, MediaLimitError):
        return Problem(413, str(error), param="messages", code="media_too_large")
    if isinstance(error, FetchError):
        message = f"{error.what} Send the contents as a data: URI; --allow-media-domains of the server allows hosts."
        return Problem(400, message, param="messages", code="media_not_fetched")
    if isinstance(error, MiniCPMVError):
        return Problem(400, str(error))
    return Problem(500, "The server failed on this request; its log says why.", "server_error", code="internal")


def _of_validation(error: ValidationError) -> Problem:
    """The first thing that is wrong with a body, by its place."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    message = str(first["msg"]).removeprefix("Value error, ")
    return Problem(400, f"{place}: {message}" if place else message, param=place or None, code=str(first["type"]))
