"""The ASGI application: who may ask, how much, and what is answered.

POST /v1/chat/completions, POST /v1/responses, GET /v1/models, GET /health, GET /metrics
"""

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from minicpmv.errors import MiniCPMVError
from minicpmv.messages import is_whole
from minicpmv.serve.chat import Completion
from minicpmv.serve.described import describe
from minicpmv.serve.errors import Problem, ProblemError, problem_of, refuse
from minicpmv.serve.files import add_files
from minicpmv.serve.metrics import Metrics
from minicpmv.serve.responses import ResponsesRequest, ResponseText, response_events
from minicpmv.serve.schema import ChatRequest
from minicpmv.serve.service import Answers, Service
from minicpmv.serve.streaming import EventStream

log = logging.getLogger("minicpmv.serve")

CLIENT_LEFT = 499
"""Status of a request whose client has gone; nobody reads it but logs. Source: nginx."""


def problem_reply(problem: Problem) -> JSONResponse:
    """An error as a response."""
    return JSONResponse(problem.body, problem.status, problem.headers)


def create_app(service: Service) -> FastAPI:
    """The application.

    Args:
        service: answers.
    """
    app = FastAPI(title="minicpmv", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    app.state.service = service
    metrics = Metrics(service.engine)

    _answer_errors(app)

    @app.get("/health")
    async def health() -> JSONResponse:
        alive = service.engine.is_alive
        return JSONResponse({"status": "ok" if alive else "stopping"}, 200 if alive else 503)

    @app.get("/metrics")
    async def measure() -> PlainTextResponse:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models(request: Request) -> JSONResponse:
        authorize(request, service)
        return JSONResponse({"object": "list", "data": [_model(name, service) for name in service.names]})

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> JSONResponse:
        authorize(request, service)
        check_model(name, service)
        return JSONResponse(_model(name, service))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        return await guarded(request, service, metrics, answer_chat)

    @app.post("/v1/responses")
    async def responses(request: Request) -> Any:
        return await guarded(request, service, metrics, answer_response)

    add_files(app, service.uploads, lambda request: authorize(request, service), service.options.most_body_bytes)
    describe(app, {"/v1/chat/completions": ChatRequest, "/v1/responses": ResponsesRequest})
    return app


def _answer_errors(app: FastAPI) -> None:
    """Whatever is raised becomes OpenAI's object of an error."""

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        problem = problem_of(error)
        if problem.status == 500:
            log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem_reply(problem)

    # Starlette treats what is known as an answer, and what is not as a failure of the server that it raises again.
    @app.exception_handler(ProblemError)
    @app.exception_handler(MiniCPMVError)
    async def known(request: Request, error: Exception) -> JSONResponse:
        return problem_reply(problem_of(error))

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_LEFT)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        return problem_reply(Problem(error.status_code, str(error.detail), kind))


def _model(name: str, service: Service) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "minicpmv",
        "max_model_len": service.context,
    }


async def guarded(
    request: Request,
    service: Service,
    metrics: Metrics,
    endpoint: Callable[[Request, Service, Any], Awaitable[Any]],
) -> Any:
    """Run an endpoint on the body of a request; whatever is wrong becomes one object.

    Args:
        request: of the client.
        service: answers.
        metrics: count.
        endpoint: takes the request, the service and the parsed body.
    """
    try:
        authorize(request, service)
        body = await read_json(request, service.options.most_body_bytes)
        response = await endpoint(request, service, body)
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)
    except Exception as error:  # a client gets one object, whatever it was
        problem = problem_of(error)
        if problem.status == 500:
            log.error("%s failed", request.url.path, exc_info=error)
        metrics.refused(problem.status)
        return problem_reply(problem)
    metrics.answered()
    return response


def authorize(request: Request, service: Service) -> None:
    """Refuse a request without the key.

    Raises:
        ProblemError: the key is missing or wrong.
    """
    key = service.options.api_key
    if key is None:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise refuse("The API key is missing or wrong. Send it as: Authorization: Bearer KEY", status=401)


def check_model(name: str | None, service: Service) -> str:
    """The name the model is told by.

    Raises:
        ProblemError: there is no such model here.
    """
    if name is None:
        return service.names[0]
    if name not in service.names:
        raise refuse(
            f"There is no model {name!r} here; there is {service.names[0]!r}.",
            status=404,
            param="model",
            code="model_not_found",
        )
    return name


