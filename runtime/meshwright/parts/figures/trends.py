"""Trends of the last hours: the tasks of agents that ended, and the calls of deployments, hour by hour."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from meshwright.engine.events.filter import NAME_OF_CALL
from meshwright.kit import Session, from_pico
from meshwright.parts.figures.deployments import quantile_seconds
from meshwright.parts.figures.records import AgentHour, AgentTrend, ModelHour, ModelTrend
from meshwright.parts.figures.sums import FailureKey, call_failures

HOUR_SECONDS = 3600
_MAX_CALLS = 10_000
_ENDED = (
    "SELECT agent_id, time, status, CAST(sum(tasks) AS BIGINT) FROM task_hours WHERE time >= :since {} "
    "GROUP BY agent_id, time, status"
)
_SELECT_CALLS = (
    "SELECT name, model_group, outcome, coalesce(error, outcome), latency_ms, time, cost_pico, failed_at, "  # noqa: S608
    f"failed_with FROM (SELECT *, {NAME_OF_CALL} AS name FROM (SELECT model_group, model, deployment, "
    "outcome, error, latency_ms, time, cost_pico, failed_at, failed_with, cache_hit FROM calls "
    "ORDER BY seq DESC LIMIT :limit) AS last) AS named "
    "WHERE cache_hit = 0 AND name <> '' AND time >= :since"
)


class TrendCall(NamedTuple):
    """A call of the ledger, by the name of its deployment."""

    name: str
    group: str
    outcome: str
    error: str
    latency_ms: float
    time: float
    cost_pico: int | None
    failed_at: str | None
    failed_with: str | None

    @property
    def failures(self) -> list[FailureKey]:
        """Its attempts that failed; a failed call without any counts as one."""
        failures = call_failures(self.failed_at, self.failed_with)
        if not failures and self.outcome != "ok":
            failures = [FailureKey(self.name, self.error)]
        return failures


class TrendRows(NamedTuple):
    """The rows that trends are made of: tasks that ended by agent, hour and status, and calls."""

    ended: Sequence[tuple[str, float, str, int]]
    calls: Sequence[TrendCall]
    is_cut: bool


def read_trends(session: Session, tenant_id: str | None, since: float) -> TrendRows:
    """The tasks that ended, and calls, since a full hour; calls only without a tenant, the newest 10,000."""
    values: dict[str, object] = {"since": since}
    if tenant_id is not None:
        values["tenant_id"] = session.bindable(tenant_id)
    query = _ENDED.format("" if tenant_id is None else "AND tenant_id = :tenant_id")
    ended = session.execute(query, values).fetchall()
    if tenant_id is not None:
        return TrendRows(ended, (), is_cut=False)
    rows = session.execute(_SELECT_CALLS, {"since": since, "limit": _MAX_CALLS}).fetchall()
    return TrendRows(ended, [TrendCall(*row) for row in rows], is_cut=len(rows) == _MAX_CALLS)


def agent_trends(ended: Iterable[tuple[str, float, str, int]]) -> Iterable[AgentTrend]:
    """The trend of each agent; hours in which nothing ended are left out."""
    agents: defaultdict[str, defaultdict[int, dict[str, int]]]
    agents = defaultdict(lambda: defaultdict(dict))
    for agent_id, time, status, count in ended:
        agents[agent_id][int(time // HOUR_SECONDS)][status] = count
    for agent_id, hours in sorted(agents.items()):
        columns = tuple(AgentHour(time=_begin(hour), **counts) for hour, counts in sorted(hours.items()))
        yield AgentTrend(agent_id=agent_id, hours=columns)


@dataclass
class _Hour:
    latencies: list[float] = field(default_factory=list)
    failed: int = 0


@dataclass
class _Deployment:
    hours: defaultdict[int, _Hour] = field(default_factory=lambda: defaultdict(_Hour))
    errors: Counter[str] = field(default_factory=Counter)
    in_place_of: Counter[str] = field(default_factory=Counter)
    replaced_by: Counter[str] = field(default_factory=Counter)
    cost_pico: int = 0
    unpriced: int = 0

    def trend(self, name: str, group: str, model: str) -> ModelTrend:
        columns = sorted(self.hours.items())
        latencies = [latency for _, hour in columns for latency in hour.latencies]
        return ModelTrend(
            deployment=name,
            group=group,
            model=model,
            hours=tuple(
                ModelHour(
                    time=_begin(number),
                    calls=len(hour.latencies) + hour.failed,
                    failed=hour.failed,
                    p50_seconds=quantile_seconds(hour.latencies, 0.5),
                    p95_seconds=quantile_seconds(hour.latencies, 0.95),
                )
                for number, hour in columns
            ),
            calls=len(latencies) + sum(self.errors.values()),
            errors=dict(self.errors.most_common()),
            p50_seconds=quantile_seconds(latencies, 0.5),
            p95_seconds=quantile_seconds(latencies, 0.95),
            cost_usd=from_pico(self.cost_pico),
            unpriced=self.unpriced,
            in_place_of=dict(self.in_place_of.most_common()),
            replaced_by=dict(self.replaced_by.most_common()),
        )


def model_trends(calls: Iterable[TrendCall], declared: Mapping[str, tuple[str, str]]) -> Iterable[ModelTrend]:
    """The trend of each deployment that is declared or was called; hours without calls are left out.

    A call counts as answered in place of the deployments that failed in it, else of those of the group that
    it asked for.
    """
    members: defaultdict[str, list[str]] = defaultdict(list)
    for name, (group, _) in declared.items():
        members[group].append(name)
    deployments = defaultdict(_Deployment, {name: _Deployment() for name in declared})
    for call in calls:
        hour = int(call.time // HOUR_SECONDS)
        failures = call.failures
        for failure in failures:
            deployments[failure.deployment].hours[hour].failed += 1
            deployments[failure.deployment].errors[failure.error] += 1
        if call.name in members and call.name not in declared and call.outcome != "ok":
            continue  # the name is a group's: no deployment has answered
        own = deployments[call.name]
        own.cost_pico += call.cost_pico or 0
        own.unpriced += call.cost_pico is None
        if call.outcome != "ok":
            continue
        own.hours[hour].latencies.append(call.latency_ms)
        own_group, _ = declared.get(call.name, (call.group, ""))
        skipped = members[call.group] if own_group != call.group else []
        for other in {failure.deployment for failure in failures} or skipped:
            if other != call.name:
                own.in_place_of[other] += 1
                deployments[other].replaced_by[call.name] += 1
    for name in sorted(deployments):
        yield deployments[name].trend(name, *declared.get(name, ("", "")))


def first_hour(now: datetime, hours: int) -> datetime:
    """When the first of the last so many hours of the clock begins, the present one included."""
    return now.astimezone(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours - 1)


def _begin(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * HOUR_SECONDS, UTC)
