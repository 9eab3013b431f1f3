"""The mesh that is measured: the default one, with one agent and an instant model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.instant import InstantModel, request
from benchmarks.sides import ROOT
from benchmarks.written import written
from meshwright.agents.agent import Agent
from meshwright.cli.serving import collect_young, writes_apart
from meshwright.core.capability import Capability
from meshwright.core.clock import Clock
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.sql.database import Database, Session
from meshwright.engine.sql.sqlite import SqliteSession
from meshwright.engine.sql.writer import ApartDatabase
from meshwright.mesh.app import StoreDeps, build_mesh, sqlite_runtime
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.settings import Settings

MAX_OPEN_TASKS = 1_000_000  # more than any benchmark has


class BenchAgent(Agent):
    """An agent as a person would write it, with slots for all that a benchmark has in flight."""

    agent_id = "bench-agent"
    capabilities = (Capability("bench"),)
    prompt = "simple-agent"
    max_concurrency = 2000


@dataclass(frozen=True)
class Stand:
    """A mesh that is not started yet, and its database."""

    mesh: Mesh
    database: Database

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Mesh]:
        """The mesh at work, with the garbage collector set as `mesh up` sets it."""
        collect_young()
        async with self.mesh:
            if writes_apart(self.mesh.settings) and (ready := self.database.write_apart()):
                await ready
            yield self.mesh

    @property
    def writer_pid(self) -> int:
        """The process that writes."""
        return self.database.writer_pid if isinstance(self.database, ApartDatabase) else 0

    async def task(self) -> None:
        """Run one task through its lifecycle."""
        receipt = await self.mesh.get(Tasks).submit(request())
        outcome = await self.mesh.get(Tasks).outcome(receipt.task_id)
        assert outcome.success, outcome

    async def written(self) -> dict[str, float]:
        """Rows written so far by this process, and the size of the file in bytes."""
        return await self.database.write(_written)


def _written(session: Session) -> dict[str, float]:
    assert isinstance(session, SqliteSession)
    return written(session.connection)


def build_stand(
    folder: str,
    *,
    model: Any = None,
    agents: tuple[type[Agent], ...] | None = (BenchAgent,),
    runtime: Callable[[StoreDeps], Runtime] = sqlite_runtime,
    clock: Clock | None = None,
    **settings: Any,
) -> Stand:
    """Make a mesh with the default settings on a folder; `agents=None` gives it the whole fleet."""
    databases: list[Database] = []

    def noted(deps: StoreDeps) -> Runtime:
        databases.append(deps.database)
        return runtime(deps)

    mesh = build_mesh(
        Settings(data_dir=Path(folder), **{"max_open_tasks": MAX_OPEN_TASKS, **settings}),
        project=ROOT,
        agents=agents,
        model=model or InstantModel(),
        runtime=noted,
        clock=clock,
    )
    return Stand(mesh, databases[0])
