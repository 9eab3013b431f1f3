"""The toolset `observe`: metrics, alerts, logs and dashboards of a running system.

Its services are Prometheus, Alertmanager, Loki and Grafana, each of which may be missing. Only a silence
changes anything. Strangers may have written the labels, annotations, log lines and titles."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from meshwright.agents.tools.tool import Tool, ToolContext, tool
from meshwright.core.checks import CheckResult
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.core.settings.forms import Table
from meshwright.toolsets.prometheus import Prometheus
from meshwright.toolsets.rest import RestPart, RestService, RestTools, first_rows

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


_MAX_ALERTS = 50
_MAX_TEXT_CHARS = 300
_MATCHER = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)(=~|!~|!=|=)"((?:[^"\\\n]|\\["\\n])*)"')
_PLAIN = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}

Matchers = Annotated[list[str], Field(min_length=1, max_length=20)]
SilenceMinutes = Annotated[int, Field(ge=1, le=60 * 24 * 7)]
Reason = Annotated[str, Field(min_length=1, max_length=500)]
State = Literal["active", "silenced", "inhibited", "any"]


class Alertmanager(RestPart):
    """The tools over Alertmanager's API."""

    @tool(idempotent=True, effect="read", origin="outside")
    async def alerts(self, state: State = "active", matchers: Sequence[str] = ()) -> dict[str, Any]:
        """List alerts that fire, the newest first, with labels, annotations and what silences them.

        Args:
            state: which of them
            matchers: only those with such labels, like severity="page" or instance=~"db.*"
        """
        for matcher in matchers:
            _read(matcher)
        states = {name: "true" if state in (name, "any") else "false" for name in ("silenced", "inhibited")}
        states |= {"active": "true" if state in ("active", "any") else "false"}
        alerts = await self.server.get("api", "v2", "alerts", params={**states, "filter": [*matchers]})
        newest = sorted(alerts, key=lambda alert: alert["startsAt"], reverse=True)
        entries = [
            {
                "labels": _short(alert["labels"]),
                "annotations": _short(alert.get("annotations", {})),
                "since": alert["startsAt"],
                "state": alert["status"]["state"],
                "silenced_by": alert["status"]["silencedBy"],
            }
            for alert in newest[:_MAX_ALERTS]
        ]
        return first_rows("alerts", entries, _MAX_ALERTS, len(newest))

    @tool(idempotent=True, effect="read", origin="outside")
    async def silences(self) -> list[dict[str, Any]]:
        """List the silences that hold now or begin later."""
        silences = [
            {
                "id": silence["id"],
                "state": silence["status"]["state"],
                "matchers": [*map(_text, silence["matchers"])],
                "from": silence["startsAt"],
                "until": silence["endsAt"],
                "by": silence["createdBy"],
                "reason": silence["comment"][:_MAX_TEXT_CHARS],
            }
            for silence in await self._held()
        ]
        return sorted(silences, key=lambda silence: silence["until"])[:_MAX_ALERTS]

    @tool(
        idempotent=True,
        needs_approval=True,
        origin="outside",
        preview="_preview_silence",
        check="_was_silenced",
    )
    async def silence(
        self, matchers: Matchers, minutes: SilenceMinutes, reason: Reason, context: ToolContext
    ) -> dict[str, Any]:
        """Silence the alerts that have all of some labels, for minutes from now on.

        A repeat in the same task extends its silence, and makes no second one.

        Args:
            matchers: labels, each like alertname="DiskFull", severity!="page" or instance=~"db-.*"
            minutes: how long, at most a week
            reason: why, for those who look for the alert
        """
        conditions = _all_read(matchers)
        now = datetime.now(UTC)
        comment = _comment(reason, context)
        ours = await self._ours(conditions, comment)
        body = {
            "matchers": conditions,
            "startsAt": now.isoformat(),
            "endsAt": (now + timedelta(minutes=minutes)).isoformat(),
            "createdBy": f"meshwright {context.agent_id}",
            "comment": comment,
            **({"id": ours[0]} if ours else {}),
        }
        reply = (await self.server.call("POST", "api", "v2", "silences", body=body)).data
        if not isinstance(reply, dict) or "silenceID" not in reply:
            raise ToolFailed("Alertmanager did not say that the silence was made", remedy="Look at silences")
        return {"id": reply["silenceID"], "until": body["endsAt"], "matchers": [*map(_text, conditions)]}

    async def _preview_silence(
        self, matchers: Matchers, minutes: SilenceMinutes, reason: Reason, context: ToolContext
    ) -> dict[str, Any]:
        """The names of the alerts that nothing silences now, or the silence of this very call alone."""
        conditions = _all_read(matchers)
        alerts = await self.server.get(
            "api", "v2", "alerts", params={"filter": [*map(_text, conditions)], "silenced": "true"}
        )
        ours = set(await self._ours(conditions, _comment(reason, context)))
        loud = [alert for alert in alerts if ours.issuperset(alert["status"]["silencedBy"])]
        names = sorted({alert["labels"].get("alertname", "") for alert in loud})
        return {"minutes": minutes, "silences": names}

    async def _was_silenced(
        self, matchers: Matchers, minutes: SilenceMinutes, reason: Reason, context: ToolContext
    ) -> CheckResult:
        conditions = _all_read(matchers)
        ours = await self._ours(conditions, _comment(reason, context))
        silences = [silence for silence in await self._held() if silence["id"] in ours]
        if not silences:
            return CheckResult.unknown("Alertmanager has no silence of this call.")
        result = {"id": ours[0], "until": silences[0]["endsAt"], "matchers": [*map(_text, conditions)]}
        return CheckResult.happened(result, f"Alertmanager has the silence {ours[0]} of this call.")

    async def check(self) -> None:
        """Read the silences."""
        await self._held()

    async def _ours(self, conditions: Sequence[Mapping[str, Any]], comment: str) -> list[str]:
        """The ids of the silences that a call has made."""
        return [
            silence["id"]
            for silence in await self._held()
            if silence["comment"] == comment and _sorted(silence["matchers"]) == _sorted(conditions)
        ]

    async def _held(self) -> list[dict[str, Any]]:
        silences = await self.server.get("api", "v2", "silences")
        return [silence for silence in silences if silence["status"]["state"] != "expired"]


