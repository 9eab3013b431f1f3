"""The toolset `proxy`: routes of Caddy from host names to upstreams, by its admin API.

A change names the routes that it was decided on by their etag, which Caddy compares with its own. It is for
hosts and upstreams that the operator lists, and never leads to Caddy's own API or a cloud's metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field

from meshwright.agents.tools.tool import Unchanged, tool
from meshwright.core.checks import CheckResult
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.core.http_calls import is_metadata
from meshwright.core.settings.forms import Table
from meshwright.toolsets.rest import RestPart, RestService, RestTools, fits, settled

_SERVERS = ("config", "apps", "http", "servers")
_MAX_ROUTES = 200
_ADMIN_PORT = 2019  # that Caddy's own API has by default
_PORTS = {"http": 80, "https": 443}

RouteId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Host = Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?$")]
Upstream = Annotated[str, Field(pattern=r"^([A-Za-z0-9_.-]{1,253}|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$")]
Etag = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,128}$")]


class CaddyService(RestService):
    """[tools.proxy.caddy]: Caddy's admin API, and the changes that are allowed."""

    hosts: tuple[str, ...] = ()
    """Patterns of the host names that routes may be for, like `*.home.example.com`; without any nothing is
    changed."""
    upstreams: tuple[str, ...] = ()
    """Patterns of the upstreams that they may lead to, like `10.0.0.*:*`; without any nothing is changed."""
    server: str = ""
    """The server of Caddy's configuration whose routes are changed; needed where it has several."""


class ProxySettings(Table):
    """[tools.proxy]: the proxies."""

    caddy: CaddyService | None = None
    """Caddy 2."""


class _Routes(NamedTuple):
    servers: Mapping[str, Any]
    path: str
    etag: str

    def find(self, id: str) -> tuple[str, int, Mapping[str, Any]] | None:
        """The server, place and content of a route by its id."""
        for name, server in self.servers.items():
            for place, route in enumerate(server.get("routes") or []):
                if route.get("@id") == id:
                    return name, place, route
        return None


