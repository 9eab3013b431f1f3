"""A fake of Cloudflare's API v4, since no server of it can be run: zones, records and tunnels of one account.

Its answers are checked against the types of Cloudflare's SDK, which are made of its OpenAPI document.
"""

from __future__ import annotations

import itertools
from typing import Any

from aiohttp import web

from tests.support.fake_services import FakeService, Published

TOKEN = "a-token-of-cloudflare"
ACCOUNT = "0123456789abcdef0123456789abcdef"
TUNNEL = "c1744f8b-faa1-48a4-9e5c-02ac921467fa"
ZONE = "023e105f4ecef8ad9ca31a8372d0c353"
_MOMENT = "2026-01-01T00:00:00Z"
_NAMES = {"A", "AAAA", "CNAME"}


class FakeCloudflare(FakeService):
    """The zone home.example.com, and the tunnel `house`."""

    def __init__(self) -> None:
        super().__init__()
        self.published = Published("cloudflare.json")
        self.records: dict[str, dict[str, Any]] = {}
        self.config: dict[str, Any] = {"ingress": [{"hostname": "", "service": "http_status:404"}]}
        self._numbers = itertools.count(1)
        router = self.app.router
        router.add_get("/client/v4/zones", self._zones)
        router.add_get("/client/v4/zones/{zone}/dns_records", self._list)
        router.add_post("/client/v4/zones/{zone}/dns_records", self._create)
        router.add_patch("/client/v4/zones/{zone}/dns_records/{id}", self._edit)
        router.add_delete("/client/v4/zones/{zone}/dns_records/{id}", self._delete)
        tunnels = "/client/v4/accounts/{account}/cfd_tunnel"
        router.add_get(tunnels, self._tunnels)
        router.add_get(f"{tunnels}/{{id}}/configurations", self._configuration)
        router.add_put(f"{tunnels}/{{id}}/configurations", self._configure)

    def add(self, type: str, name: str, content: str, **more: Any) -> str:
        """Add a record; its id."""
        record_id = f"{next(self._numbers):032x}"
        record = {"type": type, "name": name, "content": content, "ttl": 1, "proxied": False, **more}
        about = {"meta": {}, "proxiable": type in _NAMES, "created_on": _MOMENT, "modified_on": _MOMENT}
        self.records[record_id] = self.published.checked("record", {"id": record_id, **record, **about})
        return record_id

    @property
    def contents(self) -> set[tuple[str, str, str]]:
        records = self.records.values()
        return {(record["type"], record["name"], record["content"]) for record in records}

    async def _zones(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _refused(403, 9109, "Invalid access token")
        zone = {
            "id": ZONE,
            "name": "home.example.com",
            "status": "active",
            "account": {"id": ACCOUNT, "name": "home"},
            "created_on": _MOMENT,
            "modified_on": _MOMENT,
            "development_mode": 0,
            "meta": {},
            "name_servers": ["bob.ns.cloudflare.com"],
            "owner": {"id": "o1", "name": "ann", "type": "user"},
            "plan": {"id": "p1", "name": "Free"},
        }
        wanted = request.query.get("name", zone["name"])
        return _found([self.published.checked("zone", zone)] if wanted == zone["name"] else [])

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        found = [
            record
            for record in self.records.values()
            if query.get("type", record["type"]) == record["type"]
            and query.get("name.exact", record["name"]) == record["name"]
        ]
        page, size = int(query.get("page", 1)), int(query.get("per_page", 100))
        return _found(found[(page - 1) * size : page * size], len(found), size)

    async def _create(self, request: web.Request) -> web.Response:
        sent = await request.json()
        if not self.published.fits("record sent", sent):
            return _refused(400, 9000, "DNS record is not valid")
        clash = {type for type, name, _ in self.contents if name == sent["name"]}
        if clash and (sent["type"] == "CNAME" or "CNAME" in clash):
            return _refused(400, 81053, "An A, AAAA, or CNAME record with that host already exists.")
        if sent["type"] == "TXT":
            sent["content"] = f'"{sent["content"]}"'
        return _found(self.records[self.add(**sent)])

    async def _edit(self, request: web.Request) -> web.Response:
        record = self.records.get(request.match_info["id"])
        if record is None:
            return _refused(404, 81044, "Record does not exist.")
        record.update(await request.json())
        return _found(self.published.checked("record", record))

    async def _delete(self, request: web.Request) -> web.Response:
        if self.records.pop(request.match_info["id"], None) is None:
            return _refused(404, 81044, "Record does not exist.")
        return _found({"id": request.match_info["id"]})

    async def _tunnels(self, request: web.Request) -> web.Response:
        if request.match_info["account"] != ACCOUNT:
            return _refused(403, 10000, "Authentication error")
        tunnel = {"id": TUNNEL, "account_tag": ACCOUNT, "name": "house", "status": "healthy"}
        return _found([self.published.checked("tunnel", tunnel)])

    async def _configuration(self, request: web.Request) -> web.Response:
        found = {"account_id": ACCOUNT, "tunnel_id": TUNNEL, "version": 1, "config": self.config}
        return _found(self.published.checked("configuration", found))

    async def _configure(self, request: web.Request) -> web.Response:
        config = (await request.json())["config"]
        if config["ingress"][-1].get("hostname"):
            return _refused(400, 1056, "Bad Configuration: The last ingress rule must match all hostnames")
        self.config = config
        return await self._configuration(request)


def _found(result: Any, count: int = 0, size: int = 100) -> web.Response:
    info = {"page": 1, "per_page": size, "total_count": count, "total_pages": max(1, -(-count // size))}
    about = {"result_info": info} if isinstance(result, list) else {}
    return web.json_response({"success": True, "errors": [], "messages": [], "result": result, **about})


def _refused(status: int, code: int, message: str) -> web.Response:
    errors = [{"code": code, "message": message}]
    document = {"success": False, "errors": errors, "messages": [], "result": None}
    return web.json_response(document, status=status)
