"""`/v1/files` of the application: send, list, look up, read back, delete."""

from collections.abc import AsyncGenerator, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from minicpmv.serve.errors import refuse
from minicpmv.serve.uploads import Uploads

_MOST_FIELDS = 8


def add_files(app: FastAPI, uploads: Uploads, authorize: Callable[[Request], None], most_bytes: int) -> None:
    """Add the addresses.

    Args:
        app: to which.
        uploads: holds the files.
        authorize: refuses who has no key.
        most_bytes: of a request.
    """

    @app.post("/v1/files")
    async def send(request: Request) -> JSONResponse:
        authorize(request)
        return JSONResponse(await received(request, uploads, most_bytes))

    @app.get("/v1/files")
    async def listed(request: Request) -> JSONResponse:
        authorize(request)
        files = [upload.told() for upload in uploads.all()]
        ends = {"first_id": files[0]["id"], "last_id": files[-1]["id"]} if files else {}
        return JSONResponse({"object": "list", "data": files, "has_more": False, **ends})

    @app.get("/v1/files/{identity}")
    async def told(request: Request, identity: str) -> JSONResponse:
        authorize(request)
        return JSONResponse(uploads.get(identity).told())

    @app.get("/v1/files/{identity}/content")
    async def content(request: Request, identity: str) -> FileResponse:
        authorize(request)
        return FileResponse(uploads.get(identity).path, media_type="application/octet-stream")

    @app.delete("/v1/files/{identity}")
    async def delete(request: Request, identity: str) -> JSONResponse:
        authorize(request)
        uploads.delete(identity)
        return JSONResponse({"id": identity, "object": "file", "deleted": True})


async def received(request: Request, uploads: Uploads, most_bytes: int) -> dict[str, Any]:
    """Keep the file of a request.

    Raises:
        ProblemError: no form, no file in it, or too much.
        MediaError: the file is of no kind that is read here.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise refuse("A file is sent as multipart/form-data, in a field called file.")
    parser = MultiPartParser(request.headers, _bounded(request, most_bytes), max_files=1, max_fields=_MOST_FIELDS)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise refuse(f"The form cannot be read: {error}.") from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise refuse("The form has no file in a field called file.", param="file")
        purpose = str(form.get("purpose") or "user_data")[:64]
        kept = await run_in_threadpool(uploads.take, file.file, file.filename or "file", purpose)
    finally:
        await form.close()
    return kept.told()


async def _bounded(request: Request, most_bytes: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > most_bytes:
            raise refuse(f"The request has more than {most_bytes} bytes.", status=413)
        yield piece
