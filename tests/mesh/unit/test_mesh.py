"""The mesh as its clients see it: submit, look, wait, cancel, answer, each tenant on its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, TaskRequest
from meshwright.agents.run.run import Run
from meshwright.core.errors import (
    ConfigError,
    Draining,
    IdempotencyConflict,
    InvalidInput,
    MeshError,
    NoAgentAvailable,
    NotFound,
    TooLarge,
)
from meshwright.core.ids import derived_id
from meshwright.core.messages import Caller, Receipt
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for
from tests.support.settings import load_settings

ANN = Caller(tenant_id="acme", requested_by="ann")
BOB = Caller(tenant_id="bobs", requested_by="bob")


class Echo(Agent):
    """Says it again."""

    agent_id = "echo"
    capabilities = (Capability("echoing"),)

    async def run(self, run: Run) -> str:
        return f"you said: {run.task.text}"


class Gate(Agent):
    """Answers when the test opens it; one task at a time."""

    agent_id = "gate"
    capabilities = (Capability("waiting"),)
    max_concurrency = 1
    began: asyncio.Event
    opened: asyncio.Event

    async def run(self, run: Run) -> str:
        self.began.set()
        await self.opened.wait()
        return "opened"


class Boss(Agent):
    """Has the gate do it, and waits."""

    agent_id = "boss"
    capabilities = (Capability("managing"),)
    delegates_to = ("gate",)

    async def run(self, run: Run) -> str:
        return await run.delegate("gate", run.task.text)


@pytest.fixture
def gate() -> type[Gate]:
    return type("TestGate", (Gate,), {"began": asyncio.Event(), "opened": asyncio.Event()})


@pytest.fixture
def agents(gate: type[Gate]) -> list[type[Agent]]:
    return [Echo, gate, Boss]


async def submit(mesh: MeshUnderTest, caller: Caller | None = None, **fields: Any) -> Receipt:
    key = fields.pop("key", None)
    request = TaskRequest(**({"agent_id": "echo", "payload": {"text": "Hello"}} | fields))
    return await mesh.mesh.get(Tasks).submit(request, caller, idempotency_key=key)


# Submitting


async def test_a_receipt_says_who_does_it_and_how_it_scored(mesh: MeshUnderTest) -> None:
    receipt = await submit(mesh)
    assert (receipt.status, receipt.dispatched_to, receipt.score) == ("dispatched", "echo", 1.0)
    assert (await mesh.outcome(receipt.task_id)).text == "you said: Hello"


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"agent_id": "nobody"}, NotFound, "agent_id"),
        ({"agent_id": "event-logger"}, NotFound, "agent_id"),
        ({"agent_id": None, "capability": "flying"}, NoAgentAvailable, "capability"),
        ({"agent_id": "echo", "capability": "waiting"}, NoAgentAvailable, "capability"),
        ({"agent_id": None}, InvalidInput, "capability"),
        ({"payload": {"text": "x" * 300_000}}, TooLarge, "payload"),
        ({"payload": {"n": float("nan")}}, InvalidInput, "payload"),
        ({"key": ""}, InvalidInput, "Idempotency-Key"),
    ],
)
async def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    mesh: MeshUnderTest, fields: dict[str, Any], error: type[MeshError], field: str
) -> None:
    with pytest.raises(error) as refused:
        await submit(mesh, task_id="t1", **fields)
    assert refused.value.field == field
    assert refused.value.remedy
    with pytest.raises(NotFound):
        await mesh.mesh.get(Tasks).task("t1")
    assert not mesh.events("task.accepted")


async def test_a_repeat_is_the_same_task_before_and_after_its_end(mesh: MeshUnderTest) -> None:
    first = await submit(mesh, key="order-1")
    assert await submit(mesh, key="order-1") == first
    await mesh.outcome(first.task_id)
    again = await submit(mesh, key="order-1")
    assert (again.task_id, again.status) == (first.task_id, "succeeded")
    assert len(mesh.events("task.accepted")) == len(mesh.events("attempt.ended")) == 1


async def test_repeats_that_come_at_once_are_one_task(mesh: MeshUnderTest) -> None:
    receipts = await asyncio.gather(*(submit(mesh, key="order-1") for _ in range(20)))
    assert len({receipt.task_id for receipt in receipts}) == 1
    await mesh.outcome(receipts[0].task_id)
    assert len(mesh.events("task.started")) == 1


@pytest.mark.parametrize("name", [{"key": "order-1"}, {"task_id": "t1"}])
async def test_another_request_under_a_known_name_is_a_conflict(
    mesh: MeshUnderTest, name: dict[str, str]
) -> None:
    first = await submit(mesh, **name)
    with pytest.raises(IdempotencyConflict) as refused:
        await submit(mesh, payload={"text": "Another"}, **name)
    assert refused.value.status == 409
    assert (await mesh.outcome(first.task_id)).text == "you said: Hello"


async def test_a_repeat_after_a_restart_is_the_same_task(tmp_path: Path) -> None:
    request = TaskRequest(agent_id="echo", payload={"text": "Hello"})
    receipts = []
    for _ in range(2):
        settings = load_settings(tmp_path)
        async with build_mesh(settings, project=tmp_path, agents=[Echo], model=ScriptedModel()) as mesh:
            receipts.append(await mesh.get(Tasks).submit(request, idempotency_key="order-1"))
            await mesh.get(Tasks).outcome(receipts[0].task_id)
            assert len((await mesh.get(Tasks).task(receipts[0].task_id)).attempts) == 1
    assert receipts[0].task_id == receipts[1].task_id
    assert receipts[1].status == "succeeded"


# Looking


async def test_a_task_is_seen_as_it_is_at_each_moment(mesh: MeshUnderTest, gate: type[Gate]) -> None:
    first = await submit(mesh, agent_id="gate", thread_id="one")
    await gate.began.wait()
    second = await submit(mesh, agent_id="gate", thread_id="one")
    boss = await submit(mesh, agent_id="boss")
    while not mesh.events("task.waiting"):
        await asyncio.sleep(0)
    seen = [await mesh.mesh.get(Tasks).task(receipt.task_id) for receipt in (first, second, boss)]
    assert [view.status for view in seen] == ["running", "dispatched", "waiting"]
    gate.opened.set()
    for receipt in (first, second, boss):
        outcome = await mesh.outcome(receipt.task_id)
        view = await mesh.mesh.get(Tasks).task(receipt.task_id)
        assert view.outcome is not None
        assert (view.status, view.outcome.model_dump()) == ("succeeded", outcome.model_dump())


async def test_a_view_tells_all_that_was_asked_and_tried(mesh: MeshUnderTest) -> None:
    fields = {"capability": "echoing", "agent_id": None, "priority": 7, "timeout": 60.0, "thread_id": "talk"}
    receipt = await submit(mesh, ANN, **fields)
    await mesh.mesh.get(Tasks).outcome(receipt.task_id, "acme")
    view = await mesh.mesh.get(Tasks).task(receipt.task_id, "acme")
    assert (view.capability, view.payload, view.priority, view.timeout) == (
        "echoing",
        {"text": "Hello"},
        7,
        60.0,
    )
    assert (view.tenant_id, view.requested_by, view.thread_id) == ("acme", "ann", "talk")
    assert (view.parent_task_id, view.chain, view.generation) == (None, (), 1)
    [attempt] = view.attempts
    assert (attempt.agent_id, attempt.score_card.score, attempt.error) == ("echo", 1.0, None)
    assert attempt.ended_at is not None
    assert view.outcome is not None
    assert view.outcome.text == "you said: Hello"
    assert len(view.trace_id or "") == 32


async def test_a_task_for_an_agent_by_name_gets_its_first_capability(mesh: MeshUnderTest) -> None:
    receipt = await submit(mesh)
    assert (await mesh.mesh.get(Tasks).task(receipt.task_id)).capability == "echoing"


# Waiting for the outcome


async def test_everybody_who_waits_gets_the_same_outcome(mesh: MeshUnderTest, gate: type[Gate]) -> None:
    receipt = await submit(mesh, agent_id="gate")
    waits = [asyncio.create_task(mesh.mesh.get(Tasks).outcome(receipt.task_id)) for _ in range(3)]
    await gate.began.wait()
    waits[0].cancel()
    gate.opened.set()
    first, second = await asyncio.gather(*waits[1:])
    assert first == second == await mesh.mesh.get(Tasks).outcome(receipt.task_id)
    assert first.text == "opened"


async def test_whoever_waits_when_the_mesh_stops_is_told(mesh: MeshUnderTest, gate: type[Gate]) -> None:
    receipt = await submit(mesh, agent_id="gate")
    waiting = asyncio.create_task(mesh.mesh.get(Tasks).outcome(receipt.task_id))
    await gate.began.wait()
    await mesh.mesh.stop(drain_seconds=0)
    with pytest.raises(Draining, match="goes on at the next start"):
        await waiting


async def test_a_mesh_that_stops_lets_work_end_first(mesh: MeshUnderTest, gate: type[Gate]) -> None:
    receipt = await submit(mesh, agent_id="gate")
    waiting = asyncio.create_task(mesh.mesh.get(Tasks).outcome(receipt.task_id))
    await gate.began.wait()
    stopping = asyncio.create_task(mesh.mesh.stop())
    for _ in range(200):
        await asyncio.sleep(0)
    assert not stopping.done()
    gate.opened.set()
    await stopping
    assert (await waiting).text == "opened"


async def test_what_a_stopped_mesh_is_asked_it_refuses(mesh: MeshUnderTest) -> None:
    assert mesh.mesh.ready
    await mesh.mesh.stop()
    assert not mesh.mesh.ready
    with pytest.raises(Draining):
        await submit(mesh)


# Cancelling and answering


async def test_cancelling_ends_a_task_once_and_for_all(mesh: MeshUnderTest, gate: type[Gate]) -> None:
    receipt = await submit(mesh, agent_id="gate")
    await gate.began.wait()
    view = await mesh.mesh.get(Tasks).cancel(receipt.task_id)
    assert view.task_id == receipt.task_id
    assert (await mesh.outcome(receipt.task_id)).status == "cancelled"
    assert (await mesh.mesh.get(Tasks).cancel(receipt.task_id)).status == "cancelled"
    assert len(mesh.events("task.cancelled")) == 1


async def test_an_end_cannot_be_cancelled(mesh: MeshUnderTest) -> None:
    receipt = await submit(mesh)
    await mesh.outcome(receipt.task_id)
    assert (await mesh.mesh.get(Tasks).cancel(receipt.task_id)).status == "succeeded"


async def test_an_answer_that_nobody_waits_for_is_not_found(mesh: MeshUnderTest, gate: type[Gate]) -> None:
    receipt = await submit(mesh, agent_id="gate")
    await gate.began.wait()
    with pytest.raises(NotFound, match="does not wait for 'k'") as refused:
        await mesh.mesh.get(Tasks).answer(receipt.task_id, "k", "yes")
    assert (refused.value.field, "mesh inbox" in refused.value.remedy) == ("key", True)
    gate.opened.set()
    await mesh.outcome(receipt.task_id)
    with pytest.raises(NotFound):
        await mesh.mesh.get(Tasks).answer(receipt.task_id, "k", "yes")


# Tenants


async def test_what_is_not_there_and_what_is_anothers_look_the_same(mesh: MeshUnderTest) -> None:
    receipt = await submit(mesh, ANN, task_id="anns")
    await mesh.mesh.get(Tasks).outcome(receipt.task_id, "acme")
    asks = [
        lambda task_id: mesh.mesh.get(Tasks).task(task_id, "bobs"),
        lambda task_id: mesh.mesh.get(Tasks).outcome(task_id, "bobs"),
        lambda task_id: mesh.mesh.get(Tasks).cancel(task_id, "bobs"),
        lambda task_id: mesh.mesh.get(Tasks).answer(task_id, "k", "v", Caller(tenant_id="bobs")),
    ]
    for ask in asks:
        for task_id in ("anns", "none"):
            with pytest.raises(NotFound) as refused:
                await ask(task_id)
            assert str(refused.value).startswith(f"There is no task '{task_id}'")


async def test_the_same_key_and_the_same_thread_of_two_tenants_are_two(mesh: MeshUnderTest) -> None:
    receipts = [await submit(mesh, caller, key="k", thread_id="one") for caller in (ANN, BOB)]
    assert receipts[0].task_id != receipts[1].task_id
    for caller, receipt in zip((ANN, BOB), receipts, strict=True):
        await mesh.mesh.get(Tasks).outcome(receipt.task_id, caller.tenant_id)
    threads = {event.aggregate_id for event in mesh.events("task.started")}
    assert threads == {"echo/acme:one", "echo/bobs:one"}
    assert [event.tenant_id for event in mesh.events("task.accepted")] == ["acme", "bobs"]


async def test_two_tenants_use_one_task_id_and_never_meet(mesh: MeshUnderTest) -> None:
    callers = {ANN: "from ann", BOB: "from bob", Caller(): "from the default tenant"}
    for caller, text in callers.items():
        await submit(mesh, caller, task_id="t1", payload={"text": text})
    for caller, text in callers.items():
        tenant = caller.tenant_id
        assert (await mesh.mesh.get(Tasks).outcome("t1", tenant)).text == f"you said: {text}"
        view = await mesh.mesh.get(Tasks).task("t1", tenant)
        assert (view.tenant_id, view.payload["text"]) == (tenant, text)
        [listed] = (await mesh.mesh.log.tasks(tenant_id=tenant)).items
        assert (listed.task_id, listed.requested_by) == ("t1", caller.requested_by)
        [dispatched] = await mesh.mesh.log.query(
            EventFilter(tenant_id=tenant, task_id="t1", event_type="task.dispatched")
        )
        assert dispatched.payload["task"]["payload"]["text"] == text


async def test_a_tenant_cannot_squat_the_id_of_anothers_idempotency_key(mesh: MeshUnderTest) -> None:
    await submit(mesh, BOB, task_id=derived_id(ANN.tenant_id, ANN.source, "order-7"))
    assert (await submit(mesh, ANN, key="order-7")).dispatched_to == "echo"


async def test_an_outcome_of_one_tenant_wakes_no_waiter_of_another(
    mesh: MeshUnderTest, gate: type[Gate]
) -> None:
    await submit(mesh, BOB, agent_id="gate", task_id="t1")
    waiting = asyncio.create_task(mesh.mesh.get(Tasks).outcome("t1", BOB.tenant_id))
    await gate.began.wait()
    await submit(mesh, ANN, task_id="t1", payload={"text": "of ann"})
    assert (await mesh.mesh.get(Tasks).outcome("t1", ANN.tenant_id)).text == "you said: of ann"
    await mesh.mesh.get(Tasks).cancel("t1", ANN.tenant_id)
    assert not waiting.done()
    gate.opened.set()
    assert (await waiting).text == "opened"


async def test_a_child_keeps_the_tenant_of_its_parent(mesh: MeshUnderTest, gate: type[Gate]) -> None:
    gate.opened.set()
    for caller in (ANN, BOB):
        await submit(mesh, caller, agent_id="boss", task_id="t1")
        assert (await mesh.mesh.get(Tasks).outcome("t1", caller.tenant_id)).text == "opened"
        tasks = (await mesh.mesh.log.tasks(tenant_id=caller.tenant_id)).items
        assert sorted((task.agent_id, task.parent_task_id) for task in tasks) == [
            ("boss", None),
            ("gate", "t1"),
        ]


# Several meshes


@pytest.fixture
async def two(agents: list[type[Agent]]) -> AsyncIterator[list[MeshUnderTest]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(mesh_for(*agents)) for _ in range(2)]


async def test_two_meshes_of_one_process_know_nothing_of_each_other(two: list[MeshUnderTest]) -> None:
    one, other = two
    receipts = [
        await submit(mesh, task_id="t1", thread_id="talk", payload={"text": name})
        for mesh, name in zip(two, ("one", "two"), strict=True)
    ]
    outcomes = [await mesh.outcome("t1") for mesh in two]
    assert [receipt.status for receipt in receipts] == ["dispatched"] * 2
    assert [outcome.text for outcome in outcomes] == ["you said: one", "you said: two"]
    await submit(one, task_id="t2")
    await one.outcome("t2")
    assert not other.events(task_id="t2")
    with pytest.raises(NotFound):
        await other.mesh.get(Tasks).task("t2")
    await one.mesh.stop()
    assert (await other.ask("echo", "Still there?")).success


@pytest.mark.parametrize("name", ["Orchestrator", "context-service", "budget-account", "virtual-keys"])
def test_no_agent_takes_the_name_of_a_part_of_the_mesh(tmp_path: Path, name: str) -> None:
    agent = type("Impostor", (Echo,), {"agent_id": name})
    with pytest.raises(ConfigError, match=f"agent_id '{name}' of Impostor is the name of a part of the mesh"):
        build_mesh(load_settings(tmp_path), project=tmp_path, agents=[agent])