def _comment(reason: str, context: ToolContext) -> str:
    return f"{reason} (task {context.task.task_id})"


def _all_read(matchers: Sequence[str]) -> list[dict[str, Any]]:
    """The matchers of a silence. Raises InvalidInput, also for such as fit every alert."""
    conditions = [_read(matcher) for matcher in matchers]
    if not any(_narrows(matcher) for matcher in conditions):
        remedy = 'name a label that the alerts have, like alertname="DiskFull"'
        raise InvalidInput("these matchers fit every alert", remedy=remedy, field="matchers")
    return conditions


def _narrows(matcher: Mapping[str, Any]) -> bool:
    """Whether it leaves out alerts without the label, and some of those that have it."""
    if not matcher["isEqual"]:
        return False
    if not matcher["isRegex"]:
        return bool(matcher["value"])
    try:
        return not any(re.fullmatch(matcher["value"], probe) for probe in ("", "q7"))
    except re.error as error:
        raise InvalidInput(f"{matcher['value']!r} is no regular expression", field="matchers") from error


def _read(matcher: str) -> dict[str, Any]:
    match = _MATCHER.fullmatch(matcher)
    if not match:
        remedy = 'write name="value", with =, !=, =~ or !~'
        raise InvalidInput(f"{matcher[:100]!r} is no matcher", remedy=remedy, field="matchers")
    name, operator, quoted = match.groups()
    value = re.sub(r"\\.", lambda escape: _PLAIN[escape[0]], quoted)
    return {"name": name, "value": value, "isRegex": "~" in operator, "isEqual": "!" not in operator}


def _text(matcher: Mapping[str, Any]) -> str:
    operator = ("=" if matcher.get("isEqual", True) else "!") + ("~" if matcher["isRegex"] else "")
    operator = "!=" if operator == "!" else operator
    value = matcher["value"].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{matcher["name"]}{operator}"{value}"'


def _sorted(matchers: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(map(_text, matchers))


def _short(labels: Mapping[str, str]) -> dict[str, str]:
    return {name[:_MAX_TEXT_CHARS]: value[:_MAX_TEXT_CHARS] for name, value in labels.items()}


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
