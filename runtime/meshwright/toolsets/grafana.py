"""Dashboards of Grafana: which there are, and what their panels query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.tools.tool import tool
from meshwright.toolsets.rest import RestPart

_MAX_FOUND = 50
_MAX_PANELS = 200
_MAX_QUERY_CHARS = 2_000
_QUERIES = ("expr", "query", "rawSql", "expression")  # of Prometheus and Loki, Influx, SQL, Grafana itself

Uid = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Grafana(RestPart):
    """The tools over Grafana's HTTP API."""

    @tool(idempotent=True, effect="read", origin="outside")
    async def dashboards(self, search: str = "") -> list[dict[str, Any]]:
        """Find dashboards by their titles, with the uid that `panel` takes.

        Args:
            search: words of the title; by default all, 50 at most
        """
        params = {"type": "dash-db", "limit": _MAX_FOUND, "query": search}
        found = await self.server.get("api", "search", params=params)
        if not isinstance(found, list):
            raise ToolFailed(f"{self.server.service.url} does not answer as Grafana does")
        return [
            {
                "uid": board["uid"],
                "title": board["title"],
                "folder": board.get("folderTitle", ""),
                "tags": board.get("tags", []),
            }
            for board in found[:_MAX_FOUND]
        ]

    @tool(idempotent=True, effect="read", origin="outside")
    async def panel(self, uid: Uid, id: int = 0) -> dict[str, Any]:
        """Show what a panel of a dashboard queries, or list the panels.

        Args:
            uid: the dashboard's
            id: the panel's; by default the panels are listed
        """
        found = await self.server.get("api", "dashboards", "uid", uid)
        board = found.get("dashboard") if isinstance(found, dict) else None
        if not isinstance(board, dict):
            raise ToolFailed(f"{self.server.service.url} does not answer as Grafana does")
        panels = [*_panels(board)]
        title = board.get("title", "")
        if not id:
            listed = [{name: panel.get(name, "") for name in ("id", "title", "type")} for panel in panels]
            return {"dashboard": title, "panels": listed[:_MAX_PANELS]}
        panel = next((panel for panel in panels if panel.get("id") == id), None)
        if panel is None:
            known = ", ".join(str(panel.get("id")) for panel in panels[:_MAX_FOUND])
            raise InvalidInput(f"{title!r} has no panel {id}", remedy=f"there are {known}", field="id")
        return {
            "dashboard": title,
            "title": panel.get("title", ""),
            "type": panel.get("type", ""),
            "description": str(panel.get("description", ""))[:_MAX_QUERY_CHARS],
            "unit": panel.get("fieldConfig", {}).get("defaults", {}).get("unit", ""),
            "queries": [_query(target, panel) for target in panel.get("targets", [])],
        }

    async def check(self) -> None:
        """Search a dashboard, which takes the token."""
        await self.server.get("api", "search", params={"type": "dash-db", "limit": 1})


def _panels(board: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The panels of a dashboard, those in folded rows too."""
    for panel in board.get("panels", []):
        if panel.get("type") != "row":
            yield panel
        yield from panel.get("panels", [])


def _query(target: Mapping[str, Any], panel: Mapping[str, Any]) -> dict[str, str]:
    source = target.get("datasource") or panel.get("datasource") or {}
    kind = source.get("type", "") if isinstance(source, dict) else str(source)
    text = next((target[name] for name in _QUERIES if isinstance(target.get(name), str)), "")
    return {"source": kind, "query": text[:_MAX_QUERY_CHARS], "legend": str(target.get("legendFormat", ""))}
