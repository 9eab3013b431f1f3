"""The toolset `observe`: metrics, alerts, logs and dashboards of a running system.

Its services are Prometheus, Alertmanager, Loki and Grafana, each of which may be missing. Only a silence
changes anything. Strangers may have written the labels, annotations, log lines and titles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar

from pydantic import Field

from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.settings.forms import Table
from meshwright.tools.tool import Tool, tool
from meshwright.toolsets.alertmanager import Alertmanager
from meshwright.toolsets.prometheus import Prometheus
from meshwright.toolsets.rest import RestPart, RestService, RestTools

_MAX_LINE_CHARS = 1_000
_MAX_CHARS = 8_000
_MAX_NAMES = 200
_NANOSECONDS = 1_000_000_000

Query = Annotated[str, Field(min_length=2, max_length=4_000)]
Minutes = Annotated[int, Field(ge=1, le=60 * 24 * 31)]
Limit = Annotated[int, Field(ge=1, le=500)]
_MAX_FOUND = 50
_MAX_PANELS = 200
_MAX_QUERY_CHARS = 2_000
_QUERIES = ("expr", "query", "rawSql", "expression")  # of Prometheus and Loki, Influx, SQL, Grafana itself
Uid = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Loki(RestPart):
    """The tools over Loki's HTTP API."""

    @tool(idempotent=True, effect="read", origin="outside")
    async def query_logs(
        self, logql: Query, minutes: Minutes = 60, limit: Limit = 100, before: str = ""
    ) -> dict[str, Any]:
        """Search log lines, the newest first: at most 8,000 characters, and where to go on if there are more.

        Args:
            logql: selector and filters, such as {app="shop"} |= "error"
            minutes: how far back from now, or from `before`
            limit: lines at most
            before: only older lines: the `before` of the last result, to read on
        """
        end = _time(before)
        span = minutes * 60 * _NANOSECONDS
        params = {"query": logql, "start": str(end - span), "end": str(end), "limit": limit}
        data = await self._asked("query_range", params={**params, "direction": "backward"})
        if not isinstance(data, dict) or data.get("resultType") != "streams":
            remedy = "ask for lines: a selector and filters, without rate, count_over_time and the like"
            raise InvalidInput("the query is one of numbers", remedy=remedy, field="logql")
        lines = [
            (int(when), stream["stream"], line)
            for stream in data["result"]
            for when, line in stream["values"]
        ]
        return _page(sorted(lines, key=lambda line: line[0], reverse=True), limit)

    @tool(idempotent=True, effect="read", origin="outside")
    async def log_labels(self, name: str = "") -> list[str]:
        """List the labels that logs of the last hours have, or the values of one of them.

        Args:
            name: the label whose values to list; by default the labels
        """
        names = await self._asked(*(("label", name, "values") if name else ("labels",)))
        return [str(label)[:_MAX_LINE_CHARS] for label in names or []][:_MAX_NAMES]

    async def check(self) -> None:
        """Read the labels."""
        await self._asked("labels")

    async def _asked(self, *what: str, params: Mapping[str, str | int] | None = None) -> Any:
        answer = await self.server.get("loki", "api", "v1", *what, params=params)
        if not isinstance(answer, dict) or answer.get("status") != "success":
            raise ToolFailed(f"{self.server.service.url} does not answer as Loki does")
        return answer.get("data")


def _page(lines: list[tuple[int, Mapping[str, str], str]], limit: int) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    room, last = _MAX_CHARS, ""
    for when, labels, line in lines:
        cut = (
            line
            if len(line) <= _MAX_LINE_CHARS
            else f"{line[:_MAX_LINE_CHARS]}... ({len(line):,} characters)"
        )
        room -= len(cut) + len(str(labels))
        if room < 0 and entries:
            return {"lines": entries, "before": last}
        moment = datetime.fromtimestamp(when / _NANOSECONDS, UTC)
        entries.append({"time": moment.isoformat(timespec="milliseconds"), "labels": labels, "line": cut})
        last = str(when)
    return {"lines": entries, **({"before": last} if len(lines) >= limit else {})}


def _time(before: str) -> int:
    if not before:
        return int((datetime.now(UTC) + timedelta(seconds=1)).timestamp()) * _NANOSECONDS
    if not before.isdecimal() or len(before) != 19:
        raise InvalidInput(f"{before[:40]!r} is no place to go on from", field="before")
    return int(before)


class Grafana(RestPart):
    """The tools over Grafana's HTTP API."""

    @tool(idempotent=True, effect="read", origin="outside")
    async def dashboards(self, search: str = "") -> list[dict[str, Any]]:
        """Find dashboards by their titles, with the uid that `panel` takes.

        Args:
            search: words of the title; by default all, 50 at most
        """
        params = {"type": "dash-db", "limit": _MAX_FOUND, "query": search}
        boards = await self.server.get("api", "search", params=params)
        if not isinstance(boards, list):
            raise ToolFailed(f"{self.server.service.url} does not answer as Grafana does")
        return [
            {
                "uid": board["uid"],
                "title": board["title"],
                "folder": board.get("folderTitle", ""),
                "tags": board.get("tags", []),
            }
            for board in boards[:_MAX_FOUND]
        ]

    @tool(idempotent=True, effect="read", origin="outside")
    async def panel(self, uid: Uid, id: int = 0) -> dict[str, Any]:
        """Show what a panel of a dashboard queries, or list the panels.

        Args:
            uid: the dashboard's
            id: the panel's; by default the panels are listed
        """
        reply = await self.server.get("api", "dashboards", "uid", uid)
        board = reply.get("dashboard") if isinstance(reply, dict) else None
        if not isinstance(board, dict):
            raise ToolFailed(f"{self.server.service.url} does not answer as Grafana does")
        panels = [*_panels(board)]
        title = board.get("title", "")
        if not id:
            listed = [{name: panel.get(name, "") for name in ("id", "title", "type")} for panel in panels]
            return {"dashboard": title, "panels": listed[:_MAX_PANELS]}
        panel = next((panel for panel in panels if panel.get("id") == id), None)
        if panel is None:
            ids = ", ".join(str(panel.get("id")) for panel in panels[:_MAX_FOUND])
            raise InvalidInput(f"{title!r} has no panel {id}", remedy=f"there are {ids}", field="id")
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


class ObserveSettings(Table):
    """[tools.observe]: the services to read from, each of which may be missing."""

    prometheus: RestService | None = None
    """Prometheus, or what has its API, such as VictoriaMetrics, Thanos or Mimir."""
    alertmanager: RestService | None = None
    """Alertmanager 0.16 or newer."""
    loki: RestService | None = None
    """Loki 2 or 3; `headers = {X-Scope-OrgID = "..."}` names its tenant."""
    grafana: RestService | None = None
    """Grafana, with the token of a service account that may view."""


class ObserveTools(RestTools):
    """Reads metrics, alerts, logs and dashboards, and silences alerts. `ObserveReadTools` only reads."""

    name = "observe"
    config_type = ObserveSettings
    parts: ClassVar = {
        "prometheus": Prometheus,
        "alertmanager": Alertmanager,
        "loki": Loki,
        "grafana": Grafana,
    }


class ObserveReadTools(ObserveTools):
    """Reads metrics, alerts, logs and dashboards."""

    async def tools(self) -> Sequence[Tool]:
        """The tools that change nothing."""
        return [tool for tool in await super().tools() if tool.effect == "read"]
