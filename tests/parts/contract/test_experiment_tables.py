"""The tables of experiments: the same on SQLite and PostgreSQL."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.errors import Conflict, NotFound, StorageExceeded
from meshwright.core.events import Event
from meshwright.core.messages import Fault, Outcome, Usage
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.postgres import PostgresDatabase
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.parts import llmops
from meshwright.parts.experiments import table as table
from meshwright.parts.experiments.records import ExperimentRequest
from meshwright.parts.experiments.results import Counts, Measurements, measure, results
from meshwright.parts.experiments.table import ExperimentProjection, ExperimentRow
from tests.support.postgres import Location

NOW = datetime(2026, 11, 2, 8, tzinfo=UTC)
EVENT = Event(id="x/1", event_type="experiment.changed", topic="mesh", time=NOW)
VARIANTS = [{"name": "before"}, {"name": "after", "runs_as": "cheap-greeter"}]
PROJECTION = ExperimentProjection()
numbers = count(1)


@pytest.fixture
async def database(location: Location, tmp_path: Path) -> AsyncIterator[Database]:
    opened = SqliteDatabase(location) if isinstance(location, Path) else PostgresDatabase(location, tmp_path)
    opened.migrate("llmops", resources.files(llmops) / "tables")
    await opened.open()
    yield opened
    await opened.close()


def row(
    experiment_id: str = "e-1", agent_id: str = "greeter", tenant: str = "acme", **fields: Any
) -> ExperimentRow:
    wanted = ExperimentRequest.model_validate(
        {"name": "adá", "agent_id": agent_id, "variants": VARIANTS, **fields}
    )
    return ExperimentRow(
        experiment_id=experiment_id,
        tenant_id=tenant,
        agent_id=agent_id,
        status="created",
        runs_over="",
        salt="salt",
        spec=wanted.model_dump_json(exclude_defaults=True),
        state='{"created_at": "2026-11-02T08:00:00Z", "created_by": "ada"}',
    )


async def add(database: Database, wanted: ExperimentRow, most: int = 10) -> None:
    assert (await database.write(table.add, EVENT, wanted, most))[1] == [EVENT]


async def test_experiments_are_made_run_and_stopped(database: Database) -> None:
    for experiment_id, agent_id in (("e-1", "greeter"), ("e-2", "greeter"), ("e-3", "other")):
        await add(database, row(experiment_id, agent_id))
    await add(database, row("e-4", tenant="globex"))
    assert await database.read(table.find, "acme", "e-1") == row()
    with pytest.raises(NotFound):
        await database.read(table.find, "acme", "e-4")
    listed = await database.read(table.page, "acme", table.MAX_ID, 2)
    assert [found.experiment_id for found in listed] == ["e-3", "e-2"]
    assert [found.experiment_id for found in await database.read(table.page, "acme", "e-2", 2)] == ["e-1"]
    for tenant, experiment_id in (("acme", "e-1"), ("acme", "e-3"), ("globex", "e-4")):
        assert (await database.write(table.start, EVENT, tenant, experiment_id, "tasks"))[1] == [EVENT]
    assert (await database.write(table.start, EVENT, "acme", "e-1", "tasks"))[1] == []  # it runs
    for experiment_id, over, problem in (("e-1", "inputs", "runs over tasks"), ("e-2", "tasks", "e-1")):
        with pytest.raises(Conflict, match=problem):
            await database.write(table.start, EVENT, "acme", experiment_id, over)
    await database.write(table.start, EVENT, "acme", "e-2", "inputs")  # which chooses for no live task
    stopped = {"reason": "too bad", "action": "rollback", "stopped_by": "guard"}
    assert (await database.write(table.stop, EVENT, "acme", "e-1", stopped))[1] == [EVENT]
    assert (await database.write(table.stop, EVENT, "acme", "e-1", {"reason": "again"}))[1] == []
    shown = (await database.read(table.find, "acme", "e-1")).view
    assert (shown.status, shown.reason, shown.action) == ("stopped", "too bad", "rollback")
    assert (shown.started_at, shown.stopped_at, shown.created_by) == (NOW, NOW, "ada")
    with pytest.raises(Conflict, match="was stopped"):
        await database.write(table.start, EVENT, "acme", "e-1", "tasks")
    assert [found.experiment_id for found in await database.read(table.running)] == ["e-2", "e-3", "e-4"]
    with pytest.raises(StorageExceeded, match="made 3"):
        await add(database, row("e-5"), most=3)


def event(event_type: str, task_id: str, payload: Any = None, tenant: str = "acme") -> Event:
    seq = next(numbers)
    made = Event(
        id=f"x/{seq}",
        event_type=event_type,
        topic="x",
        time=NOW,
        tenant_id=tenant,
        task_id=task_id,
        payload=payload or {},
        seq=seq,
    )
    return made.sealed()


def accepted(task_id: str, variant: str, *, to: str = "greeter", tenant: str = "acme", **more: Any) -> Event:
    tried = {"experiment": "e-1", "name": variant, "agent_id": "greeter"}
    known = {"thread_id": task_id, "requested_by": "ada", "dispatched_to": to, "variants": [tried]}
    return event("task.accepted", task_id, known | more, tenant)


def ended(task_id: str, *, success: bool = True, cost: str | None = "0.01", **more: Any) -> Event:
    outcome = Outcome(
        task_id=task_id,
        agent_id="greeter",
        status="succeeded" if success else "failed",
        success=success,
        error=None if success else Fault(type="ToolFailed", message="x"),
        duration_ms=1500.0,
        usage=Usage(prompt_tokens=10, completion_tokens=2),
        cost_usd=None if cost is None else Decimal(cost),
        completed_at=NOW,
        **more,
    )
    return event(f"task.{outcome.status}", task_id, outcome)


async def fold(database: Database, *events: Event) -> Measurements:
    await database.write(PROJECTION.fold, events)
    return await database.read(measure, "e-1")


def mean(found: Measurements, metric: str, variant: str) -> tuple[int, float]:
    sample = found.samples[metric, variant]
    return sample.count, pytest.approx(sample.mean)


async def test_metrics_are_made_of_the_events_of_tasks(database: Database) -> None:
    await add(database, row())
    found = await fold(
        database,
        accepted("a", "before"),
        accepted("b", "after", to="cheap-greeter"),
        accepted("open", "after"),
        accepted("other", "after", to="other"),
        accepted("fork", "after", forked_from={"task_id": "b"}),
        accepted("foreign", "after", tenant="globex"),
        accepted("unknown", "none"),
        event("model.called", "a"),
        event("model.called", "a"),
        event("approval.denied", "a"),
        ended("a"),
        ended("b", success=False, cost=None, attempt=3),
    )
    assert found.counts == {"before": Counts(1, 0, 0, 10**10), "after": Counts(1, 1, 1, 0)}
    values = {
        "success": (1, 0),
        "retries": (0, 2),
        "model_calls": (2, 0),
        "tokens": (12, 12),
        "duration_seconds": (1.5, 1.5),
        "approvals_denied": (1, 0),
    }
    for metric, (before, after) in values.items():
        assert mean(found, metric, "before") == (1, before), metric
        assert mean(found, metric, "after") == (1, after), metric
    assert mean(found, "cost_usd", "before") == (1, 0.01) and ("cost_usd", "after") not in found.samples


async def test_a_task_that_is_worked_on_again_is_open_and_counts_once(database: Database) -> None:
    await add(database, row())
    first, called, failed = accepted("a", "before"), event("model.called", "a"), ended("a", success=False)
    found = await fold(database, first, called, failed)
    assert (found.counts["before"].ended_count, mean(found, "success", "before")) == (1, (1, 0))
    again = event("task.retried", "a")
    assert (await fold(database, again)).counts["before"] == Counts(0, 1, 0, 10**10)
    found = await fold(database, event("model.called", "a"), ended("a", cost="0.03", attempt=2), failed)
    assert found.counts["before"] == Counts(1, 0, 0, 3 * 10**10)
    assert (mean(found, "success", "before"), mean(found, "model_calls", "before")) == ((1, 1), (1, 2))
    await database.write(PROJECTION.clear, 1)
    assert await database.read(measure, "e-1") == Measurements({}, {})


async def test_tasks_of_a_unit_are_one_observation(database: Database) -> None:
    await add(database, row())
    threads = [accepted(f"t-{number}", "before", thread_id="thread") for number in range(3)]
    children = [accepted(f"c-{number}", "after", parent_task_id="p") for number in range(2)]
    ends = [ended(task.task_id or "", success=number > 0) for number, task in enumerate(threads)]
    found = await fold(database, *threads, *children, *ends, *(ended(f"c-{number}") for number in range(2)))
    assert mean(found, "success", "before") == (1, 2 / 3) and mean(found, "success", "after") == (1, 1)
    assert (found.counts["before"].ended_count, found.counts["after"].ended_count) == (3, 2)
    await add(database, row("e-2"))
    await database.write(table.start, EVENT, "acme", "e-2", "inputs")
    inputs = [accepted(f"i-{number}", "before", thread_id="thread") for number in range(2)]
    renamed = [
        item.model_copy(update={"payload": type(item.payload)(item.payload.replace(b"e-1", b"e-2"))})
        for item in inputs
    ]
    await fold(database, *renamed, *(ended(f"i-{number}") for number in range(2)))
    assert (await database.read(measure, "e-2")).samples["success", "before"].count == 2


async def test_a_score_counts_with_the_task_and_the_last_of_a_person_holds(database: Database) -> None:
    await add(database, row(metric="thumbs", minimum_difference=0.2))
    thumb = {"name": "thumbs", "value": 0.0, "by": "ada"}
    wrong = [
        event("task.scored", "a", {**thumb, **change})
        for change in ({"value": "9"}, {"name": ""}, {"name": None}, {"value": True})
    ]
    found = await fold(
        database,
        accepted("a", "before"),
        event("task.scored", "a", thumb),
        event("task.scored", "a", {**thumb, "value": 1}),
        event("task.scored", "a", {**thumb, "by": "bob"}),
        event("task.scored", "elsewhere", thumb),
        *wrong,
        ended("a"),
    )
    assert mean(found, "thumbs", "before") == (1, 0.5)
    shown = results(await database.read(table.find, "acme", "e-1"), found)
    assert (shown.figures[0].metric, shown.variants[1].missing) == ("thumbs", None)
