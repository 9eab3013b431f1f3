"""Open tasks have limits, in the mesh and in one thread; who is refused learns when to come again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.errors import IdempotencyConflict, NotFound, Overloaded
from meshwright.core.messages import Caller, TaskRequest
from meshwright.engine.work.protocol import Accept, TaskKey
from meshwright.mesh.orchestration.acceptance import PayloadLimits, make_task
from meshwright.mesh.orchestration.scoring import recent_outcomes
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.http_mesh import http_mesh
from tests.support.mqtt_broker import SUBMIT, Mosquitto, client, mosquitto
from tests.support.sqlite_mesh import Running, up

GATE = {"agent_id": "gate", "payload": {"text": "please"}}


async def refusal(running: Running, agent_id: str = "echo", **fields: Any) -> Overloaded:
    with pytest.raises(Overloaded) as refused:
        await running.submit(agent_id, **fields)
    return refused.value


# At the doors


async def test_http_refuses_tasks_over_the_limit_and_says_when_to_return(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, max_open_tasks=2) as api:
        first = [await api.submit(**GATE) for _ in range(2)]
        async with api.session.post("/tasks", json=GATE) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "5")
            problem = await response.json(content_type="application/problem+json")
        assert problem["code"] == "Overloaded"
        assert "2 open tasks" in problem["detail"]
        assert "max_open_tasks" in problem["remedy"]
        assert problem["retry_after_seconds"] == 5
        assert len((await api.get("/tasks"))["items"]) == 2
        api.gate.set()
        for task_id in first:
            await api.mesh.get(Tasks).outcome(task_id)
        await api.finished(agent_id="echo")


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mosquitto]:
    async with mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.mark.needs("mosquitto")
async def test_mqtt_refuses_tasks_over_the_limit(tmp_path: Path, broker: Mosquitto) -> None:
    async with http_mesh(tmp_path, mqtt_url=broker.url, max_open_tasks=1) as api:
        await api.submit(**GATE)
        async with client(broker) as caller:
            refused = await caller.request(SUBMIT, GATE)
            assert refused.properties.ContentType == "application/problem+json"
            assert b'"code":"Overloaded"' in refused.payload
            assert b'"retry_after_seconds":5' in refused.payload


async def test_a_full_thread_is_refused_and_others_are_not(tmp_path: Path) -> None:
    async with up(tmp_path, max_thread_tasks=3) as running:
        first = [await running.submit("gate", thread_id="one") for _ in range(3)]
        error = await refusal(running, "gate", thread_id="one")
        assert (error.field, error.status, error.retry_after_seconds) == ("thread_id", 429, 5)
        await running.submit("gate", thread_id="two")
        other = TaskRequest(agent_id="gate", thread_id="one")
        await running.mesh.get(Tasks).submit(other, Caller(tenant_id="acme"))
        running.gate.set()
        for task_id in first:
            await running.outcome(task_id)
        await running.ask("gate", thread_id="one")


# Races


async def test_tasks_submitted_together_do_not_exceed_the_limit(tmp_path: Path) -> None:
    async with up(tmp_path, max_open_tasks=10) as running:
        answers = await asyncio.gather(*(running.submit("gate") for _ in range(50)), return_exceptions=True)
        assert sum(isinstance(answer, Overloaded) for answer in answers) == 40
        assert len((await running.mesh.log.tasks(tenant_id="default")).items) == 10


async def test_an_inbox_that_fills_up_meanwhile_ends_the_attempt_with_an_event(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        held = [await running.submit("gate", thread_id="one") for _ in range(3)]
        await running.event("task.started", held[0])
    async with up(tmp_path, max_thread_tasks=3) as running:
        late = await submit_past_the_front(running)
        outcome = await running.outcome(late)
        assert (outcome.status, outcome.error and outcome.error.type) == ("failed", "Overloaded")
        types = await running.types(late)
        assert (types["attempt.ended"], types["task.failed"], types["task.dead_lettered"]) == (1, 1, 1)
        assert ("gate", "waiting", False) not in await running.mesh.log.view(recent_outcomes)
        running.gate.set()
        assert [(await running.outcome(task_id)).status for task_id in held] == ["succeeded"] * 3


async def submit_past_the_front(running: Running) -> str:
    """Have a task accepted as by another front, whose count does not know of the others yet."""
    request = TaskRequest(agent_id="gate", thread_id="one")
    task = make_task(request, Caller(), now=running.mesh.runtime.clock.now(), limits=PayloadLimits())
    key = TaskKey("default", task.task_id)
    return (await running.mesh.runtime.call(key.ref, "accept", Accept.wrap(task))).task_id


# Counting


async def test_the_count_does_not_drift(tmp_path: Path) -> None:
    """Ends of all sorts, refusals and repeats leave the room that there was."""
    async with up(tmp_path, max_open_tasks=3) as running:
        for _ in range(3):
            await running.ask("echo")
        cancelled = await running.submit("gate")
        await running.mesh.get(Tasks).cancel(cancelled)
        await running.outcome(cancelled)
        timed_out = await running.ask("gate", timeout=0.01)
        assert timed_out.status == "timed_out"
        failed = await running.ask("boss", "nobody:please")
        assert failed.status == "failed"
        await repeat_and_misuse(running)
        running.gate.set()
        await running.ask("boss", "gate:please")
        running.gate.clear()
        for _ in range(3):
            await running.submit("gate")
        await refusal(running)


async def repeat_and_misuse(running: Running) -> None:
    for _ in range(5):
        with pytest.raises(NotFound):
            await running.submit("ghost")
    done = await running.ask("echo", task_id="done")
    for _ in range(5):
        assert await running.submit("echo", task_id=done.task_id) == "done"
        with pytest.raises(IdempotencyConflict):
            await running.submit("echo", "another text", task_id="done")


async def test_an_open_task_is_answered_again_where_the_mesh_is_full(tmp_path: Path) -> None:
    async with up(tmp_path, max_open_tasks=1) as running:
        await running.submit("gate", task_id="mine")
        assert await running.submit("gate", task_id="mine") == "mine"
        with pytest.raises(IdempotencyConflict):
            await running.submit("gate", "another text", task_id="mine")
        await refusal(running)
        running.gate.set()
        await running.outcome("mine")
        await running.ask("echo")


async def test_what_agents_delegate_counts_and_is_not_refused(tmp_path: Path) -> None:
    async with up(tmp_path, max_open_tasks=1) as running:
        parent = await running.submit("boss", "gate:please")
        await running.event("task.waiting", parent)
        error = await refusal(running)
        assert "2 open tasks" in error.message
        running.gate.set()
        assert (await running.outcome(parent)).text == "opened"
        await running.ask("echo")


@pytest.mark.parametrize("drain_seconds", [0, 5])
async def test_the_count_is_right_after_a_restart(tmp_path: Path, drain_seconds: float) -> None:
    async with up(tmp_path, drain_seconds=drain_seconds) as running:
        open_tasks = [await running.submit("gate", thread_id="one") for _ in range(3)]
        await running.ask("echo")
        if drain_seconds:
            await running.mesh.get(Tasks).cancel(open_tasks.pop())
    async with up(tmp_path, max_open_tasks=len(open_tasks) + 1, max_thread_tasks=len(open_tasks)) as running:
        assert (await refusal(running, thread_id="one")).field == "thread_id"
        await running.submit("gate")
        await refusal(running)
        running.gate.set()
        for task_id in open_tasks:
            await running.outcome(task_id)
        await running.ask("echo", thread_id="one")
