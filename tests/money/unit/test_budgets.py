"""Budgets hold: no call is made that they have no room for."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from meshwright.core.errors import ConfigError
from meshwright.core.messages import TaskRequest
from meshwright.core.money import Budget
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.models.errors import BudgetExceeded
from meshwright.models.port import CallContext
from meshwright.money.account import ACCOUNT
from meshwright.money.balance import Balance
from meshwright.money.budgets import Budgets
from meshwright.testing.mesh import BEGINNING
from tests.support.budgets import STEP, budget, spending, until

# Hard budgets


async def test_a_refusal_says_which_budget_how_far_it_is_and_when_it_renews() -> None:
    async with spending(budget("2.50", window="day")) as mesh:
        await mesh.call(2)
        with pytest.raises(BudgetExceeded) as refused:
            await mesh.call(1)
    assert refused.value.budget == "pot"
    assert "Budget pot of the mesh exceeded: $2.00 of $2.50 spent, $0.00 reserved" in str(refused.value)
    assert "this call may cost up to $1" in str(refused.value)
    assert "It renews at 2026-01-02 00:00 UTC" in str(refused.value)
    assert refused.value.retry_after_seconds == 24 * 3600


async def test_a_refusal_without_end_says_that_too() -> None:
    async with spending(budget(0)) as mesh:
        with pytest.raises(BudgetExceeded, match=r"Lower max_tokens, or add \$1.00: mesh budgets raise pot"):
            await mesh.call()


async def test_while_a_call_is_under_way_the_most_that_it_may_cost_is_reserved() -> None:
    async with spending(budget(10)) as mesh:
        mesh.provider.open.clear()
        mesh.provider.tokens = 1
        first = asyncio.create_task(mesh.call(8))
        await until(lambda: mesh.provider.requests)
        assert await mesh.balance("pot:mesh") == (0, 8)
        mesh.provider.open.set()
        await first
        assert await mesh.balance("pot:mesh") == (1, 0)


async def test_a_call_that_one_budget_refuses_is_reserved_in_none() -> None:
    async with spending(budget(10, "a"), budget(0, "b"), budget(10, "c")) as mesh:
        with pytest.raises(BudgetExceeded, match="Budget b"):
            await mesh.call()
        assert await mesh.balance("a:mesh") == (0, 0)
        assert await mesh.runtime.read(ActorRef(ACCOUNT, "c:mesh")) is None
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
        state = await mesh.runtime.read(ActorRef(ACCOUNT, "pot:mesh"))
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
        assert mesh.runtime.active == 0


# Whose budget


@pytest.mark.parametrize(
    ("scope", "fields", "account"),
    [
        ("mesh", {}, "pot:mesh"),
        ("tenant", {"context": CallContext(tenant_id="acme")}, "pot:acme"),
        ("tenant", {}, "pot:default"),
        ("agent", {"user": "clerk"}, "pot:clerk"),
        ("tag", {"tags": ("cheap",)}, "pot:cheap"),
        ("thread", {"context": CallContext(thread_id="th")}, "pot:th"),
        ("task", {"context": CallContext(task_id="t1")}, "pot:t1"),
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


async def test_a_task_may_bring_its_own_budget() -> None:
    context = STEP.model_copy(update={"budget_usd": Decimal("1.50")})
    async with spending(budget(10, "task", scope="task")) as mesh:
        await mesh.call(1, context=context)
        with pytest.raises(BudgetExceeded, match=r"Budget budget_usd of task t1 exceeded"):
            await mesh.call(1, context=context)
        await mesh.call(1, context=STEP.model_copy(update={"task_id": "t2"}))


@pytest.mark.parametrize("scope", ["task", "thread"])
async def test_tenants_with_the_same_ids_share_no_account(scope: Any) -> None:
    acme = CallContext(tenant_id="acme", task_id="t1", step=1, thread_id="one", budget_usd=Decimal(5))
    default = acme.model_copy(update={"tenant_id": "default"})
    async with spending(budget(1, "each", scope=scope), budget(100)) as mesh:
        for context in (acme, default):
            await mesh.call(1, context=context)
            with pytest.raises(BudgetExceeded, match=r"Budget each"):
                await mesh.call(1, context=context)
        assert (await mesh.balance("pot:mesh"))[0] == 2  # the same step of both counts twice
        seen = {tenant: await mesh.tenant_views(tenant) for tenant in ("acme", "default", "other")}
        named = {tenant: {view.budget for view in views} for tenant, views in seen.items()}
        own = {"each", "budget_usd"}
        assert named == {"acme": own, "default": {"pot", *own}, "other": set()}
        assert all(view.spent_usd == 1 for view in seen["acme"])
        opened = [event for event in mesh.happened("budget.opened") if event.payload["scope"] == scope]
        assert {event.tenant_id for event in opened} == {"acme", "default"}


async def test_a_call_may_bring_the_budgets_of_its_key() -> None:
    key = budget(1, "key-1", scope="agent", of="clerk", window="day")
    forged = budget(99)
    async with spending(budget(3)) as mesh:
        await mesh.call(1, context=CallContext(budgets=(key, forged)))
        with pytest.raises(BudgetExceeded, match=r"Budget key-1 of agent clerk exceeded"):
            await mesh.call(1, context=CallContext(budgets=(key,)))
        with pytest.raises(BudgetExceeded, match=r"Budget pot"):
            await mesh.call(3, context=CallContext(budgets=(forged,)))
        assert {(view.budget, view.limit_usd) for view in await mesh.views()} == {("pot", 3), ("key-1", 1)}


def test_a_task_without_a_budget_is_the_request_that_it_was() -> None:
    assert "budget_usd" not in TaskRequest(capability="x").model_dump_json()
    given = TaskRequest(capability="x", budget_usd=Decimal("1.50"))
    assert given.model_dump(mode="json")["budget_usd"] == "1.50"


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


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ([budget(1), budget(2)], "'pot' is declared twice"),
        ([budget(1, of="clerk")], "is of the whole mesh, and names 'clerk'"),
        ([budget(1, cheaper_tag="cheap")], "is hard, and has a cheaper_tag"),
        ([budget(1, hard=False, on_empty="ask")], "is soft, and has on_empty"),
        ([budget(1, on_empty="wait")], "waits until it renews, and never does"),
    ],
)
async def test_budgets_that_cannot_be_meant_are_refused(declared: list[Budget], said: str) -> None:
    async with spending() as mesh:
        with pytest.raises(ConfigError, match=said):
            Budgets(declared, mesh.runtime)
