"""Pages of the API for people: served from files of the package, and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Response

PAGES = {
    "/docs": ("docs.html", "text/html"),
    "/docs/docs.css": ("docs.css", "text/css"),
    "/docs/docs.js": ("docs.js", "text/javascript"),
}
SECURITY_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]
"""What every answer tells browsers: to load nothing from elsewhere, and to show no page in a frame."""


class Pages:
    """The documentation, which a script of ours renders from openapi.json in the browser."""

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        for path, (name, media_type) in PAGES.items():
            app.add_api_route(path, _page(name, media_type), include_in_schema=False)


def _page(name: str, media_type: str) -> Callable[[], Coroutine[Any, Any, Response]]:
    content = files(__name__).joinpath(name).read_bytes()

    async def show() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return show
