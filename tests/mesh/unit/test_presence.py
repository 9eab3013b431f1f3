"""Presence: who is there, who has gone silent and comes back, and what agents did before a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from meshwright import Agent, Capability
from meshwright.agents.run.run import Run
from meshwright.core import topics
from meshwright.core.capability import AgentStatus, Registration
from meshwright.core.errors import MailboxFull, NoAgentAvailable, ToolFailed
from meshwright.core.events import Event
from meshwright.engine.kernel.timers import every
from meshwright.mesh.orchestration.registry import Registry
from meshwright.testing import ManualClock, MeshUnderTest, mesh_for


class Here(Agent):
    """Is in this process."""

    agent_id = "here"
    capabilities = (Capability("being"),)

    async def run(self, run: Run) -> str:
        if run.task.text == "fail":
            raise ToolFailed("as asked")
        return "here"


class SleepyClock(ManualClock):
    """The clock of a machine that may be suspended: then it jumps, and nobody's sleep gets shorter."""

    slept = timedelta()

    def now(self) -> datetime:
        return super().now() + self.slept

    async def sleep_until(self, when: datetime) -> None:
        await super().sleep_until(when - self.slept)


@pytest.fixture
def clock() -> SleepyClock:
    return SleepyClock()


@pytest.fixture
async def mesh(clock: ManualClock) -> AsyncIterator[MeshUnderTest]:
    async with mesh_for(Here, clock=clock) as mesh:
        yield mesh


def from_afar(mesh: MeshUnderTest, event_type: str, payload: object = None) -> Event:
    now = mesh.mesh.runtime.clock.now()
    return Event(
        id=f"far/{event_type}/{now.timestamp()}",
        event_type=event_type,
        topic=topics.AGENTS,
        time=now,
        agent_id="far",
        payload=payload or {},
    )


async def register_far(mesh: MeshUnderTest) -> None:
    capability = Capability("being", preferred=True)
    registration = Registration(agent_id="far", name="Far", capabilities=(capability,))
    await mesh.mesh.runtime.publish(from_afar(mesh, "agent.registered", registration))


def status_of(mesh: MeshUnderTest, agent_id: str) -> AgentStatus:
    return next(agent.status for agent in mesh.mesh.get(Registry).agents() if agent.agent_id == agent_id)


async def told(mesh: MeshUnderTest, event_type: str, agent_id: str, count: int = 1) -> Event:
    """Wait until an event of an agent has been told so many times; the last one."""
    async with asyncio.timeout(240):
        while True:
            found = [event for event in mesh.events(event_type) if event.agent_id == agent_id]
            if len(found) >= count:
                return found[-1]
            await asyncio.sleep(0)


async def test_every_agent_and_part_of_a_mesh_registers_when_it_starts(mesh: MeshUnderTest) -> None:
    registered = {event.agent_id: event.payload for event in mesh.events("agent.registered")}
    assert set(registered) == {"here", "orchestrator", "event-logger", "context-service"}
    assert registered["here"]["capabilities"][0]["name"] == "being"
    assert registered["here"]["metadata"]["description"] == "Is in this process."
    assert {agent.agent_id: agent.kind for agent in mesh.mesh.get(Registry).agents()} == {
        "here": "agent",
        "orchestrator": "system",
        "event-logger": "system",
        "context-service": "system",
    }


async def test_agents_of_this_process_say_regularly_that_they_are_there(mesh: MeshUnderTest) -> None:
    await mesh.advance(0)
    before = len(mesh.events("agent.heartbeat"))
    await mesh.advance(90)
    beats = [event for event in mesh.events("agent.heartbeat")[before:] if event.agent_id == "here"]
    assert len(beats) == 3
    assert status_of(mesh, "here") == "online"


