"""The list of tasks and the recent outcomes are what the log says, however and whenever they are made."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from meshwright.errors import InvalidInput
from meshwright.events.tasks import TaskSummary
from meshwright.messages import Dispatch, Event, Fault, Outcome, Parent, ScoreCard, Task, Usage
from tests.unit.event_logs import START, LogOnFile, event, open_log

CARD = ScoreCard(agent_id="writer", capability="writing", score=1.0, weight=1.0, health=1.0, success=1.0)
TABLES = ("SELECT * FROM tasks ORDER BY seq", "SELECT * FROM agent_outcomes ORDER BY agent_id, capability")


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[LogOnFile]:
    async with open_log(tmp_path) as kept:
        yield kept


def about(task_id: str, event_type: str, payload: Any = None, **fields: Any) -> Event:
    """An event of a task's road."""
    fields = {"agent_id": "writer", "trace_id": f"{7:032x}", "payload": payload or {}, **fields}
    return event(len(task_id), event_type, task_id=task_id, aggregate_id=f"Orchestrator/{task_id}", **fields)


def accepted(task_id: str, capability: str = "writing", **fields: Any) -> Event:
    payload = {
        "capability": capability,
        "priority": 7,
        "thread_id": f"thread-{task_id}",
        "requested_by": "ann",
        "created_at": START,
        "dispatched_to": "writer",
        "score_card": CARD,
        "parent_task_id": "above",
    }
    return about(task_id, "task.accepted", payload, **fields)


def dispatched(task_id: str, attempt: int = 1, generation: int = 1, agent_id: str = "writer") -> Event:
    task = Task(
        task_id=task_id,
        capability="writing",
        deadline_at=START,
        thread_id=f"thread-{task_id}",
        created_at=START,
        priority=7,
        requested_by="ann",
        generation=generation,
        parent=Parent(actor_type="a", actor_id="b", key="k", task_id="above"),
    )
    payload = Dispatch(task=task, attempt=attempt, agent_id=agent_id, score_card=CARD)
    return about(task_id, "task.dispatched", payload, agent_id=agent_id)


def progress(task_id: str, event_type: str, attempt: int = 1, **payload: Any) -> Event:
    return about(task_id, event_type, {"attempt": attempt, "fence": 1, **payload})


def outcome(task_id: str, status: str = "succeeded", **fields: Any) -> Outcome:
    error = None if status == "succeeded" else Fault(type="ToolFailed", message="no such file")
    known: dict[str, Any] = {
        "agent_id": "writer",
        "capability": "writing",
        "success": status == "succeeded",
        "error": error,
        "duration_ms": 12.5,
        "model": "offline",
        "usage": Usage(prompt_tokens=612, completion_tokens=40),
        "cost_usd": 0.25,
        "completed_at": START + timedelta(minutes=5),
    }
    return Outcome(task_id=task_id, status=status, **{**known, **fields})  # type: ignore[arg-type]


def ended(task_id: str, status: str = "succeeded", **fields: Any) -> Event:
    return about(task_id, f"task.{status}", outcome(task_id, status, **fields))


def attempt_ended(task_id: str, status: str = "succeeded", **fields: Any) -> Event:
    return about(task_id, "attempt.ended", outcome(task_id, status, **fields), topic="task-results")


async def summary(kept: LogOnFile, events: Sequence[Event]) -> TaskSummary:
    await kept.write(events)
    [item] = (await kept.log.tasks(tenant_id="default")).items
    return item


async def test_a_task_is_listed_with_what_is_known_of_it(kept: LogOnFile) -> None:
    item = await summary(kept, [accepted("t"), dispatched("t"), progress("t", "task.started"), ended("t")])
    assert item == TaskSummary(
        seq=1,
        last_seq=4,
        task_id="t",
        tenant_id="default",
        capability="writing",
        status="succeeded",
        agent_id="writer",
        priority=7,
        requested_by="ann",
        thread_id="thread-t",
        parent_task_id="above",
        trace_id=f"{7:032x}",
        generation=1,
        attempts=1,
        reason=None,
        created_at=START,
        updated_at=START + timedelta(seconds=1),
        completed_at=START + timedelta(minutes=5),
        duration_ms=12.5,
        model="offline",
        usage=Usage(prompt_tokens=612, completion_tokens=40),
        cost_usd=0.25,
    )


