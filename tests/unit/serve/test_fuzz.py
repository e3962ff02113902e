"""Whatever fits the published schema, or just fails to, gets an answer or one object that says why: never a 500."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from minicpmv.generation.engine.loop import Engine, EngineOptions
from minicpmv.generation.loading import load
from minicpmv.serve.app import create_app
from minicpmv.serve.service import ServeOptions, Service

PATHS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/files",
    "/v1/files/{identity}",
    "/v1/files/{identity}/content",
    "/v1/models",
    "/v1/models/{name}",
    "/health",
    "/metrics",
)
FUZZ = settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)

UNKNOWN_HERE = (
    "model",
    "tools",
    "tool_choice",
    "functions",
    "logit_bias",
    "previous_response_id",
    "background",
    "include",
)
"""What is refused whatever its value, and would hide the rest."""


@pytest.fixture(scope="module")
def described() -> Iterator[Any]:
    loaded = load(None, device="cpu", dtype="float32")
    with Engine(loaded.model, loaded.processor, EngineOptions(kv_tokens=4096, most_running=8)) as engine:
        service = Service(loaded, engine, ServeOptions(longest_answer=8, timeout_s=20))
        yield schemathesis.openapi.from_asgi("/openapi.json", create_app(service))
        service.uploads.close()


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_never_a_500(described: Any, path: str, fits: bool) -> None:
    mode = GenerationMode.POSITIVE if fits else GenerationMode.NEGATIVE
    operations = [found.ok() for found in described.get_all_operations() if found.ok().path == path]
    assert operations
    for operation in operations:

        @FUZZ
        @given(operation.as_strategy(generation_mode=mode))
        def answers(case: Any) -> None:
            response = case.call()
            assert response.status_code < 500, response.text
            if response.status_code >= 400 and response.content:
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}

        try:
            answers()
        except Exception as error:
            if type(error).__name__ != "Unsatisfiable":  # nothing can be wrong about an address without arguments
                raise


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_never_a_500_whatever_is_asked_of_an_answer(described: Any, path: str) -> None:
    """Options as the schema allows them, around a conversation that can be answered."""
    operation = next(found.ok() for found in described.get_all_operations() if found.ok().path == path)
    statuses: set[int] = set()

    @FUZZ
    @given(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    def answers(case: Any) -> None:
        case.body |= {
            "messages" if path.endswith("completions") else "input": [{"role": "user", "content": "Repeat: a"}]
        }
        for name in UNKNOWN_HERE:
            case.body.pop(name, None)
        response = case.call()
        statuses.add(response.status_code)
        assert response.status_code < 500, response.text

    answers()
    assert 200 in statuses


def test_every_address_is_described(described: Any) -> None:
    found = {operation.ok().path for operation in described.get_all_operations()}
    assert {path.replace(":path", "") for path in found} == set(PATHS)
