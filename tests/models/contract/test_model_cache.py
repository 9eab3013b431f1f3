"""Every store of answers keeps the same contract: one suite, run on each."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from meshwright.core.ids import new_id
from meshwright.core.messages import Usage
from meshwright.engine.sql.cache import SqliteCache
from meshwright.models.cache import MAX_VALUE_BYTES, CacheStore, MemoryCache
from meshwright.models.port import ModelReply, ToolCall
from meshwright.testing import ManualClock
from tests.support.cache_stores import ROOM, Once, ask, caching, redis

KINDS = ["memory", "disk", pytest.param("redis", marks=pytest.mark.needs("redis-server"))]


@dataclass
class OpenCache:
    """A store under test, and how its time is made to pass."""

    store: CacheStore
    again: Callable[[], CacheStore]
    """Opens the same place once more, as another process would."""
    ttl_seconds: float
    pass_time: Callable[[], Awaitable[None]]
    """Until what is kept for `ttl_seconds` is no more."""


def cache_of(kind: str, folder: Path, request: pytest.FixtureRequest) -> OpenCache:
    clock = ManualClock()
    if kind == "redis":
        services = request.getfixturevalue("services")
        return OpenCache(redis(services), lambda: redis(services), 0.02, lambda: asyncio.sleep(0.025))

    def make() -> CacheStore:
        return MemoryCache(clock, ROOM) if kind == "memory" else SqliteCache(folder, clock, ROOM)

    return OpenCache(make(), make, 60.0, lambda: clock.advance(60))


@pytest.fixture(params=KINDS)
async def cache(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenCache]:
    cache = cache_of(request.param, tmp_path, request)
    yield cache
    await cache.store.close()


@pytest.fixture
def store(cache: OpenCache) -> CacheStore:
    return cache.store


async def test_what_is_put_is_found_by_its_key_alone(store: CacheStore) -> None:
    key = new_id()
    assert await store.get(key) is None
    await store.put(key, b'{"a": 1}', 60)
    assert await store.get(key) == b'{"a": 1}'
    assert await store.get(key[:-1]) is None and await store.get(key + "0") is None


async def test_what_is_put_again_takes_the_place_of_the_first(store: CacheStore) -> None:
    key = new_id()
    await store.put(key, b"first", 60)
    await store.put(key, b"second", 60)
    assert await store.get(key) == b"second"


@pytest.mark.parametrize("value", [b"", b"\x00\xff\r\n", b"x" * (MAX_VALUE_BYTES // 4)], ids=len)
async def test_any_bytes_come_back_as_they_were(store: CacheStore, value: bytes) -> None:
    key = new_id()
    await store.put(key, value, 60)
    assert await store.get(key) == value


async def test_what_is_kept_for_a_while_is_gone_after_it(cache: OpenCache) -> None:
    key, other = new_id(), new_id()
    await cache.store.put(key, b"short", cache.ttl_seconds)
    await cache.store.put(other, b"long", 3600)
    await cache.pass_time()
    assert await cache.store.get(key) is None
    assert await cache.store.get(other) == b"long"


async def test_what_is_put_again_is_kept_from_then_on(cache: OpenCache) -> None:
    key = new_id()
    await cache.store.put(key, b"short", cache.ttl_seconds)
    await cache.store.put(key, b"long", 3600)
    await cache.pass_time()
    assert await cache.store.get(key) == b"long"


async def test_it_opens_anew_after_it_was_closed(store: CacheStore) -> None:
    await store.close()
    await store.close()
    key = new_id()
    await store.put(key, b"again", 60)
    assert await store.get(key) == b"again"


async def test_questions_side_by_side_get_their_own_answers_also_where_some_are_cancelled(
    store: CacheStore, rng: random.Random
) -> None:
    keys = [new_id() for _ in range(60)]
    await asyncio.gather(*(store.put(key, key.encode(), 60) for key in keys))
    for _ in range(10):
        questions = [asyncio.create_task(store.get(key)) for key in keys]
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        for question in rng.sample(questions, 20):
            question.cancel()
        found = await asyncio.gather(*questions, return_exceptions=True)
        for key, value in zip(keys, found, strict=True):
            assert isinstance(value, asyncio.CancelledError) or value == key.encode()
    assert [await store.get(key) for key in keys] == [key.encode() for key in keys]


async def test_a_reply_comes_back_as_it_was_but_for_what_it_costs(cache: OpenCache) -> None:
    reply = ModelReply(
        content="Käse \U0001f9c0\x00",
        tool_calls=(ToolCall(id="c1", name="look", arguments='{"at": '),),
        model="m",
        deployment="m-1",
        usage=Usage(prompt_tokens=12, completion_tokens=3, cached_tokens=4, reasoning_tokens=1),
        cost_usd=Decimal("0.000000000001"),
        cost_source="reported",
        finish_reason="tool_calls",
    )
    model = caching(Once(reply), cache.store)
    text = new_id()
    assert await model.complete(ask(text)) == reply
    hit = await model.complete(ask(text))
    changed = {"cost_usd": Decimal(0), "saved_usd": reply.cost_usd, "cache_hit": True, "attempts": 0}
    assert hit == reply.model_copy(update={**changed, "latency_ms": hit.latency_ms})


# Where several share one place, and it outlives them


@pytest.fixture(params=KINDS[1:])
async def shared(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[CacheStore, CacheStore]]:
    cache = cache_of(request.param, tmp_path, request)
    other = cache.again()
    yield cache.store, other
    await cache.store.close()
    await other.close()


async def test_what_one_worker_keeps_another_finds(shared: tuple[CacheStore, CacheStore]) -> None:
    one, other = shared
    key = new_id()
    await one.put(key, b"for all", 60)
    assert await other.get(key) == b"for all"
    await other.put(key, b"newer", 60)
    assert await one.get(key) == b"newer"


async def test_what_is_kept_outlives_who_kept_it(shared: tuple[CacheStore, CacheStore]) -> None:
    one, other = shared
    key = new_id()
    await one.put(key, b"for ever", 60)
    await one.close()
    assert await other.get(key) == b"for ever"


async def test_workers_write_side_by_side(shared: tuple[CacheStore, CacheStore]) -> None:
    keys = [new_id() for _ in range(40)]
    await asyncio.gather(*(shared[n % 2].put(key, key.encode(), 60) for n, key in enumerate(keys)))
    assert [await shared[n % 2].get(key) for n, key in enumerate(keys, 1)] == [key.encode() for key in keys]


# Where room is limited by the mesh: in memory and on disk


@pytest.fixture(params=["memory", "disk"])
async def limited(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenCache]:
    cache = cache_of(request.param, tmp_path, request)
    yield cache
    await cache.store.close()


async def test_what_was_used_last_stays_and_there_is_never_more_than_there_may_be(
    limited: OpenCache, tmp_path: Path
) -> None:
    store = limited.store
    await store.put("used", b"u" * 5_000, 3600)
    for number in range(300):
        await store.put(str(number), b"x" * 5_000, 3600)
        assert await store.get("used") is not None
    kept = [number for number in range(300) if await store.get(str(number)) is not None]
    assert kept == list(range(300 - len(kept), 300))
    assert ROOM * 0.7 < len(kept) * 5_000 < ROOM
    assert not (file := tmp_path / "cache.db").exists() or file.stat().st_size < ROOM * 1.1


async def test_what_has_ended_makes_room_before_what_is_good(limited: OpenCache) -> None:
    store = limited.store
    for number in range(20):
        await store.put(f"old {number}", b"x" * 10_000, 3600)
    for number in range(10):
        await store.put(f"short {number}", b"x" * 10_000, 30)
    await limited.pass_time()
    for number in range(10):
        await store.put(f"new {number}", b"x" * 10_000, 3600)
    kept = [await store.get(f"old {number}") is not None for number in range(20)]
    assert sum(kept) >= (20 if isinstance(store, SqliteCache) else 15)


async def test_what_is_larger_than_all_there_may_be_takes_no_place(limited: OpenCache) -> None:
    await limited.store.put("small", b"x", 60)
    await limited.store.put("large", b"x" * (ROOM + 1), 60)
    assert (await limited.store.get("large"), await limited.store.get("small")) == (None, b"x")
