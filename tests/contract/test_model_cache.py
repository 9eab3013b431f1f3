"""What every store of answers holds to, wherever it keeps them: one suite, run on each."""

import asyncio
import logging
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import pytest

from meshwright.messages import Usage, new_id
from meshwright.models.cache.cached import Cached
from meshwright.models.cache.disk import DiskStore
from meshwright.models.cache.memory import MemoryStore
from meshwright.models.cache.port import MAX_VALUE_BYTES, CacheUnavailable, Store
from meshwright.models.cache.redis import TIMEOUT_SECONDS, RedisStore
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest, OnDelta, ToolCall
from meshwright.testing import ManualClock
from tests.services import Services

PATIENCE_SECONDS = 10.0  # with a Redis on a machine that has much else to do
ROOM = 400_000  # bytes of the stores that have a limit of their own
KINDS = ["memory", "disk", pytest.param("redis", marks=pytest.mark.needs("redis-server"))]


@dataclass
class Place:
    """A store under test, and how its time is made to pass."""

    store: Store
    again: Callable[[], Store]
    """Opens the same place once more, as another process would."""
    ttl_seconds: float
    pass_time: Callable[[], Awaitable[None]]
    """Until what is kept for `ttl_seconds` is no more."""


def redis(services: Services) -> RedisStore:
    url = f"redis://:{quote(services.redis_password)}@{services.redis_host}/0"
    return RedisStore(url, timeout_seconds=PATIENCE_SECONDS)


def place_of(kind: str, folder: Path, request: pytest.FixtureRequest) -> Place:
    clock = ManualClock()
    if kind == "redis":
        services = request.getfixturevalue("services")
        return Place(redis(services), lambda: redis(services), 0.02, lambda: asyncio.sleep(0.025))

    def make() -> Store:
        return MemoryStore(clock, ROOM) if kind == "memory" else DiskStore(folder, clock, ROOM)

    return Place(make(), make, 60.0, lambda: clock.advance(60))


@pytest.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    place = place_of(request.param, tmp_path, request)
    yield place
    await place.store.close()


@pytest.fixture
def store(place: Place) -> Store:
    return place.store


class Once:
    """A model that can be asked once."""

    name = "once"

    def __init__(self, reply: ModelReply) -> None:
        self.replies = [reply]

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        return self.replies.pop()

    async def close(self) -> None:
        """Nothing to give back."""


def caching(model: Once, store: Store) -> Cached:
    return Cached(model, store, ttl_seconds=60, clock=ManualClock(), identity="it")


def ask(text: str) -> ModelRequest:
    messages = (ChatMessage(role="user", content=text),)
    return ModelRequest(messages=messages, user="tester", metadata={"tenant_id": "default"})


async def test_what_is_put_is_found_by_its_key_alone(store: Store) -> None:
    key = new_id()
    assert await store.get(key) is None
    await store.put(key, b'{"a": 1}', 60)
    assert await store.get(key) == b'{"a": 1}'
    assert await store.get(key[:-1]) is None and await store.get(key + "0") is None


async def test_what_is_put_again_takes_the_place_of_the_first(store: Store) -> None:
    key = new_id()
    await store.put(key, b"first", 60)
    await store.put(key, b"second", 60)
    assert await store.get(key) == b"second"


