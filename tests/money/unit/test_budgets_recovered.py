"""Budgets over crashes and windows: what was reserved is never spent twice, nor forgotten."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.core.errors import StoreUnavailable
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.turns import ActorKind
from meshwright.models.errors import BudgetExceeded, ModelUnavailable
from meshwright.models.port import Call
from meshwright.money.account import (
    ACCOUNT,
    MAX_HELD,
    Account,
    BudgetAccount,
    LedgerBatch,
    LedgerEntry,
    LedgerReply,
    Raise,
)
from meshwright.money.balance import Balance
from meshwright.money.charging import AccountClient
from meshwright.testing.mesh import BEGINNING
from tests.support.budgets import STEP, Spending, budget, request, spending, until
from tests.support.turn_driver import Driven

KIND = ActorKind.from_class(BudgetAccount, type=ACCOUNT)


# Crashes and windows


async def test_what_a_crash_left_reserved_counts_as_spent_when_its_time_is_over() -> None:
    async with spending(budget(10)) as mesh:
        await mesh.model.budgets.hold(request(8, timeout_seconds=120), lambda asked: Decimal(8))
        survivor = mesh.another()
        with pytest.raises(BudgetExceeded):
            await survivor.complete(request(11))
        await mesh.clock.advance(181)
        (view,) = await mesh.views()
        assert (view.spent_usd, view.reserved_usd) == (8, 0)
        await survivor.complete(request(2))
        await survivor.budgets.settled()
        assert await mesh.balance("pot:mesh") == (10, 0)


async def cut_off(mesh: Spending, dollars: int = 4, **fields: Any) -> None:
    """A process makes the call of a step, and dies before it has an answer."""
    await mesh.another().budgets.hold(
        request(dollars, context=STEP, **fields), lambda asked: Decimal(dollars)
    )


def rows(calls: Sequence[Call]) -> list[tuple[str, Decimal | None, str]]:
    return [(call.outcome, call.cost_usd, call.cost_source) for call in calls]


@pytest.mark.parametrize("kills", [1, 3])
async def test_cut_calls_cost_what_the_same_call_costs_once_it_is_answered(kills: int) -> None:
    async with spending(budget(20), budget(19, "tagged", scope="tag")) as mesh:
        mesh.provider.tokens = 1
        for _ in range(kills):
            await cut_off(mesh, tags=("deep",))
        assert await mesh.balance("pot:mesh") == (0, 4 * kills)
        await mesh.call(4, context=STEP, tags=("deep",))
        assert rows(mesh.calls) == [("cut", 1, "estimated")] * kills + [("ok", 1, "priced")]
        assert len({call.call_id for call in mesh.calls}) == kills + 1
        for account in ("pot:mesh", "tagged:deep"):
            assert await mesh.balance(account) == (kills + 1, 0)
        assert (await mesh.state("pot:mesh")).estimated == kills
        await mesh.clock.advance(1000)
        await mesh.call(1)
        assert await mesh.recorded() == [], "an account records a call that the run has recorded"


async def test_a_call_that_ends_after_its_reservation_counts_once() -> None:
    async with spending(budget(20)) as mesh:
        mesh.provider.open.clear()
        calling = asyncio.create_task(mesh.call(4, context=STEP, timeout_seconds=60))
        await until(lambda: mesh.provider.requests)
        await mesh.clock.advance(3600)  # or the machine slept
        mesh.provider.open.set()
        await calling
        await mesh.call(1)
        assert [call.outcome for call in mesh.calls] == ["ok", "ok"]
        assert await mesh.balance("pot:mesh") == (sum(call.cost_usd or 0 for call in mesh.calls), 0)


async def test_a_clock_set_forward_while_a_call_waits_for_its_budget_leaves_it_its_time() -> None:
    async with spending(budget(20)) as mesh:
        calling = asyncio.create_task(mesh.call(4, timeout_seconds=60))
        await asyncio.sleep(0)
        mesh.clock.jump(3600)
        await calling
        assert mesh.provider.requests[0].timeout_seconds == 60


async def test_a_cut_call_keeps_its_hold_while_the_provider_is_away() -> None:
    async with spending(budget(20)) as mesh:
        await cut_off(mesh)
        mesh.provider.failure = ModelUnavailable("away")
        with pytest.raises(ModelUnavailable):
            await mesh.call(4, context=STEP)
        assert (rows(mesh.calls), await mesh.balance("pot:mesh")) == ([("failed", 0, "priced")], (0, 4))


async def test_a_cut_call_frees_what_it_does_not_need_while_its_step_waits_for_money() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.tokens = 1
        await cut_off(mesh, 8)
        busy = asyncio.create_task(mesh.call(8, context=STEP, timeout_seconds=1))
        for _ in range(50):
            await asyncio.sleep(0)
        await mesh.clock.advance(1)
        with pytest.raises(BudgetExceeded, match="reserved by calls under way"):
            await busy
        await mesh.clock.advance(131)
        await mesh.call(8, context=STEP)
        assert rows(mesh.calls) == [("cut", 1, "estimated"), ("ok", 1, "priced")]
        assert await mesh.balance("pot:mesh") == (2, 0)


@pytest.mark.parametrize(("learned", "booked"), [(0, 2), (3, 1)])
async def test_a_call_nobody_makes_again_is_booked_as_such_calls_cost_and_has_one_row(
    learned: int, booked: int
) -> None:
    async with spending(budget(50), budget(50, "second")) as mesh:
        mesh.provider.tokens = 1
        for _ in range(learned):
            await mesh.call(8)
        await mesh.model.budgets.hold(
            request(8, context=STEP), mesh.model._estimates.upper_bound, mesh.model._estimates
        )
        assert await mesh.balance("pot:mesh") == (learned, 8)
        await mesh.runtime.call(ActorRef(ACCOUNT, "pot:mesh"), "recover")
        await mesh.clock.advance(131)
        while not await mesh.recorded():
            await asyncio.sleep(0)
        assert [(row["outcome"], row["cost_usd"], row["user"]) for row in await mesh.recorded()] == [
            ("cut", str(booked), "clerk")
        ]
        assert [(view.spent_usd, view.reserved_usd) for view in await mesh.views()] == [
            (learned + booked, 0)
        ] * 2
        late = mesh.another()
        await late.complete(request(8, context=STEP))
        *_, cut, answered = mesh.calls
        assert rows([cut, answered]) == [("cut", 1, "estimated"), ("ok", 1, "priced")]
        assert cut.call_id == (await mesh.recorded())[0]["call_id"], (
            "the row of the run replaces the account's"
        )
        await late.budgets.settled()
        assert [view.spent_usd for view in await mesh.views()] == [learned + 2] * 2


async def test_a_process_that_knows_no_call_books_what_a_crash_or_a_cancel_cuts_off_as_such_calls_cost() -> (
    None
):
    async with spending(budget(50), budget(50, "second")) as mesh:
        mesh.provider.tokens = 1
        await mesh.call(8)
        fresh = mesh.another()
        await fresh.budgets.hold(request(8, context=STEP), fresh._estimates.upper_bound, fresh._estimates)
        await mesh.clock.advance(131)
        assert [(view.spent_usd, view.reserved_usd) for view in await mesh.views()] == [(2, 0)] * 2
        mesh.provider.open.clear()
        fresh = mesh.another()
        cancelled = asyncio.create_task(fresh.complete(request(8)))
        await until(lambda: len(mesh.provider.requests) == 2)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        await fresh.budgets.settled()
        assert [(view.spent_usd, view.reserved_usd) for view in await mesh.views()] == [(3, 0)] * 2


async def test_calls_of_an_attempt_that_has_ended_hold_nothing_and_one_that_ends_late_is_charged_once() -> (
    None
):
    async with spending(budget(20), budget(20, "deep", scope="tag", of="deep")) as mesh:
        mesh.provider.tokens = 3
        mesh.provider.open.clear()
        late = asyncio.create_task(mesh.call(8, context=STEP, tags=("deep",)))
        other = asyncio.create_task(mesh.call(5, context=STEP.model_copy(update={"attempt": 11})))
        await until(lambda: len(mesh.provider.requests) == 2)
        survivor = mesh.another().budgets
        await survivor.close("clerk", STEP, ("deep",))
        assert [await mesh.balance(name) for name in ("pot:mesh", "deep:deep")] == [(2, 5), (2, 0)]
        mesh.provider.open.set()
        await asyncio.gather(late, other)
        assert [await mesh.balance(name) for name in ("pot:mesh", "deep:deep")] == [(6, 0), (3, 0)]
        await survivor.close("clerk", STEP, ("deep",))
        assert [row["outcome"] for row in await mesh.recorded()] == ["cut"]


async def test_a_call_that_is_released_while_its_attempt_is_closed_is_no_estimate() -> None:
    async with spending(budget(20)) as mesh:
        budgets = mesh.another().budgets
        held = await budgets.hold(request(8, context=STEP), lambda asked: Decimal(8))
        budgets.release(held)
        assert await budgets.close("clerk", STEP, ()) == {}
        assert await mesh.balance("pot:mesh") == (0, 0)
        assert await mesh.recorded() == []


async def test_a_call_that_is_released_after_its_attempt_is_closed_stays_the_estimate_of_its_row() -> None:
    async with spending(budget(20)) as mesh:
        worker, survivor = mesh.another().budgets, mesh.another().budgets
        held = await worker.hold(request(8, context=STEP), lambda asked: Decimal(8))
        estimates = await survivor.close("clerk", STEP, ())
        worker.release(held)
        await worker.settled()
        (row,) = await mesh.recorded()
        assert Decimal(row["cost_usd"]) == sum(estimates.values()) == 8
        assert await mesh.balance("pot:mesh") == (8, 0)


async def test_what_a_call_cost_is_booked_in_the_end_where_its_account_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*args: object, **kwargs: object) -> None:
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr("meshwright.money.charging.PAUSES_SECONDS", ())
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        calling = asyncio.create_task(mesh.call(8, context=STEP))
        await until(lambda: mesh.provider.requests)
        mesh.provider.tokens = 3
        with monkeypatch.context() as patch:
            patch.setattr(mesh.runtime, "call", away)
            mesh.provider.open.set()
            await calling
            await mesh.model.budgets.settled()
            (settled,) = [call.settlement for call in mesh.calls]
            with pytest.raises(StoreUnavailable):
                await mesh.model.budgets.booked({settled.call})
        assert await mesh.balance("pot:mesh") == (0, 8)
        await mesh.model.budgets.booked({settled.call})
        assert await mesh.balance("pot:mesh") == (3, 0)


async def test_what_a_journaled_call_cost_is_booked_where_its_worker_ended_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with spending(budget(10), budget(9, "tagged", scope="tag")) as mesh:
        mesh.provider.tokens = 3
        with monkeypatch.context() as patch:
            patch.setattr(AccountClient, "settle", lambda client, settled: None)
            await mesh.call(8, context=STEP, tags=("deep",))
        assert await mesh.balance("pot:mesh") == (0, 8)
        (settled,) = [call.settlement for call in mesh.calls]
        resumed = mesh.another().budgets
        for _ in range(2):
            await resumed.recover("clerk", STEP, [settled])
            await resumed.settled()
            assert await mesh.balance("pot:mesh") == (3, 0)
            assert await mesh.balance("tagged:deep") == (3, 0)


@pytest.mark.parametrize(("days", "spent", "estimated"), [(0, 3, 0), (1, 0, 0)])
async def test_a_run_that_is_resumed_late_corrects_what_was_booked_in_the_same_window(
    monkeypatch: pytest.MonkeyPatch, days: int, spent: int, estimated: int
) -> None:
    async with spending(budget(10, window="day")) as mesh:
        mesh.provider.tokens = 3
        with monkeypatch.context() as patch:
            patch.setattr(AccountClient, "settle", lambda client, settled: None)
            await mesh.call(8, context=STEP, timeout_seconds=120)
        (settled,) = [call.settlement for call in mesh.calls]
        await mesh.clock.advance(181)
        mesh.provider.tokens = 1
        await mesh.call(1)
        (view,) = await mesh.views()
        assert (view.spent_usd, view.estimated_usd, view.reserved_usd) == (3, 2, 0)
        assert [row["call_id"] for row in await mesh.recorded()] == [mesh.calls[0].call_id], "it has a row"
        await mesh.clock.advance(days * 86_400)
        resumed = mesh.another().budgets
        for _ in range(2):
            await resumed.recover("clerk", STEP, [settled])
            await resumed.settled()
            (view,) = await mesh.views()
            assert (view.spent_usd, view.estimated_usd) == (spent + 1 - days, estimated)


async def test_a_resumed_run_corrects_its_call_however_many_others_were_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contexts = [STEP.model_copy(update={"task_id": f"task-{number}"}) for number in range(150)]
    async with spending(budget(10_000)) as mesh:
        mesh.provider.tokens = 3
        with monkeypatch.context() as patch:
            patch.setattr(AccountClient, "settle", lambda client, settled: None)
            for context in contexts:
                await mesh.call(8, context=context, timeout_seconds=120)
        await mesh.clock.advance(181)
        resumed = mesh.another().budgets
        assert len(await resumed.close("clerk", contexts[0], ())) == 1
        for call, context in zip(mesh.calls, contexts, strict=True):
            assert call.settlement is not None
            await resumed.recover("clerk", context, [call.settlement])
        await resumed.settled()
        (view,) = await mesh.views()
        assert (view.spent_usd, view.estimated_usd) == (mesh.provider.owed, 0)


async def test_a_call_counts_as_booked_once_its_settlement_is_durable() -> None:
    async with spending(budget(10)) as mesh:
        call, gate = mesh.runtime.call, asyncio.Event()

        async def slow(*args: Any, **kwargs: Any) -> Any:
            await gate.wait()
            return await call(*args, **kwargs)

        await mesh.call(3, context=STEP)
        mesh.runtime.call = slow  # type: ignore[method-assign]
        (settled,) = [each.settlement for each in mesh.calls]
        booked = asyncio.create_task(mesh.model.budgets.booked({settled.call}))
        await mesh.model.budgets.booked({"another"})
        assert not booked.done()
        gate.set()
        await booked
        assert await mesh.balance("pot:mesh") == (3, 0)
        await mesh.model.budgets.booked({settled.call})


async def test_a_call_that_was_thought_lost_and_ends_late_is_charged_once() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        late = asyncio.create_task(mesh.call(4, context=STEP))
        await until(lambda: mesh.provider.requests)
        resumed = mesh.another()
        again = asyncio.create_task(resumed.complete(request(4, context=STEP)))
        await until(lambda: len(mesh.provider.requests) == 2)
        mesh.provider.open.set()
        await asyncio.gather(late, again)
        await resumed.budgets.settled()
        assert await mesh.balance("pot:mesh") == (8, 0)


async def test_calls_of_one_step_at_once_are_reserved_apart() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.tokens = 1
        await asyncio.gather(*[mesh.call(3, context=STEP) for _ in range(3)])
        assert await mesh.balance("pot:mesh") == (3, 0)


@pytest.mark.parametrize(("window", "days"), [("hour", 1 / 24), ("day", 1), ("month", 31)])
async def test_a_budget_renews_with_its_window(window: Any, days: float) -> None:
    async with spending(budget(1, window=window), now=BEGINNING + timedelta(days=days, seconds=-9)) as mesh:
        await mesh.call()
        await mesh.clock.advance(8)
        with pytest.raises(BudgetExceeded):
            await mesh.call()
        await mesh.clock.advance(1)
        await mesh.call()
        assert await mesh.balance("pot:mesh") == (1, 0)


async def test_a_call_under_way_is_charged_to_the_window_in_which_it_ends() -> None:
    async with spending(budget(10, window="hour")) as mesh:
        await mesh.clock.advance(3590)
        mesh.provider.open.clear()
        call = asyncio.create_task(mesh.call(8))
        await until(lambda: mesh.provider.requests)
        await mesh.clock.advance(20)
        assert await mesh.balance("pot:mesh") == (0, 8)
        mesh.provider.open.set()
        await call
        assert await mesh.balance("pot:mesh") == (8, 0)


# The account


async def test_an_account_forgets_what_is_settled_and_holds_no_more_than_it_may() -> None:
    account, ops = Booked(limit=10**9), [f"op{number}" for number in range(MAX_HELD + 1)]
    answers = account.book(*[account.reservation(op, "1", 1) for op in ops])
    assert answers == ["held"] * MAX_HELD + ["wait"]
    [soft] = account.take(account.reservation("op", "1", 1).model_copy(update={"may_wait": False})).results
    assert soft.answer == "crowded"
    account.book(*[settlement(op, "1", 1) for op in ops])
    assert (account.state.held, account.state.spent) == ({}, MAX_HELD)


def test_an_account_forgets_calls_of_closed_attempts_first_and_after_some_time_all() -> None:
    account = Booked(limit=10**9)
    account.book(account.reservation("open/1", "open", 1))
    account.actor.later(31)
    for number in range(MAX_HELD + 50):
        account.book(account.reservation(f"closed-{number}/1", f"call-{number}", 1))
        account.book(LedgerEntry(kind="close", op=f"closed-{number}/"))
    assert len(account.state.expired) == MAX_HELD
    account.actor.later(601)
    account.book(account.reservation("last/1", "last", 1), LedgerEntry(kind="close", op="last/"))
    assert list(account.state.expired) == ["open", "last"]
    account.book(LedgerEntry(kind="close", op="open/"))
    account.actor.later(601)
    account.book(account.reservation("last/2", "another", 1), LedgerEntry(kind="close", op="last/"))
    assert list(account.state.expired) == ["another"]
    assert account.state.spent == account.state.estimated == MAX_HELD + 53


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle", "crash", "repeat", "wait"]),
        st.integers(0, 4),  # which step
        st.integers(0, 40),  # the most that it may cost
        st.integers(0, 40),  # what it costs, if it may
    ),
    max_size=60,
)


@given(limit=st.integers(0, 60), moves=MOVES)
def test_whatever_crashes_repeats_and_ends_late_no_more_is_spent_than_there_is(
    limit: int, moves: list[tuple[str, int, int, int]]
) -> None:
    account, calls, spent = Booked(limit), dict[str, tuple[str, int, int]](), 0
    for number, (move, step, most, cost) in enumerate(moves):
        op = f"op{step}"
        if move == "reserve" and op not in calls:
            if account.book(account.reservation(op, str(number), most)) == ["held"]:
                calls[op] = (str(number), most, min(cost, most))
                spent += min(cost, most)
        elif move == "settle" and op in calls:
            call, _, true_cost = calls.pop(op)
            account.book(*[settlement(op, call, true_cost)] * 2)
        elif move == "crash":
            calls.pop(op, None)
        elif move == "repeat" and op in calls:
            account.book(account.reservation(op, *calls[op][:2]))
        elif move == "wait":
            account.actor.later(most)
        assert spent <= account.state.spent + account.state.reserved <= limit


class Booked:
    """One account, booked with by hand: reservations are for 30 seconds."""

    def __init__(self, limit: int) -> None:
        self.account = Account(budget="pot", scope="mesh", key="mesh", limit_usd=Decimal(limit))
        self.actor = Driven(KIND, self.account.id)

    @property
    def state(self) -> Balance:
        return self.actor.state

    def reservation(
        self, op: str, call: str, amount: int, least: int | None = None, priority: int = 5, since: float = 0.0
    ) -> LedgerEntry:
        return LedgerEntry(
            op=op,
            call=call,
            amount=Decimal(amount),
            least=None if least is None else Decimal(least),
            until=self.actor.now.timestamp() + 30,
            priority=priority,
            since=since,
            may_wait=True,
        )

    def take(self, *entries: LedgerEntry) -> LedgerReply:
        reply = self.actor.take("book", LedgerBatch(account=self.account, entries=entries)).reply
        return LedgerReply.model_validate(reply)

    def book(self, *entries: LedgerEntry) -> list[str]:
        """The answers to the reservations among them."""
        return [result.answer for result in self.take(*entries).results]

    def raise_by(self, amount: int) -> None:
        self.actor.take("add", Raise(account=self.account, amount=Decimal(amount)))


def settlement(op: str, call: str, amount: int) -> LedgerEntry:
    return LedgerEntry(kind="settle", op=op, call=call, amount=Decimal(amount))