async def test_a_cost_that_nobody_knows_is_listed_as_unknown(kept: LogOnFile) -> None:
    item = await summary(kept, [accepted("t"), dispatched("t"), ended("t", cost_usd=None)])
    assert (item.status, item.cost_usd, item.model) == ("succeeded", None, "offline")


async def test_each_step_of_the_road_shows(kept: LogOnFile) -> None:
    road = [
        (accepted("t"), "accepted", 0, None),
        (dispatched("t"), "dispatched", 1, None),
        (progress("t", "task.started"), "running", 1, None),
        (progress("t", "task.waiting", key="child/2", child_task_id="c"), "waiting", 1, "child/2"),
        (progress("t", "task.resumed"), "running", 1, None),
        (
            progress("t", "attempt.failed", error=Fault(type="Timeout", message="no answer")),
            "running",
            1,
            "Timeout: no answer",
        ),
        (dispatched("t", 2, agent_id="other"), "dispatched", 2, None),
        (ended("t", "failed", attempt=2), "failed", 2, "ToolFailed: no such file"),
    ]
    for each, status, attempts, reason in road:
        item = await summary(kept, [each])
        assert (item.status, item.attempts, item.reason) == (status, attempts, reason)
        assert (item.completed_at is not None) == (status == "failed")


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "timed_out"])
async def test_what_arrives_after_the_outcome_changes_nothing(kept: LogOnFile, status: str) -> None:
    late = [
        dispatched("t"),
        progress("t", "task.started"),
        progress("t", "task.waiting", key="k"),
        accepted("t"),
    ]
    item = await summary(kept, [ended("t", status), *late, ended("t", "cancelled")])
    assert item.status == status
    assert (item.thread_id, item.requested_by) == ("thread-t", "ann")


async def test_an_attempt_that_was_given_up_changes_nothing(kept: LogOnFile) -> None:
    events = [accepted("t"), dispatched("t"), dispatched("t", 2), progress("t", "task.started", attempt=1)]
    assert (await summary(kept, events)).status == "dispatched"


async def test_a_later_generation_begins_anew(kept: LogOnFile) -> None:
    await kept.write([accepted("t"), dispatched("t", 3), ended("t", "failed", attempt=3)])
    item = await summary(kept, [dispatched("t", generation=2)])
    assert (item.status, item.generation, item.attempts, item.cost_usd) == ("dispatched", 2, 1, 0.0)
    assert (item.completed_at, item.reason) == (None, None)
    item = await summary(kept, [ended("t", "failed", attempt=3), ended("t", generation=2)])
    assert (item.status, item.generation) == ("succeeded", 2)


@pytest.mark.parametrize(
    "payload",
    [
        "text",
        [1],
        {"capability": 7, "priority": "high"},
        {"task": {}},
        {"attempt": 10**30},
        outcome("t").model_copy(update={"cost_usd": Decimal("NaN")}),
        outcome("t", attempt=10**30),
        outcome("t", error=Fault(type="\ud83d", message="half")),
    ],
    ids=str,
)
async def test_a_payload_of_no_shape_leaves_the_task_listed(kept: LogOnFile, payload: Any) -> None:
    types = [
        "task.accepted",
        "task.dispatched",
        "task.started",
        "attempt.failed",
        "attempt.ended",
        "task.failed",
    ]
    item = await summary(kept, [about("t", each, payload) for each in types])
    assert item.status == "failed"
    assert await kept.log.recent_outcomes() is not None


# Lists


