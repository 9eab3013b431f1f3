"""The cache of answers: what it does not keep, and a store that fails."""

import asyncio
import logging
from typing import Any

import pytest

from meshwright.core.errors import CacheUnavailable
from meshwright.models.cache import MAX_VALUE_BYTES, MemoryCache, cache_key
from meshwright.models.errors import ModelUnavailable
from meshwright.testing import ManualClock
from tests.support.cached_provider import TTL_SECONDS, Provider, caching, request


@pytest.fixture
def provider() -> Provider:
    return Provider()


class Broken:
    """A store that can do nothing."""

    name = "broken"

    def __init__(self) -> None:
        self.asked = 0

    async def get(self, key: str) -> bytes | None:
        self.asked += 1
        raise CacheUnavailable("it is gone")

    async def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        self.asked += 1
        raise CacheUnavailable("it is gone")

    async def close(self) -> None:
        """Nothing to give back."""


# What is not kept


async def test_a_call_that_wants_no_cache_neither_reads_nor_writes(
    provider: Provider, clock: ManualClock
) -> None:
    model = caching(provider, clock)
    await model.complete(request(cache=False))
    assert not (await model.complete(request())).cache_hit
    assert (await model.complete(request(cache=False))).content == "answer 3"


async def test_calls_that_are_to_vary_are_all_made(provider: Provider, clock: ManualClock) -> None:
    model = caching(provider, clock)
    replies = await asyncio.gather(*(model.complete(request(temperature=0.7)) for _ in range(3)))
    assert {reply.content for reply in replies} == {"answer 1", "answer 2", "answer 3"}


@pytest.mark.parametrize(
    "reply",
    [
        {"finish_reason": "length"},
        {"finish_reason": "content_filter"},
        {"content": ""},
        {"content": "\ud800"},
        {"content": "x" * MAX_VALUE_BYTES},
    ],
    ids=["cut off", "filtered", "empty", "half a character", "too large"],
)
async def test_a_reply_that_is_not_whole_or_too_large_is_not_kept(
    clock: ManualClock, reply: dict[str, Any]
) -> None:
    provider = Provider(**reply)
    store = MemoryCache(clock, 10_000_000)
    model = caching(provider, clock, store)
    await model.complete(request())
    key = cache_key(request(), "it")
    assert key is not None and await store.get(key) is None
    assert not (await model.complete(request())).cache_hit
    assert len(provider.requests) == 2


async def test_an_error_is_not_kept(provider: Provider, clock: ManualClock) -> None:
    provider.errors.append(ModelUnavailable("down"))
    model = caching(provider, clock)
    with pytest.raises(ModelUnavailable):
        await model.complete(request())
    assert not (await model.complete(request())).cache_hit


@pytest.mark.parametrize("value", [b"", b"no json", b"{}", b"\xff", b'{"key": "k", "reply": {}}'])
async def test_what_a_store_holds_that_is_no_answer_is_written_anew(
    provider: Provider, clock: ManualClock, value: bytes
) -> None:
    store = MemoryCache(clock, 10_000_000)
    key = cache_key(request(), "it")
    assert key is not None
    await store.put(key, value, TTL_SECONDS)
    model = caching(provider, clock, store)
    assert not (await model.complete(request())).cache_hit
    assert (await model.complete(request())).cache_hit


# A store that fails


async def test_a_store_that_fails_costs_no_call_and_is_told_of_once_a_minute(
    provider: Provider, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Broken()
    model = caching(provider, clock, store)
    with caplog.at_level(logging.WARNING, "meshwright.cache"):
        for _ in range(5):
            assert (await model.complete(request())).content
            await clock.advance(2)
        assert len(caplog.records) == 1
        assert "it is gone" in caplog.text
        await clock.advance(60)
        await model.complete(request())
        assert len(caplog.records) == 2


async def test_a_store_that_failed_is_left_alone_for_a_second(provider: Provider, clock: ManualClock) -> None:
    store = Broken()
    model = caching(provider, clock, store)
    for _ in range(3):
        await model.complete(request())
    assert store.asked == 1
    await clock.advance(1)
    await model.complete(request())
    assert store.asked == 2
