"""The tables `experiment_tasks` and `experiment_scores`: the metrics of tasks, made from their events."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any

from meshwright.core.encoding import Struct, encode
from meshwright.core.messages import Event, Usage
from meshwright.core.money import ZERO, Amount, exact, pico
from meshwright.core.task_events import TaskScored
from meshwright.models.port import MODEL_CALLED
from meshwright.orchestration.acceptance import FINAL
from meshwright.services.experiments.table import ExperimentRow, by_ids
from meshwright.sql.database import Session

_ACCEPTED, _RETRIED, _DENIED = "task.accepted", "task.retried", "approval.denied"
SCORED = "task.scored"
_MARK = b'"variants"'
_MAX_NAME = 64
_CHANGING = (
    *("last_seq", "ended", "success", "retries", "model_calls", "tokens", "cost_pico", "duration_ms"),
    "denials",
)
_COLUMNS = ("experiment_id", "task_id", "tenant_id", "seq", "last_seq", "variant", "unit", *_CHANGING[1:])
_NONE = (0, 0, 0, 0, 0, None, 0.0, 0)
"""The changing columns of a task that was just accepted, behind `last_seq`."""
_INTO_TASKS = f"experiment_tasks ({', '.join(_COLUMNS)})"
_INTO_SCORES = "experiment_scores (tenant_id, task_id, name, scored_by, seq, value)"
_REPLACE = (
    "ON CONFLICT (tenant_id, task_id, name, scored_by) DO UPDATE SET seq = excluded.seq, "
    "value = excluded.value"
)
_UPDATE = "ON CONFLICT (experiment_id, task_id) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in _CHANGING
)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM experiment_tasks WHERE task_id"  # noqa: S608 names in code


class ExperimentProjection:
    """One row for each task of an agent with an experiment, or of one in its place.

    Tasks that go on from a step of another are left out, and so are those that come after another.
    """

    name = "experiments"
    version = 1
    event_types: Collection[str] = (_ACCEPTED, _RETRIED, MODEL_CALLED, _DENIED, SCORED, *sorted(FINAL))

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Add tasks, count what they do, and note how they end."""
        new_rows = self._made(session, [event for event in events if event.event_type == _ACCEPTED])
        later = [event for event in events if event.event_type != _ACCEPTED and event.task_id]
        if not new_rows and (
            not later or not session.execute("SELECT 1 FROM experiment_tasks LIMIT 1").fetchall()
        ):
            return
        ids = {row["task_id"] for row in new_rows} | {event.task_id for event in later}
        stored = [dict(zip(_COLUMNS, values, strict=True)) for values in session.select_in(_SELECT, ids)]
        changed = {_key(row): row for row in new_rows}
        rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in stored:
            changed.pop(_key(row), None)  # it is there: the log is read again
        for row in (*stored, *changed.values()):
            rows.setdefault((row["tenant_id"], row["task_id"]), []).append(row)
        for event in later:
            for row in rows.get((event.tenant_id, event.task_id or ""), ()):
                if (event.seq or 0) > row["last_seq"] and _apply(row, event):
                    row["last_seq"] = event.seq
                    changed[_key(row)] = row
            if event.event_type == SCORED and (event.tenant_id, event.task_id) in rows:
                _score(session, event)
        session.insert(_INTO_TASKS, [tuple(row.values()) for row in changed.values()], then=_UPDATE)

    def _made(self, session: Session, events: Sequence[Event]) -> list[dict[str, Any]]:
        """The rows of tasks that were accepted with variants."""
        accepted = [
            (event, acceptance) for event in events if (acceptance := _accepted_in(event)) is not None
        ]
        if not accepted:
            return []
        ids = {variant.experiment for _, acceptance in accepted for variant in acceptance.variants}
        experiments = {row.experiment_id: row for row in by_ids(session, sorted(ids))}
        return [
            _new_row(row.experiment_id, event, variant.name, unit)
            for event, acceptance in accepted
            for variant in acceptance.variants
            if (row := experiments.get(variant.experiment)) is not None and row.tenant_id == event.tenant_id
            if (unit := _unit_of(row, event, acceptance)) and row.variant(variant.name)
        ]

    def clear(self, session: Session, oldest: int) -> None:
        """Forget the tasks and scores whose events are in the log."""
        session.execute("DELETE FROM experiment_tasks WHERE seq >= ?", (oldest,))
        session.execute("DELETE FROM experiment_scores WHERE seq >= ?", (oldest,))