async def read_json(request: Request, most_bytes: int) -> Any:
    """The body of a request as an object.

    Raises:
        ProblemError: it is too large, or no JSON object.
    """
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > most_bytes:
            raise refuse(f"The request has more than {most_bytes} bytes.", status=413)
        pieces.append(piece)
    try:
        body = await run_in_threadpool(json.loads, b"".join(pieces))
    except (ValueError, RecursionError) as error:
        raise refuse(f"The body is not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(body, dict):
        raise refuse("The body is no JSON object.")
    if not await run_in_threadpool(_is_whole, body):
        raise refuse("A text of the body has half a character. Write it in UTF-8.")
    return body


def _is_whole(body: Any) -> bool:
    """Whether all texts of a body can be written in UTF-8; JSON can hold others."""
    left = [body]
    while left:
        value = left.pop()
        if isinstance(value, str) and not is_whole(value):
            return False
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
    return True


async def answer_chat(request: Request, service: Service, body: Any) -> Any:
    """`POST /v1/chat/completions`."""
    asked = ChatRequest.model_validate(body)
    name = check_model(asked.model, service)
    think = asked.thinks(asked.reasoning_effort)
    media, form = _said_right(asked.media_options), _said_right(lambda: asked.form(asked.response_format))
    prompt = await run_in_threadpool(service.prepare, asked.messages, think=think, media=media)
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    options = [
        service.request_options(asked, prompt, wanted=asked.longest, think=think, logprobs=logprobs, answer=number)
        for number in range(asked.n)
    ]
    answers = await run_in_threadpool(service.submit, prompt, options, form, asyncio.get_running_loop())
    told = Completion(name, prompt, asked.n, service.loaded.processor.tokenizer, thinks=think)
    if asked.stream:
        wants_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return EventStream(chat_chunks(told, answers, wants_usage=wants_usage), answers.cancel)
    await heard(request, answers, told.hear)
    return JSONResponse(told.whole())


async def answer_response(request: Request, service: Service, body: Any) -> Any:
    """`POST /v1/responses`."""
    asked = ResponsesRequest.model_validate(body)
    name = check_model(asked.model, service)
    think = asked.thinks(asked.effort)
    media, form = _said_right(asked.media_options), _said_right(lambda: asked.form(asked.format))
    prompt = await run_in_threadpool(service.prepare, asked.messages(), think=think, media=media)
    options = service.request_options(
        asked, prompt, wanted=asked.max_output_tokens, think=think, logprobs=None, answer=0
    )
    answers = await run_in_threadpool(service.submit, prompt, [options], form, asyncio.get_running_loop())
    told = ResponseText(name, asked, prompt)
    if asked.stream:
        return EventStream(response_events(told, answers), answers.cancel, ends_with=None)
    await heard(request, answers, told.hear)
    return JSONResponse(told.whole())


def _said_right(read: Callable[[], Any]) -> Any:
    """What a reader of a field says; its complaint becomes a refusal."""
    try:
        return read()
    except ValueError as error:
        raise refuse(str(error)) from None


async def chat_chunks(
    told: Completion, answers: Answers, *, wants_usage: bool
) -> AsyncIterator[tuple[str | None, Any]]:
    """What a streaming client gets, an error in the middle included."""
    for chunk in told.first_chunks():
        yield None, chunk
    try:
        async for number, event in answers:
            if (said := told.hear(number, event)) is not None:
                yield None, said
    except Exception as error:  # the status has been sent already
        yield None, problem_of(error).body
        return
    if wants_usage:
        yield None, told.usage_chunk()


async def heard(request: Request, answers: Answers, hear: Callable[[int, Any], Any]) -> None:
    """Take in all events; a client that goes away ends its answers.

    Args:
        request: of the client.
        answers: of the engine.
        hear: takes the number of an answer and an event.

    Raises:
        ClientDisconnect: nobody is there any more.
    """

    async def listen() -> None:
        async for number, event in answers:
            hear(number, event)

    listening = asyncio.ensure_future(listen())
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({listening, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            raise ClientDisconnect
        listening.result()
    finally:
        answers.cancel()
        for task in (listening, leaving):
            task.cancel()
        await asyncio.gather(listening, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
