"""Journals of one attempt, on a host in memory, and effects that count how often they happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from meshwright.core.events import Event
from meshwright.engine.kernel.envelope import ActorRef, Record
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.stores.memory import InMemoryStore
from meshwright.engine.work import Journal, RunSuspended, Work
from tests.support.turn_driver import a_dispatch, a_task

REF = ActorRef("helper", "default:t1")
STREAM = "steps/t1/1/1"


class SlowDisk(Runtime):
    """The host in memory, on which what is appended is durable only once the test says so."""

    def __init__(self) -> None:
        super().__init__(InMemoryStore(), strict=True)
        self.reached_the_disk = asyncio.Event()

    def append(self, record: Record, events: Sequence[Event] = (), **options: Any) -> Awaitable[None]:
        queued = super().append(record, events, **options)

        async def durable() -> None:
            await queued
            await self.reached_the_disk.wait()

        return asyncio.ensure_future(durable())


async def begun(runtime: Runtime) -> Journal:
    """The journal of a first claim."""
    return await Journal.open(runtime, REF, work(journaled=False))


async def resumed(runtime: Runtime, claim: int = 0) -> Journal:
    """The journal of a later claim of the same attempt."""
    return await Journal.open(runtime, REF, work(journaled=True, claim=claim))


def work(*, journaled: bool, claim: int = 0) -> Work:
    dispatch = a_dispatch(a_task("t1"))
    return Work(
        task_id="t1",
        generation=1,
        attempt=1,
        capability=dispatch.task.capability,
        dispatch=dispatch,
        fence=1,
        owner="worker",
        journaled=journaled,
        claim=claim,
        first_steps="steps/t1/1/1",
    )


class Effects(list[str]):
    def __call__(self, name: str, result: Any = None) -> Callable[[], Awaitable[Any]]:
        """An effect: what it gives, or raises."""

        async def happen() -> Any:
            self.append(name)
            if isinstance(result, Exception):
                raise result
            return name if result is None else result

        return happen


async def answer(runtime: Runtime, asked: RunSuspended, value: Any) -> None:
    """Write answers to all that a run waits for, as its thread does."""
    answers = len(await runtime.records(REF, f"{STREAM}/answers"))
    for n, wait in enumerate(asked.suspend.waits, start=answers + 1):
        await runtime.append(Record(REF, f"{STREAM}/answers", n, {**wait.step.model_dump(), "result": value}))


HostT = TypeVar("HostT", bound=Runtime)


@asynccontextmanager
async def started(runtime: HostT) -> AsyncIterator[HostT]:
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.stop()
