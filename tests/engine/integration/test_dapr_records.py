"""Records of turns on a real state store: what a turn leaves that loses its commit is no record."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef, Record
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.stores.dapr import DaprStore
from tests.support.harness import DaprHarness
from tests.support.services import Services

pytestmark = pytest.mark.needs("mosquitto", "redis-server")
ONE = ActorRef("Keeper", "one")


class Kept(BaseModel):
    entries: int = 0


class Keeper(Actor[Kept]):
    @turn
    def keep(self, turn: Turn, text: str) -> int:
        self.state.entries += 1
        turn.append("history", self.state.entries, text)
        return self.state.entries

    @turn
    def repeat(self, turn: Turn, text: str) -> None:
        turn.append("history", self.state.entries, text)


@pytest.fixture
async def harness(tmp_path: Path, services: Services) -> AsyncIterator[DaprHarness]:
    harness = DaprHarness(tmp_path, 1, services)
    yield harness
    await harness.close()


async def history(runtime: Runtime) -> list[str]:
    return [record.value for record in await runtime.records(ONE, "history")]


async def leave(runtime: Runtime, n: int, text: str) -> None:
    store = runtime._store
    assert isinstance(store, DaprStore)
    await store.documents.put(Record(ONE, "history", n, text), (), "another/1", of_turn=True)


async def test_a_turn_replaces_what_another_left_that_lost_its_commit(harness: DaprHarness) -> None:
    runtime = await harness.open(ActorKind.from_class(Keeper))
    await leave(runtime, 1, "lost at the first turn")
    await leave(runtime, 3, "lost later")

    assert [await runtime.call(ONE, "keep", text) for text in ("one", "two", "three", "four")] == [1, 2, 3, 4]

    assert await history(runtime) == ["one", "two", "three", "four"]
    runtime = await harness.crash(runtime)
    assert await runtime.call(ONE, "keep", "five") == 5
    assert await history(runtime) == ["one", "two", "three", "four", "five"]


async def test_a_record_that_was_committed_stands(harness: DaprHarness) -> None:
    runtime = await harness.open(ActorKind.from_class(Keeper))
    await runtime.append(Record(ONE, "history", 2, "from outside"))
    await runtime.call(ONE, "keep", "one")
    await runtime.call(ONE, "repeat", "another one")
    await runtime.call(ONE, "keep", "two")

    assert await history(runtime) == ["one", "from outside"]
