"""The OpenAPI 3.1 document of the JSON interface, made of the endpoints as they are served.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import msgspec

from sentinel import __version__
from sentinel.daemon.endpoint import PREFIX, Endpoint

JSON = dict[str, object]
_REFERENCES = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)\}")
_REFUSALS = {
    400: "What was asked cannot be read: the error says what would be right.",
    401: "No token that is good.",
    403: "Not for this role, or asked for by a page of another site.",
    404: "There is no such thing.",
    409: "It cannot be done as things stand.",
    413: "The body is too large.",
    429: "Whoever asks listens as often as one may.",
    503: "The record cannot be read or written, or as many listen as may: nothing was done.",
}
_EVERYWHERE = (400, 401, 403, 503)
_DESCRIPTION = (
    "What the pages and the command line of Sentinel use. Within a version, fields and endpoints "
    "may be added; none goes or changes its meaning. docs/api.md says more."
)


class ErrorJSON(TypedDict):
    """Why something was not done."""

    error: str


def document(endpoints: Sequence[Endpoint]) -> JSON:
    """The document."""
    schemas, components = _schemas(endpoints)
    paths: dict[str, JSON] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sentinel", "version": __version__, "description": _DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _schemas(endpoints: Sequence[Endpoint]) -> tuple[Mapping[object, JSON], JSON]:
    """The schema of each type that is asked with or answered, and those that they refer to."""
    types = [*dict.fromkeys(_types(endpoints))]
    found, components = msgspec.json.schema_components(
        types, schema_hook=_any, ref_template=_REFERENCES
    )
    return dict(zip(types, found, strict=True)), components


def _any(kind: type) -> JSON:
    """Of what may be anything that JSON can say, and of nothing else."""
    if kind is object:
        return {"description": "Any value."}
    raise NotImplementedError


def _types(endpoints: Iterable[Endpoint]) -> Iterable[object]:
    yield ErrorJSON
    for one in endpoints:
        if one.body is not None:
            yield one.body
        if one.media == "application/json":
            yield one.answer


def _operation(one: Endpoint, schemas: Mapping[object, JSON]) -> JSON:
    answer = schemas.get(one.answer, {"type": "string"})
    refusals = sorted({*_EVERYWHERE, *one.errors, *((413,) if one.body else ())})
    operation: JSON = {
        "operationId": _name(one),
        "summary": one.summary,
        "description": f"For the role {one.role} and those above it.",
        "parameters": [*_of_path(one), *_of_query(one)],
        "responses": {
            "200": {"description": "Done.", "content": {one.media: {"schema": answer}}},
            **{str(status): _refusal(status, schemas[ErrorJSON]) for status in refusals},
        },
    }
    if not one.path.startswith(PREFIX):  # open on this machine alone
        operation["security"] = [{}, {"token": []}]
    if one.body is not None:
        fields = msgspec.structs.fields(one.body)
        operation["requestBody"] = {
            "required": any(field.required for field in fields),
            "content": {"application/json": {"schema": schemas[one.body]}},
        }
    return operation


def _name(one: Endpoint) -> str:
    words = re.findall(r"\w+", one.path.removeprefix(PREFIX))
    return "_".join((one.method.lower(), *words))


def _refusal(status: int, error: JSON) -> JSON:
    content = {"application/json": {"schema": error}}
    return {"description": _REFUSALS[status], "content": content}


def _of_path(one: Endpoint) -> list[JSON]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(one.path)
    ]


def _of_query(one: Endpoint) -> list[JSON]:
    schema = msgspec.json.schema(one.query, ref_template=_REFERENCES)
    (whole,) = schema["$defs"].values()
    required = whole.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": one_of}
        for name, one_of in whole["properties"].items()
    ]
