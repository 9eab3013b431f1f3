"""A worker of its own host in memory, whose work is a script, and scripts for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from meshwright.core.capability import Capability, Registration
from meshwright.core.events import Event
from meshwright.core.messages import Outcome
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.work import AgentThread, Complete, Journal, ThreadState, Work, Worker
from meshwright.engine.work.protocol import Accept, TaskKey
from meshwright.mesh.orchestration.orchestrator import Orchestrator
from meshwright.mesh.orchestration.registry import Registry
from meshwright.testing.mesh import memory_runtime
from tests.support.turn_driver import a_dispatch, a_task, an_outcome

NEVER = datetime.max.replace(tzinfo=UTC)
Script = Callable[[Work, Journal], Any]


class WorkerHarness:
    """A host in memory with one worker, whose work is a test's script."""

    def __init__(self, runtime: Runtime, script: Script, slots: int) -> None:
        self.runtime = runtime
        self.script = script
        self.worker = Worker(runtime, self._run, lambda agent_id: slots)
        self.begun: list[str] = []
        self.events: list[Event] = []
        self._changed = asyncio.Event()
        registry = Registry()
        helping = Registration(agent_id="helper", name="helper", capabilities=(Capability("general-query"),))
        registry.register(helping)
        runtime.register(ActorKind.from_class(Orchestrator, registry=registry))
        runtime.register(ActorKind.from_class(AgentThread, type="helper"))
        runtime.listen("#", self._note)
        runtime.attach(self.worker)

    async def queue(
        self, task_id: str, thread: str | None = None, *, deadline_at: datetime = NEVER, ended: bool = False
    ) -> ActorRef:
        """Have a task accepted, and put it into the inbox of its thread, with `ended` once it is over."""
        ref = ActorRef("helper", f"default:{thread or task_id}")
        task = a_task(task_id, thread_id=thread or task_id, deadline_at=deadline_at)
        await self.runtime.call(TaskKey(task.tenant_id, task_id).ref, "accept", Accept.wrap(task))
        if ended:
            await self.until(lambda: any(event.task_id == task_id for event in self.of("task.timed_out")))
        await self.runtime.call(ref, "enqueue", a_dispatch(task).model_dump_json().encode())
        return ref

    async def ended(self, task_id: str) -> Outcome:
        """Wait for the end of an attempt."""
        await self.until(lambda: bool(self.ends(task_id)))
        return self.ends(task_id)[0]

    async def has_begun(self, *task_ids: str) -> None:
        await self.until(lambda: set(task_ids) <= set(self.begun))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(240):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def rests(self) -> None:
        """Wait until the worker has nothing under way."""
        while self.worker.running:
            await asyncio.sleep(0)

    def ends(self, task_id: str) -> list[Outcome]:
        ends = [Outcome.model_validate(event.payload) for event in self.of("attempt.ended")]
        return [outcome for outcome in ends if outcome.task_id == task_id]

    def of(self, event_type: str) -> list[Event]:
        return [event for event in self.events if event.event_type == event_type]

    async def inbox(self, ref: ActorRef) -> list[tuple[str, str]]:
        state = await self.runtime.read(ref)
        assert isinstance(state, ThreadState)
        return [(entry.task_id, entry.status) for entry in state.inbox]

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    async def _run(self, ref: ActorRef, work: Work, journal: Journal) -> Complete:
        self.begun.append(work.task.task_id)
        self._changed.set()
        await self.script(work, journal)
        task_id = work.task.task_id
        return Complete(task_id=task_id, fence=work.fence, outcome=an_outcome(task_id))


@asynccontextmanager
async def worker_harness(
    script: Script, *, slots: int = 8, runtime: Runtime | None = None
) -> AsyncIterator[WorkerHarness]:
    runtime = runtime or memory_runtime()
    harness = WorkerHarness(runtime, script, slots)
    await runtime.start()
    try:
        yield harness
    finally:
        await harness.worker.drain(0)
        await runtime.stop()


class Gate:
    """Lets work through once it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def __call__(self, work: Work, journal: Journal) -> None:
        await self.opened.wait()


async def at_once(work: Work, journal: Journal) -> None:
    """Work that is done already."""
