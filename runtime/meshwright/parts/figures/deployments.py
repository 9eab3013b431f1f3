"""Figures of the deployments of models, from the last calls."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from meshwright.engine.events.filter import NAME_OF_CALL
from meshwright.kit import Session
from meshwright.models.overview import Deployments
from meshwright.parts.figures.records import ModelFigures
from meshwright.parts.figures.sums import call_failures

_LAST_CALLS = 1_000
_SELECT_CALLS = (
    "SELECT name, model_group, outcome, coalesce(error, outcome), latency_ms, attempts, failed_at, "  # noqa: S608
    f"failed_with FROM (SELECT *, {NAME_OF_CALL} AS name "
    "FROM (SELECT * FROM calls ORDER BY seq DESC LIMIT :limit) AS last) AS named "
    "WHERE cache_hit = 0 AND name <> ''"
)


_NAMES_OF_WAITS = {
    "sqlite": "json_each(waits.models) AS model",
    "postgres": "json_array_elements_text(waits.models::json) AS model (value)",
}
_SELECT_WAITING = (
    "SELECT model.value, count(DISTINCT tenant_id || ' ' || task_id) FROM waits CROSS JOIN {} "
    "WHERE waits.models IS NOT NULL GROUP BY model.value"
)


class CallRow(NamedTuple):
    """A call of the ledger, by the name of its deployment."""

    name: str
    group: str
    outcome: str
    error: str
    latency_ms: float
    attempts: int
    failed_at: str | None
    failed_with: str | None


@dataclass
class _Model:
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    failed: int = 0
    fallbacks: int = 0
    retried: int = 0

    def fail(self, error: str) -> None:
        self.calls += 1
        self.failed += 1
        self.errors[error] += 1

    def end(self, call: CallRow, *, is_fallback: bool) -> None:
        if call.outcome == "ok":
            self.calls += 1
            self.latencies.append(call.latency_ms)
        else:
            self.fail(call.error)
        self.retried += call.attempts > 1
        self.fallbacks += is_fallback


def last_calls(session: Session) -> list[CallRow]:
    """The last 1,000 calls, without those that the cache answered."""
    return [CallRow(*row) for row in session.execute(_SELECT_CALLS, {"limit": _LAST_CALLS}).fetchall()]


def waiting_tasks(session: Session) -> dict[str, int]:
    """How many tasks wait for each group and deployment."""
    query = _SELECT_WAITING.format(_NAMES_OF_WAITS[session.dialect])
    return dict(session.execute(query).fetchall())


def figures_of_models(
    calls: Sequence[CallRow], waiting: Mapping[str, int], deployments: Deployments
) -> Iterable[ModelFigures]:
    """The figures of each deployment that was called, is declared, or gets no calls."""
    declared = deployments.known()
    groups = {group for group, _ in declared.values()}
    away = {circuit.deployment: circuit for circuit in deployments.left_alone()}
    unsent = unsent_calls(calls, deployments)
    models: defaultdict[str, _Model] = defaultdict(_Model)
    for call in calls:
        for failure in call_failures(call.failed_at, call.failed_with):
            models[failure.deployment].fail(failure.error)
        if call.outcome == "failed" and call.failed_at is None and call.name in unsent:
            continue
        if call.failed_at is None or call.outcome != "failed":  # else its attempts are all that there is
            own_group, _ = declared.get(call.name, (call.group, ""))
            is_fallback = call.group in groups and own_group != call.group
            models[call.name].end(call, is_fallback=is_fallback)
    for name in sorted({*models, *declared, *away}):
        model, circuit = models[name], away.get(name)
        yield ModelFigures(
            deployment=name,
            well=circuit is None,
            since=None if circuit is None else circuit.since,
            until=None if circuit is None else circuit.until,
            reason="" if circuit is None else circuit.error.reason or circuit.error.code,
            calls=model.calls,
            failed=model.failed,
            fallbacks=model.fallbacks,
            retried=model.retried,
            errors=dict(model.errors.most_common()),
            p50_seconds=quantile_seconds(model.latencies, 0.5),
            p90_seconds=quantile_seconds(model.latencies, 0.9),
            waiting=waiting.get(name, 0),
        )


def unsent_calls(calls: Sequence[CallRow], deployments: Deployments) -> dict[str, int]:
    """How many calls reached no deployment of their group, since all of them got none."""
    declared = deployments.known()
    groups = {group for group, _ in declared.values()} - declared.keys()
    unsent = (call.name for call in calls if call.outcome == "failed" and call.failed_at is None)
    return dict(Counter(name for name in unsent if name in groups))


def quantile_seconds(milliseconds: Sequence[float], share: float) -> float | None:
    """The duration in seconds that such a share of some durations does not exceed; None for none."""
    if not milliseconds:
        return None
    ordered = sorted(milliseconds)
    return round(ordered[max(0, -int(-share * len(ordered) // 1) - 1)] / 1000, 4)
