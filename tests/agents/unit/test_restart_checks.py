"""Before a person is asked to repeat steps, since other code took over, their checks are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from meshwright import Agent, Capability, CheckResult, Run, TaskRequest, tool
from meshwright.core.events import Event
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.tools import ToolContext
from tests.support.interrupted_mesh import kept, told_of


class Shop:
    """A shop that takes orders, and a hook that holds the run behind them."""

    def __init__(self, find: Callable[[], CheckResult]) -> None:
        self.orders: list[str] = []
        self.checked: list[str] = []
        self.find = find
        self.holds_order = False
        self.began = asyncio.Event()

    async def order(self, key: str) -> str:
        if self.holds_order:
            await self.hold()
        self.orders.append(key)
        return "ordered"

    async def hold(self) -> None:
        self.began.set()
        await asyncio.Event().wait()


def buyer(shop: Shop, *, is_edited: bool = False, by_step: bool = False) -> type[Agent]:
    class Buyer(Agent):
        agent_id = "buyer"
        capabilities = (Capability("buying"),)
        prompt_text = "x"

        @tool(check="_was_ordered")
        async def order(self, tea: str, context: ToolContext) -> str:
            """Order a tea."""
            return await shop.order(context.step_id)

        async def _was_ordered(self, tea: str, step_id: str) -> CheckResult:
            shop.checked.append(step_id)
            return shop.find()

        async def run(self, run: Run) -> str:
            async def nothing() -> None: ...

            async def order() -> str:
                return await shop.order(run.step_id)

            async def was_ordered(step_id: str) -> CheckResult:
                return await self._was_ordered("", step_id)

            if is_edited and not by_step:
                await run.step("look around", nothing)
            if by_step:
                await run.step("order", order, check=was_ordered)
            else:
                await run.call("order", tea="assam")
            if is_edited and by_step:
                await run.step("look around", nothing)
            if is_edited:
                return "done"
            await run.step("note", nothing)
            await run.step("hold", shop.hold)
            return ""

    return Buyer


async def asked(folder: Path, shop: Shop, *, by_step: bool = False, holds_order: bool = False) -> Event:
    """The question that a person gets once other code has taken over the task."""
    shop.holds_order = holds_order
    async with kept(folder, buyer(shop, by_step=by_step)) as mesh:
        await mesh.get(Tasks).submit(TaskRequest(agent_id="buyer"))
        await shop.began.wait()
    shop.holds_order = False
    async with kept(folder, buyer(shop, by_step=by_step, is_edited=True)) as mesh:
        return await told_of(mesh, "task.waiting")


@pytest.mark.parametrize("by_step", [False, True])
async def test_the_question_has_what_the_check_says(tmp_path: Path, by_step: bool) -> None:
    shop = Shop(lambda: CheckResult.happened("ordered", "order 7 is listed"))
    waiting = await asked(tmp_path, shop, by_step=by_step)
    text = waiting.payload["asked"]
    assert "May it start over and repeat these steps: order?" in text
    assert "that of order says that it happened: order 7 is listed." in text
    assert "order 7 is listed" in waiting.payload["subject"]["check"]
    assert shop.checked == shop.orders  # the same key as the call had


async def test_the_question_says_that_a_check_cannot_tell(tmp_path: Path) -> None:
    waiting = await asked(tmp_path, Shop(lambda: CheckResult.unknown("the shop is away")), holds_order=True)
    text = waiting.payload["asked"]
    assert "that of order cannot tell: the shop is away." in text


async def test_nobody_is_asked_about_a_step_that_did_not_happen(tmp_path: Path) -> None:
    shop = Shop(CheckResult.did_not_happen)
    shop.holds_order = True
    async with kept(tmp_path, buyer(shop)) as mesh:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="buyer"))
        await shop.began.wait()
    shop.holds_order = False
    async with kept(tmp_path, buyer(shop, is_edited=True)) as mesh:
        assert (await mesh.get(Tasks).outcome(receipt.task_id)).text == "done"
    assert len(shop.orders) == 1
