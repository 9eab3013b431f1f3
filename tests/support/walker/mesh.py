"""A mesh on the memory store that is killed and started again within one simulated process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar
from unittest.mock import patch

from meshwright.core.access import ALL_ROLES
from meshwright.core.events import Event
from meshwright.core.messages import Caller, TaskRequest
from meshwright.core.parts import ours
from meshwright.core.settings import Settings, load_settings
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.inbox import Question
from meshwright.engine.events.tasks import TaskSummary
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.store import Batch
from meshwright.engine.stores.memory import Faults, InMemoryStore, MemoryData
from meshwright.engine.work.record import TaskView
from meshwright.mesh import app
from meshwright.mesh.app import StoreDeps, build_mesh
from meshwright.mesh.identity.events import EventOperations
from meshwright.mesh.identity.operations import Acting, Operations
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.reruns import ForkResult, RetryResult
from meshwright.money.costs import Costs
from meshwright.parts.inbox.operations import InboxOperations
from meshwright.parts.money.operations import MoneyOperations
from tests.support.walker.acts import Moment
from tests.support.walker.agents import agents_for
from tests.support.walker.database import WalkDatabase
from tests.support.walker.provider import WorldModel
from tests.support.walker.simulation import NEVER_SECONDS, SimulatedClock, SimulatedLoop
from tests.support.walker.world import Gate, World

ActingT = TypeVar("ActingT", bound=Acting)
REQUESTER, APPROVER, STRANGER = "ann", "bob", "eve"
_HOLD_SECONDS = 30.0
_QUIET_SECONDS = 20.0  # in which each call of a tool or model ends
_MAX_TASKS = 500
_LEFT_OUT = frozenset(
    {
        "sandbox",
        "agent_config",
        "llmops",
        "page",
        "experiments",
        "figures",
        "trees",
        "replies",
        "sources",
        "schedules",
        "evaluations",
        "maintenance",
        "retention",
    }
)
"""The components that no walk asks anything of."""
_PRESENCE = ("heartbeat", "degraded_after", "offline_after")
_MAX_EVENTS = 500
_ENDING_PASSES = 1_000


class StartTimedOut(Exception):
    """A mesh did not start in time, as on a machine with other work: the walk says nothing."""


class GatedStore(InMemoryStore):
    """Comes to a point before and behind each commit."""

    gate: Gate

    async def commit(self, batch: Batch) -> None:
        await self.gate.point("before a commit")
        await super().commit(batch)
        await self.gate.point("behind a commit")


class WalkedMesh(Protocol):
    """One mesh through all its processes, and its time. Everything is asked of it as callers ask it."""

    is_simulated: bool
    missing: tuple[str, ...]

    async def start(self, missing: Sequence[str] = ()) -> None:
        """Start a process, without some of the agents."""
        ...

    async def kill(self) -> None:
        """End the process where it is: what it has not committed is lost."""
        ...

    async def stop(self) -> None:
        """End the process as its service manager does."""
        ...

    def lose_lease(self) -> None: ...
    def now(self) -> datetime: ...
    def set_clock(self, seconds: float) -> None: ...
    async def until_idle(self) -> None: ...
    async def pass_time(self, seconds: float) -> None: ...
    async def reach(self, moment: Moment, *, is_kill: bool) -> str: ...
    def release(self) -> None: ...
    async def submit(self, agent: str, text: str, **fields: Any) -> str: ...
    async def see(self, task_id: str) -> TaskView: ...
    async def tasks(self, tenant: str = "default") -> list[TaskSummary]: ...
    async def inbox(self, tenant: str = "default") -> list[Question]: ...
    async def answer(
        self, task_id: str, key: str, value: Any, by: str = APPROVER, tenant: str = "default"
    ) -> None: ...
    async def cancel(self, task_id: str) -> None: ...
    async def retry(self, task_id: str, begin: str | None, *, dry_run: bool = False) -> RetryResult: ...
    async def fork(self, task_id: str, step: str) -> ForkResult: ...
    async def steps(self, task_id: str) -> dict[str, str]: ...
    async def publish(self, topic: str) -> None: ...
    async def events(self) -> list[Event]: ...
    async def costs(self) -> Costs: ...


class MemoryMesh:
    """A mesh on the memory store, in a simulated process."""

    is_simulated = True

    def __init__(
        self,
        loop: SimulatedLoop,
        world: World,
        folder: Path,
        database: sqlite3.Connection,
        *,
        faults: Mapping[str, float] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.world = world
        self._loop = loop
        self._clock = SimulatedClock()
        self._folder = folder
        self._faults = dict(faults or {})
        self._settings = load_settings(
            folder,
            store="memory",
            approvals={"rules": [{"tool": "launch", "ask": "once"}]},
            tracing={"enabled": False},
            prompts={"reload_seconds": NEVER_SECONDS},
            presence={f"{name}_seconds": NEVER_SECONDS * n for n, name in enumerate(_PRESENCE, 1)},
            **(settings or {}),
        )
        self._connection = database
        self._data = MemoryData()
        self._mesh: Mesh | None = None
        self.missing: tuple[str, ...] = ()

    # Its processes

    async def start(self, missing: Sequence[str] = ()) -> None:
        """Start a process, without some of the agents."""
        self.world.gate = Gate()
        self.world.incarnation += 1
        self.missing = tuple(missing)
        with (
            patch.object(app, "ours", lambda: [part for part in ours() if part.name not in _LEFT_OUT]),
            patch.object(app, "choose_database", self._database),
        ):
            self._mesh = build_mesh(
                self._settings,
                project=self._folder,
                agents=agents_for(self.world, missing),
                model=WorldModel(self.world),
                clock=self._clock,
                runtime=self._runtime,
            )
        await self._mesh.start()

    def _database(self, settings: Settings, project: Path) -> WalkDatabase:
        return WalkDatabase(self._connection, project)

    def _runtime(self, deps: StoreDeps) -> Runtime:
        faults = Faults(f"{self.world.seed} {self.world.incarnation}", **self._faults)
        store = GatedStore(self._data, log=deps.log, database=deps.database, faults=faults)
        store.gate = self.world.gate
        return Runtime(store, clock=deps.clock, strict=True)

    async def kill(self) -> None:
        """End the process where it is: what it has not committed is lost."""
        mesh, self._mesh = self._mesh, None
        if mesh is None:
            return
        self.world.gate.is_frozen = True
        await mesh.runtime.crash()
        await _end_all()
        await mesh.database.close()

    async def stop(self) -> None:
        """End the process as its service manager does."""
        mesh = self._mesh
        assert mesh is not None
        self._mesh = None
        await mesh.stop(drain_seconds=0)

    # Its time

    def now(self) -> datetime:
        return self._clock.now()

    def set_clock(self, seconds: float) -> None:
        self._clock.set(seconds)

    async def until_idle(self) -> None:
        """Return once nothing can run without time passing."""
        await self._loop.until_idle()

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def reach(self, moment: Moment, *, is_kill: bool) -> str:
        """Return at a moment; says what is held there."""
        gate = self.world.gate
        match moment.kind:
            case "idle":
                await self.until_idle()
            case "quiet":
                await asyncio.sleep(_QUIET_SECONDS)
                await self.until_idle()
            case "seconds":
                await asyncio.sleep(moment.count)
            case "effects" | "points":
                effects_only = moment.kind == "effects"
                reached = gate.stop_at(int(moment.count), kill=is_kill, effects_only=effects_only)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_HOLD_SECONDS):
                        await reached.wait()
                        return gate.label
                gate.release()
        return ""

    def release(self) -> None:
        """Let go on what is held."""
        self.world.gate.release()

    def lose_lease(self) -> None:
        """Have the process find that it did not renew its lease in time: others may have its work."""
        assert self._mesh is not None
        self._mesh.runtime.lease_lost()

    # Its callers

    def _by(self, name: str, tenant: str = "default") -> Operations:
        return self._acting(Operations, name, tenant)

    def _acting(self, kind: type[ActingT], name: str, tenant: str = "default") -> ActingT:
        assert self._mesh is not None
        return kind(self._mesh, Caller(tenant_id=tenant, requested_by=name, roles=ALL_ROLES))

    async def submit(self, agent: str, text: str, **fields: Any) -> str:
        request = TaskRequest(agent_id=agent, payload={"text": text}, **fields)
        return (await self._by(REQUESTER).submit(request)).task_id

    async def see(self, task_id: str) -> TaskView:
        return await self._by(REQUESTER).see(task_id)

    async def tasks(self, tenant: str = "default") -> list[TaskSummary]:
        """All tasks, the oldest first."""
        page = await self._by(REQUESTER, tenant).tasks(limit=_MAX_TASKS)
        return sorted(page.items, key=lambda task: task.seq)

    async def inbox(self, tenant: str = "default") -> list[Question]:
        page = await self._acting(InboxOperations, APPROVER, tenant).inbox(limit=_MAX_TASKS)
        return list(page.items)

    async def answer(
        self, task_id: str, key: str, value: Any, by: str = APPROVER, tenant: str = "default"
    ) -> None:
        await self._by(by, tenant).answer(task_id, key, value)

    async def cancel(self, task_id: str) -> None:
        await self._by(REQUESTER).cancel(task_id)

    async def retry(self, task_id: str, begin: str | None, *, dry_run: bool = False) -> RetryResult:
        return await self._by(REQUESTER).retry(task_id, begin=begin, dry_run=dry_run)

    async def fork(self, task_id: str, step: str) -> ForkResult:
        return await self._by(REQUESTER).fork(task_id, step)

    async def steps(self, task_id: str) -> dict[str, str]:
        """The finished steps of the last attempt: what each is, by its path."""
        transcripts = await self._by(REQUESTER).transcripts(task_id)
        views = [transcripts[-1].summary(path) for path in transcripts[-1].paths] if transcripts else []
        return {view.path: f"{view.kind} {view.name}" for view in views if view.status == "done"}

    async def publish(self, topic: str) -> None:
        await self._acting(EventOperations, REQUESTER).publish(topic, "came", {})

    async def events(self) -> list[Event]:
        events: list[Event] = []
        after = 0
        while True:
            wanted = EventFilter(after_seq=after, limit=_MAX_EVENTS, order="asc")
            page = await self._acting(EventOperations, REQUESTER).events(wanted)
            events += page.events
            if page.next_seq is None:
                return events
            after = page.next_seq

    async def costs(self) -> Costs:
        return await self._acting(MoneyOperations, REQUESTER).costs(by="task")


async def _end_all() -> None:
    """End all tasks of a process that is no more, and those that they begin as they end."""
    own = asyncio.current_task()
    for _ in range(_ENDING_PASSES):
        others = asyncio.all_tasks() - {own}
        if not others:
            return
        for task in others:
            task.cancel()
        await asyncio.sleep(0)
    raise RuntimeError(f"tasks outlive their process: {others}")
