"""`mesh status` shows open tasks, what they wait for, and the deployments that are left alone."""

import json
from datetime import timedelta
from typing import Any

from meshwright.cli.status import status_text
from meshwright.core.events import Event
from meshwright.engine.events.status import MeshStatus, mesh_status
from tests.support.event_logs import START, LogOnFile
from tests.support.task_events import accepted, dispatched, ended, progress


def waiting(task_id: str, kind: str = "provider", **fields: Any) -> list[Event]:
    """The events of a task that waits."""
    wait = progress(task_id, "task.waiting", key=f"steps/{task_id}/1/1/3", kind=kind, **fields)
    return [accepted(task_id), dispatched(task_id), progress(task_id, "task.started"), wait]


async def status(store: LogOnFile, events: list[Event], tenant_id: str | None = None) -> MeshStatus:
    await store.write(events)
    return await store.log.view(mesh_status, tenant_id)


async def test_open_tasks_are_counted_by_status_and_ended_ones_not(store: LogOnFile) -> None:
    events = [*waiting("a"), accepted("bb"), dispatched("bb"), accepted("ccc"), ended("ccc")]
    assert (await status(store, events)).tasks == {"waiting": 1, "dispatched": 1}


async def test_waits_are_shown_by_kind_with_the_oldest_and_the_next_due(store: LogOnFile) -> None:
    due = [START + timedelta(minutes=minutes) for minutes in (7, 5)]
    events = [
        *waiting("a", asked="It is down", since=START, due_at=due[0]),
        *waiting("bb", asked="It is still down", since=START + timedelta(minutes=1), due_at=due[1]),
        *waiting("ccc", kind="person", asked="Deploy?", expires_at=due[0]),
    ]
    provider, person = (await status(store, events)).waits
    assert (provider.kind, provider.count, provider.reason) == ("provider", 2, "It is still down")
    assert provider.tasks == 2
    assert (provider.oldest, provider.next_due) == (START, due[1])
    assert (person.kind, person.count, person.next_due) == ("person", 1, due[0])


async def test_a_task_with_two_waits_is_counted_once(store: LogOnFile) -> None:
    second = progress("a", "task.waiting", key="steps/a/1/1/4", kind="provider")
    [provider] = (await status(store, [*waiting("a"), second])).waits
    assert (provider.count, provider.tasks) == (2, 1)


async def test_a_wait_is_gone_when_it_ends_or_its_task_does(store: LogOnFile) -> None:
    over = progress("a", "wait.ended", key="steps/a/1/1/3", kind="provider", how="due")
    found = await status(store, [*waiting("a"), over, *waiting("bb"), *waiting("ccc"), ended("bb")])
    assert [(wait.kind, wait.count) for wait in found.waits] == [("provider", 1)]
    assert (await status(store, [ended("ccc")])).waits == ()


async def test_a_tenant_sees_its_own_tasks_alone(store: LogOnFile) -> None:
    found = await status(store, waiting("a"), "acme")
    assert (found.tasks, found.waits) == ({}, ())


def test_the_command_says_what_waits_and_which_deployments_are_left_alone() -> None:
    wait = {"kind": "provider", "count": 3, "oldest": "2020-01-01T00:00:00+00:00", "next_due": None}
    refused = {"deployment": "smart", "status": 401, "since": "2020-01-01T00:00:00+00:00"}
    document = {
        "tasks": {"waiting": 3, "running": 1},
        "waits": [{**wait, "reason": "It is down"}],
        "deployments": [{**refused, "until": "2020-01-01T00:05:00+00:00", "reason": "invalid key"}],
    }
    text = status_text(json.loads(json.dumps(document)))
    for part in ("open tasks: 4 (1 running, 3 waiting)", "It is down", "refused with 401", "invalid key"):
        assert part in text


def test_the_command_says_that_nothing_is_open() -> None:
    assert status_text({"tasks": {}, "waits": [], "deployments": []}) == "no open tasks"
