"""Metrics of Prometheus, in few words: values by series, and the health of targets, alerts and pods."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field

from meshwright.agents.tools.tool import tool
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.toolsets.rest import RestPart, first_rows

_MAX_SERIES = 50
_MAX_RANGES = 10
_POINTS = 60
_MAX_LABEL_CHARS = 200
_MAX_PROBLEMS = 50
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

Query = Annotated[str, Field(min_length=1, max_length=4_000)]
Hours = Annotated[int, Field(ge=1, le=24 * 31)]
Minutes = Annotated[int, Field(ge=1, le=60 * 24 * 366)]


class Prometheus(RestPart):
    """The tools over Prometheus' HTTP API."""

    @tool(idempotent=True, effect="read", origin="outside")
    async def query(self, promql: Query, at: datetime | None = None) -> dict[str, Any]:
        """Evaluate a PromQL expression at one time, for at most 50 series: aggregate with sum by or topk.

        Args:
            promql: the expression, such as sum by (job) (up)
            at: the time, such as 2026-12-01T09:00:00Z; by default now
        """
        params = {"query": promql} | ({} if at is None else {"time": _utc(at).isoformat()})
        data = await self._asked("query", params)
        if data["resultType"] not in ("vector", "matrix"):
            return {"value": data["result"][1]}
        if data["resultType"] == "matrix":
            raise InvalidInput("the expression has a range: use query_range", field="promql")
        result = sorted(data["result"], key=lambda series: str(series["metric"]))
        rows = [{"metric": _labels(series["metric"]), "value": series["value"][1]} for series in result]
        return first_rows("series", rows, _MAX_SERIES)

    @tool(idempotent=True, effect="read", origin="outside")
    async def query_range(
        self, promql: Query, minutes: Minutes = 60, until: datetime | None = None
    ) -> dict[str, Any]:
        """Evaluate a PromQL expression over the last minutes: 60 values of at most 10 series, with extremes.

        Args:
            promql: the expression, such as rate(http_requests_total[5m])
            minutes: how far back
            until: the end, such as 2026-12-01T09:00:00Z; by default now
        """
        end = _utc(until) if until else datetime.now(UTC)
        step = max(1, math.ceil(minutes * 60 / _POINTS))
        start = end - timedelta(seconds=step * (_POINTS - 1))
        times = {"start": f"{start.timestamp():.3f}", "end": f"{end.timestamp():.3f}", "step": step}
        data = await self._asked("query_range", {"query": promql, **times})
        result = sorted(data["result"], key=lambda series: str(series["metric"]))
        rows = [_range(series, start.timestamp(), step) for series in result[:_MAX_RANGES]]
        about = {"start": start.isoformat(timespec="seconds"), "step_seconds": step}
        return about | first_rows("series", rows, _MAX_RANGES, len(result))

    @tool(idempotent=True, effect="read", origin="outside")
    async def targets(self, only_down: bool = True) -> dict[str, Any]:
        """List what Prometheus scrapes, with the error of each target that is down, and how many are up.

        Args:
            only_down: leave out those that are up
        """
        data = await self._asked("targets", {"state": "active"})
        active = data["activeTargets"]
        rows = [
            {
                "job": target["labels"].get("job", ""),
                "instance": target["labels"].get("instance", ""),
                "health": target["health"],
                "error": _short(target.get("lastError", "")),
            }
            for target in active
            if not only_down or target["health"] != "up"
        ]
        up = sum(target["health"] == "up" for target in active)
        return {"up": up, "of": len(active), **first_rows("targets", rows, _MAX_SERIES)}

    @tool(idempotent=True, effect="read", origin="outside")
    async def rule_alerts(self, state: Literal["firing", "pending", "any"] = "any") -> dict[str, Any]:
        """List the alerts of Prometheus' own rules, also those that are pending, and so not yet sent.

        Args:
            state: which of them
        """
        data = await self._asked("alerts", {})
        rows = [
            {
                "state": alert["state"],
                "since": alert.get("activeAt", ""),
                "labels": _labels(alert["labels"]),
                "annotations": _labels(alert.get("annotations", {})),
                "value": alert.get("value", ""),
            }
            for alert in data["alerts"]
            if state in ("any", alert["state"])
        ]
        return first_rows("alerts", rows, _MAX_SERIES)

    @tool(idempotent=True, effect="read", origin="outside")
    async def pod_health(self, namespace: str = "", minutes: Minutes = 60) -> dict[str, Any]:
        """List pods that are not well: waiting, restarted, killed for memory, pending or failed.

        It needs kube-state-metrics; an empty list says that all are well.

        Args:
            namespace: the namespace; by default all
            minutes: how far back restarts count
        """
        selected = _selected(namespace)
        queries = {name: text % {"of": selected, "minutes": minutes} for name, text in _POD_PROBLEMS.items()}
        count, *replies = await asyncio.gather(
            self._asked("query", {"query": f"count(kube_pod_info{{{selected}}})"}),
            *(self._asked("query", {"query": text}) for text in queries.values()),
        )
        pods = int(float(count["result"][0]["value"][1])) if count["result"] else 0
        if not pods:
            of = f"namespace {namespace}" if namespace else "any namespace"
            raise ToolFailed(f"Prometheus knows no pods of {of}", remedy="It needs kube-state-metrics")
        problems = [
            _problem(name, series)
            for name, data in zip(queries, replies, strict=True)
            for series in sorted(data["result"], key=lambda series: str(series["metric"]))
        ]
        return {"pods": pods, **first_rows("problems", problems, _MAX_PROBLEMS)}

    @tool(idempotent=True, effect="read", origin="outside")
    async def cluster_usage(self, namespace: str = "", hours: Hours = 24) -> dict[str, Any]:
        """Sum up the processor time and memory that the namespaces of a cluster used, the most first.

        `cpu_hours` are hours of one core, `memory_gb` is the average; beside them what the pods request now.
        It needs the metrics of cAdvisor, and kube-state-metrics for requests.

        Args:
            namespace: only this one, pod by pod
            hours: how far back
        """
        selected, by = _selected(namespace), "pod" if namespace else "namespace"
        queries = {name: text % {"of": selected, "hours": hours, "by": by} for name, text in _USAGE.items()}
        replies = await asyncio.gather(*(self._asked("query", {"query": text}) for text in queries.values()))
        rows: dict[str, dict[str, Any]] = {}
        for name, data in zip(queries, replies, strict=True):
            for series in data["result"]:
                place = _short(series["metric"].get(by, ""))
                rows.setdefault(place, {by: place})[name] = float(f"{float(series['value'][1]):.4g}")
        if not rows:
            problem = f"Prometheus knows no usage of {namespace or 'any namespace'} in {hours} hours"
            raise ToolFailed(problem, remedy="It needs the metrics of cAdvisor")
        usage = sorted(rows.values(), key=lambda row: -row.get("cpu_hours", 0.0))
        return {"hours": hours, **first_rows("usage", usage, _MAX_PROBLEMS)}

    async def check(self) -> None:
        """Evaluate a number."""
        await self._asked("query", {"query": "1"})

    async def _asked(self, what: str, params: Mapping[str, str | int]) -> dict[str, Any]:
        answer = await self.server.get("api", "v1", what, params=params)
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), dict):
            raise ToolFailed(f"{self.server.service.url} does not answer as Prometheus does")
        return answer["data"]


