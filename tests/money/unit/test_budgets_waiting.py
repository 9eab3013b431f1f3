"""Calls wait for money that others have reserved, and small ones fit where the most would not."""

import asyncio
import random
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.core.messages import Usage
from meshwright.models.errors import BudgetExceeded
from meshwright.models.port import CallContext, ModelReply, ModelRequest
from meshwright.testing.mesh import BEGINNING
from tests.money.unit.test_budgets_recovered import Booked, settlement
from tests.support.budgets import Spending, budget, replying, spending, until


async def begun(mesh: Spending, dollars: int, **fields: Any) -> asyncio.Task[ModelReply]:
    """A call that is at the provider, which answers when its door is open."""
    known = len(mesh.provider.requests)
    call = asyncio.create_task(mesh.call(dollars, **fields))
    await until(lambda: len(mesh.provider.requests) > known)
    return call


async def waiting(mesh: Spending, dollars: int, **fields: Any) -> asyncio.Task[ModelReply]:
    """A call that is in the queue of the account."""
    known = len(await queue_of(mesh))
    call = asyncio.create_task(mesh.call(dollars, **fields))
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(await queue_of(mesh)) == known + 1
    return call


async def queue_of(mesh: Spending) -> list[str]:
    await mesh.model.budgets.settled()
    return list((await mesh.state("pot:mesh")).queue)


def ranked(priority: int, minute: int = 0) -> CallContext:
    return CallContext(priority=priority, since=BEGINNING + timedelta(minutes=minute))


async def test_a_call_waits_for_money_that_is_held_and_then_goes_on() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        mesh.provider.tokens = 1
        first = await begun(mesh, 8)
        second = await waiting(mesh, 3)
        mesh.provider.open.set()
        assert [(await call).cost_usd for call in (first, second)] == [1, 1]
        assert await mesh.balance("pot:mesh") == (2, 0)
        assert await queue_of(mesh) == []


async def test_fifty_small_calls_fit_a_budget_of_which_each_may_take_half() -> None:
    async with spending(budget(600)) as mesh:
        mesh.provider.tokens = 10
        ends = await asyncio.gather(*[mesh.call(300) for _ in range(50)])
        assert len(ends) == 50
        assert await mesh.balance("pot:mesh") == (500, 0)


async def test_small_calls_spend_a_budget_almost_to_its_end() -> None:
    async with spending(budget(600)) as mesh:
        mesh.provider.tokens = 10
        for _ in range(57):
            await mesh.call(300)
        assert await mesh.balance("pot:mesh") == (570, 0)
        assert mesh.provider.requests[-1].max_tokens == 31
        with pytest.raises(BudgetExceeded):
            await mesh.call(300)


@pytest.mark.parametrize("tokens", [0, 2])
async def test_calls_that_cost_more_than_their_tokens_do_not_overspend_a_hard_budget(tokens: int) -> None:
    async with spending(budget(100)) as mesh:
        reply = replying(usage=Usage(completion_tokens=tokens), cost_usd=Decimal(20), cost_source="reported")
        mesh.provider.complete = reply
        for _ in range(3):
            await mesh.call(1)
        ends = await asyncio.gather(*[mesh.call(1) for _ in range(7)], return_exceptions=True)
        assert [type(end) for end in ends].count(BudgetExceeded) == 5
        assert await mesh.balance("pot:mesh") == (100, 0)


