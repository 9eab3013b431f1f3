"""Keeps web pages from using a browser as their way to a mesh that listens on loopback."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from meshwright.api.problems import BadHeader, ForeignOrigin, Misdirected, problem_of
from meshwright.errors import MeshError

NAMED = (b"host", b"origin")


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
    headers = [(name, value.decode("latin-1")) for name, value in scope["headers"] if name in NAMED]
    named = dict(headers)
    if len(named) != len(headers):
        return BadHeader(
            "The request names its Host or its Origin twice.", remedy="send it once", field="Host"
        )
    host, origin = named.get(b"host"), named.get(b"origin")
    try:
        name = None if host is None else _name(host)
    except ValueError:
        what = f"The Host header is not a host name with a port: {host!r:.80}"
        return BadHeader(what, remedy="send one like localhost:8000", field="Host")
    if name is not None and _is_loopback(_server(scope)) and not _is_loopback(name):
        return Misdirected(
            f"this mesh listens on loopback and is not {name!r:.80}",
            remedy="call it as localhost or 127.0.0.1; a proxy in front of it must set that Host",
            field="Host",
        )
    if origin is not None and _netloc(origin) != host:
        return ForeignOrigin(f"pages of {origin!r:.80} may not use this mesh", field="Origin")
    return None


def _server(scope: Scope) -> str:
    """The address at which the connection came in."""
    server = scope.get("server")
    return server[0] if server else ""


@lru_cache(maxsize=64)
def _name(host: str) -> str:
    """The name of a Host header, without its port. Raises ValueError for what is no host."""
    parts = urlsplit(f"//{host}")
    if parts.netloc != host or parts.username is not None or parts.port == 0:
        raise ValueError(host)
    return parts.hostname or ""


def _netloc(origin: str) -> str | None:
    """Host and port of an Origin header; None for what is no origin."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


@lru_cache(maxsize=64)
def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
