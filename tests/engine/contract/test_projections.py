"""The list of tasks and the recent outcomes are what the log says."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from meshwright.core.errors import InvalidInput
from meshwright.core.messages import Fault, Usage
from meshwright.engine.events.task_lists import EndedTask, ended_tasks
from meshwright.engine.events.tasks import TaskSummary
from meshwright.mesh.orchestration.scoring import recent_outcomes
from tests.support.event_logs import START, LogOnFile, open_log
from tests.support.postgres import Location
from tests.support.task_events import (
    about,
    accepted,
    attempt_ended,
    dispatched,
    ended,
    names,
    outcome,
    progress,
    summary,
)


async def test_a_task_is_listed_with_what_is_known_of_it(store: LogOnFile) -> None:
    item = await summary(store, [accepted("t"), dispatched("t"), progress("t", "task.started"), ended("t")])
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
        error=None,
        created_at=START,
        updated_at=START + timedelta(seconds=1),
        completed_at=START + timedelta(minutes=5),
        duration_ms=12.5,
        model="offline",
        usage=Usage(prompt_tokens=612, completion_tokens=40),
        cost_usd=0.25,
    )


async def test_a_cost_that_nobody_knows_is_listed_as_unknown(store: LogOnFile) -> None:
    item = await summary(store, [accepted("t"), dispatched("t"), ended("t", cost_usd=None)])
    assert (item.status, item.cost_usd, item.model) == ("succeeded", None, "offline")


async def test_each_step_of_the_road_shows(store: LogOnFile) -> None:
    history = [
        (accepted("t"), "accepted", 0, None),
        (dispatched("t"), "dispatched", 1, None),
        (progress("t", "task.started"), "running", 1, None),
        (progress("t", "task.waiting", key="child/2", child_task_id="c"), "waiting", 1, "task c"),
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
    for each, status, attempts, reason in history:
        item = await summary(store, [each])
        assert (item.status, item.attempts, item.reason) == (status, attempts, reason)
        assert (item.completed_at is not None) == (status == "failed")


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "timed_out"])
async def test_what_arrives_after_the_outcome_changes_nothing(store: LogOnFile, status: str) -> None:
    late = [
        dispatched("t"),
        progress("t", "task.started"),
        progress("t", "task.waiting", key="k"),
        accepted("t"),
    ]
    item = await summary(store, [ended("t", status), *late, ended("t", "cancelled")])
    assert item.status == status
    assert (item.thread_id, item.requested_by) == ("thread-t", "ann")


async def test_an_attempt_that_was_given_up_changes_nothing(store: LogOnFile) -> None:
    events = [accepted("t"), dispatched("t"), dispatched("t", 2), progress("t", "task.started", attempt=1)]
    assert (await summary(store, events)).status == "dispatched"


async def test_a_later_generation_begins_anew(store: LogOnFile) -> None:
    await store.write([accepted("t"), dispatched("t", 3), ended("t", "failed", attempt=3)])
    item = await summary(store, [dispatched("t", generation=2)])
    assert (item.status, item.generation, item.attempts, item.cost_usd) == ("dispatched", 2, 1, 0.0)
    assert (item.completed_at, item.reason) == (None, None)
    item = await summary(store, [ended("t", "failed", attempt=3), ended("t", generation=2)])
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
async def test_a_payload_of_no_shape_leaves_the_task_listed(store: LogOnFile, payload: Any) -> None:
    types = [
        "task.accepted",
        "task.dispatched",
        "task.started",
        "attempt.failed",
        "attempt.ended",
        "task.failed",
    ]
    item = await summary(store, [about("t", each, payload) for each in types])
    assert item.status == "failed"
    assert await store.log.view(recent_outcomes) is not None


# Lists


async def fill(store: LogOnFile) -> None:
    for n in range(12):
        capability = "writing" if n % 3 else "reading"
        tenant = "acme" if n == 5 else "default"
        status = "failed" if n % 4 == 0 else "succeeded"
        await store.write([accepted(f"t{n}", capability, tenant_id=tenant)])
        await store.write([ended(f"t{n}", status, tenant_id=tenant)] if n < 10 else [])


async def test_tasks_are_listed_newest_first_page_by_page(store: LogOnFile) -> None:
    await fill(store)
    assert await names(store) == [f"t{n}" for n in range(11, -1, -1) if n != 5]
    assert await names(store, status="failed") == ["t8", "t4", "t0"]
    assert await names(store, status="succeeded", capability="reading") == ["t9", "t6", "t3"]
    assert await names(store, status="failed", capability="reading") == ["t0"]
    assert await names(store, capability="reading") == ["t9", "t6", "t3", "t0"]
    assert await names(store, status="accepted") == ["t11", "t10"]
    assert await names(store, tenant_id="acme") == ["t5"]
    assert await names(store, capability="unheard of") == []


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "9" * 30, "²"])
async def test_a_wrong_cursor_is_refused(store: LogOnFile, cursor: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await store.log.tasks(tenant_id="default", cursor=cursor)
    assert refused.value.field == "cursor"


# Outcomes


async def test_recent_outcomes_are_the_last_twenty_of_each_agent_and_capability(location: Location) -> None:
    async with open_log(location) as store:
        for n in range(25):
            await store.write([attempt_ended(f"t{n}", "failed" if n in (3, 24) else "succeeded")])
        await store.write([attempt_ended("u", agent_id="other"), attempt_ended("v", "cancelled")])
        await store.write([attempt_ended("w", capability="reading"), attempt_ended("x", capability="")])
    async with open_log(location) as store:
        found = await store.log.view(recent_outcomes)
        writing = [
            success for agent, capability, success in found if (agent, capability) == ("writer", "writing")
        ]
        assert writing == [True] * 19 + [False]
        assert ("other", "writing", True) in found
        assert ("writer", "reading", True) in found
        assert len(found) == 22
        assert len(await store.log.view(recent_outcomes, last=3)) == 5


async def test_what_was_counted_before_a_restart_is_not_counted_again(location: Location) -> None:
    for _ in range(3):
        async with open_log(location) as store:
            await store.write([attempt_ended("t")])
            counted = await store.log.view(recent_outcomes)
    assert counted == [("writer", "writing", True)] * 3


async def test_tasks_that_ended_together_are_read_page_by_page(store: LogOnFile) -> None:
    for task_id in ("b", "c", "a"):
        await store.write([accepted(task_id), dispatched(task_id), ended(task_id)])
    last, found = EndedTask(0.0, "", ""), list[str]()
    while page := await store.log.view(ended_tasks, last, 1e12, 1):
        [last] = page
        found.append(last.task_id)
    assert found == ["a", "b", "c"]
