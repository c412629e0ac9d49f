"""The OpenAPI document as it is served: every operation with its problems and an example, made from the schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.gateway.errors import OpenAiError, ProblemDocument

_METHODS = ("get", "put", "post", "delete", "patch", "head")
_FORMATS: dict[str, Any] = {
    "uuid": "01a2086f-3835-78a4-9a15-d4d1dfab81d2",
    "date-time": "2026-11-23T12:00:00Z",
    "date": "2026-11-23",
    "uri": "https://example.com/",
    "password": "********",
    "binary": "…",
}
_PROBLEM = {
    "type": "urn:ltp:error:not_found",
    "title": "not found",
    "status": 404,
    "detail": "There is no job 01a2086f-3835-78a4-9a15-d4d1dfab81d2.",
    "code": "not_found",
    "hint": "`ltp job list` shows all.",
}
_DEEPEST = 6


def document(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes, openapi_version="3.1.0"
        )
        _finish(made)
        app.openapi_schema = made
    return app.openapi_schema


def _finish(made: dict[str, Any]) -> None:
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for model in (ProblemDocument, OpenAiError):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**schema.pop("$defs", {}), model.__name__: schema}
    made["components"]["responses"] = {
        "Problem": _answer("A problem (RFC 9457).", "application/problem+json", "ProblemDocument", _PROBLEM),
        "OpenAiError": _answer(
            "An error as OpenAI's clients read it.",
            "application/json",
            "OpenAiError",
            {
                "error": {
                    "message": "There is no file x.",
                    "type": "not_found_error",
                    "param": None,
                    "code": "not_found",
                }
            },
        ),
    }
    for path, item in made["paths"].items():
        for method in _METHODS:
            if method in item:
                _tell_headers(method, item[method])
                _finish_operation(item[method], schemas, openai=path.startswith("/v1/"))
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)


def _tell_headers(method: str, operation: dict[str, Any]) -> None:
    """What the door adds to all operations of a kind (`access.guarded`, `listing.py`, `repeats.py`)."""
    parameters = operation.setdefault("parameters", [])
    names = {parameter["name"].lower() for parameter in parameters}
    for status, answer in operation["responses"].items():
        if status in {"201", "202"}:
            answer["headers"] = {"Location": {"description": "Where to look.", "schema": {"type": "string"}}}
        if method == "get" and "cursor" in names and status == "200":
            link = {"description": 'The next page, as `rel="next"`.', "schema": {"type": "string"}}
            answer["headers"] = {"Link": link}
    if method == "post" and "idempotency-key" not in names:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "The same request under the same key changes nothing again, and is answered as the first was.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
                "example": "8f3a2c",
            }
        )


def _finish_operation(operation: dict[str, Any], schemas: Mapping[str, Any], *, openai: bool) -> None:
    answers = operation["responses"]
    # FastAPI's own; ours says it with 400 and a problem.
    answers.pop("422", None)
    answers["default"] = {"$ref": f"#/components/responses/{'OpenAiError' if openai else 'Problem'}"}
    bodies = [part for answer in answers.values() for part in answer.get("content", {}).values()]
    bodies += operation.get("requestBody", {}).get("content", {}).values()
    for part in bodies:
        if "schema" in part and "example" not in part and "examples" not in part:
            part["example"] = example(part["schema"], schemas)
    for parameter in operation.get("parameters", ()):
        if "example" not in parameter and "examples" not in parameter:
            found = example(parameter.get("schema", {}), schemas, parameter["name"])
            if found is not None:
                parameter["example"] = found


def _answer(description: str, kind: str, schema: str, shown: Any) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {"description": description, "content": {kind: {"schema": reference, "example": shown}}}


def example(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str = "", depth: int = 0) -> Any:
    """A value that the schema allows, as far as types, formats, enums and bounds go; what a model gives itself comes first."""
    if "$ref" in schema:
        key = str(schema["$ref"]).rpartition("/")[2]
        return example(schemas.get(key, {}), schemas, name, depth + 1)
    if schema.get("examples"):
        return schema["examples"][0]
    for given in ("example", "const", "default"):
        if given in schema:
            return schema[given]
    if "enum" in schema:
        return schema["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return example(schema[several][0], schemas, name, depth + 1)
    return _of_type(schema, schemas, name, depth)


def _of_type(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str, depth: int) -> Any:
    kind = schema.get("type")
    if kind == "object":
        fields = schema.get("properties", {}) if depth < _DEEPEST else {}
        required = set(schema.get("required", ()))
        return {
            key: example(field, schemas, key, depth + 1)
            for key, field in fields.items()
            if key in required or "default" not in field
        }
    if kind == "array":
        items = schema.get("items", {})
        return [example(items, schemas, name, depth + 1)] if items and depth < _DEEPEST else []
    if kind in {"integer", "number"}:
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        return max(1, low + (1 if "exclusiveMinimum" in schema else 0))
    if kind == "boolean":
        return True
    if kind == "string":
        return _FORMATS.get(
            str(schema.get("format", "")), _FORMATS["binary"] if "contentMediaType" in schema else "example"
        )
    return None
