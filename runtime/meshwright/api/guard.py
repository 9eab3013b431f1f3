"""Keeps web pages from using a browser as their way to a mesh that listens on loopback."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from meshwright.api.problems import ForeignOrigin, Misdirected, problem_of
from meshwright.errors import MeshError


class BrowserGuard:
    """Refuses what no honest client sends; WebSockets are looked at too.

    On a loopback connection the Host header must be a loopback name (DNS rebinding). Where a browser names
    an Origin, that must be the host which is asked (cross-site requests).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a problem."""
        problem = _objection(scope) if scope["type"] in ("http", "websocket") else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await problem_of(problem).response()(scope, receive, send)


def _objection(scope: Scope) -> MeshError | None:
    # By hand: this runs for every request, and only two headers matter.
    headers = {name: value for name, value in scope["headers"] if name in (b"host", b"origin")}
    host, origin = _text(headers.get(b"host")), _text(headers.get(b"origin"))
    if host is not None and _is_loopback(_server(scope)) and not _is_loopback(_name(host)):
        return Misdirected(
            f"this mesh listens on loopback and is not {_name(host)!r}",
            remedy="call it as localhost or 127.0.0.1; a proxy in front of it must set that Host",
            field="Host",
        )
    if origin is not None and urlsplit(origin).netloc != host:
        return ForeignOrigin(f"pages of {origin!r} may not use this mesh", field="Origin")
    return None


def _server(scope: Scope) -> str:
    """The address at which the connection came in."""
    server = scope.get("server")
    return server[0] if server else ""


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


@lru_cache(maxsize=64)
def _name(host: str) -> str:
    """The name of a Host header, without its port."""
    return urlsplit(f"//{host}").hostname or ""


@lru_cache(maxsize=64)
def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
