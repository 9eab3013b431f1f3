"""The cost of a thread does not grow with its earlier tasks."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from pathlib import Path

import pytest

from meshwright import TaskRequest
from meshwright.core.encoding import encode
from meshwright.core.errors import Overloaded
from meshwright.engine.kernel.store import Batch
from meshwright.engine.stores.memory import MemoryData
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.offline_model import OfflineModel
from meshwright.testing.mesh import memory_runtime
from tests.mesh.unit.test_mesh import Echo, Gate
from tests.support.settings import load_settings

TEXT = "x" * 5_000


class CountingData(MemoryData):
    """Counts the bytes that are committed."""

    committed = 0

    def apply(self, batch: Batch) -> None:
        states = [record.state for record in batch.actors.values()]  # without the ids of messages
        mail = [delivery.message.encode() for delivery in batch.messages]
        events = [event.encode() for event in batch.events]
        records = [encode(record.value) for record in batch.records]
        self.committed += sum(map(len, (*states, *mail, *events, *records)))
        super().apply(batch)


def mesh_on(data: MemoryData, tmp_path: Path, *, opened: bool, max_thread_tasks: int) -> Mesh:
    gate = type("TestGate", (Gate,), {"began": asyncio.Event(), "opened": asyncio.Event()})
    if opened:
        gate.opened.set()
    return build_mesh(
        load_settings(tmp_path, store="memory", max_thread_tasks=max_thread_tasks),
        project=tmp_path,
        agents=[Echo, gate],
        model=OfflineModel(),
        runtime=lambda given: memory_runtime(given.clock, log=given.log, database=given.database, data=data),
    )


class Client:
    """Gives the gate tasks of one thread; where that is full, it waits for the oldest to end."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._given: deque[str] = deque()

    async def give(self, count: int) -> None:
        request = TaskRequest(agent_id="gate", payload={"text": TEXT}, thread_id="one")
        for _ in range(count):
            while (task_id := await self._try(request)) is None:
                await self._mesh.get(Tasks).outcome(self._given.popleft())
            self._given.append(task_id)

    async def _try(self, request: TaskRequest) -> str | None:
        with suppress(Overloaded):
            return (await self._mesh.get(Tasks).submit(request)).task_id
        return None


@pytest.mark.far("a hundred tasks wait, which takes seconds")
async def test_waiting_tasks_are_not_written_again_with_each_that_comes(tmp_path: Path) -> None:
    data = CountingData()
    async with mesh_on(data, tmp_path, opened=False, max_thread_tasks=1000) as mesh:
        client = Client(mesh)
        costs = []
        for _ in range(5):
            before = data.committed
            await client.give(20)
            costs.append((data.committed - before) / 20)
        assert (costs[-1] - costs[0]) / 80 < 300, costs  # bytes that one waiting task adds to a turn


async def test_a_thread_in_constant_use_costs_the_same_for_every_task(tmp_path: Path) -> None:
    data = CountingData()
    async with mesh_on(data, tmp_path, opened=True, max_thread_tasks=50) as mesh:
        client = Client(mesh)
        await client.give(100)
        costs = []
        for _ in range(4):
            before = data.committed
            await client.give(100)
            costs.append(data.committed - before)
        assert max(costs) < 1.2 * min(costs), costs
