"""A worker on Dapr that begins a new incarnation while commits are under way: none is left unwatched."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.stores.dapr import DaprStore
from tests.support.harness import DaprHarness
from tests.support.services import Services

pytestmark = pytest.mark.needs("mosquitto", "redis-server", "redis-cli")
ONE = ActorRef("Sleeper", "one")
ASLEEP_SECONDS = 4.0  # longer than what happens before the worker is killed
LOOK_SECONDS = 0.02


class Night(BaseModel):
    is_over: bool = False


class Sleeper(Actor[Night]):
    @turn
    def sleep(self, turn: Turn) -> None:
        turn.wake_at(turn.now + timedelta(seconds=ASLEEP_SECONDS))

    def wake(self, turn: Turn) -> None:
        self.state.is_over = True
        turn.publish("sleepers", "sleeper.woke", {})


@pytest.fixture
async def harness(tmp_path: Path, seed: int, services: Services) -> AsyncIterator[DaprHarness]:
    harness = DaprHarness(tmp_path, seed, services)
    yield harness
    await harness.close()


class SlowSwap:
    """Keeps back the documents that a host writes, until they are let go."""

    def __init__(self, store: DaprStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held, self.let_go = asyncio.Event(), asyncio.Event()
        self._swap = store.documents.swap
        monkeypatch.setattr(store.documents, "swap", self)

    async def __call__(self, *arguments: Any) -> str | None:
        self.held.set()
        await self.let_go.wait()
        return await self._swap(*arguments)


async def nothing() -> None:
    """No list is adopted."""


def is_watched(harness: DaprHarness) -> bool:
    watches = [store.actors.watch for store in harness.stores.values()]
    return any(watch is None or ONE in watch for watch in watches)


async def test_what_is_written_after_its_watch_list_was_adopted_is_watched_all_the_same(
    harness: DaprHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = await harness.open(ActorKind.from_class(Sleeper))
    host = await harness.open_beside(front)
    store, former = harness.stores[host], host.incarnation
    monkeypatch.setattr(store.recovery, "sweep", nothing)  # the other one is faster
    swap = SlowSwap(store, monkeypatch)
    falling_asleep = asyncio.create_task(host.call(ONE, "sleep"))
    await swap.held.wait()
    while ONE not in await store.watches.listed(former):  # the store has no signal for it
        await asyncio.sleep(LOOK_SECONDS)
    await harness.lose_lease(host)
    while former in await store.watches.incarnations() or is_watched(harness):
        await asyncio.sleep(LOOK_SECONDS)
    swap.let_go.set()
    await falling_asleep
    await harness.kill(host)
    await harness.watch.until(lambda: bool(harness.watch.of("sleeper.woke")))
