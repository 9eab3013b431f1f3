"""Serves static pages: the documentation, and those of components."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from fastapi import APIRouter, Response

from meshwright.component import Component, Pages
from meshwright.core.errors import ConfigError
from meshwright.edges.http.routing import ViewerDep, make_router

_INDEX = "index.html"
_PATH = re.compile(r"/|(/[A-Za-z0-9_.-]+)+")
_HEADERS = {"Cache-Control": "no-cache"}
_DOCUMENTATION = Pages("/docs", files("meshwright.edges.http").joinpath("docs"), is_open=True)


def page_routers(components: Sequence[Component]) -> list[APIRouter]:
    """Makes a router of the pages of each component, and of the documentation.

    Each file has a route, so that no path leads out of its folder. Raises ConfigError for a path that cannot
    be one, or that two have.
    """
    owners = {_DOCUMENTATION.path: "http"}
    found = []
    for component in components:
        for pages in component.pages():
            remedy = f"Give the pages of {component.name} a path like /{component.name}"
            if not _PATH.fullmatch(pages.path):
                raise ConfigError(f"{pages.path!r} cannot be the path of pages", remedy=remedy, field="path")
            if (owner := owners.setdefault(pages.path, component.name)) != component.name:
                what = f"Components {owner} and {component.name} both have pages at {pages.path}"
                raise ConfigError(what, remedy=remedy, field="path")
            found.append(pages)
    return [_router(pages) for pages in (*found, _DOCUMENTATION)]


def _router(pages: Pages) -> APIRouter:
    router = make_router(is_open=pages.is_open)
    base = pages.path.rstrip("/")
    for name, content in _files(pages.folder):
        path = pages.path if name == _INDEX else f"{base}/{name}"
        show = _showing(content, mimetypes.guess_type(name)[0], is_open=pages.is_open)
        router.add_api_route(path, show, include_in_schema=False)
    return router


def _files(folder: Traversable, inside: str = "") -> Iterator[tuple[str, bytes]]:
    """Each file below a folder, by its path there."""
    for entry in folder.iterdir():
        if entry.name.startswith((".", "__")):
            continue
        if entry.is_dir():
            yield from _files(entry, f"{inside}{entry.name}/")
        else:
            yield f"{inside}{entry.name}", entry.read_bytes()


def _showing(
    content: bytes, media_type: str | None, *, is_open: bool
) -> Callable[..., Coroutine[Any, Any, Response]]:
    """The endpoint of a file. A browser asks each time whether it has changed."""

    async def show() -> Response:
        return Response(content, media_type=media_type or "application/octet-stream", headers=_HEADERS)

    async def show_to_viewers(caller: ViewerDep) -> Response:
        return await show()

    return show if is_open else show_to_viewers