class Caddy(RestPart[CaddyService]):
    """The tools over Caddy's admin API."""

    @tool(idempotent=True, effect="read", origin="outside")
    async def routes(self) -> dict[str, Any]:
        """List the routes of the proxy by server, in their order, and the etag that a change takes."""
        current = await self._read()
        servers = [
            {
                "server": name,
                "listen": server.get("listen", []),
                "routes": [_summary(route) for route in (server.get("routes") or [])[:_MAX_ROUTES]],
            }
            for name, server in current.servers.items()
        ]
        return {"servers": servers, "etag": current.etag}

    @tool(
        idempotent=True, needs_approval=True, origin="outside", preview="_preview_set_route", check="_was_set"
    )
    async def set_route(
        self, id: RouteId, hosts: Annotated[list[Host], Field(min_length=1)], upstream: Upstream, etag: Etag
    ) -> dict[str, Any]:
        """Lead the requests for some hosts to an upstream: a new route, in front, or another target of one.

        Args:
            id: the route's, new or known
            hosts: the host names, in lower case
            upstream: host:port that answers
            etag: the etag of `routes` that it was decided on
        """
        current, server, route = await self._change(id, hosts, upstream)
        existing = current.find(id)
        if existing and existing[2] == route:
            return {"id": id, "changed": False}
        _compare(current, etag)
        base, headers = (*_SERVERS, server, "routes"), {"If-Match": f'"{current.path} {etag}"'}
        if existing:
            await self.server.call("PATCH", *base, str(existing[1]), body=route, headers=headers)
        elif current.servers[server].get("routes"):
            await self.server.call("PUT", *base, "0", body=route, headers=headers)
        else:  # an empty list takes the route, and no list takes a list
            is_list = isinstance(current.servers[server].get("routes"), list)
            await self.server.call("POST", *base, body=route if is_list else [route], headers=headers)
        return {"id": id, "changed": True}

    @tool(
        idempotent=True,
        needs_approval=True,
        origin="outside",
        preview="_preview_delete_route",
        check="_was_deleted",
    )
    async def delete_route(self, id: RouteId, etag: Etag) -> dict[str, Any]:
        """Delete a route.

        Args:
            id: the route's
            etag: the etag of `routes` that it was decided on
        """
        current = await self._read()
        existing = current.find(id)
        if not existing:
            return {"id": id, "changed": False}
        self._check_known(id, existing[2])
        _compare(current, etag)
        headers = {"If-Match": f'"{current.path} {etag}"'}
        await self.server.call("DELETE", *_SERVERS, existing[0], "routes", str(existing[1]), headers=headers)
        return {"id": id, "changed": True}

    async def _preview_set_route(
        self, id: RouteId, hosts: list[Host], upstream: Upstream, etag: Etag
    ) -> dict[str, Any] | Unchanged:
        current, server, route = await self._change(id, hosts, upstream)
        existing = current.find(id)
        if existing and existing[2] == route:
            return Unchanged()
        return {"server": server, "before": existing and existing[2], "after": route}

    async def _preview_delete_route(self, id: RouteId, etag: Etag) -> dict[str, Any] | Unchanged:
        existing = (await self._read()).find(id)
        return {"server": existing[0], "before": existing[2], "after": None} if existing else Unchanged()

    async def _was_set(self, id: str, hosts: list[str], upstream: str) -> CheckResult:
        current, _, route = await self._change(id, hosts, upstream)
        existing = current.find(id)
        is_so = existing is not None and existing[2] == route
        state = "leads to" if is_so else "does not lead to"
        return settled(is_so, {"id": id, "changed": True}, f"Route {id} {state} {upstream}.")

    async def _was_deleted(self, id: str) -> CheckResult:
        is_gone = (await self._read()).find(id) is None
        state = "has no" if is_gone else "still has the"
        return settled(is_gone, {"id": id, "changed": True}, f"Caddy {state} route {id}.")

    async def check(self) -> None:
        """Read the routes."""
        await self._read()

    async def _change(self, id: str, hosts: list[str], upstream: str) -> tuple[_Routes, str, dict[str, Any]]:
        """The routes, the server to change, and the route to have. Raises for what is not allowed."""
        self._check_hosts(hosts)
        self._check_upstream(upstream)
        current = await self._read()
        existing = current.find(id)
        if existing and not _is_plain(existing[2]):
            problem = f"route {id!r} does more than to lead hosts to an upstream"
            raise ToolFailed(problem, remedy="A person has to change it")
        if existing:
            self._check_known(id, existing[2])
        handler = {"handler": "reverse_proxy", "upstreams": [{"dial": upstream}]}
        route = {"@id": id, "handle": [handler], "match": [{"host": hosts}], "terminal": True}
        return current, existing[0] if existing else self._pick(current), route

    def _pick(self, current: _Routes) -> str:
        names = [*current.servers]
        name = self.server.service.server or (names[0] if len(names) == 1 else "")
        if name not in current.servers:
            remedy = (
                f"Set server in [tools.proxy.caddy] of mesh.toml; there are: {', '.join(names) or 'none'}"
            )
            raise ToolFailed("it is open which server of Caddy gets the route", remedy=remedy)
        return name

    def _check_known(self, id: str, route: Mapping[str, Any]) -> None:
        """Raise where a route there is serves hosts that may not be changed."""
        if not all(match.get("host") for match in route.get("match") or [{}]):
            raise ToolFailed(f"route {id!r} is for every host", remedy="A person has to change it")
        self._check_hosts(_hosts(route))

    def _check_hosts(self, hosts: list[str]) -> None:
        for host in hosts:
            if not fits(host, self.server.service.hosts):
                remedy = "only hosts in [tools.proxy.caddy] of mesh.toml permits that"
                raise InvalidInput(f"routes for {host!r} may not be changed", remedy=remedy, field="hosts")

    def _check_upstream(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        own = urlsplit(self.server.service.url)
        own_port = own.port or _PORTS[own.scheme]
        admin_ports = {_ADMIN_PORT, own_port} - {*_PORTS.values()}
        is_own = (host.strip("[]").lower(), int(port)) == (own.hostname, own_port)
        if is_own or int(port) in admin_ports or is_metadata(host.strip("[]")):
            raise InvalidInput(f"no route may lead to {upstream}", field="upstream")
        if not fits(upstream, self.server.service.upstreams):
            remedy = "only upstreams in [tools.proxy.caddy] of mesh.toml permits that"
            raise InvalidInput(f"no route may lead to {upstream!r}", remedy=remedy, field="upstream")

    async def _read(self) -> _Routes:
        reply = await self.server.call("GET", *_SERVERS)
        path, _, etag = reply.headers.get("Etag", "").strip('"').partition(" ")
        if not etag:  # Caddy 2.6 sends it behind the body, where no client reads it
            path, etag = f"/{'/'.join(_SERVERS)}", _fnv(reply.text.encode())
        servers = reply.data if isinstance(reply.data, dict) else {}
        return _Routes(servers, path, etag)


class ProxyTools(RestTools):
    """Reads and changes the routes of a proxy."""

    name = "proxy"
    config_type = ProxySettings
    parts: ClassVar = {"caddy": Caddy}


def _fnv(data: bytes) -> str:
    """The hash that Caddy 2.6 has as etag: FNV-1a of 32 bits."""
    value = 0x811C9DC5
    for byte in data:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{value:08x}"


def _compare(current: _Routes, etag: str) -> None:
    if current.etag != etag:
        raise ToolFailed("the routes are not as they were read", remedy="Call routes again, then decide")


def _is_plain(route: Mapping[str, Any]) -> bool:
    """Whether a route is one that `set_route` could have made."""
    match route.get("handle"), route.get("match"):
        case [{"handler": "reverse_proxy", "upstreams": [{"dial": str()}], **rest}], [{"host": _, **others}]:
            return not rest and not others and {*route} <= {"@id", "handle", "match", "terminal"}
        case _:
            return False


def _summary(route: Mapping[str, Any]) -> dict[str, Any]:
    handlers = [*_handlers(route)]
    dials = [upstream.get("dial", "") for handler in handlers for upstream in handler.get("upstreams") or []]
    return {
        "id": route.get("@id", ""),
        "hosts": _hosts(route),
        "upstreams": dials,
        "handlers": [handler.get("handler", "") for handler in handlers],
    }


def _hosts(route: Mapping[str, Any]) -> list[str]:
    return [host for match in route.get("match") or [] for host in match.get("host") or []]


def _handlers(route: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The handlers of a route, those of the routes in it too."""
    for handler in route.get("handle") or []:
        if handler.get("handler") != "subroute":
            yield handler
        for inner in handler.get("routes") or []:
            yield from _handlers(inner)
