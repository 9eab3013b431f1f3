"""A budget holds on every host: what a provider is owed is never more than there is, whatever goes wrong."""

import asyncio
import random
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import pytest

from meshwright.core.ids import new_id
from meshwright.core.messages import Usage
from meshwright.core.money import ZERO, Budget, Price
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.models.errors import BudgetExceeded, ModelUnavailable
from meshwright.models.port import (
    Call,
    CallContext,
    ChatMessage,
    ModelReply,
    ModelRequest,
    OnDelta,
    Settlement,
)
from meshwright.models.prices import Prices
from meshwright.money.account import ACCOUNT, Account, BudgetAccount, LedgerBatch, LedgerEntry
from meshwright.money.accounting import Accounting
from meshwright.money.balance import Balance
from meshwright.money.budgets import Budgets
from tests.support.harness import RuntimeHarness

KIND = ActorKind.from_class(BudgetAccount, type=ACCOUNT)
PRICES = Prices(default=Price(input=ZERO, output=Decimal(1_000_000)), listed=dict)
LIMIT = Decimal(100)
POT = Budget(name="pot", limit_usd=LIMIT)
EACH = Budget(name="each", scope="agent", limit_usd=Decimal(40))
POT_ACCOUNT = Account(budget="pot", scope="mesh", key="mesh", limit_usd=LIMIT)


class Provider:
    """Is owed a random part of the most that a call may cost. While nobody `lives`, nobody calls it."""

    name = "provider"

    def __init__(self, chance: random.Random) -> None:
        self.owed = ZERO
        self.by_agent: dict[str, Decimal] = {}
        self.lives = True
        self._chance = chance

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        if not self.lives:
            raise ModelUnavailable("whoever calls is dead")
        tokens = self._chance.randint(0, request.max_tokens)
        self.owed += tokens
        self.by_agent[request.user] = self.by_agent.get(request.user, ZERO) + tokens
        await asyncio.sleep(self._chance.choice((0, 0, 0.005)))
        return ModelReply(model="provider-1", usage=Usage(completion_tokens=tokens))

    async def close(self) -> None: ...


def accounted(runtime: Runtime, provider: Provider, *declared: Budget) -> Accounting:
    return Accounting(provider, Budgets(declared or (POT, EACH), runtime), PRICES, lambda call: None)


def asked(
    dollars: int, user: str = "clerk", *, timeout_seconds: float = 120.0, **context: Any
) -> ModelRequest:
    message = ChatMessage(role="user", content="?")
    fields = {"max_tokens": dollars, "timeout_seconds": timeout_seconds, "context": CallContext(**context)}
    return ModelRequest(messages=(message,), user=user, **fields)


async def balance(runtime: Runtime, account: Account = POT_ACCOUNT) -> tuple[Decimal, Decimal]:
    state = await runtime.read(account.ref)
    assert isinstance(state, Balance)
    return state.spent, state.reserved


async def test_fifty_calls_at_once_spend_no_more_than_a_budget_for_ten(
    harness: RuntimeHarness, rng: random.Random
) -> None:
    runtime = await harness.open(KIND)
    hosts = [runtime, *([await harness.open_beside(runtime)] if harness.shares_data else [])]
    provider = Provider(rng)
    models = [accounted(each, provider, Budget(name="pot", limit_usd=Decimal(10))) for each in hosts]
    ends = await asyncio.gather(
        *[models[n % len(models)].complete(asked(1)) for n in range(50)], return_exceptions=True
    )
    made = [end for end in ends if isinstance(end, ModelReply)]
    refused = [end for end in ends if isinstance(end, BudgetExceeded)]
    assert len(made) >= 10
    assert len(made) + len(refused) == 50
    for model in models:
        await model.budgets.settled()
    assert await balance(runtime) == (provider.owed, 0)
    assert provider.owed <= 10


class Modest(Provider):
    """Writes one token, whatever it may."""

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.owed += 1
        await asyncio.sleep(0.01)
        return ModelReply(model="provider-1", usage=Usage(completion_tokens=1))


async def test_calls_on_all_workers_wait_for_money_that_others_hold_until_all_are_made(
    harness: RuntimeHarness, rng: random.Random
) -> None:
    runtime = await harness.open(KIND)
    hosts = [runtime, *([await harness.open_beside(runtime)] if harness.shares_data else [])]
    provider = Modest(rng)
    models = [accounted(each, provider, Budget(name="pot", limit_usd=Decimal(40))) for each in hosts]
    await asyncio.gather(*[models[n % len(models)].complete(asked(10)) for n in range(30)])
    for model in models:
        await model.budgets.settled()
    assert provider.owed == 30
    assert await balance(runtime) == (30, 0)


