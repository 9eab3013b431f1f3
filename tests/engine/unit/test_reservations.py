"""A place that a turn reserves is signalled once the turn is committed, or given back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from meshwright.core.errors import Conflict, HostError, InvalidInput, StoreUnavailable
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.store import Batch
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.engine.stores.memory import InMemoryStore
from meshwright.engine.stores.sqlite import SqliteStore
from tests.support.worker_harness import at_once, worker_harness

ONE = ActorRef("Porter", "one")
FAILURES = 3


class Guests(BaseModel):
    names: list[str] = []


class Porter(Actor[Guests]):
    @turn
    def admit(self, turn: Turn, name: str) -> bool:
        self.state.names.append(name)
        return turn.reserve(name) is not None

    @turn
    def admit_and_fail(self, turn: Turn, name: str) -> None:
        turn.reserve(name)
        raise InvalidInput("there is no such guest")


class Place:
    def __init__(self, places: "Places", name: str) -> None:
        self._places = places
        self.name = name

    def give_back(self) -> None:
        self._places.free += 1


class Places:
    """Two places, and the names for which they were taken."""

    def __init__(self) -> None:
        self.free = 2
        self.taken: list[str] = []

    def reserve(self, request: Any) -> Place | None:
        if not self.free:
            return None
        self.free -= 1
        return Place(self, request)

    def signal(self, ref: ActorRef, signal: Any) -> None:
        self.taken.append(signal.name)

    def lease_lost(self) -> None: ...


class FailingStore(InMemoryStore):
    """Refuses the first commits of an actor's type."""

    failing_type = ONE.type
    error: HostError = Conflict("another worker came first")
    failures = 0

    async def commit(self, batch: Batch) -> None:
        if self.failures and any(ref.type == self.failing_type for ref in batch.actors):
            self.failures -= 1
            raise self.error
        await super().commit(batch)


@pytest.fixture(params=["memory", "sqlite"])
async def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Runtime]:
    if request.param == "memory":
        runtime = Runtime(FailingStore())
    else:
        database = SqliteDatabase(tmp_path / "mesh.db")
        runtime = Runtime(SqliteStore(database, EventLog(database)))
    runtime.register(ActorKind.from_class(Porter))
    await runtime.start()
    yield runtime
    await runtime.stop()


async def test_a_reserved_place_is_signalled_after_the_commit(runtime: Runtime) -> None:
    places = Places()
    runtime.attach(places)
    assert [await runtime.call(ONE, "admit", name) for name in "abc"] == [True, True, False]
    assert (places.free, places.taken) == (0, ["a", "b"])


async def test_a_turn_that_raises_gives_its_place_back(runtime: Runtime) -> None:
    places = Places()
    runtime.attach(places)
    for name in "abc":
        with pytest.raises(InvalidInput):
            await runtime.call(ONE, "admit_and_fail", name)
    assert (places.free, places.taken) == (2, [])


async def test_a_commit_that_another_worker_overtook_reserves_once() -> None:
    places, store = Places(), FailingStore()
    runtime = Runtime(store)
    runtime.register(ActorKind.from_class(Porter))
    runtime.attach(places)
    await runtime.start()
    store.failures = FAILURES
    assert await runtime.call(ONE, "admit", "a")
    assert (store.failures, places.free, places.taken) == (0, 1, ["a"])
    await runtime.stop()


async def test_a_commit_that_fails_gives_its_place_back() -> None:
    places, store = Places(), FailingStore()
    runtime = Runtime(store)
    runtime.register(ActorKind.from_class(Porter))
    runtime.attach(places)
    await runtime.start()
    store.error, store.failures = StoreUnavailable("the store is away"), 1
    with pytest.raises(StoreUnavailable):
        await runtime.call(ONE, "admit", "a")
    assert (places.free, places.taken) == (2, [])
    await runtime.stop()


async def test_the_one_slot_survives_commits_that_fail() -> None:
    store = FailingStore()
    store.failing_type, store.failures = "helper", FAILURES
    async with worker_harness(at_once, slots=1, runtime=Runtime(store)) as harness:
        tasks = [f"t{number}" for number in range(6)]
        await asyncio.gather(*map(harness.queue, tasks))
        await asyncio.gather(*map(harness.ended, tasks))
        await harness.rests()
        assert sorted(harness.begun) == tasks
