"""Actors on a state store whose etags cannot be predicted, as most cannot: Redis's count."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.stores.dapr.state import State
from tests.support.harness import DaprHarness
from tests.support.sample_actors import Diary, Line
from tests.support.services import Services

pytestmark = pytest.mark.needs("mosquitto", "redis-server", "redis-cli")
ONE = ActorRef("Diary", "one")


@pytest.fixture
async def harness(
    tmp_path: Path, seed: int, services: Services, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DaprHarness]:
    async def probe(self: State) -> None:
        """Find that they do not count."""

    monkeypatch.setattr(State, "probe", probe)
    harness = DaprHarness(tmp_path, seed, services)
    yield harness
    await harness.close()


async def test_two_workers_lose_no_turn_where_etags_are_unknown(harness: DaprHarness) -> None:
    first = await harness.open(ActorKind.from_class(Diary))
    second = await harness.open_beside(first)
    texts = [f"{n}" for n in range(20)]
    calls = [(first, second)[n % 2].call(ONE, "write", Line(text=text)) for n, text in enumerate(texts)]
    pages = await asyncio.gather(*calls)
    assert max(len(page.lines) for page in pages) == 20
    for host in (first, second):
        assert await host.call(ONE, "glance") == 20
        state = await host.read(ONE)
        assert state is not None and sorted(state.lines) == sorted(texts)
    later = await harness.crash(first)
    assert sorted((await later.read(ONE)).lines) == sorted(texts)


async def test_workers_that_find_a_new_store_at_once_note_one_mark(harness: DaprHarness) -> None:
    first = await harness.open(ActorKind.from_class(Diary))
    second = await harness.open_beside(first)
    stores = [harness.stores[runtime] for runtime in (first, second)]
    mark = stores[0].state.key("mark")
    for _ in range(20):
        await stores[0].sidecar.delete(mark)
        await asyncio.gather(*(store._note_emptied(has_lost=False) for store in stores))
        assert await stores[1].sidecar.get([mark])