async def fill(kept: LogOnFile) -> None:
    for n in range(12):
        capability = "writing" if n % 3 else "reading"
        await kept.write([accepted(f"t{n}", capability, tenant_id="acme" if n == 5 else "default")])
        await kept.write([ended(f"t{n}", "failed" if n % 4 == 0 else "succeeded")] if n < 10 else [])


async def names(kept: LogOnFile, **wanted: Any) -> list[str]:
    """The tasks of a list, two to a page."""
    found: list[str] = []
    cursor = None
    while True:
        page = await kept.log.tasks(**{"tenant_id": "default", "limit": 2, "cursor": cursor, **wanted})
        found += [item.task_id for item in page.items]
        cursor = page.cursor
        if cursor is None:
            return found


async def test_tasks_are_listed_newest_first_page_by_page(kept: LogOnFile) -> None:
    await fill(kept)
    assert await names(kept) == [f"t{n}" for n in range(11, -1, -1) if n != 5]
    assert await names(kept, status="failed") == ["t8", "t4", "t0"]
    assert await names(kept, status="succeeded", capability="reading") == ["t9", "t6", "t3"]
    assert await names(kept, status="failed", capability="reading") == ["t0"]
    assert await names(kept, capability="reading") == ["t9", "t6", "t3", "t0"]
    assert await names(kept, status="accepted") == ["t11", "t10"]
    assert await names(kept, tenant_id="acme") == ["t5"]
    assert await names(kept, capability="unheard of") == []


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "9" * 30, "²"])
async def test_a_wrong_cursor_is_refused(kept: LogOnFile, cursor: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await kept.log.tasks(tenant_id="default", cursor=cursor)
    assert refused.value.field == "cursor"


# Outcomes


async def test_recent_outcomes_are_the_last_twenty_of_each_agent_and_capability(tmp_path: Path) -> None:
    async with open_log(tmp_path) as kept:
        for n in range(25):
            await kept.write([attempt_ended(f"t{n}", "failed" if n in (3, 24) else "succeeded")])
        await kept.write([attempt_ended("u", agent_id="other"), attempt_ended("v", "cancelled")])
        await kept.write([attempt_ended("w", capability="reading"), attempt_ended("x", capability="")])
    async with open_log(tmp_path) as kept:
        found = await kept.log.recent_outcomes()
        writing = [
            success for agent, capability, success in found if (agent, capability) == ("writer", "writing")
        ]
        assert writing == [True] * 19 + [False]
        assert ("other", "writing", True) in found
        assert ("writer", "reading", True) in found
        assert len(found) == 22
        assert len(await kept.log.recent_outcomes(last=3)) == 5


async def test_what_was_counted_before_a_restart_is_not_counted_again(tmp_path: Path) -> None:
    for _ in range(3):
        async with open_log(tmp_path) as kept:
            await kept.write([attempt_ended("t")])
            counted = await kept.log.recent_outcomes()
    assert counted == [("writer", "writing", True)] * 3


# However they are made


def plain(events: Sequence[Event]) -> list[Event]:
    """The events as another process would see them."""
    return [each.model_copy(update={"payload": from_json(to_json(each.payload))}) for each in events]


def some_road(rng: random.Random, task_id: str) -> list[Event]:
    attempt, generation = rng.randrange(1, 4), rng.randrange(1, 3)
    fault = Fault(type="Timeout", message="no answer")
    known = [
        accepted(task_id),
        dispatched(task_id),
        dispatched(task_id, attempt, generation, rng.choice(["writer", "other"])),
        *(progress(task_id, f"task.{each}", attempt) for each in ("started", "waiting", "resumed")),
        progress(task_id, "attempt.failed", attempt, error=fault),
        attempt_ended(task_id, rng.choice(["failed", "succeeded"])),
        ended(task_id, rng.choice(["failed", "succeeded"]), generation=generation, attempt=attempt),
        about(task_id, "model.called"),
        about(task_id, rng.choice(["task.accepted", "task.started", "task.failed"]), "of no shape"),
    ]
    return [each for each in known if rng.random() < 0.8] if rng.random() < 0.7 else rng.sample(known, k=5)


def shuffled_roads(rng: random.Random, tasks: int) -> list[Event]:
    """The roads of many tasks side by side, each in its own order."""
    roads = [some_road(rng, f"task-{n}") for n in range(tasks)]
    events: list[Event] = []
    while roads := [road for road in roads if road]:
        events.append(rng.choice(roads[:20]).pop(0))
    return events


async def tables(kept: LogOnFile) -> list[list[tuple[Any, ...]]]:
    await kept.log.tasks(tenant_id="default")
    return [await kept.rows(table) for table in TABLES]


async def test_however_events_are_cut_into_batches_the_tables_are_the_same(
    tmp_path: Path, rng: random.Random
) -> None:
    events = shuffled_roads(rng, 300)
    async with open_log(tmp_path / "one by one") as kept:
        for start in range(0, len(events), 7):
            await kept.write(events[start : start + 7])
            if rng.random() < 0.2:
                await kept.log.tasks(tenant_id="default")
        expected = await tables(kept)
        await kept.log.rebuild()
        assert await tables(kept) == expected
    async with open_log(tmp_path / "at once") as kept:
        await kept.write(plain(events))
        assert await tables(kept) == expected
    assert len(expected[0]) == 300


async def test_what_a_crash_left_unfolded_is_folded_at_the_next_start(
    tmp_path: Path, rng: random.Random
) -> None:
    events = shuffled_roads(rng, 40)
    async with open_log(tmp_path / "whole") as kept:
        await kept.write(events)
        expected = await tables(kept)
    for start in range(0, len(events), 50):
        async with open_log(tmp_path / "broken") as kept:
            await kept.write(events[start : start + 50])  # and nobody asks for the list before the end
    async with open_log(tmp_path / "broken") as kept:
        assert await tables(kept) == expected


async def test_tables_of_another_version_are_made_anew(tmp_path: Path) -> None:
    async with open_log(tmp_path) as kept:
        await kept.write([accepted("t"), ended("t")])
        expected = await tables(kept)
        await kept.database.write(lambda connection: connection.execute("DELETE FROM tasks").rowcount)
        await kept.database.write(
            lambda connection: connection.execute("UPDATE projections SET version = 99").rowcount
        )
    async with open_log(tmp_path) as kept:
        assert await tables(kept) == expected


async def test_events_that_come_during_a_rebuild_are_in_the_tables_after_it(
    tmp_path: Path, rng: random.Random
) -> None:
    events = shuffled_roads(rng, 700)
    async with open_log(tmp_path / "plain") as kept:
        await kept.write(events)
        expected = await tables(kept)
    async with open_log(tmp_path / "rebuilt") as kept:
        await kept.write(events[:3000])
        rebuilding = asyncio.ensure_future(kept.log.rebuild())
        for start in range(3000, len(events), 10):
            await kept.write(events[start : start + 10])
        await rebuilding
        assert await tables(kept) == expected


async def test_ended_tasks_leave_the_list_with_their_last_event(kept: LogOnFile) -> None:
    await kept.write([accepted("ended"), ended("ended"), accepted("open")])
    await kept.write([event(n) for n in range(2100)])
    await kept.log.prune(max_events=10)
    assert await names(kept) == ["open"]
    await kept.log.rebuild()
    assert await names(kept) == ["open"]


class Unknown(BaseModel):
    """A model that the log has never seen, with the fields of an outcome."""

    task_id: str = "t"
    agent_id: str = "writer"
    capability: str = "writing"
    status: str = "succeeded"
    success: bool = True
    completed_at: datetime = datetime(2030, 1, 1, tzinfo=UTC)


async def test_another_model_of_the_same_shape_says_the_same(kept: LogOnFile) -> None:
    item = await summary(kept, [accepted("t"), about("t", "task.succeeded", Unknown())])
    assert (item.status, item.completed_at) == ("succeeded", datetime(2030, 1, 1, tzinfo=UTC))
