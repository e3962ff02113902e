"""What `/openapi.json` says: the endpoints read their bodies themselves, so the bodies are described here."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

_HOME = "#/components/schemas/"
_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string"}},
}


def describe(app: FastAPI, bodies: Mapping[str, type[BaseModel]]) -> None:
    """Let an application tell what its bodies look like.

    Args:
        app: which has the addresses already.
        bodies: what is posted, by address.
    """

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            kinds = schema.setdefault("components", {}).setdefault("schemas", {})
            for path, kind in bodies.items():
                one = kind.model_json_schema(ref_template=_HOME + "{model}")
                kinds.update(one.pop("$defs", {}))
                kinds[kind.__name__] = one
                content = {"application/json": {"schema": {"$ref": _HOME + kind.__name__}}}
                schema["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
            form = {"multipart/form-data": {"schema": _FORM}}
            schema["paths"]["/v1/files"]["post"]["requestBody"] = {"required": True, "content": form}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]
