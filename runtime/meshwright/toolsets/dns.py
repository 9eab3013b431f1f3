"""The toolset `dns`: DNS records and tunnels of Cloudflare.

A change names the content that was read before, which is compared once more when it is made, so that
the changes of others stay. It is for names that the operator lists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from meshwright.agents.tools.tool import Unchanged, tool
from meshwright.core.checks import CheckResult
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.core.http_calls import is_metadata
from meshwright.core.redaction import foreign_words
from meshwright.core.settings.forms import Table
from meshwright.toolsets.rest import Params, RestPart, RestService, RestTools, ServiceUrl, fits, settled

_PER_PAGE = 100
_MAX_TUNNELS = 20
_AUTOMATIC = 1  # the time to live that Cloudflare chooses
_TUNNEL_DOMAIN = "cfargotunnel.com"
_READ_AGAIN = "Read it again, then decide"

Name = Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?$")]
RecordType = Literal["A", "AAAA", "CNAME", "TXT"]
Content = Annotated[str, Field(min_length=1, max_length=2_048)]
Ttl = Annotated[int, Field(ge=_AUTOMATIC, le=86_400)]
Page = Annotated[int, Field(ge=1, le=1_000)]
TunnelName = Annotated[str, Field(min_length=1, max_length=100)]
Origin = Annotated[str, Field(pattern=r"^(http|https|tcp|ssh|rdp)://[A-Za-z0-9_.:\[\]-]{1,253}$")]


class CloudflareService(RestService):
    """[tools.dns.cloudflare]: Cloudflare's API, and the changes that are allowed."""

    url: ServiceUrl = "https://api.cloudflare.com/client/v4"
    """Address of its API."""
    account: Annotated[str, Field(pattern=r"^[0-9a-f]{0,32}$")] = ""
    """Id of the account whose tunnels are read and changed; there are none without it."""
    names: tuple[str, ...] = ()
    """Patterns of the names whose records and tunnels may be changed, like `*.home.example.com`; without any
    nothing is changed."""
    services: tuple[str, ...] = ()
    """Patterns of the services that tunnels may lead to, like `http://10.0.0.*:*`."""


class DnsSettings(Table):
    """[tools.dns]: the providers of DNS."""

    cloudflare: CloudflareService | None = None
    """Cloudflare, with a token that may edit the DNS of the zones, and tunnels if they are used."""


class _RecordChange(NamedTuple):
    """A change of a record: its zone, the record now, if there is one, and as it shall be, if it stays."""

    zone_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None

    @property
    def is_done(self) -> bool:
        return self.before == self.after or (
            self.before is not None
            and self.after is not None
            and all(self.before.get(name) == value for name, value in self.after.items())
        )

    @property
    def effect(self) -> dict[str, Any]:
        return {"before": self.before and _shown(self.before), "after": self.after}

    @property
    def preview(self) -> dict[str, Any] | Unchanged:
        return Unchanged(self.effect) if self.is_done else self.effect


