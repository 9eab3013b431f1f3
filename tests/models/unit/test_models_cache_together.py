"""Identical calls at the same time: one is made, the others wait for it."""

import asyncio

import pytest

from meshwright.core.errors import ModelError
from meshwright.models.cache import CachedModel
from meshwright.models.errors import ModelTimeout, ModelUnavailable
from meshwright.models.port import ModelReply
from meshwright.testing import ManualClock
from tests.support.cached_provider import COST, TTL_SECONDS, Provider, caching, request


@pytest.fixture
async def provider() -> Provider:
    return Provider()


async def begin(model: CachedModel, number: int) -> list[asyncio.Task[ModelReply]]:
    """Identical calls, each waiting for the provider or for one another."""
    calls = [asyncio.create_task(model.complete(request())) for _ in range(number)]
    for _ in range(20):
        await asyncio.sleep(0)
    return calls


async def test_identical_calls_at_the_same_time_are_made_once(provider: Provider, clock: ManualClock) -> None:
    model = caching(provider, clock)
    provider.open.clear()
    calls = await begin(model, 50)
    provider.open.set()
    replies = await asyncio.gather(*calls)
    assert len(provider.requests) == 1
    assert sorted(reply.cache_hit for reply in replies) == [False, *[True] * 49]
    assert sum(reply.cost_usd or 0 for reply in replies) == COST
    assert sum(reply.saved_usd or 0 for reply in replies) == COST * 49


async def test_calls_that_differ_do_not_wait_for_one_another(provider: Provider, clock: ManualClock) -> None:
    model = caching(provider, clock)
    provider.open.clear()
    calls = [asyncio.create_task(model.complete(request(text))) for text in ("a", "b")]
    await provider.asked.acquire()
    await provider.asked.acquire()
    provider.open.set()
    await asyncio.gather(*calls)


async def test_who_waits_gets_also_what_is_not_kept(clock: ManualClock) -> None:
    provider = Provider(finish_reason="length")
    model = caching(provider, clock)
    provider.open.clear()
    calls = await begin(model, 5)
    provider.open.set()
    await asyncio.gather(*calls)
    assert len(provider.requests) == 1
    await model.complete(request())
    assert len(provider.requests) == 2


async def test_a_call_that_fails_tells_only_its_caller_and_the_next_one_is_made(
    provider: Provider, clock: ManualClock
) -> None:
    model = caching(provider, clock)
    provider.errors += [ModelUnavailable("first"), ModelUnavailable("second")]
    provider.open.clear()
    calls = await begin(model, 10)
    provider.open.set()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(end) for end in ends if isinstance(end, ModelError)] == ["first", "second"]
    assert len(provider.requests) == 3
    assert sum(isinstance(end, ModelReply) and end.cache_hit for end in ends) == 7


async def test_a_failure_lets_one_call_go_not_all_of_them(provider: Provider, clock: ManualClock) -> None:
    model = caching(provider, clock)
    provider.errors.append(ModelUnavailable("first"))
    provider.open.clear()
    calls = await begin(model, 10)
    provider.open.set()
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    await provider.asked.acquire()
    await provider.asked.acquire()
    assert provider.asked.locked()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_cancelled_call_does_not_cancel_those_that_wait_for_it(
    provider: Provider, clock: ManualClock
) -> None:
    model = caching(provider, clock)
    provider.open.clear()
    calls = await begin(model, 4)
    calls[0].cancel()
    calls[2].cancel()
    provider.open.set()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(end, asyncio.CancelledError) for end in ends] == [True, False, True, False]
    assert len(provider.requests) == 2


async def test_who_waits_gets_the_text_in_one_piece(provider: Provider, clock: ManualClock) -> None:
    model = caching(provider, clock)
    provider.open.clear()
    calls = await begin(model, 1)
    pieces: list[str] = []
    follower = asyncio.create_task(model.complete(request(), pieces.append))
    provider.open.set()
    await asyncio.gather(*calls, follower)
    assert pieces == ["answer 1"]


async def test_who_waits_longer_than_its_deadline_is_told_so(provider: Provider, clock: ManualClock) -> None:
    model = caching(provider, clock)
    provider.open.clear()
    calls = await begin(model, 1)
    with pytest.raises(ModelTimeout) as late:
        await model.complete(request(timeout_seconds=0.01))
    assert late.value.attempts == 0
    provider.open.set()
    assert not (await calls[0]).cache_hit


async def test_the_next_one_gets_only_the_time_that_is_left_to_it(
    provider: Provider, clock: ManualClock
) -> None:
    model = caching(provider, clock)
    provider.errors.append(ModelUnavailable("first"))
    provider.open.clear()
    calls = [
        asyncio.create_task(model.complete(request(timeout_seconds=seconds))) for seconds in (60, 50, 10)
    ]
    await provider.asked.acquire()
    await clock.advance(20)
    provider.open.set()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [each.timeout_seconds for each in provider.requests] == [60.0, 30.0]
    assert isinstance(ends[2], ModelReply) and ends[2].cache_hit


async def test_who_holds_on_to_a_failed_call_does_not_keep_the_next_ones_answer_beyond_its_time(
    provider: Provider, clock: ManualClock
) -> None:
    model = caching(provider, clock)
    provider.errors.append(ModelUnavailable("first"))
    provider.open.clear()
    calls = await begin(model, 2)
    provider.open.set()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [ModelUnavailable, ModelReply]
    await clock.advance(TTL_SECONDS)
    assert not (await model.complete(request())).cache_hit


async def test_those_that_waited_for_one_call_leave_the_next_one_its_own_waiters(clock: ManualClock) -> None:
    provider = Provider(finish_reason="length")
    model = caching(provider, clock)

    async def ask_twice() -> None:
        await model.complete(request())
        provider.open.clear()
        await model.complete(request())

    provider.open.clear()
    twice = asyncio.create_task(ask_twice())
    calls = await begin(model, 2)
    provider.open.set()
    await asyncio.gather(*calls)
    calls = await begin(model, 2)
    provider.open.set()
    await asyncio.gather(twice, *calls)
    assert len(provider.requests) == 2