async def test_an_agent_of_another_process_is_degraded_then_offline_and_then_recovers(
    mesh: MeshUnderTest,
) -> None:
    await register_far(mesh)
    assert mesh.mesh.get(Registry).best("being").agent_id == "far"
    await mesh.advance(60)
    assert status_of(mesh, "far") == "online"
    await mesh.advance(5)
    event = await told(mesh, "agent.degraded", "far")
    assert (event.payload["was"], event.payload["silent_seconds"]) == ("online", 65)
    assert mesh.mesh.get(Registry).best("being").agent_id == "far"
    await mesh.advance(60)
    event = await told(mesh, "agent.offline", "far")
    assert event.payload["was"] == "degraded"
    assert mesh.mesh.get(Registry).best("being").agent_id == "here"
    with pytest.raises(NoAgentAvailable, match="far is offline"):
        await mesh.submit(agent_id="far")
    mesh.mesh.runtime.broadcast(from_afar(mesh, "agent.heartbeat"))
    await mesh.advance(5)
    event = await told(mesh, "agent.recovered", "far")
    assert event.payload["was"] == "offline"
    assert mesh.mesh.get(Registry).best("being").agent_id == "far"


async def test_a_change_is_told_once(mesh: MeshUnderTest) -> None:
    await register_far(mesh)
    await mesh.advance(65)
    await told(mesh, "agent.degraded", "far")
    await mesh.advance(50)
    assert len(mesh.events("agent.degraded")) == 1
    assert not mesh.events("agent.offline")


async def test_heartbeats_keep_an_agent_of_another_process_online(mesh: MeshUnderTest) -> None:
    await register_far(mesh)
    for _ in range(5):
        await mesh.advance(50)
        mesh.mesh.runtime.broadcast(from_afar(mesh, "agent.heartbeat"))
    assert status_of(mesh, "far") == "online"
    assert not mesh.events("agent.degraded")


async def test_a_heartbeat_of_an_agent_that_never_registered_is_passed_over(
    mesh: MeshUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.mesh.runtime.broadcast(from_afar(mesh, "agent.heartbeat"))
    await mesh.advance(5)
    assert "far" not in {agent.agent_id for agent in mesh.mesh.get(Registry).agents()}
    assert caplog.text == ""


async def test_nobody_can_pass_for_an_agent_of_this_process(mesh: MeshUnderTest) -> None:
    impostor = Registration(agent_id="here", name="Impostor", capabilities=(Capability("flying"),))
    event = from_afar(mesh, "agent.registered", impostor).model_copy(update={"agent_id": "here"})
    await mesh.mesh.runtime.publish(event)
    assert mesh.mesh.get(Registry).find("here").name == "Here"
    assert mesh.mesh.get(Registry).capabilities() == ["being"]


async def test_a_machine_that_slept_finds_its_own_agents_online(
    mesh: MeshUnderTest, clock: SleepyClock
) -> None:
    await mesh.advance(1)
    clock.slept = timedelta(hours=1)
    await mesh.advance(5)
    assert status_of(mesh, "here") == "online"
    assert (await mesh.ask("here", "Are you there?")).success
    assert not mesh.events("agent.offline")


async def test_a_regular_duty_goes_on_whatever_goes_wrong_once(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[float] = []
    began = clock.now()

    async def duty() -> None:
        calls.append((clock.now() - began).total_seconds())
        if len(calls) == 1:
            raise MailboxFull("no room")
        if len(calls) == 2:
            raise ValueError("a defect")

    task = asyncio.create_task(every(clock, 5, duty))
    with caplog.at_level(logging.WARNING):
        await clock.advance(15)
    task.cancel()
    assert calls == [0, 5, 10, 15]
    assert "put off: no room" in caplog.text
    assert "a defect" in caplog.text


async def test_a_dependency_that_hangs_makes_its_agent_unhealthy_after_three_seconds() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    agent = type("Resting", (Here,), {"health_check_urls": (f"http://{host}:{port}/",)})
    changed: asyncio.Queue[Event] = asyncio.Queue()
    async with asyncio.timeout(240), server, mesh_for(agent) as mesh:
        mesh.mesh.runtime.listen(topics.AGENTS, changed.put_nowait)
        while (unhealthy := await changed.get()).event_type != "agent.unhealthy":
            pass
        with pytest.raises(NoAgentAvailable, match="did not answer within 3 s"):
            await mesh.submit(agent_id="here", payload={"text": "Are you there?"})
    assert unhealthy.payload["problem"].endswith("did not answer within 3 s")