class Cloudflare(RestPart[CloudflareService]):
    """The tools over Cloudflare's API."""

    @tool(idempotent=True, effect="read", origin="outside")
    async def zones(self, page: Page = 1) -> dict[str, Any]:
        """List the zones, 50 a page.

        Args:
            page: which page
        """
        answer = await self._answer("GET", "zones", params={"page": page, "per_page": 50})
        zones = [{"zone": zone["name"], "status": zone.get("status", "")} for zone in answer["result"]]
        return {"zones": zones, **_pages(answer)}

    @tool(idempotent=True, effect="read", origin="outside")
    async def records(self, zone: Name, name: str = "", page: Page = 1) -> dict[str, Any]:
        """List DNS records of a zone, 100 a page.

        Args:
            zone: the zone, such as example.com
            name: only those of this whole name, such as www.example.com
            page: which page
        """
        params = {"page": page, "per_page": _PER_PAGE} | ({"name.exact": name} if name else {})
        path = ("zones", await self._zone_id(zone), "dns_records")
        answer = await self._answer("GET", *path, params=params)
        return {"records": [_shown(record) for record in answer["result"]], **_pages(answer)}

    @tool(
        idempotent=True,
        needs_approval=True,
        origin="outside",
        preview="_preview_set_record",
        check="_was_set",
    )
    async def set_record(
        self,
        zone: Name,
        type: RecordType,
        name: Name,
        content: Content,
        was: str,
        ttl: Ttl | None = None,
        proxied: bool | None = None,
    ) -> dict[str, Any]:
        """Create a DNS record, or change one.

        Args:
            zone: the zone, such as example.com
            type: the type of the record
            name: its whole name, such as www.example.com
            content: the new value
            was: the current value, as records shows it; "" for a new record
            ttl: cache time in seconds; 1 means automatic
            proxied: whether Cloudflare proxies the record
        """
        change = await self._set(zone, type, name, content, was, ttl, proxied)
        if change.is_done:
            return {"changed": False, "record": change.effect["before"]}
        if change.before is None:
            path, method = ("zones", change.zone_id, "dns_records"), "POST"
        else:
            path, method = ("zones", change.zone_id, "dns_records", change.before["id"]), "PATCH"
        answer = await self._answer(method, *path, body=change.after)
        return {"changed": True, "record": _shown(answer["result"])}

    async def _preview_set_record(
        self,
        zone: Name,
        type: RecordType,
        name: Name,
        content: Content,
        was: str,
        ttl: Ttl | None = None,
        proxied: bool | None = None,
    ) -> dict[str, Any] | Unchanged:
        return (await self._set(zone, type, name, content, was, ttl, proxied)).preview

    @tool(
        idempotent=True,
        needs_approval=True,
        origin="outside",
        preview="_preview_delete_record",
        check="_was_deleted",
    )
    async def delete_record(self, zone: Name, type: RecordType, name: Name, was: Content) -> dict[str, Any]:
        """Delete a DNS record.

        Args:
            zone: the zone, such as example.com
            type: the type of the record
            name: its whole name, such as www.example.com
            was: the current value, as records shows it
        """
        change = await self._delete(zone, type, name, was)
        if change.before is None:
            return {"changed": False}
        await self._answer("DELETE", "zones", change.zone_id, "dns_records", change.before["id"])
        return {"changed": True, "record": change.effect["before"]}

    async def _preview_delete_record(
        self, zone: Name, type: RecordType, name: Name, was: Content
    ) -> dict[str, Any] | Unchanged:
        return (await self._delete(zone, type, name, was)).preview

    @tool(idempotent=True, effect="read", origin="outside")
    async def tunnels(self) -> list[dict[str, Any]]:
        """List the tunnels with their state, and the hosts that each leads to services."""
        tunnels = (await self._tunnels())[:_MAX_TUNNELS]
        configs = await asyncio.gather(*(self._ingress(tunnel["id"]) for tunnel in tunnels))
        return [
            {"tunnel": tunnel["name"], "status": tunnel.get("status", ""), "routes": config["ingress"]}
            for tunnel, config in zip(tunnels, configs, strict=True)
        ]

    @tool(
        idempotent=True,
        needs_approval=True,
        origin="outside",
        preview="_preview_route_tunnel",
        check="_was_routed",
    )
    async def route_tunnel(
        self, tunnel: TunnelName, zone: Name, host: Name, service: Origin, was: str
    ) -> dict[str, Any]:
        """Lead a host through a tunnel to a service, with the DNS record that it takes.

        Args:
            tunnel: the tunnel, as tunnels shows it
            zone: the zone of the host, such as example.com
            host: the host, such as wiki.example.com
            service: the service behind the tunnel, such as http://10.0.0.5:8080
            was: the service that the host leads to now, as tunnels shows it; "" for none
        """
        effect, tunnel_id, config = await self._route(tunnel, zone, host, service, was)
        rule, record = effect["rule"], effect["record"]
        if _is_routed(effect):
            return {"changed": False, **effect}
        if rule["before"] != rule["after"]:
            path = ("accounts", self._account, "cfd_tunnel", tunnel_id, "configurations")
            await self._answer("PUT", *path, body={"config": config})
        if record["before"] is None:
            path = ("zones", await self._zone_id(zone), "dns_records")
            await self._answer("POST", *path, body=record["after"])
        return {"changed": True, **effect}

    async def _preview_route_tunnel(
        self, tunnel: TunnelName, zone: Name, host: Name, service: Origin, was: str
    ) -> dict[str, Any] | Unchanged:
        effect, _, _ = await self._route(tunnel, zone, host, service, was)
        return Unchanged(effect) if _is_routed(effect) else effect

    async def _was_set(
        self,
        zone: str,
        type: str,
        name: str,
        content: str,
        was: str,
        ttl: int | None = None,
        proxied: bool | None = None,
    ) -> CheckResult:
        change = await self._set(zone, type, name, content, was, ttl, proxied)
        record = change.effect["before"]
        state = "has" if change.is_done else "does not have"
        return settled(
            change.is_done, {"changed": True, "record": record}, f"{type} {name} {state} that content."
        )

    async def _was_deleted(self, zone: str, type: str, name: str, was: str) -> CheckResult:
        is_gone = (await self._delete(zone, type, name, was)).before is None
        state = "There is no" if is_gone else "There still is the"
        return settled(is_gone, {"changed": True}, f"{state} record {type} {name}.")

    async def _was_routed(self, tunnel: str, zone: str, host: str, service: str, was: str) -> CheckResult:
        effect, _, _ = await self._route(tunnel, zone, host, service, was)
        is_so = _is_routed(effect)
        state = "leads to" if is_so else "does not lead to"
        return settled(is_so, {"changed": True, **effect}, f"{host} {state} {service}.")

    async def check(self) -> None:
        """Read a zone, which takes the token."""
        await self._answer("GET", "zones", params={"per_page": 5})

    async def _set(
        self, zone: str, type: str, name: str, content: str, was: str, ttl: int | None, proxied: bool | None
    ) -> _RecordChange:
        self._check_name(zone, name)
        if ttl is not None and _AUTOMATIC < ttl < 30:
            raise InvalidInput("ttl has to be 1, or at least 30", field="ttl")
        zone_id = await self._zone_id(zone)
        records = await self._known(zone_id, type, name)
        overrides = {"ttl": ttl, "proxied": proxied}
        after = {"type": type, "name": name, "content": content}
        after |= {field: value for field, value in overrides.items() if value is not None}
        existing_record = next((record for record in records if _same(record["content"], content)), None)
        if existing_record is not None and not _same(was, content):
            # The change was made already, where the record that it was made of has gone.
            if was and any(_same(record["content"], was) for record in records):
                raise ToolFailed(f"{name} has both contents, the old one and the new", remedy=_READ_AGAIN)
            return _RecordChange(zone_id, existing_record, after | {"content": existing_record["content"]})
        if not was:
            return _RecordChange(zone_id, None, {"ttl": _AUTOMATIC, "proxied": False, **after})
        return _RecordChange(zone_id, _expected(records, name, was), after)

    async def _delete(self, zone: str, type: str, name: str, was: str) -> _RecordChange:
        self._check_name(zone, name)
        zone_id = await self._zone_id(zone)
        records = await self._known(zone_id, type, name)
        if not records:
            return _RecordChange(zone_id, None, None)
        return _RecordChange(zone_id, _expected(records, name, was), None)

    async def _route(
        self, tunnel: str, zone: str, host: str, service: str, was: str
    ) -> tuple[dict[str, Any], str, dict[str, Any]]:
        """The effect of a change, the id of the tunnel, and the configuration to have. Changes nothing."""
        self._check_name(zone, host)
        self._check_origin(service)
        ids = [item["id"] for item in await self._tunnels() if item["name"] == tunnel]
        if len(ids) != 1:
            raise ToolFailed(f"there are {len(ids)} tunnels {tunnel!r}", remedy="tunnels lists them")
        config = await self._ingress(ids[0])
        rules = config["ingress"]
        place = next((at for at, rule in enumerate(rules) if rule.get("hostname") == host), None)
        before = None if place is None else rules[place]
        if before and before.get("path"):
            raise ToolFailed(f"{host} has rules for paths", remedy="A person has to change them")
        after = {**(before or {}), "hostname": host, "service": service}
        if (before or {}).get("service", "") not in (was, service):
            raise ToolFailed(f"{host} does not lead to {was or 'nothing'} any more", remedy=_READ_AGAIN)
        others = rules if before is None else [*rules[:place], *rules[(place or 0) + 1 :]]
        # The last rule is for every other host.
        at = len(others) - 1 if place is None else place
        target = f"{ids[0]}.{_TUNNEL_DOMAIN}"
        change = await self._record_of_tunnel(zone, host, target)
        effect = {"rule": {"before": before, "after": after}, "record": change.effect}
        return effect, ids[0], {**config, "ingress": [*others[:at], after, *others[at:]]}

    async def _record_of_tunnel(self, zone: str, host: str, target: str) -> _RecordChange:
        zone_id = await self._zone_id(zone)
        after = {"type": "CNAME", "name": host, "content": target, "ttl": _AUTOMATIC, "proxied": True}
        params = {"name.exact": host, "per_page": _PER_PAGE}
        records = (await self._answer("GET", "zones", zone_id, "dns_records", params=params))["result"]
        others = [record for record in records if record["type"] in ("A", "AAAA", "CNAME")]
        if any(record["content"] != target for record in others):
            problem = f"{host} has other records, such as {others[0]['type']} {others[0]['content']}"
            raise ToolFailed(problem, remedy="Delete them first, if nothing needs them")
        return _RecordChange(zone_id, next(iter(others), None), after)

    @property
    def _account(self) -> str:
        if not self.server.service.account:
            raise ToolFailed(
                "the account of the tunnels is not known", remedy="Set account in [tools.dns.cloudflare]"
            )
        return self.server.service.account

    async def _tunnels(self) -> list[dict[str, Any]]:
        params = {"is_deleted": "false", "per_page": _PER_PAGE}
        return (await self._answer("GET", "accounts", self._account, "cfd_tunnel", params=params))["result"]

    async def _ingress(self, tunnel_id: str) -> dict[str, Any]:
        """The configuration of a tunnel, with rules of which the last is for every host."""
        path = ("accounts", self._account, "cfd_tunnel", tunnel_id, "configurations")
        config = (await self._answer("GET", *path))["result"].get("config") or {}
        return {**config, "ingress": config.get("ingress") or [{"service": "http_status:404"}]}

    async def _zone_id(self, zone: str) -> str:
        zones = (await self._answer("GET", "zones", params={"name": zone}))["result"]
        if not zones or zones[0]["name"] != zone:
            raise ToolFailed(f"there is no zone {zone!r}", remedy="zones lists them")
        return zones[0]["id"]

    async def _known(self, zone_id: str, type: str, name: str) -> list[dict[str, Any]]:
        params = {"type": type, "name.exact": name, "per_page": _PER_PAGE}
        return (await self._answer("GET", "zones", zone_id, "dns_records", params=params))["result"]

    async def _answer(
        self, method: str, *path: str, params: Params | None = None, body: Any = None
    ) -> dict[str, Any]:
        answer = (await self.server.call(method, *path, params=params, body=body)).data
        if not isinstance(answer, dict) or answer.get("success") is not True or "result" not in answer:
            errors = answer.get("errors") if isinstance(answer, dict) else None
            reasons = foreign_words("; ".join(str(error.get("message", "")) for error in errors or []))
            raise ToolFailed(f"Cloudflare did not do it{f': {reasons}' if reasons else ''}")
        return answer

    def _check_name(self, zone: str, name: str) -> None:
        if name != zone and not name.endswith(f".{zone}"):
            raise InvalidInput(f"{name!r} is not in the zone {zone!r}", field="name")
        if not fits(name, self.server.service.names):
            remedy = "only names in [tools.dns.cloudflare] of mesh.toml permits that"
            raise InvalidInput(f"{name!r} may not be changed", remedy=remedy, field="name")

    def _check_origin(self, service: str) -> None:
        _, _, address = service.partition("://")
        host = address.rpartition(":")[0] or address
        if is_metadata(host.strip("[]")) or not fits(service, self.server.service.services):
            remedy = "only services in [tools.dns.cloudflare] of mesh.toml permits that"
            raise InvalidInput(f"no tunnel may lead to {service!r}", remedy=remedy, field="service")