_POD_PROBLEMS = {
    "waiting": "kube_pod_container_status_waiting_reason{%(of)s} > 0",
    "restarts": "increase(kube_pod_container_status_restarts_total{%(of)s}[%(minutes)dm]) >= 1",
    "killed for memory": (
        'kube_pod_container_status_last_terminated_reason{%(of)s,reason="OOMKilled"} > 0'
        " and on (namespace, pod, container)"
        " increase(kube_pod_container_status_restarts_total{%(of)s}[%(minutes)dm]) >= 1"
    ),
    "phase": 'kube_pod_status_phase{%(of)s,phase=~"Pending|Failed|Unknown"} > 0',
}


_USAGE = {
    "cpu_hours": (
        "sum by (%(by)s)"
        ' (increase(container_cpu_usage_seconds_total{%(of)s,container!=""}[%(hours)dh])) / 3600'
    ),
    "memory_gb": (
        "sum by (%(by)s)"
        ' (avg_over_time(container_memory_working_set_bytes{%(of)s,container!=""}[%(hours)dh])) / 1e9'
    ),
    "cpu_requested": 'sum by (%(by)s) (kube_pod_container_resource_requests{%(of)s,resource="cpu"})',
    "memory_gb_requested": (
        'sum by (%(by)s) (kube_pod_container_resource_requests{%(of)s,resource="memory"}) / 1e9'
    ),
}


def _selected(namespace: str) -> str:
    """The label that selects a namespace, or all. Raises InvalidInput."""
    if namespace and not _NAMESPACE.fullmatch(namespace):
        raise InvalidInput(f"{namespace!r} is not the name of a namespace", field="namespace")
    return f'namespace="{namespace}"' if namespace else 'namespace=~".+"'


def _problem(name: str, series: Mapping[str, Any]) -> dict[str, Any]:
    labels = series["metric"]
    detail = labels.get("reason") or labels.get("phase") or ""
    if name == "restarts":
        detail = str(round(float(series["value"][1])))
    pod = {"namespace": labels.get("namespace", ""), "pod": labels.get("pod", "")}
    container = {"container": labels["container"]} if labels.get("container") else {}
    return {**pod, **container, "problem": name, "detail": _short(detail)}


def _range(series: Mapping[str, Any], start: float, step: int) -> dict[str, Any]:
    """A series with a value for each step, null where it has none."""
    values: list[float | None] = [None] * _POINTS
    for when, value in series["values"]:
        place = round((when - start) / step)
        number = float(value)
        if 0 <= place < _POINTS and math.isfinite(number):
            values[place] = float(f"{number:.6g}")
    numbers = [value for value in values if value is not None]
    extremes = {"min": min(numbers), "max": max(numbers), "last": numbers[-1]} if numbers else {}
    return {"metric": _labels(series["metric"]), **extremes, "values": values}


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {_short(name): _short(value) for name, value in labels.items()}


def _short(text: str) -> str:
    return text if len(text) <= _MAX_LABEL_CHARS else f"{text[: _MAX_LABEL_CHARS - 3]}..."


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
