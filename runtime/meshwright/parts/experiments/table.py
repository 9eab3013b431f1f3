"""The table of experiments: statements that SQLite and PostgreSQL both take.

Functions that return events are called within a transaction in which no other process logs any, so that of
two changes of an experiment one follows the other.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate
from typing import Any

import msgspec

from meshwright import Event, Task
from meshwright.core.model_events import ModelCalled
from meshwright.core.task_events import TaskScored
from meshwright.kit import (
    FINAL,
    ZERO,
    Amount,
    Conflict,
    NotFound,
    Session,
    StorageExceeded,
    Struct,
    TaskVariant,
    Usage,
    decode,
    encode,
    exact,
    pico,
)
from meshwright.parts.experiments.records import (
    Experiment,
    ExperimentRequest,
    ExperimentState,
    Over,
    VariantSpec,
)

MAX_ID = "~"
"""Behind every id."""


@lru_cache(maxsize=100)
def _parse_request(spec: str) -> ExperimentRequest:
    """The request of an experiment, which never changes: each fold of events asks for it."""
    return ExperimentRequest.model_validate_json(spec)


class ExperimentRow(Struct):
    """An experiment: `spec` and `state` are JSON of `ExperimentRequest` and `ExperimentState`."""

    experiment_id: str
    tenant_id: str
    agent_id: str
    status: str
    runs_over: str
    salt: str
    spec: str
    state: str
    unseen: int = 0

    @property
    def request(self) -> ExperimentRequest:
        """The request that it was made by."""
        return _parse_request(self.spec)

    @property
    def view(self) -> Experiment:
        """The experiment as callers see it."""
        over, state = self.runs_over or None, ExperimentState.model_validate_json(self.state)
        fields = {"experiment_id": self.experiment_id, "status": self.status, "runs_over": over}
        return Experiment.model_validate({**self.request.model_dump(), **state.model_dump(), **fields})

    def variant(self, name: str) -> VariantSpec | None:
        """A variant by its name."""
        return next((variant for variant in self.request.variants if variant.name == name), None)


_COLUMNS = tuple(field.name for field in msgspec.structs.fields(ExperimentRow))
_INSERT = f"experiments ({', '.join(_COLUMNS)})"
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM experiments"  # noqa: S608 names in code
_PAGE = f"{_SELECT} WHERE tenant_id = ? AND experiment_id < ? ORDER BY experiment_id DESC LIMIT ?"
_OTHER = (
    "SELECT experiment_id FROM experiments WHERE status = 'running' AND runs_over = 'tasks' "
    "AND tenant_id = ? AND agent_id = ?"
)
_UPDATE = "UPDATE experiments SET status = ?, runs_over = ?, state = ?, unseen = ? WHERE experiment_id = ?"


def page(session: Session, tenant_id: str, before: str, limit: int) -> list[ExperimentRow]:
    """The experiments of a tenant before one, the newest first."""
    rows = session.execute(_PAGE, (tenant_id, before, limit)).fetchall()
    return [_row(row) for row in rows]


def find(session: Session, tenant_id: str, experiment_id: str) -> ExperimentRow:
    """An experiment of a tenant. Raises NotFound."""
    for row in by_ids(session, [experiment_id]):
        if row.tenant_id == tenant_id:
            return row
    raise NotFound(
        f"There is no experiment {experiment_id!r}",
        remedy="`mesh experiments list` and GET /v1/experiments list them",
        field="experiment_id",
    )


def by_ids(session: Session, ids: Sequence[str]) -> list[ExperimentRow]:
    """Experiments of any tenants."""
    return [_row(row) for row in session.select_in(f"{_SELECT} WHERE experiment_id", ids)]


def running(session: Session) -> list[ExperimentRow]:
    """The running experiments of all tenants."""
    rows = session.execute(f"{_SELECT} WHERE status = 'running' ORDER BY experiment_id").fetchall()
    return [_row(row) for row in rows]


def unseen(session: Session, tenant_id: str) -> list[ExperimentRow]:
    """The experiments of a tenant that a guard has stopped and no person has seen, the oldest first."""
    rows = session.execute(
        f"{_SELECT} WHERE tenant_id = ? AND unseen = 1 ORDER BY experiment_id", (tenant_id,)
    )
    return [_row(row) for row in rows.fetchall()]


def add(session: Session, event: Event, row: ExperimentRow, most: int) -> tuple[None, list[Event]]:
    """Add an experiment. Raises StorageExceeded where the tenant has `most`."""
    [count] = session.execute(
        "SELECT COUNT(*) FROM experiments WHERE tenant_id = ?", (row.tenant_id,)
    ).fetchone()
    if count >= most:
        raise StorageExceeded(
            f"The tenant has made {count:,} experiments, and may make no more",
            remedy="Raise max_experiments in [experiments]",
        )
    session.insert(_INSERT, [msgspec.structs.astuple(row)])
    return None, [event]


def start(
    session: Session, event: Event, tenant_id: str, experiment_id: str, over: Over
) -> tuple[None, list[Event]]:
    """Run an experiment. Raises NotFound, and Conflict for one that was stopped or runs over something else,
    and where another chooses variants for the tasks of that agent."""
    row = find(session, tenant_id, experiment_id)
    if row.status == "stopped":
        raise Conflict(f"Experiment {experiment_id} was stopped", remedy="Make another", field="status")
    if row.status == "running":
        if row.runs_over != over:
            problem = f"Experiment {experiment_id} runs over {row.runs_over}"
            raise Conflict(problem, remedy=f"Make another to run over {over}", field="inputs")
        return None, []
    others = session.execute(_OTHER, (tenant_id, row.agent_id)).fetchall()
    if over == "tasks" and others:
        raise Conflict(
            f"Experiment {others[0][0]} runs over the tasks of agent {row.agent_id!r}",
            remedy="Stop it first: an agent has one experiment at a time",
            field="agent_id",
        )
    _change(session, row, "running", over, {"started_at": event.time})
    return None, [event]


def stop(
    session: Session, event: Event, tenant_id: str, experiment_id: str, changes: Mapping[str, Any]
) -> tuple[None, list[Event]]:
    """Stop an experiment for good, unless it was stopped already. Raises NotFound."""
    row = find(session, tenant_id, experiment_id)
    if row.status == "stopped":
        return None, []
    stopped = {"stopped_at": event.time, **changes}
    _change(session, row, "stopped", row.runs_over, stopped, unseen=int("action" in changes))
    return None, [event]


def see(session: Session, event: Event, tenant_id: str, experiment_id: str) -> tuple[None, list[Event]]:
    """Note that a person has seen that a guard has stopped an experiment. Raises NotFound."""
    row = find(session, tenant_id, experiment_id)
    if not row.unseen:
        return None, []
    session.execute("UPDATE experiments SET unseen = 0 WHERE experiment_id = ?", (experiment_id,))
    return None, [event]


def _row(values: Sequence[Any]) -> ExperimentRow:
    return ExperimentRow(**dict(zip(_COLUMNS, values, strict=True)))


def _change(
    session: Session,
    row: ExperimentRow,
    status: str,
    over: str,
    changes: Mapping[str, Any],
    *,
    unseen: int = 0,
) -> None:
    state = encode({**decode(row.state.encode()), **changes}).decode()
    session.execute(_UPDATE, (status, over, state, unseen, row.experiment_id))


class Assignment:
    """Chooses among the variants of one running experiment."""

    def __init__(self, row: ExperimentRow) -> None:
        request = row.request
        self._by_thread = request.unit == "thread"
        self._salt = f"{row.experiment_id}\x00{row.salt}\x00".encode()
        self._variants = [spec.task_variant(row.experiment_id, row.agent_id) for spec in request.variants]
        self._bounds = [*accumulate(spec.weight for spec in request.variants)]

    def assign(self, task: Task) -> TaskVariant:
        """The variant of a task: the same for each task of its thread, or of its requester."""
        unit = task.thread_id if self._by_thread else task.requested_by
        share = int.from_bytes(sha256(self._salt + unit.encode()).digest()[:7]) / (1 << 56)
        return self._variants[bisect_right(self._bounds, share * self._bounds[-1])]


class Assignments:
    """The running experiments of all tenants, in memory."""

    def __init__(self) -> None:
        self._found: Mapping[str, Sequence[Assignment]] = {}

    def take(self, rows: Iterable[ExperimentRow]) -> None:
        """Choose by these experiments from now on."""
        by_tenant: dict[str, list[Assignment]] = {}
        for row in rows:
            if row.runs_over == "tasks":
                by_tenant.setdefault(row.tenant_id, []).append(Assignment(row))
        self._found = by_tenant

    def choose(self, task: Task) -> Iterable[TaskVariant]:
        """The variants of a new task, one for each experiment: any agent may get a part of it."""
        return [assignment.assign(task) for assignment in self._found.get(task.tenant_id, ())]


# The tables `experiment_tasks` and `experiment_scores`: the metrics of tasks, made from their events

_ACCEPTED, _RETRIED, _DENIED = "task.accepted", "task.retried", "approval.denied"
_CALLED = ModelCalled.event_type
SCORED = "task.scored"
_MARK = b'"variants"'
_MAX_NAME = 64
_CHANGING = (
    *("last_seq", "ended", "success", "retries", "model_calls", "tokens", "cost_pico", "duration_ms"),
    "denials",
)
_TASK_COLUMNS = (
    "experiment_id",
    "task_id",
    "tenant_id",
    "seq",
    "last_seq",
    "variant",
    "unit",
    *_CHANGING[1:],
)
_NONE = (0, 0, 0, 0, 0, None, 0.0, 0)
"""The changing columns of a task that was just accepted, behind `last_seq`."""
_INTO_TASKS = f"experiment_tasks ({', '.join(_TASK_COLUMNS)})"
_INTO_SCORES = "experiment_scores (tenant_id, task_id, name, scored_by, seq, value)"
_REPLACE = (
    "ON CONFLICT (tenant_id, task_id, name, scored_by) DO UPDATE SET seq = excluded.seq, "
    "value = excluded.value"
)
_UPDATE_TASK = "ON CONFLICT (experiment_id, task_id) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in _CHANGING
)
_SELECT_TASKS = f"SELECT {', '.join(_TASK_COLUMNS)} FROM experiment_tasks WHERE task_id"  # noqa: S608 names in code


class ExperimentProjection:
    """One row for each task of an agent with an experiment, or of one in its place.

    Tasks that go on from a step of another are left out, and so are those that come after another.
    """

    name = "experiments"
    version = 1
    event_types: Collection[str] = (_ACCEPTED, _RETRIED, _CALLED, _DENIED, SCORED, *sorted(FINAL))

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Add tasks, count what they do, and note how they end."""
        new_rows = self._made(session, [event for event in events if event.event_type == _ACCEPTED])
        later = [event for event in events if event.event_type != _ACCEPTED and event.task_id]
        if not new_rows and (
            not later or not session.execute("SELECT 1 FROM experiment_tasks LIMIT 1").fetchall()
        ):
            return
        ids = {row["task_id"] for row in new_rows} | {event.task_id for event in later}
        stored = [
            dict(zip(_TASK_COLUMNS, values, strict=True)) for values in session.select_in(_SELECT_TASKS, ids)
        ]
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
        session.insert(_INTO_TASKS, [tuple(row.values()) for row in changed.values()], then=_UPDATE_TASK)

    def _made(self, session: Session, events: Sequence[Event]) -> list[dict[str, Any]]:
        """The rows of tasks that were accepted with variants."""
        accepted = [
            (event, acceptance) for event in events if (acceptance := _accepted_in(event)) is not None
        ]
        if not accepted:
            return []
        ids = {variant.experiment for _, acceptance in accepted for variant in acceptance.variants}
        experiments = {row.experiment_id: row for row in by_ids(session, sorted(ids))}
        rows = [
            (row.experiment_id, event.task_id, event.tenant_id, event.seq, event.seq, variant.name, unit)
            for event, acceptance in accepted
            for variant in acceptance.variants
            if (row := experiments.get(variant.experiment)) is not None and row.tenant_id == event.tenant_id
            if (unit := _unit_hash(row, event, acceptance)) and row.variant(variant.name)
        ]
        return [dict(zip(_TASK_COLUMNS, (*row, *_NONE), strict=True)) for row in rows]

    def clear(self, session: Session, oldest: int) -> None:
        """Forget the tasks and scores whose events are in the log."""
        session.execute("DELETE FROM experiment_tasks WHERE seq >= ?", (oldest,))
        session.execute("DELETE FROM experiment_scores WHERE seq >= ?", (oldest,))


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


def _unit_hash(row: ExperimentRow, event: Event, acceptance: _Acceptance) -> str:
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
    if event.event_type == _CALLED:
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
