"""A yes to a call of a framework, which makes it in another place, is for one call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from meshwright import Agent, Capability, Run, TaskRequest
from meshwright.agents.run.framework_tools import FrameworkTool, approve_framework_call, run_framework_call
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.interrupted_mesh import kept

ORDER = FrameworkTool("order", "Order a tea.", {"type": "object", "properties": {"tea": {"type": "string"}}})


class Shop:
    """A shop that takes orders, and a hook that holds the run where its code will have changed."""

    def __init__(self) -> None:
        self.orders: list[str] = []
        self.began = asyncio.Event()

    async def hold(self) -> None:
        self.began.set()
        await asyncio.Event().wait()


def buyer(shop: Shop, approved: list[str], ordered: list[str], *, is_edited: bool = False) -> type[Agent]:
    class Buyer(Agent):
        agent_id = "buyer"
        capabilities = (Capability("buying"),)
        prompt_text = "x"

        async def run(self, run: Run) -> str:
            async def nothing() -> None: ...

            calls = [f'{{"tea": "{tea}"}}' for tea in approved]
            await run.gather(*(approve_framework_call(run, ORDER, call) for call in calls))
            for tea in ordered:
                await self.order(run, tea)
            await run.step("look" if is_edited else "note", nothing)
            if not is_edited:
                await run.step("hold", shop.hold)
            return "done"

        async def order(self, run: Run, tea: str) -> None:
            async def order() -> str:
                shop.orders.append(tea)
                return "ordered"

            await run_framework_call(run, "order", f'{{"tea": "{tea}"}}', order, repeatable=True)

    return Buyer


async def approve_all(mesh: Mesh, changes: Mapping[str, str] = MappingProxyType({})) -> None:
    """Approve what is asked, with another tea where `changes` name one."""
    async for waiting in mesh.log.tail(EventFilter(event_type="task.waiting", after_seq=0)):
        assert waiting.task_id is not None
        key = waiting.payload["key"]
        if key not in await _answered(mesh):
            changed = changes.get(waiting.payload["subject"]["arguments"]["tea"])
            arguments = {} if changed is None else {"arguments": {"tea": changed}}
            await mesh.get(Tasks).answer(waiting.task_id, key, {"approve": True, **arguments})


async def _answered(mesh: Mesh) -> set[str]:
    events = await mesh.log.query(EventFilter(event_type="wait.ended"))
    return {event.payload["key"] for event in events}


@pytest.mark.parametrize(
    ("approved", "ordered", "asked"),
    [
        (["assam"], ["assam"], 2),
        (["assam"], [], 1),
        (["assam", "assam"], ["assam"], 3),
        (["assam", "oolong"], ["oolong"], 3),
    ],
)
async def test_a_yes_whose_call_was_made_is_not_used_again(
    tmp_path: Path, approved: list[str], ordered: list[str], asked: int
) -> None:
    """The new attempt asks for each call that was made, and keeps each yes to one that was not."""
    shop = Shop()
    async with kept(tmp_path, buyer(shop, approved, ordered)) as mesh, asyncio.TaskGroup() as group:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="buyer"))
        approving = group.create_task(approve_all(mesh))
        await shop.began.wait()
        approving.cancel()
    async with (
        kept(tmp_path, buyer(shop, approved, ordered, is_edited=True)) as mesh,
        asyncio.TaskGroup() as group,
    ):
        approving = group.create_task(approve_all(mesh))
        assert (await mesh.get(Tasks).outcome(receipt.task_id)).text == "done"
        approving.cancel()
        requests = await mesh.log.query(EventFilter(event_type="approval.requested"))
    assert len(requests) == asked
    assert shop.orders == ordered * 2


@pytest.mark.parametrize(
    ("approved", "changes", "ordered", "asked"),
    [
        (["assam"], {"assam": "oolong"}, ["oolong"], 2),
        (["assam"], {"assam": "oolong"}, [], 1),
        (["assam", "assam"], {"assam": "oolong"}, ["oolong"], 3),
        (["assam", "oolong"], {"assam": "oolong"}, ["oolong", "oolong"], 4),
        (["assam", "oolong"], {"assam": "oolong", "oolong": "assam"}, ["assam"], 3),
    ],
)
async def test_a_yes_with_changed_arguments_is_spent_by_the_call_that_it_made(
    tmp_path: Path, approved: list[str], changes: dict[str, str], ordered: list[str], asked: int
) -> None:
    shop = Shop()
    async with kept(tmp_path, buyer(shop, approved, ordered)) as mesh, asyncio.TaskGroup() as group:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="buyer"))
        approving = group.create_task(approve_all(mesh, changes))
        await shop.began.wait()
        approving.cancel()
    async with (
        kept(tmp_path, buyer(shop, approved, ordered, is_edited=True)) as mesh,
        asyncio.TaskGroup() as group,
    ):
        approving = group.create_task(approve_all(mesh, changes))
        assert (await mesh.get(Tasks).outcome(receipt.task_id)).text == "done"
        approving.cancel()
        requests = await mesh.log.query(EventFilter(event_type="approval.requested"))
    assert len(requests) == asked
    assert shop.orders == ordered * 2
