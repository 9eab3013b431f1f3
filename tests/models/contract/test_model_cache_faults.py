"""A store of answers that fails costs no call."""

import asyncio
import logging
import random
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from meshwright.core.errors import CacheUnavailable
from meshwright.engine.sql.cache import SqliteCache
from meshwright.models.cache import CachedModel, RedisCache
from meshwright.models.port import ModelReply
from meshwright.testing import ManualClock
from tests.support.cache_stores import PATIENCE_SECONDS, ROOM, Once, ask, redis
from tests.support.services import Services

# On disk


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
    store = SqliteCache(tmp_path, ManualClock(), ROOM)
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
    store = SqliteCache(tmp_path, ManualClock(), ROOM)
    await store.put("a", b"x" * 100_000, 60)
    (tmp_path / "cache.db-wal").write_bytes(b"")
    garble(store.path)
    await store.put("b", b"anew", 60)
    assert await store.get("b") == b"anew"
    await store.close()


async def test_a_broken_file_that_another_process_still_uses_leaves_nothing_in_the_new_one(
    tmp_path: Path,
) -> None:
    one, other = (SqliteCache(tmp_path, ManualClock(), ROOM) for _ in range(2))
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
    store = SqliteCache(folder, ManualClock(), ROOM)
    with pytest.raises(CacheUnavailable):
        await store.get("a")
    await store.close()


async def test_a_file_that_somebody_else_holds_for_long_is_unavailable(tmp_path: Path) -> None:
    store = SqliteCache(tmp_path, ManualClock(), ROOM)
    await store.put("a", b"a", 60)
    other = sqlite3.connect(store.path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(CacheUnavailable):
        await store.put("b", b"b", 60)
    assert await store.get("a") == b"a"
    other.close()
    await store.put("b", b"b", 60)
    await store.close()


# In a Redis


@pytest.mark.needs("redis-server")
async def test_without_its_redis_calls_go_on_and_with_it_they_are_kept_again(
    own_services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    store = redis(own_services)
    replies = Once(ModelReply(model="m"))
    replies.replies = [ModelReply(content=f"answer {n}", model="m") for n in range(20)]
    model = CachedModel(replies, store, ttl_seconds=60, clock=clock, identity="it")
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
        store = RedisCache(f"redis://:secret@127.0.0.1:{port}/0")
        with suppress(CacheUnavailable):
            await store.get("a")  # the first one imports what it needs
        with pytest.raises(CacheUnavailable) as failed:
            async with asyncio.timeout(240):
                await store.get("a")
        assert "secret" not in str(failed.value)
        await closed.wait()
        await store.close()


@pytest.mark.needs("redis-server")
async def test_a_wrong_password_is_said_without_it(services: Services) -> None:
    store = RedisCache(f"redis://:wrong-secret@{services.redis_host}/0", timeout_seconds=PATIENCE_SECONDS)
    with pytest.raises(CacheUnavailable) as failed:
        await store.get("a")
    assert "wrong-secret" not in str(failed.value)
    await store.close()
