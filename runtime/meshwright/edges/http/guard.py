"""What a request passes before its route: a guard against web pages, and authentication."""

from __future__ import annotations

import socket
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from meshwright.edges.auth import Authenticator, Credentials
from meshwright.edges.http.errors import error_response
from meshwright.edges.http.routing import CALLER
from meshwright.errors import InvalidInput, MeshError
from meshwright.settings import Settings

_OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/health", "/docs", "/openapi.json"})
_OPEN_FOLDER = "/docs/"
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_NAMED = (b"host", b"origin")


class _BadHeader(InvalidInput):
    """A header that cannot be read."""

    status = 400


class _Misdirected(InvalidInput):
    """A request under a host name that is not ours: a page may have made a browser send it."""

    status = 421


class _ForeignOrigin(InvalidInput):
    """A request that a page of another site made a browser send."""

    status = 403


class BrowserGuard:
    """Refuses what no honest client sends; WebSockets are looked at too.

    The Host header must be one of this mesh's names (DNS rebinding): those of loopback, `allowed_hosts` and,
    where the mesh listens off loopback, IP addresses and the machine's own name. Where a browser names an
    Origin, that must be the host which is asked, or an allowed one (cross-site requests).
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._names = frozenset(settings.http.allowed_hosts)
        self._exposed_names = self._names | {socket.gethostname().lower()}
        self._is_exposed = not is_loopback(settings.http.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a problem."""
        problem = self._objection(scope) if scope["type"] in ("http", "websocket") else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await error_response("", problem)(scope, receive, send)

    def _objection(self, scope: Scope) -> MeshError | None:
        # By hand: this runs for every request, and only two headers matter.
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"] if name in _NAMED]
        named = dict(headers)
        if len(named) != len(headers):
            what = "The request has two Host or two Origin headers"
            return _BadHeader(what, remedy="send one of each", field="Host")
        host, origin = named.get(b"host"), named.get(b"origin")
        try:
            name = None if host is None else _name(host)
        except ValueError:
            what = f"The Host header is not a host name with a port: {host!r:.80}"
            return _BadHeader(what, remedy="send one like localhost:8000", field="Host")
        if name is not None and not self._is_ours(name, scope):
            return _Misdirected(
                f"this mesh is not {name!r:.80}",
                remedy="call it by its address; if that name is right, add it to allowed_hosts in mesh.toml",
                field="Host",
            )
        if origin is not None and _netloc(origin) != host and _hostname(origin) not in self._names:
            return _ForeignOrigin(f"pages of {origin!r:.80} may not use this mesh", field="Origin")
        return None

    def _is_ours(self, name: str, scope: Scope) -> bool:
        if is_loopback(name):
            return True
        if self._is_exposed or not is_loopback(_server(scope)):
            return name in self._exposed_names or _is_address(name)
        return name in self._names


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


def _hostname(origin: str) -> str | None:
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None


@lru_cache(maxsize=64)
def is_loopback(name: str) -> bool:
    """Whether that is a name or an address of this machine alone."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_address(name) and ip_address(name).is_loopback


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class Authentication:
    """Asks the authenticator for the caller of every request, and refuses those that it does not let in.

    Only health, readiness and the documentation are open.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its caller, or answer it with the reason why not."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path not in _OPEN_PATHS and not path.startswith(_OPEN_FOLDER):
            try:
                scope[CALLER] = await self._authenticator.authenticate(_credentials(Request(scope)))
            except MeshError as error:
                return await error_response(path, error)(scope, receive, send)
        await self._app(scope, receive, send)


def _credentials(request: Request) -> Credentials:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return Credentials(token.strip() if scheme.lower() == "bearer" else "", _is_local(request))


def _is_local(request: Request) -> bool:
    """Whether a request began on this machine: over loopback, and handed on by no proxy that says so.

    It grants nothing that keys protect: a proxy that says nothing is local too.
    """
    ends = (request.client.host if request.client else "", _server(request.scope))
    return all(map(is_loopback, ends)) and not any(name in request.headers for name in _FORWARDED)
