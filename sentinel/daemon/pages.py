"""The pages: the files of `sentinel/web`, as a browser asks for them.

They are read once, when the daemon starts: what is asked for is looked up among them, so that no
path can lead to any other file. They hold no data, which the pages ask for with a token.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from importlib.abc import Traversable

INDEX = "index.html"
ASSETS = "/assets/"
_SHELL = {  # the one page finds its way by these paths
    "/": "/",
    "/runs/{page}": "/runs/{page:.+}",
    "/incidents/{page}": "/incidents/{page:.+}",
}
PAGES = frozenset((*_SHELL, ASSETS + "{name}"))  # open to everybody: they hold no data
# What browsers insist on, whatever the machine's own table of types says.
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".txt": "text/plain",
    ".md": "text/plain",
}


@dataclass(frozen=True)
class _File:
    body: bytes
    kind: str
    tag: str


class Pages:
    """Answers with the files of a folder."""

    def __init__(self, folder: Traversable | None = None) -> None:
        self._files = dict(_found(folder or files("sentinel").joinpath("web")))

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        shell = [web.get(path, self._index) for path in _SHELL.values()]
        return [*shell, web.get(ASSETS + "{name:.+}", self._asset)]

    async def _index(self, request: web.Request) -> web.Response:
        return _answer(request, self._files, INDEX)

    async def _asset(self, request: web.Request) -> web.Response:
        return _answer(request, self._files, request.match_info["name"])


def _found(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, _File]]:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            yield from _found(entry, f"{name}/")
        elif not entry.name.endswith((".py", ".pyc")):
            body = entry.read_bytes()
            yield name, _File(body, _kind(entry.name), hashlib.sha256(body).hexdigest()[:32])


def _kind(name: str) -> str:
    suffix = "." + name.rpartition(".")[2]
    kind = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def _answer(request: web.Request, known: Mapping[str, _File], name: str) -> web.Response:
    """A file, or 304 where the browser has it already: it asks each time, since a newer daemon may
    have another by the same name."""
    file = known.get(name)
    if file is None:
        raise web.HTTPNotFound
    headers = {"ETag": f'"{file.tag}"', "Cache-Control": "no-cache"}
    known_tags = request.if_none_match or ()
    if any(tag.value in (file.tag, "*") for tag in known_tags):
        return web.Response(status=304, headers=headers)
    return web.Response(body=file.body, headers={**headers, "Content-Type": file.kind})
