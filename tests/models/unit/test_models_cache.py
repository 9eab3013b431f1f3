"""The cache of answers: what a hit is, and that it is nobody else's."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.models.cache import MemoryCache, cache_key
from meshwright.models.port import CallContext, ModelReply, ModelRequest, OnDelta, ToolCall, ToolSpec
from meshwright.testing import ManualClock
from tests.support.cached_provider import COST, TTL_SECONDS, USAGE, Provider, caching, request


@pytest.fixture
def provider() -> Provider:
    return Provider()


class MixedUp(MemoryCache):
    """A store that gives whoever asks what was put last, as a connection that lost count would."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock, 10_000_000)
        self.last: bytes | None = None

    async def get(self, key: str) -> bytes | None:
        return self.last

    async def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        self.last = value


# A hit


async def test_the_same_call_again_is_answered_without_the_model(clock: ManualClock) -> None:
    provider = Provider()
    model = caching(provider, clock)
    first = await model.complete(request())
    again = await model.complete(request())
    assert (first.cache_hit, again.cache_hit, len(provider.requests)) == (False, True, 1)
    assert again.content == first.content == "answer 1"


async def test_a_hit_costs_nothing_and_says_what_it_saved(provider: Provider, clock: ManualClock) -> None:
    model = caching(provider, clock)
    first = await model.complete(request())
    hit = await model.complete(request())
    assert (first.cost_usd, first.saved_usd, first.attempts) == (COST, None, 2)
    assert (hit.cost_usd, hit.saved_usd, hit.cost_source) == (Decimal(0), COST, "priced")
    assert (hit.usage, hit.model, hit.deployment) == (USAGE, "m", "m-1")
    assert hit.attempts == 0
    assert hit.latency_ms < 1000 < first.latency_ms


async def test_what_a_call_of_unknown_price_saved_is_not_known(clock: ManualClock) -> None:
    model = caching(Provider(cost_usd=None, cost_source="unknown"), clock)
    await model.complete(request())
    hit = await model.complete(request())
    assert (hit.cost_usd, hit.saved_usd, hit.cost_source) == (Decimal(0), None, "unknown")


async def test_an_answer_is_good_for_its_time_and_no_longer(provider: Provider, clock: ManualClock) -> None:
    model = caching(provider, clock)
    await model.complete(request())
    await clock.advance(TTL_SECONDS - 1)
    assert (await model.complete(request())).cache_hit
    await clock.advance(1)
    assert not (await model.complete(request())).cache_hit


async def test_a_hit_streams_its_text_in_one_piece(provider: Provider, clock: ManualClock) -> None:
    model = caching(provider, clock)
    pieces: list[str] = []
    await model.complete(request(), pieces.append)
    assert pieces == ["answer", "1"]
    pieces.clear()
    await model.complete(request(), pieces.append)
    assert pieces == ["answer 1"]


async def test_a_hit_without_text_streams_nothing(clock: ManualClock) -> None:
    calls = (ToolCall(id="c1", name="look"),)
    model = caching(Provider(content="", tool_calls=calls, finish_reason="tool_calls"), clock)
    await model.complete(request())
    pieces: list[str] = []
    await model.complete(request(), pieces.append)
    assert pieces == []


async def test_it_goes_by_the_name_of_its_model_and_closes_it(provider: Provider, clock: ManualClock) -> None:
    model = caching(provider, clock)
    await model.close()
    assert (model.name, provider.closed) == ("provider", True)


# What is the same call


@pytest.mark.parametrize(
    "other",
    [
        {"text": "Hello!"},
        {"model": "quality"},
        {"tags": ("cheap",)},
        {"tools": (ToolSpec(name="look", description="Look.", parameters={}),)},
        {"tool_choice": "required"},
        {"response_schema": {"type": "object"}},
        {"max_tokens": 7},
        {"tenant": "acme"},
        {"context": CallContext(tenant_id="acme")},
    ],
    ids=str,
)
async def test_whatever_changes_an_answer_is_another_call(
    provider: Provider, clock: ManualClock, other: dict[str, Any]
) -> None:
    model = caching(provider, clock)
    await model.complete(request())
    assert not (await model.complete(request(**other))).cache_hit
    assert (await model.complete(request(**other))).cache_hit


@pytest.mark.parametrize(
    "other", [{"user": "other"}, {"timeout_seconds": 1.0}, {"context": CallContext(task_id="t2")}], ids=str
)
async def test_who_asks_for_which_task_is_the_same_call(
    provider: Provider, clock: ManualClock, other: dict[str, Any]
) -> None:
    model = caching(provider, clock)
    await model.complete(request())
    assert (await model.complete(request(**other))).cache_hit


async def test_a_schema_in_another_order_is_another_call(provider: Provider, clock: ManualClock) -> None:
    model = caching(provider, clock)
    reason, answer = {"reason": {"type": "string"}}, {"answer": {"type": "string"}}
    await model.complete(request(response_schema={"properties": {**reason, **answer}}))
    other = request(response_schema={"properties": {**answer, **reason}})
    assert not (await model.complete(other)).cache_hit


@pytest.mark.parametrize(
    "odd",
    [request(response_schema={"enum": [object()]}), request(text="\ud800")],
    ids=["foreign", "half a character"],
)
async def test_a_request_that_no_json_can_say_is_answered_and_not_kept(
    provider: Provider, clock: ManualClock, odd: ModelRequest
) -> None:
    model = caching(provider, clock)
    assert cache_key(odd, "it") is None
    await model.complete(odd)
    await model.complete(odd)
    assert len(provider.requests) == 2


SMALL = st.sampled_from(["", "a", "b", '"', "\x00", "a\x00b", "\ud800"])
TENANTS = st.text(max_size=3)
REQUESTS = st.builds(
    request,
    text=SMALL,
    tenant=TENANTS,
    model=st.sampled_from(["default", "a"]),
    tags=st.lists(SMALL, max_size=2).map(tuple),
    tool_choice=st.sampled_from(["auto", "required"]),
    response_schema=st.one_of(st.none(), st.dictionaries(SMALL, SMALL, max_size=2)),
    temperature=st.sampled_from([0.0, 0.5]),
    max_tokens=st.integers(1, 2),
    user=SMALL,
)


def asked(request: ModelRequest) -> str:
    known = request.model_dump()
    for name in ("user", "metadata", "timeout_seconds", "cache"):
        del known[name]
    return json.dumps([request.context.tenant_id, known], sort_keys=True)


class Echo(Provider):
    """Answers with whose call it was."""

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        await asyncio.sleep(0)
        return ModelReply(content=asked(request), model="echo")


@given(st.lists(REQUESTS, max_size=30), st.integers(1, 8), st.booleans())
def test_nobody_reads_a_reply_to_another_tenant_or_to_another_question(
    requests: list[ModelRequest], at_once: int, mixed_up: bool
) -> None:
    async def ask() -> None:
        clock = ManualClock()
        model = caching(Echo(), clock, MixedUp(clock) if mixed_up else None)
        for first in range(0, len(requests), at_once):
            some = requests[first : first + at_once] * 2
            replies = await asyncio.gather(*map(model.complete, some))
            assert [reply.content for reply in replies] == [asked(each) for each in some]

    asyncio.run(ask())
