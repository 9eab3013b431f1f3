"""Budgets hold: no call is made that they have no room for, and what calls cost is what they say."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.envelope import ActorRef
from meshwright.errors import ConfigError, StoreUnavailable
from meshwright.ledger.account import ACCOUNT, MAX_HELD, Account, Balance, Book, BudgetAccount, Entry
from meshwright.ledger.budgets import Budgets
from meshwright.ledger.calls import call_id_of, left
from meshwright.ledger.estimate import most_prompt_tokens
from meshwright.messages import TaskRequest, Usage
from meshwright.models.port import (
    BEGIN_ANEW,
    BudgetExceeded,
    ContentRefused,
    ModelRefused,
    ModelReply,
    ModelTimeout,
    ModelUnavailable,
    PriceUnknown,
    RateLimited,
)
from meshwright.money import ZERO, Budget, Price
from meshwright.run.told import model_called
from meshwright.testing.clock import BEGINNING
from meshwright.turns import ActorKind
from tests.unit.budgeting import budget, request, spending
from tests.unit.turns import Driven

KIND = ActorKind.of(BudgetAccount, type=ACCOUNT)
STEP = {"task_id": "t1", "agent_id": "clerk", "tenant_id": "default", "attempt": 1, "step": 1}


# Hard budgets


async def test_of_fifty_calls_at_once_as_many_are_made_as_there_is_money_for() -> None:
    async with spending(budget(10)) as mesh:
        ends = await asyncio.gather(*[mesh.call() for _ in range(50)], return_exceptions=True)
        refused = [end for end in ends if isinstance(end, BudgetExceeded)]
        assert (len(mesh.provider.requests), len(refused), mesh.provider.owed) == (10, 40, 10)
        assert await mesh.balance("pot:mesh") == (10, 0)


async def test_a_refusal_says_which_budget_how_far_it_is_and_when_it_renews() -> None:
    async with spending(budget("2.50", window="day")) as mesh:
        await mesh.call(2)
        with pytest.raises(BudgetExceeded) as refused:
            await mesh.call(1)
    assert refused.value.budget == "pot"
    assert "budget pot (mesh mesh) has no room: $2 of $2.50 are spent" in str(refused.value)
    assert "this call may cost $1" in str(refused.value)
    assert "it renews at 2026-01-02 00:00 UTC" in str(refused.value)
    assert refused.value.retry_after_seconds == 24 * 3600


async def test_a_refusal_without_end_says_that_too() -> None:
    async with spending(budget(0)) as mesh:
        with pytest.raises(BudgetExceeded, match="it never renews: raise its limit_usd"):
            await mesh.call()


async def test_what_a_call_did_not_use_is_there_for_the_next() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.tokens = 1
        for _ in range(3):
            assert (await mesh.call(8)).cost_usd == 1
        assert await mesh.balance("pot:mesh") == (3, 0)


async def test_while_a_call_is_under_way_the_most_that_it_may_cost_is_reserved() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        mesh.provider.tokens = 1
        first = asyncio.create_task(mesh.call(8))
        await until(lambda: mesh.provider.requests)
        assert await mesh.balance("pot:mesh") == (0, 8)
        with pytest.raises(BudgetExceeded, match=r"\$8 are reserved"):
            await mesh.call(3)
        mesh.provider.open.set()
        await first
        assert await mesh.balance("pot:mesh") == (1, 0)


async def test_a_call_that_one_budget_refuses_is_reserved_in_none() -> None:
    async with spending(budget(10, "a"), budget(0, "b"), budget(10, "c")) as mesh:
        with pytest.raises(BudgetExceeded, match="budget b"):
            await mesh.call()
        assert await mesh.balance("a:mesh") == (0, 0)
        assert await mesh.host.read(ActorRef(ACCOUNT, "c:mesh")) is None
        assert mesh.provider.requests == []


async def test_what_costs_nothing_is_allowed_by_a_budget_that_is_overspent() -> None:
    async with spending(budget(1)) as mesh:
        mesh.provider.tokens = 2
        await mesh.call(1)
        mesh.provider.tokens = 0
        assert (await mesh.call(0)).cost_usd == 0
        with pytest.raises(BudgetExceeded):
            await mesh.call(1)


async def test_a_model_that_is_closed_has_booked_what_its_calls_cost() -> None:
    async with spending(budget(9)) as mesh:
        await mesh.call(1)
        await mesh.model.close()
        state = await mesh.host.read(ActorRef(ACCOUNT, "pot:mesh"))
        assert isinstance(state, Balance)
        assert (state.spent, state.held) == (1, {})


async def test_a_cost_above_the_estimate_is_booked_as_it_was() -> None:
    async with spending(budget(5)) as mesh:
        mesh.provider.tokens = 7
        await mesh.call(1)
        assert await mesh.balance("pot:mesh") == (7, 0)


async def test_no_budget_takes_no_turn() -> None:
    async with spending() as mesh:
        assert (await mesh.call()).cost_usd == 1
        assert mesh.host.active == 0


# Whose budget


@pytest.mark.parametrize(
    ("scope", "fields", "account"),
    [
        ("mesh", {}, "pot:mesh"),
        ("tenant", {"metadata": {"tenant_id": "acme"}}, "pot:acme"),
        ("tenant", {}, "pot:default"),
        ("agent", {"user": "clerk"}, "pot:clerk"),
        ("tag", {"tags": ("cheap",)}, "pot:cheap"),
        ("thread", {"metadata": {"thread_id": "th"}}, "pot:th"),
        ("task", {"metadata": {"task_id": "t1"}}, "pot:t1"),
    ],
)
async def test_each_of_a_scope_has_a_budget_of_its_own(scope: Any, fields: Any, account: str) -> None:
    async with spending(budget(1, scope=scope)) as mesh:
        await mesh.call(1, **fields)
        assert await mesh.balance(account) == (1, 0)
        with pytest.raises(BudgetExceeded):
            await mesh.call(1, **fields)


async def test_a_budget_of_one_is_not_charged_for_another() -> None:
    async with spending(budget(1, scope="agent", of="clerk")) as mesh:
        await mesh.call(1, user="clerk")
        await mesh.call(1, user="other")
        with pytest.raises(BudgetExceeded):
            await mesh.call(1, user="clerk")


async def test_a_call_is_charged_to_each_of_its_tags() -> None:
    async with spending(budget(2, scope="tag")) as mesh:
        await mesh.call(1, tags=("a", "b", "a"))
        assert (await mesh.balance("pot:a"), await mesh.balance("pot:b")) == ((1, 0), (1, 0))


async def test_names_of_any_sort_have_accounts_of_their_own() -> None:
    odd = ["a/b", "a:b", "ü", "x" * 500, "", "a|b"]
    async with spending(budget(1, scope="agent")) as mesh:
        for user in odd:
            await mesh.call(1, user=user)
        for user in filter(None, odd):
            with pytest.raises(BudgetExceeded):
                await mesh.call(1, user=user)


async def test_a_task_may_bring_its_own_budget() -> None:
    metadata = {**STEP, "budget_usd": "1.50"}
    async with spending(budget(10, "task", scope="task")) as mesh:
        await mesh.call(1, metadata=metadata)
        with pytest.raises(BudgetExceeded, match=r"budget budget_usd \(task t1\)"):
            await mesh.call(1, metadata=metadata)
        await mesh.call(1, metadata={**STEP, "task_id": "t2"})


async def test_a_call_may_bring_the_budgets_of_its_key() -> None:
    key = budget(1, "key-1", scope="agent", of="clerk", window="day").model_dump(mode="json")
    forged = budget(99).model_dump(mode="json")
    async with spending(budget(3)) as mesh:
        await mesh.call(1, metadata={"budgets": [key, forged]})
        with pytest.raises(BudgetExceeded, match=r"budget key-1 \(agent clerk\)"):
            await mesh.call(1, metadata={"budgets": [key]})
        with pytest.raises(BudgetExceeded, match=r"budget pot"):
            await mesh.call(3, metadata={"budgets": [forged]})
        assert {(view.budget, view.limit_usd) for view in await mesh.views()} == {("pot", 3), ("key-1", 1)}


def test_a_task_without_a_budget_is_the_request_that_it_was() -> None:
    assert "budget_usd" not in TaskRequest(capability="x").model_dump_json()
    given = TaskRequest(capability="x", budget_usd=Decimal("1.50"))
    assert given.model_dump(mode="json")["budget_usd"] == "1.50"


# How a call ends


@pytest.mark.parametrize("failure", [RateLimited("x"), ModelRefused("x"), ModelUnavailable("x")])
async def test_a_failure_that_cost_nothing_gives_back_what_was_reserved(failure: Exception) -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.failure = failure
        with pytest.raises(type(failure)):
            await mesh.call(8)
        assert await mesh.balance("pot:mesh") == (0, 0)
        assert [(call["outcome"], call["cost_usd"]) for call in mesh.told] == [("failed", 0)]


@pytest.mark.parametrize("failure", [ModelTimeout("x"), ContentRefused("x"), KeyError("a defect")])
async def test_a_failure_that_nobody_knows_the_cost_of_counts_as_the_estimate(failure: Exception) -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.failure = failure
        with pytest.raises(type(failure)) as error:
            await mesh.call(8)
        assert await mesh.balance("pot:mesh") == (8, 0)
        assert [(call["outcome"], call["cost_usd"]) for call in mesh.told] == [("failed", 8)]
        assert (call := left(error.value)) is not None
        assert call.cost_usd == 8


async def test_a_cancelled_call_counts_as_the_estimate() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        call = asyncio.create_task(mesh.call(8))
        await until(lambda: mesh.provider.requests)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await mesh.balance("pot:mesh") == (8, 0)
        assert [(call["outcome"], call["cost_usd"]) for call in mesh.told] == [("cancelled", 8)]


async def test_of_a_stream_that_breaks_off_the_pieces_that_came_are_counted() -> None:
    heard: list[str] = []
    async with spending(budget(100)) as mesh:
        mesh.provider.pieces = ["ab", BEGIN_ANEW, "cde"]
        mesh.provider.failure = ModelUnavailable("the stream broke off")
        with pytest.raises(ModelUnavailable):
            await mesh.call(80, on_delta=heard.append)
        assert heard == ["ab", BEGIN_ANEW, "cde"]
        assert await mesh.balance("pot:mesh") == (5, 0)
        usage = mesh.told[0]["usage"]
        assert usage.completion_tokens == 5
        assert usage.prompt_tokens == 2 * most_prompt_tokens(request(80))


async def test_a_call_cancelled_while_it_asks_for_room_leaves_nothing_reserved() -> None:
    async with spending(budget(10)) as mesh:
        call = asyncio.create_task(mesh.call(8))
        for _ in range(2):
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await mesh.balance("pot:mesh") == (0, 0)
        assert [(call["outcome"], call["cost_usd"]) for call in mesh.told] == [("cancelled", 0)]
        assert mesh.provider.requests == []


async def test_an_account_that_cannot_be_asked_allows_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*args: object, **kwargs: object) -> None:
        raise StoreUnavailable("the store is away")

    async with spending(budget(10)) as mesh:
        monkeypatch.setattr("meshwright.ledger.desk.PAUSES_SECONDS", (0.0, 0.0))
        with monkeypatch.context() as patch:
            patch.setattr(mesh.host, "call", away)
            with pytest.raises(StoreUnavailable):
                await mesh.call()
            await mesh.model.budgets.settled()
        assert mesh.provider.requests == []
        await mesh.call()


async def test_an_account_that_is_away_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with spending(budget(10)) as mesh:
        monkeypatch.setattr("meshwright.ledger.desk.PAUSES_SECONDS", (0.0, 0.0))
        honest, answers = mesh.host.call, iter([True, False])

        async def lose_the_first_answer(*args: Any, **kwargs: Any) -> Any:
            reply = await honest(*args, **kwargs)
            if next(answers, False):
                raise StoreUnavailable("it may have happened")
            return reply

        monkeypatch.setattr(mesh.host, "call", lose_the_first_answer)
        await mesh.call(8)
        assert await mesh.balance("pot:mesh") == (8, 0)


# What is told


async def test_the_ledger_is_told_of_what_no_journal_tells() -> None:
    async with spending(budget(2)) as mesh:
        await mesh.call(1, metadata=STEP)
        assert mesh.told == []
        await mesh.call(1)
        with pytest.raises(BudgetExceeded):
            await mesh.call(1, metadata=STEP)
    assert [(call["outcome"], call["cost_usd"], call["error"]) for call in mesh.told] == [
        ("ok", 1, None),
        ("failed", 0, "BudgetExceeded"),
    ]


async def test_a_reply_says_what_it_cost_and_who_says_so() -> None:
    async with spending() as mesh:
        reply = await mesh.call(3)
    assert (reply.cost_usd, reply.cost_source) == (3, "priced")
    assert reply.latency_ms > 0


async def test_what_whoever_answered_reports_is_believed() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.complete = replying(cost_usd=Decimal("0.25"), cost_source="reported")  # type: ignore[method-assign]
        reply = await mesh.call(3)
        assert (reply.cost_usd, reply.cost_source) == (Decimal("0.25"), "reported")
        assert await mesh.balance("pot:mesh") == (Decimal("0.25"), 0)


async def test_an_answer_from_a_cache_costs_nothing() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.complete = replying(cache_hit=True, cost_usd=Decimal(9))  # type: ignore[method-assign]
        assert (await mesh.call(3)).cost_usd == 0
        assert await mesh.balance("pot:mesh") == (0, 0)


async def test_an_answer_from_a_cache_says_what_it_saves_at_our_prices() -> None:
    hit = {"cache_hit": True, "usage": Usage(completion_tokens=3), "attempts": 0}
    async with spending() as mesh:
        mesh.provider.complete = replying(**hit)  # type: ignore[method-assign]
        reply = await mesh.call(5)
        assert (reply.cost_usd, reply.saved_usd) == (0, 3)
        mesh.provider.complete = replying(**hit, saved_usd=Decimal(2))  # type: ignore[method-assign]
        assert (await mesh.call(5)).saved_usd == 2


@pytest.mark.parametrize("failure", [ModelTimeout("it waited in vain"), asyncio.CancelledError()])
async def test_a_call_that_was_never_made_costs_nothing(failure: Any) -> None:
    failure.attempts = 0
    async with spending(budget(10)) as mesh:
        mesh.provider.failure = failure
        with pytest.raises(type(failure)):
            await mesh.call(8)
        assert await mesh.balance("pot:mesh") == (0, 0)
        assert [(call["cost_usd"], call["usage"], call["attempts"]) for call in mesh.told] == [
            (0, Usage(), 0)
        ]


# Soft budgets


async def test_a_soft_budget_tells_once_that_it_is_exceeded_and_lets_calls_go_on() -> None:
    async with spending(budget(2, hard=False)) as mesh:
        for _ in range(4):
            await mesh.call()
        assert await mesh.balance("pot:mesh") == (4, 0)
        (event,) = mesh.happened("budget.exceeded")
        assert event.payload["budget"] == "pot"
        assert (event.payload["limit_usd"], event.payload["spent_usd"]) == ("2", "2")


async def test_a_soft_budget_goes_on_with_its_cheaper_tag() -> None:
    async with spending(budget(1, hard=False, cheaper_tag="cheap")) as mesh:
        for tags in (
            ("research", "expensive"),
            ("research", "expensive"),
            ("medium", "cheap"),
            ("research",),
        ):
            await mesh.call(1, tags=tags)
        assert [asked.tags for asked in mesh.provider.requests] == [
            ("research", "expensive"),
            ("research", "cheap"),
            ("cheap",),
            ("research",),
        ]
        assert await mesh.balance("pot:mesh") == (4, 0)


async def test_the_ledger_is_told_of_the_tags_that_a_call_was_made_with() -> None:
    async with spending(budget(1, hard=False, cheaper_tag="cheap")) as mesh:
        step = request(1, tags=("research", "expensive"), metadata=STEP)
        told: list[Any] = []
        for _ in range(2):
            reply = await mesh.model.complete(step)
            told += [payload["tags"] for _, payload in model_called(step, reply, 0.0)]
            await mesh.model.complete(step.model_copy(update={"metadata": {}}))
        assert told == [("research", "expensive"), ("research", "cheap")]
        assert [call["tags"] for call in mesh.told] == [("research", "cheap")] * 2


async def test_a_call_with_a_cheaper_tag_is_charged_to_that_tag() -> None:
    dear = budget(1, "dear", scope="tag", of="expensive", hard=False, cheaper_tag="cheap")
    async with spending(dear, budget(5, "all", scope="tag")) as mesh:
        await mesh.call(1, tags=("expensive",))
        await mesh.call(1, tags=("expensive",))
        assert await mesh.balance("dear:expensive") == (1, 0)
        assert await mesh.balance("all:expensive") == (1, 0)
        assert await mesh.balance("all:cheap") == (1, 0)


async def test_four_fifths_are_warned_of_once_a_window() -> None:
    async with spending(budget(10, window="hour")) as mesh:
        for _ in range(2):
            for dollars in (7, 1, 1):
                await mesh.call(dollars)
            await mesh.balance("pot:mesh")
            await mesh.clock.advance(3600)
        assert [event.payload["spent_usd"] for event in mesh.happened("budget.warned")] == ["8", "8"]
        assert len(mesh.happened("budget.opened")) == 1


async def test_what_is_told_of_a_tenant_is_for_that_tenant() -> None:
    async with spending(budget(1, scope="tenant")) as mesh:
        await mesh.call(1, metadata={"tenant_id": "acme"})
        await mesh.balance("pot:acme")
        assert {event.tenant_id for event in mesh.events} == {"acme"}


# Prices that nobody knows


async def test_a_hard_budget_refuses_what_nobody_knows_the_price_of() -> None:
    async with spending(budget(10), price=None) as mesh:
        with pytest.raises(PriceUnknown, match="set default_price") as refused:
            await mesh.call()
        assert (refused.value.budget, mesh.provider.requests) == ("pot", [])


async def test_a_soft_budget_lets_it_pass_and_nobody_says_that_it_was_free() -> None:
    async with spending(budget(10, hard=False), price=None) as mesh:
        reply = await mesh.call()
        assert (reply.cost_usd, reply.cost_source) == (None, "unknown")
        mesh.provider.failure = ModelTimeout("x")
        with pytest.raises(ModelTimeout):
            await mesh.call()
        assert [call["cost_usd"] for call in mesh.told] == [None, None]


async def test_a_price_that_is_declared_counts() -> None:
    async with spending(budget(10), price=Price(input=ZERO, output=Decimal(2_000_000))) as mesh:
        assert (await mesh.call(2)).cost_usd == 4


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


# Crashes and windows


async def test_what_a_crash_left_reserved_counts_as_spent_when_its_time_is_over() -> None:
    async with spending(budget(10)) as mesh:
        await mesh.model.budgets.hold(request(8, timeout_seconds=120), "op", lambda asked: Decimal(8))
        survivor = mesh.another()
        with pytest.raises(BudgetExceeded):
            await survivor.complete(request(8))
        await mesh.clock.advance(181)
        (view,) = await mesh.views()
        assert (view.spent_usd, view.reserved_usd) == (8, 0)
        await survivor.complete(request(2))
        await survivor.budgets.settled()
        assert await mesh.balance("pot:mesh") == (10, 0)


async def test_a_resumed_run_finds_its_reservation_whose_call_may_have_been_made() -> None:
    async with spending(budget(10)) as mesh:
        step = request(4, metadata=STEP)
        await mesh.model.budgets.hold(step, call_id_of(step), lambda asked: Decimal(4))
        resumed = mesh.another()
        mesh.provider.tokens = 1
        await resumed.complete(step)
        await resumed.budgets.settled()
        assert await mesh.balance("pot:mesh") == (4 + 1, 0)


async def test_a_call_that_was_thought_lost_and_ends_late_is_charged_once() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        late = asyncio.create_task(mesh.call(4, metadata=STEP))
        await until(lambda: mesh.provider.requests)
        resumed = mesh.another()
        again = asyncio.create_task(resumed.complete(request(4, metadata=STEP)))
        await until(lambda: len(mesh.provider.requests) == 2)
        mesh.provider.open.set()
        await asyncio.gather(late, again)
        await resumed.budgets.settled()
        assert await mesh.balance("pot:mesh") == (8, 0)


async def test_calls_of_one_step_at_once_are_reserved_apart() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.tokens = 1
        await asyncio.gather(*[mesh.call(3, metadata=STEP) for _ in range(3)])
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
        with pytest.raises(BudgetExceeded):
            await mesh.call(3)
        mesh.provider.open.set()
        await call
        assert await mesh.balance("pot:mesh") == (8, 0)


# What is seen of them


async def test_the_budgets_are_listed_with_what_is_spent_and_reserved() -> None:
    declared = [
        budget(10),
        budget(5, "each", scope="agent", window="day"),
        budget(3, "one", scope="tag", of="x"),
    ]
    async with spending(*declared) as mesh:
        await mesh.call(2, user="clerk")
        await mesh.call(1, user="cook")
        views = {(view.budget, view.key): view for view in await mesh.views()}
    assert {name: (view.limit_usd, view.spent_usd, view.reserved_usd) for name, view in views.items()} == {
        ("pot", "mesh"): (10, 3, 0),
        ("each", "clerk"): (5, 2, 0),
        ("each", "cook"): (5, 1, 0),
        ("one", "x"): (3, 0, 0),
    }
    assert views["each", "cook"].renews_at == BEGINNING + timedelta(days=1)
    assert views["pot", "mesh"].renews_at is None


async def test_a_tenant_does_not_see_the_budget_of_another() -> None:
    async with spending(budget(10, scope="tenant")) as mesh:
        await mesh.call(metadata={"tenant_id": "acme"})
        await mesh.call(metadata={"tenant_id": "bigco"})
        await mesh.model.budgets.settled()
        views = await mesh.model.budgets.views(mesh.log, "acme")
        assert [view.key for view in views] == ["acme"]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ([budget(1), budget(2)], "'pot' is declared twice"),
        ([budget(1, of="clerk")], "is of the whole mesh, and names 'clerk'"),
        ([budget(1, cheaper_tag="cheap")], "is hard, and has a cheaper_tag"),
    ],
)
async def test_budgets_that_cannot_be_meant_are_refused(declared: list[Budget], said: str) -> None:
    async with spending() as mesh:
        with pytest.raises(ConfigError, match=said):
            Budgets(declared, mesh.host)


# The account


async def test_an_account_forgets_what_is_settled_and_holds_no_more_than_it_may() -> None:
    account, ops = Booked(limit=10**9), [f"op{number}" for number in range(MAX_HELD + 1)]
    answers = account.book(*[account.reservation(op, "1", 1) for op in ops])
    assert answers == ["held"] * MAX_HELD + ["crowded"]
    account.book(*[settlement(op, "1", 1) for op in ops])
    assert (account.state.held, account.state.spent) == ({}, MAX_HELD)


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

    def reservation(self, op: str, call: str, amount: int) -> Entry:
        until = self.actor.now.timestamp() + 30
        return Entry(kind="reserve", op=op, call=call, amount=Decimal(amount), until=until)

    def book(self, *entries: Entry) -> list[str]:
        """The answers to the reservations among them."""
        verdicts = self.actor.take("book", Book(account=self.account, entries=entries)).reply
        return [verdict.answer for verdict in verdicts]


def settlement(op: str, call: str, amount: int) -> Entry:
    return Entry(kind="settle", op=op, call=call, amount=Decimal(amount))


def replying(**fields: Any) -> Any:
    async def complete(*args: object) -> ModelReply:
        return ModelReply(model="provider-1", **fields)

    return complete


async def until(happened: Any) -> None:
    while not happened():
        await asyncio.sleep(0)
