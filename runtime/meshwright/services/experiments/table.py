"""The table of experiments: statements that SQLite and PostgreSQL both take.

Functions that return events are called within a transaction in which no other process logs any, so that of
two changes of an experiment one follows the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from meshwright.core.encoding import Struct, decode, encode
from meshwright.core.errors import Conflict, NotFound, StorageExceeded
from meshwright.core.messages import Event
from meshwright.services.experiments.records import (
    Experiment,
    ExperimentRequest,
    ExperimentState,
    Over,
    VariantSpec,
)
from meshwright.sql.database import Session

MAX_ID = "~"
"""Behind every id."""


@lru_cache(maxsize=100)
def _request_of(spec: str) -> ExperimentRequest:
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
        return _request_of(self.spec)

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
