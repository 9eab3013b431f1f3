"""A mesh on one file with agents whose end a test decides, and the oracle's word on what it leaves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meshwright.agents.agent import Agent
from meshwright.agents.run.run import Run
from meshwright.core.capability import Capability
from meshwright.core.events import Event
from meshwright.core.messages import Outcome, TaskRequest
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.sql.database import Database
from meshwright.mesh.app import StoreDeps, build_mesh, sqlite_runtime
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.offline_model import OfflineModel
from tests.support.faults.evidence import gather
from tests.support.settings import Settings

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60


class Echo(Agent):
    """Says it again."""

    agent_id = "echo"
    capabilities = (Capability("echoing"),)

    async def run(self, run: Run) -> str | dict[str, Any]:
        return f"you said: {run.task.text}"


class Gate(Agent):
    """Answers when the test opens it, one task at a time."""

    agent_id = "gate"
    capabilities = (Capability("waiting"),)
    max_concurrency = 1
    opened: asyncio.Event

    async def run(self, run: Run) -> str | dict[str, Any]:
        await self.opened.wait()
        return "opened"


class Boss(Agent):
    """Has somebody else do it, and waits."""

    agent_id = "boss"
    capabilities = (Capability("managing"),)
    delegates_to = ("gate", "nobody")

    async def run(self, run: Run) -> str | dict[str, Any]:
        return await run.delegate(*run.task.text.split(":"))


@dataclass
class Running:
    """A mesh, with what a test does to it."""

    mesh: Mesh
    database: Database
    gate: asyncio.Event

    async def submit(self, agent_id: str, text: str = "Hello", **fields: Any) -> str:
        request = TaskRequest(agent_id=agent_id, payload={"text": text}, **fields)
        return (await self.mesh.get(Tasks).submit(request)).task_id

    async def ask(self, agent_id: str, text: str = "Hello", **fields: Any) -> Outcome:
        return await self.outcome(await self.submit(agent_id, text, **fields))

    async def outcome(self, task_id: str) -> Outcome:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self.mesh.get(Tasks).outcome(task_id)
        except TimeoutError:
            waiting = [f"{task.get_name()}: {task.get_stack(limit=1)}" for task in asyncio.all_tasks()]
            known = f"{await self.mesh.get(Tasks).task(task_id)}, {await self.types(task_id)}"
            raise AssertionError("\n".join([f"no outcome: {known}", *waiting])) from None

    async def event(self, event_type: str, task_id: str | None = None) -> Event:
        """The first event of a type, of a task: as soon as there is one."""
        tail = self.mesh.log.tail(EventFilter(event_type=event_type, task_id=task_id, after_seq=0))
        async with asyncio.timeout(PATIENCE_SECONDS):
            event = await anext(tail)
        await tail.aclose()
        return event

    async def types(self, task_id: str) -> Counter[str]:
        return Counter(event.event_type for event in await self.mesh.log.query(EventFilter(task_id=task_id)))


def build(folder: Path, *others: type[Agent], **settings: Any) -> Running:
    """A mesh on a folder, not started yet."""
    gate = asyncio.Event()
    databases: list[Database] = []

    def runtime(deps: StoreDeps) -> Runtime:
        databases.append(deps.database)
        return sqlite_runtime(deps)

    mesh = build_mesh(
        Settings(data_dir=folder / "data", **settings),
        project=ROOT,
        agents=[Echo, type("TestGate", (Gate,), {"opened": gate}), Boss, *others],
        model=OfflineModel(),
        runtime=runtime,
    )
    return Running(mesh, databases[0], gate)


@asynccontextmanager
async def up(
    folder: Path, *others: type[Agent], drain_seconds: float = 0, **settings: Any
) -> AsyncIterator[Running]:
    """A running mesh; at its end work is left where it is."""
    running = build(folder, *others, **settings)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await running.mesh.start()
        if running.mesh.settings.writer == "process" and (ready := running.database.write_apart()):
            await ready
    try:
        yield running
    finally:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await running.mesh.stop(drain_seconds=drain_seconds)


async def evidence_of(folder: Path) -> Any:
    return replace(await gather(folder), model_calls=0)
