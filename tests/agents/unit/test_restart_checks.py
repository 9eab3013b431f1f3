"""Before a person is asked to repeat steps, since other code took over, their checks are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

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
    assert "takes other steps than before, though its file is the same" in text  # both codes are in this one
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


Goes = Literal["orders again", "ends", "fails"]


def impatient(shop: Shop, goes: Goes) -> type[Agent]:
    """Edited code that gives its first call up while the check of the order is asked, and goes on."""

    class Impatient(Agent):
        agent_id = "buyer"
        capabilities = (Capability("buying"),)

        async def run(self, run: Run) -> str:
            is_asked = asyncio.Event()

            async def nothing() -> None: ...

            async def was_ordered(step_id: str) -> CheckResult:
                is_asked.set()
                await asyncio.sleep(0 if shop.checked else 3600)
                return CheckResult.unknown()

            async def order() -> str:
                return await shop.order(run.step_id)

            async def give_up(limit: asyncio.Timeout) -> None:
                await is_asked.wait()
                shop.checked.append("given up")
                limit.reschedule(0)

            async def look_around() -> None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as group:
                        group.create_task(give_up(limit))
                        await run.step("look around", nothing)

            await run.step("order", order, check=was_ordered)
            await look_around()
            if goes == "fails":
                raise ConnectionError
            if goes == "orders again":
                await run.step("order again", order, check=was_ordered)
            return "done"

    return Impatient


@pytest.mark.parametrize("goes", get_args(Goes))
async def test_a_person_is_asked_though_the_call_that_differs_is_given_up(tmp_path: Path, goes: Goes) -> None:
    shop = Shop(CheckResult.unknown)
    async with kept(tmp_path, buyer(shop, by_step=True)) as mesh:
        await mesh.get(Tasks).submit(TaskRequest(agent_id="buyer"))
        await shop.began.wait()
    async with kept(tmp_path, impatient(shop, goes)) as mesh:
        waiting = await told_of(mesh, "task.waiting")
    assert "May it start over and repeat these steps: order?" in waiting.payload["asked"]
    assert (shop.checked, len(shop.orders)) == (["given up"], 1)


class Impatience:
    """A call beside others whose caller gives it up once a person was asked."""

    def __init__(self) -> None:
        self.is_asked, self.is_over = asyncio.Event(), asyncio.Event()
        self.limit = asyncio.timeout(None)

    async def hold(self) -> None:
        """Return once the call was given up."""
        await self.is_asked.wait()
        if not self.is_over.is_set():
            self.limit.reschedule(0)
            await self.is_over.wait()


def side_by_side(shop: Shop, impatience: Impatience | None = None) -> type[Agent]:
    """Two looks beside a step that holds the run; edited code looks elsewhere, and gives one look up."""

    class SideBySide(Agent):
        agent_id = "buyer"
        capabilities = (Capability("buying"),)

        async def run(self, run: Run) -> str:
            where = "here" if impatience is None else "elsewhere"
            have_looked = asyncio.Barrier(3)

            async def nothing() -> None: ...

            async def hold() -> None:
                if impatience is not None:
                    return await impatience.hold()
                await have_looked.wait()
                return await shop.hold()

            async def order() -> str:
                return await shop.order(run.step_id)

            async def look(side: str) -> None:
                await run.step(side, nothing)
                await run.step(f"look {where}", nothing)
                if impatience is None:
                    await have_looked.wait()

            async def give_up() -> None:
                if impatience is None:
                    return await look("left")
                impatience.limit = asyncio.timeout(None)
                with suppress(TimeoutError):
                    async with impatience.limit:
                        await look("left")
                return impatience.is_over.set()

            await run.step("order", order, repeatable=False)
            await run.gather(give_up(), look("right"), run.step("hold", hold))
            return "done"

    return SideBySide


async def test_a_question_of_two_calls_stays_when_one_of_them_is_given_up(tmp_path: Path) -> None:
    shop, impatience = Shop(CheckResult.unknown), Impatience()
    async with kept(tmp_path, side_by_side(shop)) as mesh:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="buyer"))
        await shop.began.wait()
    async with kept(tmp_path, side_by_side(shop, impatience)) as mesh:
        waiting = await told_of(mesh, "task.waiting")
        impatience.is_asked.set()
        await impatience.is_over.wait()
        await mesh.get(Tasks).answer(receipt.task_id, waiting.payload["key"], {"approve": True})
        outcome = await mesh.get(Tasks).outcome(receipt.task_id)
    assert (outcome.text, len(shop.orders)) == ("done", 2)


def beside_an_order(shop: Shop, *, is_edited: bool = False) -> type[Agent]:
    """An order whose check sees it once it has ended; edited code looks elsewhere while it is under way."""

    class BesideAnOrder(Agent):
        agent_id = "buyer"
        capabilities = (Capability("buying"),)

        async def run(self, run: Run) -> str:
            is_under_way = asyncio.Event()

            async def nothing() -> None: ...

            async def order() -> str:
                is_under_way.set()
                if is_edited:
                    await asyncio.sleep(0.5)  # long enough for a check that comes too early
                return await shop.order(run.step_id)

            async def was_ordered(step_id: str) -> CheckResult:
                return CheckResult.happened("ordered") if shop.orders else CheckResult.did_not_happen()

            async def look() -> None:
                await run.step("look", nothing)
                if is_edited:
                    await is_under_way.wait()
                await run.step("look elsewhere" if is_edited else "look here", nothing)

            await run.gather(look(), run.step("order", order, check=was_ordered))
            return "done"

    return BesideAnOrder


async def test_a_step_that_is_under_way_is_no_step_that_did_not_happen(tmp_path: Path) -> None:
    shop = Shop(CheckResult.unknown)
    shop.holds_order = True
    async with kept(tmp_path, beside_an_order(shop)) as mesh:
        await mesh.get(Tasks).submit(TaskRequest(agent_id="buyer"))
        await shop.began.wait()
    shop.holds_order = False
    async with kept(tmp_path, beside_an_order(shop, is_edited=True)) as mesh:
        waiting = await told_of(mesh, "task.waiting")
    assert "May it start over and repeat these steps: order?" in waiting.payload["asked"]
    assert len(shop.orders) == 1
