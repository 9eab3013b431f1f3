"""Runs that wait for events: the first that fits, also where nobody looked when it came."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Run, WaitExpired
from meshwright.core.events import Event
from meshwright.core.messages import TaskRequest
from meshwright.engine.events import waits as event_waits
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ManualClock, MeshUnderTest, mesh_for
from tests.support.function_calls import FunctionCalls
from tests.support.interrupted_mesh import kept, told_of
from tests.support.observer import eventually

EVENTS = 100
MAX_MORE = 2_000  # calls: for the events of the waits that began just before; were each asked, 7,000
NOTED_AFTER = 1_000


class Listener(Agent):
    """Waits for the payment of an order."""

    agent_id = "listener"
    capabilities = (Capability("listening"),)

    async def run(self, run: Run) -> str:
        wanted: Mapping[str, Any] = run.task.payload.get("match", {})
        try:
            event = await run.wait_event(
                run.task.payload.get("topic", "app.orders"), wanted, expires=timedelta(hours=1)
            )
        except WaitExpired:
            return "none came"
        return f"{event['event_type']} {event['payload'].get('dollars')}"


async def waits(mesh: MeshUnderTest, count: int = 1, **payload: Any) -> str:
    """Give it a task, and wait until so many tasks wait."""
    request = TaskRequest(agent_id="listener", payload=payload)
    task_id = (await mesh.submit(request)).task_id
    news = asyncio.Event()
    end = mesh.mesh.runtime.listen("#", lambda event: news.set())
    await eventually(lambda: len(mesh.events("task.waiting")) >= count, news)
    end()
    return task_id


def happens(
    mesh: MeshUnderTest, topic: str = "app.orders", tenant_id: str = "default", **payload: Any
) -> None:
    mesh.mesh.tell("order.paid", payload, topic=topic, tenant_id=tenant_id)


async def test_the_first_event_that_fits_is_the_answer() -> None:
    async with mesh_for(Listener) as mesh:
        match = {"event_type": "order.paid", "payload.order": 7}
        task_id = await waits(mesh, match=match)
        happens(mesh, order=6, dollars=1)
        happens(mesh, order=7, dollars=2, tenant_id="acme")
        happens(mesh, order=7, dollars=3, topic="app.refunds")
        happens(mesh, order=7, dollars=4)
        happens(mesh, order=7, dollars=5)
        assert (await mesh.outcome(task_id)).text == "app.order.paid 4"


async def test_several_tasks_get_the_same_event() -> None:
    async with mesh_for(Listener) as mesh:
        tasks = [await waits(mesh, n, topic="app.*") for n in (1, 2, 3)]
        happens(mesh, dollars=9)
        assert {(await mesh.outcome(task_id)).text for task_id in tasks} == {"app.order.paid 9"}


async def test_an_event_costs_the_same_however_many_wait_for_others() -> None:
    counts = dict[int, int]()
    for waiting in (1, 60):
        async with mesh_for(Listener) as mesh:
            for n in range(1, waiting):
                topic = "app.refunds.*" if n == 1 else f"app.refunds.{n}"
                await mesh.submit(TaskRequest(agent_id="listener", payload={"topic": topic}))
            task_id = await waits(mesh, waiting, match={"payload.order": EVENTS})
            with FunctionCalls(event_waits) as calls:
                for order in range(1, EVENTS + 1):
                    happens(mesh, order=order, dollars=order)
                assert (await mesh.outcome(task_id)).text == f"app.order.paid {EVENTS}"
            counts[waiting] = calls.count
    assert 0 < counts[60] <= counts[1] + MAX_MORE


async def test_a_wait_for_an_event_expires() -> None:
    async with mesh_for(Listener, clock=ManualClock()) as mesh:
        task_id = await waits(mesh)
        await mesh.advance(3_601)
        assert (await mesh.outcome(task_id)).text == "none came"


async def test_what_cannot_be_meant_fails_at_once() -> None:
    async with mesh_for(Listener) as mesh:
        for payload in ({"topic": "#.orders"}, {"topic": 7}):
            request = TaskRequest(agent_id="listener", payload=payload)
            outcome = await mesh.outcome((await mesh.submit(request)).task_id)
            assert outcome.error is not None and outcome.error.type == "AgentError"


class Bystander(Agent):
    """Takes no part."""

    agent_id = "bystander"
    capabilities = (Capability("standing"),)


async def begin_wait(mesh: Mesh, order: int) -> str:
    request = TaskRequest(agent_id="listener", payload={"match": {"payload.order": order}})
    task_id = (await mesh.get(Tasks).submit(request)).task_id
    async with aclosing(mesh.log.tail(EventFilter(task_id=task_id, after_seq=0))) as events:
        async for event in events:
            if event.event_type == "task.waiting":
                break
    return task_id


async def answer_of(mesh: Mesh, task_id: str) -> str:
    return (await mesh.get(Tasks).outcome(task_id)).text


async def test_a_start_reads_only_what_was_not_compared_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = list[int]()
    follow = EventLog.follow

    def noted(log: EventLog, filter: EventFilter, *, live: bool = False) -> AsyncGenerator[list[Event]]:
        if filter == EventFilter(after_seq=filter.after_seq):
            places.append(filter.after_seq or 0)
        return follow(log, filter, live=live)

    async with kept(tmp_path, Listener) as mesh:
        task_id, last_id = await begin_wait(mesh, 7), await begin_wait(mesh, 2_499)
        for order in range(1_000, 2_500):
            mesh.tell("order.paid", {"order": order}, topic="app.orders")
        await answer_of(mesh, last_id)
        end = await mesh.log.last_seq()
    monkeypatch.setattr(EventLog, "follow", noted)
    async with kept(tmp_path, Listener) as mesh:
        mesh.tell("order.paid", {"order": 7, "dollars": 3}, topic="app.orders")
        assert await answer_of(mesh, task_id) == "app.order.paid 3"
    assert end - NOTED_AFTER <= min(places)


async def test_an_event_that_came_without_the_agent_is_the_answer_once_it_is_back(tmp_path: Path) -> None:
    async with kept(tmp_path, Listener) as mesh:
        task_id = await begin_wait(mesh, 7)
    async with kept(tmp_path, Bystander) as mesh:
        mesh.tell("order.paid", {"order": 7, "dollars": 3}, topic="app.orders")
        mesh.tell("orders.end", {}, topic="app.orders")
        await told_of(mesh, "app.orders.end")
    async with kept(tmp_path, Bystander) as mesh:
        mesh.tell("orders.end", {}, topic="app.orders")
    async with kept(tmp_path, Listener) as mesh:
        assert await answer_of(mesh, task_id) == "app.order.paid 3"