@pytest.mark.parametrize("value", [b"", b"\x00\xff\r\n", b"x" * (MAX_VALUE_BYTES // 4)], ids=len)
async def test_any_bytes_come_back_as_they_were(store: Store, value: bytes) -> None:
    key = new_id()
    await store.put(key, value, 60)
    assert await store.get(key) == value


async def test_what_is_kept_for_a_while_is_gone_after_it(place: Place) -> None:
    key, other = new_id(), new_id()
    await place.store.put(key, b"short", place.ttl_seconds)
    await place.store.put(other, b"long", 3600)
    await place.pass_time()
    assert await place.store.get(key) is None
    assert await place.store.get(other) == b"long"


async def test_what_is_put_again_is_kept_from_then_on(place: Place) -> None:
    key = new_id()
    await place.store.put(key, b"short", place.ttl_seconds)
    await place.store.put(key, b"long", 3600)
    await place.pass_time()
    assert await place.store.get(key) == b"long"


async def test_it_opens_anew_after_it_was_closed(store: Store) -> None:
    await store.close()
    await store.close()
    key = new_id()
    await store.put(key, b"again", 60)
    assert await store.get(key) == b"again"


async def test_questions_side_by_side_get_their_own_answers_also_where_some_are_cancelled(
    store: Store, rng: random.Random
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


async def test_a_reply_comes_back_as_it_was_but_for_what_it_costs(place: Place) -> None:
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
    model = caching(Once(reply), place.store)
    text = new_id()
    assert await model.complete(ask(text)) == reply
    hit = await model.complete(ask(text))
    changed = {"cost_usd": Decimal(0), "saved_usd": reply.cost_usd, "cache_hit": True, "attempts": 0}
    assert hit == reply.model_copy(update={**changed, "latency_ms": hit.latency_ms})


# Where several share one place, and it outlives them


@pytest.fixture(params=KINDS[1:])
async def shared(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    place = place_of(request.param, tmp_path, request)
    other = place.again()
    yield place.store, other
    await place.store.close()
    await other.close()


async def test_what_one_worker_keeps_another_finds(shared: tuple[Store, Store]) -> None:
    one, other = shared
    key = new_id()
    await one.put(key, b"for all", 60)
    assert await other.get(key) == b"for all"
    await other.put(key, b"newer", 60)
    assert await one.get(key) == b"newer"


async def test_what_is_kept_outlives_who_kept_it(shared: tuple[Store, Store]) -> None:
    one, other = shared
    key = new_id()
    await one.put(key, b"for ever", 60)
    await one.close()
    assert await other.get(key) == b"for ever"


async def test_workers_write_side_by_side(shared: tuple[Store, Store]) -> None:
    keys = [new_id() for _ in range(40)]
    await asyncio.gather(*(shared[n % 2].put(key, key.encode(), 60) for n, key in enumerate(keys)))
    assert [await shared[n % 2].get(key) for n, key in enumerate(keys, 1)] == [key.encode() for key in keys]


# Where room is limited by the mesh: in memory and on disk


@pytest.fixture(params=["memory", "disk"])
async def limited(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    place = place_of(request.param, tmp_path, request)
    yield place
    await place.store.close()


async def test_what_was_used_last_stays_and_there_is_never_more_than_there_may_be(
    limited: Place, tmp_path: Path
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


async def test_what_has_ended_makes_room_before_what_is_good(limited: Place) -> None:
    store = limited.store
    for number in range(20):
        await store.put(f"old {number}", b"x" * 10_000, 3600)
    for number in range(10):
        await store.put(f"short {number}", b"x" * 10_000, 30)
    await limited.pass_time()
    for number in range(10):
        await store.put(f"new {number}", b"x" * 10_000, 3600)
    kept = [await store.get(f"old {number}") is not None for number in range(20)]
    assert sum(kept) >= (20 if isinstance(store, DiskStore) else 15)


async def test_what_is_larger_than_all_there_may_be_takes_no_place(limited: Place) -> None:
    await limited.store.put("small", b"x", 60)
    await limited.store.put("large", b"x" * (ROOM + 1), 60)
    assert (await limited.store.get("large"), await limited.store.get("small")) == (None, b"x")


# What can go wrong on disk


def garble(path: Path) -> None:
    path.write_bytes(b"This is no database." * 1000)


def garble_the_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = random.Random(1).randbytes(len(data) - 4096)
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("damage", [garble, garble_the_middle, cut_short])
async def test_a_broken_file_is_set_aside_and_a_new_one_begun(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(tmp_path, ManualClock(), ROOM)
    for number in range(20):
        await store.put(str(number), b"x" * 1000, 60)
    await store.close()
    damage(store.path)
    with caplog.at_level(logging.WARNING, "meshwright.cache"):
        for number in range(20):
            assert await store.get(str(number)) is None
        await store.put("0", b"anew", 60)
        assert await store.get("0") == b"anew"
    await store.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert (tmp_path / "cache.db.broken").exists()


async def test_a_file_that_breaks_while_it_is_used_is_set_aside(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, ManualClock(), ROOM)
    await store.put("a", b"x" * 100_000, 60)
    (tmp_path / "cache.db-wal").write_bytes(b"")
    garble(store.path)
    await store.put("b", b"anew", 60)
    assert await store.get("b") == b"anew"
    await store.close()


async def test_a_broken_file_that_another_process_still_uses_leaves_nothing_in_the_new_one(
    tmp_path: Path,
) -> None:
    one, other = (DiskStore(tmp_path, ManualClock(), ROOM) for _ in range(2))
    for number in range(20):
        await one.put(str(number), b"x" * 1000, 60)
    await one.close()
    await one.put("last", b"x" * 1000, 60)
    garble(one.path)
    for number in range(20):
        assert await other.get(str(number)) is None
    await other.put("last", b"anew", 60)
    assert await other.get("last") == b"anew"
    await other.close()
    await one.close()
    assert await other.get("last") == b"anew"
    await other.close()


@pytest.mark.parametrize("damage", ["folder is a file", "file is a folder"])
async def test_a_folder_that_cannot_be_used_is_said_not_raised_as_something_else(
    tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "data"
    if damage == "folder is a file":
        folder.write_text("")
    else:
        (folder / "cache.db").mkdir(parents=True)
    store = DiskStore(folder, ManualClock(), ROOM)
    with pytest.raises(CacheUnavailable):
        await store.get("a")
    await store.close()


async def test_a_file_that_somebody_else_holds_for_long_is_unavailable(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, ManualClock(), ROOM)
    await store.put("a", b"a", 60)
    other = sqlite3.connect(store.path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(CacheUnavailable):
        await store.put("b", b"b", 60)
    assert await store.get("a") == b"a"
    other.close()
    await store.put("b", b"b", 60)
    await store.close()


# What can go wrong with a Redis


@pytest.mark.needs("redis-server")
async def test_without_its_redis_calls_go_on_and_with_it_they_are_kept_again(
    own_services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    store = redis(own_services)
    replies = Once(ModelReply(model="m"))
    replies.replies = [ModelReply(content=f"answer {n}", model="m") for n in range(20)]
    model = Cached(replies, store, ttl_seconds=60, clock=clock, identity="it")
    await model.complete(ask("a"))
    assert (await model.complete(ask("a"))).cache_hit
    own_services.kill("redis")
    with caplog.at_level(logging.WARNING, "meshwright.cache"):
        for _ in range(3):
            assert not (await model.complete(ask("a"))).cache_hit
            await clock.advance(2)
    assert len(caplog.records) == 1 and own_services.redis_password not in caplog.text
    own_services.start_again("redis")
    await model.complete(ask("b"))
    assert (await model.complete(ask("b"))).cache_hit
    await model.close()


async def test_a_redis_that_does_not_answer_is_not_waited_for() -> None:
    closed = asyncio.Event()

    async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        closed.set()

    async with await asyncio.start_server(keep_silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = RedisStore(f"redis://:secret@127.0.0.1:{port}/0")
        with suppress(CacheUnavailable):
            await store.get("a")  # the first one imports what it needs
        started = asyncio.get_running_loop().time()
        with pytest.raises(CacheUnavailable) as failed:
            await store.get("a")
        assert asyncio.get_running_loop().time() - started < TIMEOUT_SECONDS * 10
        assert "secret" not in str(failed.value)
        await closed.wait()
        await store.close()


@pytest.mark.needs("redis-server")
async def test_a_wrong_password_is_said_without_it(services: Services) -> None:
    store = RedisStore(f"redis://:wrong-secret@{services.redis_host}/0", timeout_seconds=PATIENCE_SECONDS)
    with pytest.raises(CacheUnavailable) as failed:
        await store.get("a")
    assert "wrong-secret" not in str(failed.value)
    await store.close()
