"""Whichever path tasks take, their outcomes cost what the ledger says, and together all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meshwright import Agent, Capability, TaskRequest
from meshwright.agents.run.run import Run
from meshwright.core.errors import ModelError
from meshwright.core.money import Price
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ContentRefused, ModelRefused, RateLimited
from meshwright.models.port import ModelReply, ModelRequest, OnDelta
from meshwright.money.costs import CostQuery
from meshwright.money.spending import Spending
from tests.support.interrupted_mesh import kept
from tests.support.task_costs import PRICE, check_ledger, reply


class Roadside:
    """A model that does what the last message says: answers at a cost, fails, or never ends.

    It `stops` until the mesh is stopped, and answers when it is asked again.
    """

    name = "pathside"

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.hangs = asyncio.Event()
        self.stops = asyncio.Event()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        said = request.messages[-1].content
        move, first = said.split()[0], said not in self.asked
        self.asked.add(said)
        if request.user == "context-service" or move == "refused":
            raise ModelRefused("no")
        if move == "forbidden":
            raise ContentRefused("no")
        if move == "flaky" and first:
            raise RateLimited("wait")
        if move == "stop" and first:
            self.stops.set()
            await asyncio.Event().wait()
        if move == "hang":
            self.hangs.set()
            await asyncio.Event().wait()
        return reply("0.03" if move == "reported" else None, attempts=2)

    async def close(self) -> None: ...


class Walker(Agent):
    """Goes down a path; the mesh is stopped at each `restart` that it has not `passed` yet."""

    agent_id = "walker"
    capabilities = (Capability("walking", preferred=True),)
    delegates_to = ("other",)
    path: tuple[str, ...] = ()
    passed: int
    stops: asyncio.Event

    async def run(self, run: Run) -> str:
        for n, move in enumerate(self.path):
            match move.split():
                case ["delegate", what]:
                    await run.delegate("other", f"{what} {n}")
                case ["nested", what]:
                    await run.step("tool", partial(run.ask, f"{what} {n}"))
                case ["restart"]:
                    await run.step("restart", partial(self.restart, self.path[:n].count("restart")))
                case ["repeat"]:
                    await run.ask("priced as before")
                case ["caught", what]:
                    with suppress(ModelError):
                        await run.ask(f"{what} {n}")
                case _:
                    await run.ask(f"{move} {n}")
        return "arrived"

    async def restart(self, place: int) -> None:
        if place >= self.passed:
            self.stops.set()
            await asyncio.Event().wait()


class Follower(Agent):
    """Does what it is told, and what the walker could not."""

    agent_id = "other"
    capabilities = (Capability("walking"),)

    async def run(self, run: Run) -> str:
        asked = "reported" if run.task.text == "Walk." else run.task.text
        return await run.ask(asked)


MOVES = """
reported; priced; repeat; flaky; refused; forbidden; hang; restart; nested reported; nested priced;
caught refused; caught forbidden; caught reported; stop; nested stop;
delegate reported; delegate refused; delegate hang; delegate stop
"""
PATHS = st.lists(st.sampled_from([move.strip() for move in MOVES.split(";")]), min_size=1, max_size=6)


@pytest.mark.far("Hypothesis tries tens of meshes")
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(path=PATHS.map(tuple), price=st.sampled_from([PRICE, None]))
@example(path=("repeat", "nested reported", "restart", "repeat", "delegate hang"), price=PRICE)
@example(path=("reported", "restart", "delegate reported", "forbidden"), price=PRICE)
@example(path=("reported", "delegate reported", "hang"), price=PRICE)
@example(path=("nested reported", "restart", "reported"), price=PRICE)
@example(path=("reported", "stop", "delegate stop", "nested stop", "priced"), price=PRICE)
@example(path=("caught forbidden", "delegate reported", "restart", "reported"), price=PRICE)
def test_whichever_road_tasks_take_their_outcomes_cost_what_the_ledger_says(
    path: tuple[str, ...], price: Price | None
) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(walk(Path(folder), path, price))


async def walk(folder: Path, path: tuple[str, ...], price: Price | None) -> None:
    """Go down a path to its end; what never ends is cancelled."""
    model, task_id, passed = Roadside(), None, 0
    while True:
        stops = asyncio.Event()
        walker = type("TestWalker", (Walker,), {"path": path, "passed": passed, "stops": stops})
        async with kept(folder, walker, Follower, model=model, default_price=price, cache="memory") as mesh:
            if task_id is None:
                request = TaskRequest(capability="walking", payload={"text": "Walk."})
                task_id = (await mesh.get(Tasks).submit(request)).task_id
            await first_of(
                mesh.get(Tasks).outcome(task_id), stops.wait(), model.stops.wait(), model.hangs.wait()
            )
            if stops.is_set() or model.stops.is_set():
                passed += stops.is_set()
                model.stops.clear()
                continue
            if model.hangs.is_set():
                await mesh.get(Tasks).cancel(task_id)
            await mesh.get(Tasks).outcome(task_id)
            return await check_all(mesh)


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def check_all(mesh: Mesh) -> None:
    """Each task's outcome is what the ledger says, and the uppermost is all of it."""
    tasks = (await mesh.log.tasks(tenant_id="default")).items
    outcomes = [await mesh.get(Tasks).outcome(each.task_id) for each in tasks]
    found = await mesh.get(Spending).costs(CostQuery("default", "task"))
    for outcome in outcomes:
        await check_ledger(mesh, outcome)
    if not found.total.unpriced:
        [whole] = [each for each in tasks if each.parent_task_id is None]
        assert (whole.cost_usd or 0) == (found.total.cost_usd or 0)
    [tree] = (await mesh.get(Spending).costs(CostQuery("default", "tree"))).items or [found.total]
    assert tree.calls == found.total.calls