def _new_row(experiment_id: str, event: Event, variant: str, unit: str) -> dict[str, Any]:
    values = (experiment_id, event.task_id, event.tenant_id, event.seq, event.seq, variant, unit)
    return dict(zip(_COLUMNS, (*values, *_NONE), strict=True))


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["experiment_id"], row["task_id"]


class _TaskVariant(Struct):
    experiment: str
    name: str


class _Acceptance(Struct):
    """The fields of a `task.accepted` that are read: every task has one."""

    variants: tuple[_TaskVariant, ...] = ()
    dispatched_to: str | None = None
    thread_id: str | None = None
    requested_by: str | None = None
    parent_task_id: str | None = None
    forked_from: Any = None


class _TaskEnd(Struct):
    """The fields of an outcome that are read."""

    success: bool
    attempt: int = 1
    duration_ms: float = 0.0
    usage: Usage = Usage()
    cost_usd: Amount | None = ZERO

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)


def _accepted_in(event: Event) -> _Acceptance | None:
    """The acceptance of a task with variants; None for any other, and for a row that was altered."""
    if isinstance(event.payload, bytes) and _MARK not in event.payload:
        return None
    try:
        acceptance = _Acceptance.model_validate_json(encode(event.payload))
    except ValueError:
        return None
    return acceptance if acceptance.variants and acceptance.forked_from is None else None


def _unit_of(row: ExperimentRow, event: Event, acceptance: _Acceptance) -> str:
    """A hash of what the task is averaged with; "" for the task of another agent.

    Delegated tasks are averaged with those of the same task above, tasks for inputs with none.
    """
    if acceptance.dispatched_to not in row.request.agents:
        return ""
    by = acceptance.thread_id if row.request.unit == "thread" else acceptance.requested_by
    if row.runs_over == "inputs":
        by = event.task_id
    return sha256(str(acceptance.parent_task_id or by).encode()).hexdigest()[:32]


def _apply(row: dict[str, Any], event: Event) -> bool:
    """Change the row of a task by an event; returns whether that changed it."""
    if event.event_type == MODEL_CALLED:
        row["model_calls"] += 1
    elif event.event_type == _DENIED:
        row["denials"] += 1
    elif event.event_type == _RETRIED:
        row["ended"] = 0
    elif event.event_type in FINAL:
        return _end(row, event)
    else:
        return False
    return True


def _end(row: dict[str, Any], event: Event) -> bool:
    try:
        outcome = _TaskEnd.model_validate_json(encode(event.payload))
    except ValueError:  # of a row that was altered
        return False
    usage = outcome.usage
    row |= {
        "ended": 1,
        "success": int(outcome.success),
        "retries": outcome.attempt - 1,
        "tokens": usage.prompt_tokens + usage.completion_tokens,
        "cost_pico": None if outcome.cost_usd is None else pico(outcome.cost_usd),
        "duration_ms": outcome.duration_ms,
    }
    return True


def _score(session: Session, event: Event) -> None:
    """Note a score; one that is no number, or has no name, is none."""
    scored = TaskScored.from_payload(event.payload)
    name, value, by = scored.name, scored.value, scored.by
    if not 0 < len(name) <= _MAX_NAME or value is None or not math.isfinite(value):
        return
    row = event.tenant_id, event.task_id, name, by, event.seq, float(value)
    session.insert(_INTO_SCORES, [row], then=_REPLACE)