async def test_an_answer_cut_off_by_what_is_left_is_asked_for_whole() -> None:
    async with spending(budget(100)) as mesh:
        mesh.provider.tokens = 1
        for _ in range(3):
            await mesh.call(60)
        hold = await mesh.model.budgets.hold(mesh.request(50), lambda asked: Decimal(50))

        async def free_and_answer(request: ModelRequest, *args: object) -> ModelReply:
            mesh.provider.requests.append(request)
            mesh.model.budgets.settle(hold, Decimal(0))
            usage = Usage(completion_tokens=min(request.max_tokens, 55))
            reason = "length" if request.max_tokens < 55 else "stop"
            return ModelReply(model="provider-1", usage=usage, finish_reason=reason)

        mesh.provider.complete = free_and_answer  # type: ignore[method-assign]
        pieces: list[str] = []
        reply = await mesh.call(60, on_delta=pieces.append)
        short, whole = mesh.provider.requests[-2:]
        assert (short.max_tokens < 55, whole.max_tokens, reply.finish_reason) == (True, 60, "stop")
        assert pieces == [""]
        assert await mesh.balance("pot:mesh") == (3 + short.max_tokens + 55, 0)
        assert [call.finish_reason for call in mesh.calls[-2:]] == ["length", "stop"]


async def test_the_most_urgent_goes_first_then_who_came_first() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        first = await begun(mesh, 10)
        contexts = {"late": ranked(5, 2), "early": ranked(5, 1), "urgent": ranked(9, 3)}
        calls = [await waiting(mesh, 10, user=name, context=context) for name, context in contexts.items()]
        mesh.provider.tokens = 0
        mesh.provider.open.set()
        await asyncio.gather(first, *calls)
        assert [request.user for request in mesh.provider.requests] == ["clerk", "urgent", "early", "late"]


async def test_a_call_that_fits_does_not_pass_one_that_waits_before_it() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        first = await begun(mesh, 5)
        large = await waiting(mesh, 8, user="large", context=ranked(5, 1))
        small = await waiting(mesh, 1, user="small", context=ranked(5, 2))
        mesh.provider.tokens = 0
        mesh.provider.open.set()
        await asyncio.gather(first, large, small)
        assert [request.user for request in mesh.provider.requests] == ["clerk", "large", "small"]


async def test_calls_that_can_never_have_room_are_refused_and_let_the_others_pass() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        first = await begun(mesh, 6)
        large = await waiting(mesh, 8, context=ranked(9))
        small = await waiting(mesh, 4, context=ranked(5))
        mesh.provider.open.set()
        await asyncio.gather(first, small)
        with pytest.raises(BudgetExceeded, match=r"\$6.00 of \$10.00 spent"):
            await large


async def test_a_call_waits_for_half_of_its_time_and_says_that_the_money_is_held() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        first = await begun(mesh, 8)
        second = await waiting(mesh, 3, timeout_seconds=40)
        await mesh.clock.advance(19)
        assert not second.done()
        await mesh.clock.advance(1)
        with pytest.raises(BudgetExceeded, match="reserved by calls under way") as refused:
            await second
        assert refused.value.is_busy
        assert await queue_of(mesh) == []
        mesh.provider.open.set()
        await first


async def test_a_call_that_waited_has_the_rest_of_its_time() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        first = await begun(mesh, 8)
        second = await waiting(mesh, 3, timeout_seconds=40)
        await mesh.clock.advance(12)
        mesh.provider.tokens = 0
        mesh.provider.open.set()
        await asyncio.gather(first, second)
        assert mesh.provider.requests[-1].timeout_seconds == 28


async def test_a_call_cancelled_in_the_queue_leaves_it() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        first = await begun(mesh, 8)
        second = await waiting(mesh, 3)
        second.cancel()
        await asyncio.wait([second])
        assert await queue_of(mesh) == []
        mesh.provider.open.set()
        await first
        assert await mesh.balance("pot:mesh") == (8, 0)


async def test_calls_of_two_workers_wake_each_other() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        mesh.provider.tokens = 0
        first = await begun(mesh, 8)
        other = mesh.another()
        second = asyncio.create_task(other.complete(mesh.request(3)))
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(await queue_of(mesh)) == 1
        mesh.provider.open.set()
        await asyncio.gather(first, second)  # without the clock


