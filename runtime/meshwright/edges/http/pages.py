"""Static pages of the mesh and its components: a route for each file, compressed where browsers take it."""

from __future__ import annotations

import gzip
import mimetypes
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import Request, Response
from starlette.routing import Route

from meshwright.core.access import Role
from meshwright.core.errors import ConfigError
from meshwright.edges.http.errors import RouterKind
from meshwright.edges.http.routing import Needs
from meshwright.mesh.components import Component, Pages
from meshwright.mesh.identity.rules import Rule

_INDEX = "index.html"
_PATH = re.compile(r"/|(/[A-Za-z0-9_.-]+)+")
_CHECKED = b"// @ts-check\n"
_TYPES = re.compile(rb"^[ \t]*/\*\*(?:[^*]|\*(?!/))*\*/$", re.MULTILINE)
_COMPRESSIBLE = ("text/", "image/svg+xml", "application/json")
_VIEWERS = Needs(Rule("", (Role.VIEWER,)))
_DOCUMENTATION = Pages("/docs", files("meshwright.edges.http").joinpath("docs"), is_open=True)


def page_routes(components: Sequence[Component]) -> list[Route]:
    """Makes the routes of the pages of each component, and of the documentation.

    Each file has a route, so that no path leads out of its folder. Raises ConfigError for a path that cannot
    be one, or that two have.
    """
    owners = {_DOCUMENTATION.path: "http"}
    shown_pages = []
    for component in components:
        for pages in component.pages():
            remedy = f"Give the pages of {component.name} a path like /{component.name}"
            if not _PATH.fullmatch(pages.path):
                raise ConfigError(f"{pages.path!r} cannot be the path of pages", remedy=remedy, field="path")
            if (owner := owners.setdefault(pages.path, component.name)) != component.name:
                what = f"Components {owner} and {component.name} both have pages at {pages.path}"
                raise ConfigError(what, remedy=remedy, field="path")
            shown_pages.append(pages)
    return [
        _FileRoute(pages, name, content)
        for pages in (*shown_pages, _DOCUMENTATION)
        for name, content in _files(pages.folder)
    ]


class _FileRoute(Route):
    """A file of a page. A browser asks each time whether it has changed, and gets it again only then.

    A script that begins with `// @ts-check` is sent without the comments that hold its types: those on lines
    of their own, which become empty, so that every other line keeps its number.
    """

    def __init__(self, pages: Pages, name: str, content: bytes) -> None:
        self.kind = RouterKind(is_open=pages.is_open)
        self._source = content
        self._media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        path = pages.path if name == _INDEX else f"{pages.path.rstrip('/')}/{name}"
        super().__init__(path, self._show, include_in_schema=False)

    @cached_property
    def _content(self) -> bytes:
        if not self._source.startswith(_CHECKED):
            return self._source
        return _TYPES.sub(_empty_lines, self._source)

    @cached_property
    def _headers(self) -> dict[str, str]:
        # Weak, as both encodings of a file share the tag.
        tag = f'W/"{sha256(self._content).hexdigest()[:32]}"'
        return {"Cache-Control": "no-cache", "ETag": tag, "Vary": "Accept-Encoding"}

    @cached_property
    def _compressed(self) -> bytes | None:
        if not self._media_type.startswith(_COMPRESSIBLE):
            return None
        smaller = gzip.compress(self._content, mtime=0)
        return smaller if len(smaller) < len(self._content) else None

    async def _show(self, request: Request) -> Response:
        if not self.kind.is_open:
            await _VIEWERS.caller(request)
        headers = self._headers
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        if _takes_gzip(request) and (compressed := self._compressed) is not None:
            headers = headers | {"Content-Encoding": "gzip"}
            return Response(compressed, media_type=self._media_type, headers=headers)
        return Response(self._content, media_type=self._media_type, headers=headers)


def _empty_lines(text: re.Match[bytes]) -> bytes:
    return b"\n" * text[0].count(b"\n")


def _takes_gzip(request: Request) -> bool:
    encodings = request.headers.get("accept-encoding", "").split(",")
    return any(encoding.strip() == "gzip" for encoding in encodings)


def _files(folder: Traversable, inside: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.name.startswith((".", "__")):
            continue
        if entry.is_dir():
            yield from _files(entry, f"{inside}{entry.name}/")
        else:
            yield f"{inside}{entry.name}", entry.read_bytes()