async def test_no_more_is_owed_than_there_is_where_workers_die(
    harness: RuntimeHarness, rng: random.Random
) -> None:
    runtime = await harness.open(KIND)
    provider = Provider(rng)
    for _ in range(2):
        calls = begin(runtime, provider, rng)
        going, enough = set(calls), rng.randint(1, 10)
        while len(calls) - len(going) < enough:
            _, going = await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
        provider.lives = False
        runtime = await harness.crash(runtime)
        provider.lives = True
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    ends = await asyncio.gather(*begin(runtime, provider, rng), return_exceptions=True)
    assert all(isinstance(end, ModelReply | BudgetExceeded) for end in ends)
    spent, reserved = await balance(runtime)
    assert 0 < provider.owed <= spent + reserved <= LIMIT
    assert max(provider.by_agent.values()) <= EACH.limit_usd


def begin(runtime: Runtime, provider: Provider, chance: random.Random) -> list[asyncio.Task[ModelReply]]:
    """Calls of three agents at once, some of them of steps that others are at as well."""
    model = accounted(runtime, provider)
    requests = [
        asked(chance.randint(1, 5), f"agent{n % 3}", timeout_seconds=1, **where(chance)) for n in range(25)
    ]
    return [asyncio.create_task(model.complete(request)) for request in requests]


def where(chance: random.Random) -> dict[str, Any]:
    """A step of a task that others may be at as well, or none."""
    if chance.random() < 0.5:
        return {}
    return {"task_id": f"t{chance.randint(1, 3)}", "attempt": 1, "step": chance.randint(1, 3)}


class Unreachable(Provider):
    """Nobody is asked: no attempt is made."""

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        error = ModelUnavailable("nobody was asked")
        error.attempts = 0
        raise error


SMALL = Budget(name="small", limit_usd=Decimal(1))
SOFT = Budget(name="small", limit_usd=Decimal(1), hard=False, cheaper_tag="cheap")
DEEP = Budget(name="deep", scope="tag", of="expensive", limit_usd=LIMIT)
DEEP_ACCOUNT = Account(budget="deep", scope="tag", key="expensive", limit_usd=LIMIT)


@pytest.mark.parametrize(
    ("budgets", "kind", "fails"),
    [
        ((DEEP, SMALL), Modest, BudgetExceeded),
        ((DEEP,), Unreachable, ModelUnavailable),
        ((DEEP, SOFT), Modest, None),
    ],
    ids=["refused by another budget", "not made", "made with a cheaper tag"],
)
async def test_the_call_of_a_step_holds_nothing_where_it_was_not_made(
    harness: RuntimeHarness,
    rng: random.Random,
    budgets: tuple[Budget, ...],
    kind: type[Provider],
    fails: type[Exception] | None,
) -> None:
    runtime = await harness.open(KIND)
    model = accounted(runtime, kind(rng), *budgets)
    step = asked(5, task_id="t1", step=1, record=lambda call: None)
    with nullcontext() if fails is None else pytest.raises(fails):
        await model.complete(step.model_copy(update={"tags": ("expensive",)}))
    await model.budgets.settled()
    assert await balance(runtime, DEEP_ACCOUNT) == (0, 0)


async def test_a_repeat_of_an_entry_changes_nothing(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KIND)
    op, call = new_id(), new_id()
    until = runtime.clock.now().timestamp() + 600
    reserve = LedgerEntry(kind="reserve", op=op, call=call, amount=Decimal("0.1"), until=until)
    settle = LedgerEntry(kind="settle", op=op, call=call, amount=Decimal("0.0000003"))
    book = LedgerBatch(account=POT_ACCOUNT, entries=(reserve,))
    await runtime.call(POT_ACCOUNT.ref, "book", book)
    await runtime.call(POT_ACCOUNT.ref, "book", book)
    assert await balance(runtime) == (0, Decimal("0.1"))
    book = LedgerBatch(account=POT_ACCOUNT, entries=(settle,))
    await runtime.call(POT_ACCOUNT.ref, "book", book)
    await runtime.call(POT_ACCOUNT.ref, "book", book)
    assert await balance(runtime) == (Decimal("0.0000003"), 0)


async def test_what_is_reserved_and_spent_outlives_a_crash(
    harness: RuntimeHarness, rng: random.Random
) -> None:
    runtime = await harness.open(KIND)
    model = accounted(runtime, Provider(rng), POT)
    await model.complete(asked(1))
    await model.budgets.settled()
    spent, _ = await balance(runtime)
    await model.budgets.hold(asked(90), lambda request: Decimal(90))
    runtime = await harness.crash(runtime)
    assert await balance(runtime) == (spent, 90)
    with pytest.raises(BudgetExceeded, match=r"\$90.00 reserved"):
        await accounted(runtime, Provider(rng), POT).complete(asked(11, timeout_seconds=0.2))


