"""One endpoint of the JSON interface: its path, who may ask it what, and what it answers.

Routes, checks and the OpenAPI document are all made from the same `Endpoint`, and that is made from
the handler's own annotations, so that none of them can say otherwise than another:

    async def series(self, request: web.Request, query: SeriesQuery) -> SeriesJSON: ...

`query` and `body` are Structs, and a handler has those of them that it takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_type_hints

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from sentinel.daemon.answer import respond_in_turns
from sentinel.errors import SentinelError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Method = Literal["GET", "POST", "DELETE"]
PersonRole = Literal["viewer", "operator", "admin"]
PREFIX = "/api/v1/"
MAX_VALUES = 512  # of one query
_DIGITS = 15  # of a number in a path
T = TypeVar("T")


class BadRequestError(SentinelError):
    """What was asked cannot be read; the text says what would be right."""


class Nothing(Struct, forbid_unknown_fields=True, frozen=True):
    """No parameter."""


@dataclass(frozen=True)
class Endpoint:
    """One way to ask for something. `role` is enough for that; `errors` are the statuses of
    refusals that are its own."""

    method: Method
    path: str
    role: PersonRole
    summary: str
    query: type[Struct]
    body: type[Struct] | None
    answer: object  # a type
    media: str
    errors: tuple[int, ...]
    handler: Handler

    def route(self) -> web.RouteDef:
        """For `web.Application.add_routes`; what may be got may be asked for by HEAD."""
        if self.method == "GET":
            return web.get(self.path, self.handler)
        return web.route(self.method, self.path, self.handler)


def endpoint(
    method: Method,
    path: str,
    answerer: Callable[..., Awaitable[object]],
    *,
    role: PersonRole | None = None,
    errors: Sequence[int] = (),
    media: str = "application/json",
) -> Endpoint:
    """An endpoint that `answerer` answers. Reading is for viewers, all else for operators, unless
    `role` says otherwise."""
    hints = get_type_hints(answerer, include_extras=True)
    query, body = hints.get("query", Nothing), hints.get("body")
    return Endpoint(
        method=method,
        path=path,
        role=role or ("viewer" if method == "GET" else "operator"),
        summary=(inspect.getdoc(answerer) or "").partition("\n")[0],
        query=query,
        body=body,
        answer=hints["return"],
        media=media,
        errors=tuple(errors),
        handler=_handler(answerer, query, body, takes_query="query" in hints),
    )


def _handler(
    answerer: Callable[..., Awaitable[object]],
    query: type[Struct],
    body: type[Struct] | None,
    *,
    takes_query: bool,
) -> Handler:
    many = {field.encode_name: takes_many(field.type) for field in msgspec.structs.fields(query)}

    async def handle(request: web.Request) -> web.StreamResponse:
        given: dict[str, Struct] = {}
        asked = _query(request, query, many)
        if takes_query:
            given["query"] = asked
        if body is not None:
            given["body"] = await _body(request, body)
        answer = await answerer(request, **given)
        return answer if isinstance(answer, web.StreamResponse) else await respond_in_turns(answer)

    return handle


def _query(request: web.Request, kind: type[Struct], many: Mapping[str, bool]) -> Struct:
    """The query as this Struct; `many`: may it be given several times, by parameter.

    Raises `BadRequestError`.
    """
    asked = request.query
    if len(asked) > MAX_VALUES:
        raise BadRequestError(f"more than {MAX_VALUES} query parameters")
    found: dict[str, str | list[str]] = {}
    for name in asked:
        values = asked.getall(name)
        if name not in many:
            expected = f"expected {', '.join(sorted(many))}" if many else "there is none here"
            raise BadRequestError(f"unknown query parameter {name!r}: {expected}")
        if not many[name] and len(values) > 1:
            raise BadRequestError(f"query parameter {name!r} is given {len(values)} times")
        found[name] = values if many[name] else values[0]
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequestError(f"query: {error}") from error


def takes_many(kind: object) -> bool:
    """Whether a query parameter of this type may be given several times."""
    return isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.VarTupleType)


async def _body(request: web.Request, kind: type[Struct]) -> Struct:
    """The body as this Struct; an empty one says nothing. Raises `BadRequestError`."""
    data = await request.read()
    try:
        return msgspec.convert(_whole(msgspec.json.decode(data or b"{}")), kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"malformed request: {error}") from error


def _whole(value: object) -> object:
    """With 2.0 as 2: in JSON, and in what is promised of it, they are the same number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    return value


def number(text: str) -> int | None:
    """The number that stands in a path; None where it can be none that is meant."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else None


def given(value: T | UnsetType) -> T | None:
    """What was said, or None."""
    return None if value is UNSET else value