async def test_a_call_that_waits_for_what_a_dead_worker_holds_is_told_when_it_is_booked() -> None:
    async with spending(budget(10)) as mesh:
        await mesh.model.budgets.hold(mesh.request(8, timeout_seconds=5), lambda asked: Decimal(8))
        mesh.model = mesh.another()
        call = await waiting(mesh, 3, timeout_seconds=200)
        await mesh.clock.advance(14)
        assert not call.done()
        await mesh.clock.advance(6)  # the call's time, and ten seconds
        with pytest.raises(BudgetExceeded, match=r"exceeded: \$8.00 of \$10.00 spent"):
            await call
        (view,) = await mesh.views()
        assert (view.spent_usd, view.estimated_usd) == (8, 8)


async def test_hundreds_of_calls_wait_and_the_account_holds_few_of_them() -> None:
    async with spending(budget(3100)) as mesh:
        mesh.provider.tokens = 10
        longest = 0

        async def watched(*args: Any) -> ModelReply:
            nonlocal longest
            longest = max(longest, len((await mesh.state("pot:mesh")).queue))
            return await type(mesh.provider).complete(mesh.provider, *args)

        mesh.provider.complete = watched  # type: ignore[method-assign]
        order = random.Random(7).sample(range(300), 300)
        calls = [mesh.call(1000, context=ranked(5, minute)) for minute in order]
        assert len(await asyncio.gather(*calls)) == 300
        assert 0 < longest <= 100
        assert await mesh.balance("pot:mesh") == (3000, 0)


# The account

MOVES = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle", "crash", "leave", "later", "raise"]),
        st.integers(0, 5),  # which call
        st.integers(0, 40),  # the most that it may cost
        st.integers(0, 40),  # what it would do with
        st.integers(0, 40),  # what it costs, if it may
        st.integers(0, 2),  # its priority
    ),
    max_size=80,
)


@given(limit=st.integers(0, 60), moves=MOVES)
def test_whoever_waits_and_leaves_no_more_is_spent_than_there_is_and_nobody_waits_for_ever(
    limit: int, moves: list[tuple[str, int, int, int, int, int]]
) -> None:
    account, calls, spent = Booked(limit), dict[str, tuple[str, int]](), 0
    for number, (move, which, most, least, cost, priority) in enumerate(moves):
        op = f"op{which}"
        if move == "reserve" and op not in calls:
            entry = account.reservation(op, str(number), most, least, priority)
            [result] = account.take(entry).results
            if result.answer == "held":
                granted = int(result.granted_usd)
                calls[op] = (str(number), min(cost, granted))
                spent += min(cost, granted)
        elif move == "settle" and op in calls:
            account.take(settlement(op, *calls.pop(op)))
        elif move == "crash":
            calls.pop(op, None)
        elif move == "leave" and op not in calls:
            account.take(settlement(op, "", 0))
        elif move == "later":
            account.actor.later(least / 10)
        elif move == "raise":
            limit += cost
            account.raise_by(cost)
        state = account.state
        assert spent <= state.spent + state.reserved <= limit
    account.actor.later(1000)  # whatever is held has run out, and whoever does not ask again is gone
    account.take()
    assert account.state.reserved == 0
    assert account.state.queue == {}


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 99)), max_size=12))
def test_a_settlement_names_those_in_front_that_have_room(calls: list[tuple[int, int, int]]) -> None:
    account = Booked(10)
    account.take(account.reservation("first", "1", 10))
    for number, (need, priority, since) in enumerate(calls):
        entry = account.reservation(f"op{number}", "1", need, priority=priority, since=since)
        assert account.take(entry).results[0].answer == "wait"
    ready = account.take(settlement("first", "1", 0)).ready
    ranks = [(-priority, since, f"op{number}") for number, (_, priority, since) in enumerate(calls)]
    in_order = [rank[2] for rank in sorted(ranks)]
    assert list(ready) == in_order[: len(ready)]
    needs = {f"op{number}": need for number, (need, _, _) in enumerate(calls)}
    assert sum(needs[op] for op in ready) <= 10
    if len(ready) < len(in_order):
        assert sum(needs[op] for op in in_order[: len(ready) + 1]) > 10
    for op in ready:
        [result] = account.take(account.reservation(op, "1", needs[op])).results
        assert result.answer == "held" or len(ready) < len(in_order)