async def test_more_money_and_cheaper_models_outlive_a_crash(
    harness: RuntimeHarness, rng: random.Random
) -> None:
    runtime = await harness.open(KIND)
    await accounted(runtime, Modest(rng), POT).budgets.add(POT_ACCOUNT, Decimal(5), cheaper=True)
    runtime = await harness.crash(runtime)
    model = accounted(runtime, Modest(rng), POT)
    [view] = await model.budgets.views([], None)
    assert (view.limit_usd, view.cheaper) == (LIMIT + 5, True)
    again = await model.budgets.add(POT_ACCOUNT, Decimal(1))
    assert (again.limit_usd, again.cheaper) == (LIMIT + 6, True)


async def test_calls_that_crashes_cut_off_are_rows_once_each_and_end_their_holds(
    harness: RuntimeHarness, rng: random.Random
) -> None:
    runtime = await harness.open(KIND)
    step: dict[str, Any] = {"task_id": "t1", "step": 1}
    for _ in range(3):
        await Budgets([POT], runtime).hold(asked(9, **step), lambda request: Decimal(9))
        runtime = await harness.crash(runtime)
    assert await balance(runtime) == (0, 27)
    calls: list[Call] = []
    model = Accounting(Modest(rng), Budgets([POT], runtime), PRICES, calls.append)
    await model.complete(asked(9, **step))
    assert [(call.outcome, call.cost_usd) for call in calls] == [("cut", 1)] * 3 + [("ok", 1)]
    assert len({call.call_id for call in calls}) == 4
    await model.budgets.settled()
    runtime = await harness.crash(runtime)
    assert await balance(runtime) == (4, 0)


class CachingProvider(Provider):
    """Reads a prompt that it has seen before from its cache, at a tenth of the price."""

    def __init__(self) -> None:
        super().__init__(random.Random(1))
        self._prompts: set[str] = set()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        prompt = request.messages[0].content
        usage = Usage(prompt_tokens=10, cached_tokens=10 if prompt in self._prompts else 0)
        self._prompts.add(prompt)
        return ModelReply(model="provider-1", usage=usage)


@pytest.mark.parametrize("is_cached_before", [False, True], ids=["cached by the cut call", "cached before"])
async def test_a_cut_call_counts_its_prompt_in_full_where_it_may_have_filled_the_cache(
    harness: RuntimeHarness, is_cached_before: bool
) -> None:
    million = Decimal(1_000_000)
    price = Price(input=million, output=ZERO, cached_input=million / 10)
    prices = Prices(default=price, listed=dict)
    provider = CachingProvider()
    runtime = await harness.open(KIND)
    step: dict[str, Any] = {"task_id": "t1", "step": 1}
    if is_cached_before:
        await provider.complete(asked(9))
        for number in range(2):  # the last such calls had the prompt from the cache
            before = Accounting(provider, Budgets([POT], runtime), prices, lambda call: None)
            await before.complete(asked(9, task_id=f"before-{number}", step=1))
            await before.budgets.settled()
    await Budgets([POT], runtime).hold(asked(9, **step), lambda request: Decimal(9))
    await provider.complete(asked(9, **step))  # its reply is lost
    runtime = await harness.crash(runtime)
    calls: list[Call] = []
    await Accounting(provider, Budgets([POT], runtime), prices, calls.append).complete(asked(9, **step))
    cut_cost = 1 if is_cached_before else 10
    assert [(call.outcome, call.cost_usd) for call in calls] == [("cut", cut_cost), ("ok", 1)]


async def test_a_journaled_call_is_booked_once_after_a_crash_by_all_workers_that_find_it(
    harness: RuntimeHarness, rng: random.Random
) -> None:
    runtime = await harness.open(KIND)
    hold = await Budgets([POT], runtime).hold(asked(9, task_id="t1", step=1), lambda request: Decimal(9))
    journaled = Settlement(op=hold.op, call=hold.call, amount=Decimal(4))
    runtime = await harness.crash(runtime)
    hosts = [runtime, *([await harness.open_beside(runtime)] if harness.shares_data else [])]
    for _ in range(2):
        budgets = [Budgets([POT], each) for each in hosts]
        await asyncio.gather(*[each.recover("clerk", CallContext(), [journaled]) for each in budgets])
        await asyncio.gather(*[each.booked({hold.call}) for each in budgets])
        assert await balance(runtime) == (4, 0)


async def test_names_of_any_sort_have_accounts_of_their_own(harness: RuntimeHarness) -> None:
    names = ["a/b", "a||b", "a b", "ü☃", "x" * 500, "../a", "a?b#c%2F"]
    runtime = await harness.open(KIND)
    one = Budget(name="one", scope="agent", limit_usd=Decimal(1))
    budgets = Budgets([one], runtime)
    for name in names:
        await budgets.hold(asked(1, name), lambda request: Decimal(1))
    for name in names:
        with pytest.raises(BudgetExceeded):
            await budgets.hold(asked(1, name, timeout_seconds=0.05), lambda request: Decimal(1))
