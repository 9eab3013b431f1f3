"""Soft budgets warn, and those that say so lead calls to a cheaper tag."""

import pytest

from meshwright.core.money import ZERO
from meshwright.models.errors import BudgetExceeded
from meshwright.models.port import CallContext
from tests.support.budgets import STEP, budget, request, spending


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
        step = request(1, tags=("research", "expensive"), context=STEP)
        for _ in range(2):
            await mesh.model.complete(step)
        assert [call.tags for call in mesh.calls] == [("research", "expensive"), ("research", "cheap")]


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
        await mesh.call(1, context=CallContext(tenant_id="acme"))
        await mesh.balance("pot:acme")
        assert {event.tenant_id for event in mesh.events} == {"acme"}


async def test_a_hard_budget_that_is_empty_may_go_on_with_a_cheaper_tag() -> None:
    dear = budget(3, "dear", scope="tag", of="expensive", on_empty="cheaper")
    async with spending(dear, budget(1, "poor", scope="tag", of="cheap")) as mesh:
        for dollars in (3, 1):
            await mesh.call(dollars, tags=("research", "expensive"))
        assert [asked.tags for asked in mesh.provider.requests] == [
            ("research", "expensive"),
            ("research", "cheap"),
        ]
        with pytest.raises(BudgetExceeded, match="Budget poor"):
            await mesh.call(1, tags=("research", "expensive"))
        assert await mesh.balance("dear:expensive") == (3, 0)


async def test_a_budget_is_cheaper_until_it_renews_and_then_asks_as_before() -> None:
    asks = budget(3, "asks", scope="tag", of="expensive", window="hour", on_empty="ask")
    poor = budget(1, "poor", scope="tag", of="cheap", on_empty="ask")
    async with spending(asks, poor) as mesh:
        await mesh.call(3, tags=("expensive",))
        with pytest.raises(BudgetExceeded) as refused:
            await mesh.call(1, tags=("expensive",))
        assert (refused.value.can_be_cheaper, refused.value.owner) == (True, "expensive")
        [account] = [one for one in await mesh.model.budgets.accounts([], None) if one.budget == "asks"]
        view = await mesh.model.budgets.add(account, ZERO, cheaper=True)
        assert (view.cheaper, view.on_empty, view.limit_usd) == (True, "ask", 3)
        await mesh.call(1, tags=("expensive",))
        assert mesh.provider.requests[-1].tags == ("cheap",)
        with pytest.raises(BudgetExceeded, match="Budget poor") as refused:
            await mesh.call(1, tags=("expensive",))
        assert (refused.value.can_be_cheaper, refused.value.on_empty) == (False, "ask")
        await mesh.clock.advance(3600)
        assert not (await mesh.model.budgets.add(account, ZERO)).cheaper


async def test_a_call_that_has_no_cheaper_model_says_so() -> None:
    async with spending(budget(1, on_empty="ask")) as mesh:
        for tags in (("research",), ()):
            with pytest.raises(BudgetExceeded) as refused:
                await mesh.call(2, tags=tags)
            assert not refused.value.can_be_cheaper