class DnsTools(RestTools):
    """Reads and changes DNS records and tunnels."""

    name = "dns"
    config_type = DnsSettings
    parts: ClassVar = {"cloudflare": Cloudflare}


def _expected(records: list[dict[str, Any]], name: str, was: str) -> dict[str, Any]:
    matches = [record for record in records if _same(record["content"], was)]
    if not matches:
        listed = ", ".join(repr(record["content"]) for record in records) or "nothing"
        raise ToolFailed(f"{name} does not have {was!r} any more but {listed}", remedy=_READ_AGAIN)
    return matches[0]


def _same(one: str, other: str) -> bool:
    """Whether two contents are the same; Cloudflare puts texts in quotes."""
    return one.strip('"') == other.strip('"')


def _shown(record: Mapping[str, Any]) -> dict[str, Any]:
    fields = ("type", "name", "content", "ttl", "proxied", "comment")
    return {field: record[field] for field in fields if record.get(field) is not None}


def _pages(answer: Mapping[str, Any]) -> dict[str, int]:
    pages = (answer.get("result_info") or {}).get("total_pages", 1)
    return {"pages": pages} if pages > 1 else {}


def _is_routed(effect: Mapping[str, Any]) -> bool:
    rule, record = effect["rule"], effect["record"]
    return rule["before"] == rule["after"] and record["before"] is not None
