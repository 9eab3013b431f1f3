"""Charges of calls to budgets, however a call ends."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from meshwright.core.errors import ModelError, StoreUnavailable
from meshwright.core.messages import Usage
from meshwright.core.money import ZERO, Price
from meshwright.core.schema_checks import InvalidSchema
from meshwright.models.errors import (
    BudgetExceeded,
    ContentRefused,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    PriceUnknown,
    RateLimited,
)
from meshwright.models.port import STREAM_RESTART, Call, ModelReply
from meshwright.money.estimates import max_prompt_tokens
from tests.support.budgets import STEP, budget, replying, request, spending, until

# How a call ends


def how_it_ended(call: dict[str, Any]) -> tuple[str, Decimal, str]:
    return call.outcome, call.cost_usd, call.cost_source


@pytest.mark.parametrize(
    "failure", [RateLimited("x"), ModelRefused("x"), ModelUnavailable("x"), InvalidSchema("x")]
)
async def test_a_failure_that_cost_nothing_gives_back_what_was_reserved(failure: Exception) -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.failure = failure
        with pytest.raises(type(failure)):
            await mesh.call(8)
        assert await mesh.balance("pot:mesh") == (0, 0)
        assert [how_it_ended(call) for call in mesh.calls] == [("failed", 0, "priced")]


@pytest.mark.parametrize("failure", [ModelTimeout("x"), ContentRefused("x"), KeyError("a defect")])
async def test_a_failure_that_nobody_knows_the_cost_of_counts_as_the_estimate(failure: Exception) -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.failure = failure
        with pytest.raises(type(failure)):
            await mesh.call(8)
        assert await mesh.balance("pot:mesh") == (8, 0)
        assert [how_it_ended(call) for call in mesh.calls] == [("failed", 8, "estimated")]


async def test_an_answer_that_is_held_back_counts_as_the_provider_counted_it() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.failure = ContentRefused("x")
        held_back = ModelReply(model="provider-1", usage=Usage(completion_tokens=3))
        mesh.provider.failure.lost = (held_back,)
        with pytest.raises(ContentRefused):
            await mesh.call(8)
        assert await mesh.balance("pot:mesh") == (3, 0)
        assert [how_it_ended(call) for call in mesh.calls] == [("failed", 3, "priced")]
        assert mesh.calls[0].usage.completion_tokens == 3
        assert (await mesh.state("pot:mesh")).estimated == 0


async def test_an_answer_after_one_that_was_held_back_costs_both_and_hides_neither() -> None:
    async with spending(budget(10)) as mesh:
        held_back = ModelReply(model="provider-1", usage=Usage(prompt_tokens=5, completion_tokens=3))
        used = Usage(prompt_tokens=5, completion_tokens=2)
        mesh.provider.complete = replying(content="done", usage=used, attempts=2, lost=(held_back,))
        reply = await mesh.call(8)
        assert (reply.cost_usd, reply.usage.completion_tokens, reply.lost) == (5, 5, ())
        assert await mesh.balance("pot:mesh") == (5, 0)
        [call] = mesh.calls
        assert (call.cost_usd, call.usage.prompt_tokens, call.cost_source) == (5, 10, "priced")


async def test_a_call_that_nobody_answered_after_one_was_held_back_costs_that() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.failure = ModelUnavailable("the fallback is away")
        held_back = ModelReply(model="provider-1", usage=Usage(completion_tokens=3))
        mesh.provider.failure.lost = (held_back, held_back)
        with pytest.raises(ModelUnavailable):
            await mesh.call(8)
        assert await mesh.balance("pot:mesh") == (6, 0)
        assert [how_it_ended(call) for call in mesh.calls] == [("failed", 6, "priced")]


async def test_a_cancelled_call_counts_as_the_estimate() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        call = asyncio.create_task(mesh.call(8))
        await until(lambda: mesh.provider.requests)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await mesh.balance("pot:mesh") == (8, 0)
        assert [how_it_ended(call) for call in mesh.calls] == [("cancelled", 8, "estimated")]


async def test_of_a_stream_that_breaks_off_the_pieces_that_came_are_counted() -> None:
    heard: list[str] = []
    async with spending(budget(100)) as mesh:
        mesh.provider.pieces = ["ab", STREAM_RESTART, "cde"]
        mesh.provider.failure = ModelUnavailable("the stream broke off")
        with pytest.raises(ModelUnavailable):
            await mesh.call(80, on_delta=heard.append)
        assert heard == ["ab", STREAM_RESTART, "cde"]
        assert await mesh.balance("pot:mesh") == (5, 0)
        usage = mesh.calls[0].usage
        assert usage.completion_tokens == 5
        assert how_it_ended(mesh.calls[0]) == ("failed", 5, "estimated")
        assert usage.prompt_tokens == 2 * max_prompt_tokens(request(80))


async def test_a_refused_reply_costs_no_more_than_its_call_may() -> None:
    async with spending(budget(100)) as mesh:
        mesh.provider.pieces = ["x" * 5_000_000]
        mesh.provider.failure = ModelError("a reply of more than 4,194,304 bytes")
        with pytest.raises(ModelError):
            await mesh.call(80, on_delta=lambda text: None)
        assert mesh.calls[0].usage.completion_tokens == 80
        assert await mesh.balance("pot:mesh") == (80, 0)


async def test_a_call_cancelled_while_it_asks_for_room_leaves_nothing_reserved() -> None:
    async with spending(budget(10)) as mesh:
        call = asyncio.create_task(mesh.call(8))
        for _ in range(2):
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await mesh.balance("pot:mesh") == (0, 0)
        assert mesh.calls == mesh.provider.requests == []


async def test_an_account_that_cannot_be_asked_allows_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*args: object, **kwargs: object) -> None:
        raise StoreUnavailable("the store is away")

    async with spending(budget(10)) as mesh:
        monkeypatch.setattr("meshwright.money.charging.PAUSES_SECONDS", (0.0, 0.0))
        with monkeypatch.context() as patch:
            patch.setattr(mesh.runtime, "call", away)
            with pytest.raises(StoreUnavailable):
                await mesh.call()
            await mesh.model.budgets.settled()
        assert mesh.provider.requests == []
        await mesh.call()


async def test_an_account_that_is_away_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with spending(budget(10)) as mesh:
        monkeypatch.setattr("meshwright.money.charging.PAUSES_SECONDS", (0.0, 0.0))
        honest, answers = mesh.runtime.call, iter([True, False])

        async def lose_the_first_answer(*args: Any, **kwargs: Any) -> Any:
            reply = await honest(*args, **kwargs)
            if next(answers, False):
                raise StoreUnavailable("it may have happened")
            return reply

        monkeypatch.setattr(mesh.runtime, "call", lose_the_first_answer)
        await mesh.call(8)
        assert await mesh.balance("pot:mesh") == (8, 0)


# What is told


async def test_each_call_that_is_sent_is_recorded_once_and_no_other() -> None:
    journaled: list[Call] = []
    async with spending(budget(2)) as mesh:
        step = STEP.model_copy(update={"record": journaled.append})
        await mesh.call(1, context=step)
        await mesh.call(1)
        with pytest.raises(BudgetExceeded, match="Budget pot of the mesh exceeded"):
            await mesh.call(1, context=step)
    assert [(call.outcome, call.cost_usd) for call in journaled] == [("ok", 1)]
    assert [(call.outcome, call.cost_usd) for call in mesh.calls] == [("ok", 1)]
    assert journaled[0].call_id != mesh.calls[0].call_id


async def test_what_whoever_answered_reports_is_believed() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.complete = replying(cost_usd=Decimal("0.25"), cost_source="reported")  # type: ignore[method-assign]
        reply = await mesh.call(3)
        assert (reply.cost_usd, reply.cost_source) == (Decimal("0.25"), "reported")
        assert await mesh.balance("pot:mesh") == (Decimal("0.25"), 0)


async def test_an_answer_from_a_cache_says_what_it_saves_at_our_prices() -> None:
    hit = {"cache_hit": True, "usage": Usage(completion_tokens=3), "attempts": 0}
    async with spending() as mesh:
        mesh.provider.complete = replying(**hit)  # type: ignore[method-assign]
        reply = await mesh.call(5)
        assert (reply.cost_usd, reply.saved_usd) == (0, 3)
        mesh.provider.complete = replying(**hit, saved_usd=Decimal(2))  # type: ignore[method-assign]
        assert (await mesh.call(5)).saved_usd == 2


def never_made(failure: BaseException) -> BaseException:
    waiting = ModelTimeout("it waited in vain")
    waiting.attempts = 0
    failure.__cause__ = waiting
    return waiting if isinstance(failure, ModelTimeout) else failure


@pytest.mark.parametrize("failure", [ModelTimeout("it waited in vain"), asyncio.CancelledError()])
async def test_a_call_that_was_never_sent_costs_nothing_and_has_no_row(failure: Any) -> None:
    failure = never_made(failure)
    async with spending(budget(10)) as mesh:
        mesh.provider.failure = failure
        with pytest.raises(type(failure)):
            await mesh.call(8)
        assert await mesh.balance("pot:mesh") == (0, 0)
        assert mesh.calls == []


# Prices that nobody knows


async def test_a_hard_budget_refuses_what_nobody_knows_the_price_of() -> None:
    async with spending(budget(10), price=None) as mesh:
        with pytest.raises(PriceUnknown, match=r"ledger\.default_price") as refused:
            await mesh.call()
        assert (refused.value.budget, mesh.provider.requests) == ("pot", [])


async def test_a_soft_budget_lets_it_pass_and_nobody_says_that_it_was_free() -> None:
    async with spending(budget(10, hard=False), price=None) as mesh:
        reply = await mesh.call()
        assert (reply.cost_usd, reply.cost_source) == (None, "unknown")
        mesh.provider.failure = ModelTimeout("x")
        with pytest.raises(ModelTimeout):
            await mesh.call()
        assert [call.cost_usd for call in mesh.calls] == [None, None]


async def test_the_estimate_is_never_less_than_the_bytes_of_what_is_sent() -> None:
    async with spending(budget(1000), price=Price(input=Decimal(1_000_000), output=ZERO)) as mesh:
        mesh.provider.open.clear()
        messages = request().messages[0].model_copy(update={"content": "ü" * 100 + "\ud83d"})
        call = asyncio.create_task(mesh.call(1, messages=(messages,)))
        await until(lambda: mesh.provider.requests)
        _, reserved = await mesh.balance("pot:mesh")
        assert 203 <= reserved <= 300
        call.cancel()
        await asyncio.wait([call])
