"""Work begins once the claim of its thread is committed, whatever waits meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshwright.core.errors import StoreFailed
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.store import Batch
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.engine.stores.memory import InMemoryStore
from meshwright.engine.stores.sqlite import SqliteStore
from meshwright.engine.work import Journal, ThreadState, Work
from tests.support.worker_harness import worker_harness

PASSES = 20  # of the event loop, which each commit takes: what runs ahead of it has its turn
TASKS = 40


class Committed:
    """The claims that are committed, as their tasks and fences."""

    def __init__(self) -> None:
        self.claims: set[tuple[str, int]] = set()

    def note(self, batch: Batch) -> None:
        for ref, record in batch.actors.items():
            if ref.type == "helper":
                running = ThreadState.model_validate_json(record.state).running
                if running is not None:
                    self.claims.add((running.task_id, running.fence))


class SlowMemory(InMemoryStore):
    committed: Committed

    async def commit(self, batch: Batch) -> None:
        for _ in range(PASSES):
            await asyncio.sleep(0)
        self.committed.note(batch)
        await super().commit(batch)


class SlowSqlite(SqliteStore):
    committed: Committed

    def write(self, batch: Batch, on_durable: Callable[[StoreFailed | None], None]) -> None:
        def written(error: StoreFailed | None, passes: int = PASSES) -> None:
            if passes:
                asyncio.get_running_loop().call_soon(written, error, passes - 1)
            else:
                self.committed.note(batch)
                on_durable(error)

        super().write(batch, written)


@asynccontextmanager
async def slow_runtime(kind: str, folder: Path, committed: Committed) -> AsyncIterator[Runtime]:
    if kind == "memory":
        store = SlowMemory()
        store.committed = committed
        yield Runtime(store)
        return
    database = SqliteDatabase(folder / "mesh.db")
    on_disk = SlowSqlite(database, EventLog(database))
    on_disk.committed = committed
    yield Runtime(on_disk)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_work_never_begins_before_its_claim_is_committed(kind: str, tmp_path: Path) -> None:
    committed, early = Committed(), list[tuple[str, int]]()

    async def begin(work: Work, journal: Journal) -> None:
        claim = (work.task_id, work.fence)
        if claim not in committed.claims:
            early.append(claim)

    async with (
        slow_runtime(kind, tmp_path, committed) as runtime,
        worker_harness(begin, slots=4, runtime=runtime) as harness,
    ):
        tasks = [f"t{number}" for number in range(TASKS)]
        await asyncio.gather(
            *(harness.queue(task, f"thread-{number % 9}") for number, task in enumerate(tasks))
        )
        await asyncio.gather(*map(harness.ended, tasks))
        assert early == []
        assert {task for task, _ in committed.claims} == set(tasks)
