"""Fakes of Loki and Grafana, which no package of Debian brings.

They speak the documented wire, and of LogQL a selector of equal labels with `|=` filters.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from tests.support.fake_services import FakeService


class FakeLoki(FakeService):
    """A fake of Loki 3's HTTP API: `lines` are (nanoseconds, labels, line)."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, dict[str, str], str]] = []
        self.app.router.add_get("/loki/api/v1/query_range", self._query)
        self.app.router.add_get("/loki/api/v1/labels", self._labels)
        self.app.router.add_get("/loki/api/v1/label/{name}/values", self._labels)

    async def _query(self, request: web.Request) -> web.Response:
        query = request.query
        if query["query"].startswith(("rate(", "count_over_time(")):
            return _found({"resultType": "matrix", "result": []})
        found = re.fullmatch(r"\{([^}]*)\}((?: \|= \"[^\"]*\")*)", query["query"])
        if not found:
            return web.Response(status=400, text="parse error at line 1, col 1: syntax error")
        wanted = re.findall(r'(\w+)="([^"]*)"', found[1])
        filters = re.findall(r'\|= "([^"]*)"', found[2])
        lines = [
            (when, labels, line)
            for when, labels, line in self.lines
            if int(query["start"]) <= when < int(query["end"])
            and all(labels.get(name) == value for name, value in wanted)
            and all(text in line for text in filters)
        ]
        newest = sorted(lines, key=lambda line: line[0], reverse=True)[: int(query["limit"])]
        streams: dict[tuple[tuple[str, str], ...], list[list[str]]] = {}
        for when, labels, line in newest:
            streams.setdefault(tuple(labels.items()), []).append([str(when), line])
        result = [{"stream": dict(labels), "values": values} for labels, values in streams.items()]
        return _found({"resultType": "streams", "result": result, "stats": {}})

    async def _labels(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name")
        found = {labels.get(name) if name else label for _, labels, _ in self.lines for label in labels}
        return _found(sorted(filter(None, found)))


def _found(data: Any) -> web.Response:
    return web.json_response({"status": "success", "data": data})


class FakeGrafana(FakeService):
    """A fake of Grafana's HTTP API with one dashboard, for the token `viewer`."""

    def __init__(self) -> None:
        super().__init__()
        self.app.router.add_get("/api/search", self._search)
        self.app.router.add_get("/api/dashboards/uid/{uid}", self._dashboard)

    async def _search(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer viewer":
            return web.json_response({"message": "Invalid API key"}, status=401)
        board = {
            "id": 7,
            "uid": "disks",
            "title": "Disks",
            "uri": "db/disks",
            "url": "/d/disks/disks",
            "slug": "",
            "type": "dash-db",
            "tags": ["home"],
            "isStarred": False,
            "folderTitle": "House",
            "sortMeta": 0,
        }
        return web.json_response([board] if request.query["query"].lower() in "disks" else [])

    async def _dashboard(self, request: web.Request) -> web.Response:
        if request.match_info["uid"] != "disks":
            return web.json_response({"message": "Dashboard not found"}, status=404)
        source = {"type": "prometheus", "uid": "p1"}
        free = {
            "id": 2,
            "type": "timeseries",
            "title": "Free",
            "datasource": source,
            "fieldConfig": {"defaults": {"unit": "bytes"}, "overrides": []},
            "targets": [{"refId": "A", "expr": "node_filesystem_free_bytes", "legendFormat": "{{device}}"}],
        }
        folded = {"id": 9, "type": "stat", "title": "Inodes", "datasource": source, "targets": []}
        row = {"id": 3, "type": "row", "title": "More", "collapsed": True, "panels": [folded]}
        board = {"uid": "disks", "title": "Disks", "panels": [free, row], "schemaVersion": 39}
        return web.json_response({"meta": {"slug": "disks", "version": 1}, "dashboard": board})
