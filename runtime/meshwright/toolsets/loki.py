"""Log lines of Loki."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import Field

from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.tools.tool import tool
from meshwright.toolsets.rest import RestPart

_MAX_LINE_CHARS = 1_000
_MAX_CHARS = 8_000
_MAX_NAMES = 200
_NANOSECONDS = 1_000_000_000

Query = Annotated[str, Field(min_length=2, max_length=4_000)]
Minutes = Annotated[int, Field(ge=1, le=60 * 24 * 31)]
Limit = Annotated[int, Field(ge=1, le=500)]


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
        found = await self._asked(*(("label", name, "values") if name else ("labels",)))
        return [str(label)[:_MAX_LINE_CHARS] for label in found or []][:_MAX_NAMES]

    async def check(self) -> None:
        """Read the labels."""
        await self._asked("labels")

    async def _asked(self, *what: str, params: Mapping[str, str | int] | None = None) -> Any:
        answer = await self.server.get("loki", "api", "v1", *what, params=params)
        if not isinstance(answer, dict) or answer.get("status") != "success":
            raise ToolFailed(f"{self.server.service.url} does not answer as Loki does")
        return answer.get("data")


def _page(lines: list[tuple[int, Mapping[str, str], str]], limit: int) -> dict[str, Any]:
    shown: list[dict[str, Any]] = []
    room, last = _MAX_CHARS, ""
    for when, labels, line in lines:
        cut = (
            line
            if len(line) <= _MAX_LINE_CHARS
            else f"{line[:_MAX_LINE_CHARS]}... ({len(line):,} characters)"
        )
        room -= len(cut) + len(str(labels))
        if room < 0 and shown:
            return {"lines": shown, "before": last}
        moment = datetime.fromtimestamp(when / _NANOSECONDS, UTC)
        shown.append({"time": moment.isoformat(timespec="milliseconds"), "labels": labels, "line": cut})
        last = str(when)
    return {"lines": shown, **({"before": last} if len(lines) >= limit else {})}


def _time(before: str) -> int:
    """A time in nanoseconds."""
    if not before:
        return int((datetime.now(UTC) + timedelta(seconds=1)).timestamp()) * _NANOSECONDS
    if not before.isdecimal() or len(before) != 19:
        raise InvalidInput(f"{before[:40]!r} is no place to go on from", field="before")
    return int(before)
