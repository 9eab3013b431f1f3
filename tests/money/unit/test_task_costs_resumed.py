"""A task that is taken up again pays once for what was called before, and for what comes after."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, TaskRequest
from meshwright.agents.run.run import Run
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ToolCall
from meshwright.money.budgets import Budgets
from meshwright.money.charging import AccountClient
from meshwright.money.spending import Spending
from meshwright.testing import ScriptedModel
from tests.support.interrupted_mesh import keeper, kept
from tests.support.task_costs import ROOMY, asks, ledger_of, remember, reply

_BUDGET = {"budgets": [{"name": "all", "limit_usd": "10"}], "default_price": {"input": 1, "output": 1}}


async def begun(folder: Path, model: ScriptedModel, remembers: bool = False) -> str:
    """A task whose mesh was stopped in the middle of a tool."""
    agent = keeper()
    async with kept(folder, agent, model=model, context=ROOMY) as mesh:
        if remembers:
            await remember(mesh)
        request = TaskRequest(agent_id="keeper", payload={"text": "Do it, with the event log."})
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        await agent.began.wait()
    return task_id


async def test_calls_that_a_resumed_run_does_not_come_to_again_count_too(tmp_path: Path) -> None:
    async def runs_away(self: Agent, run: Run) -> str:
        await run._prepare()
        raise ValueError("another step")

    task_id = await begun(tmp_path, ScriptedModel(asks("0.25")))
    async with kept(tmp_path, keeper(run=runs_away), model=ScriptedModel()) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
        assert (outcome.status, outcome.cost_usd) == ("failed", Decimal("0.25"))
        await ledger_of(mesh, outcome)


async def test_an_attempt_that_begins_anew_after_a_crash_adds_to_the_one_before(tmp_path: Path) -> None:
    tried: list[str] = []

    async def other_road(self: Agent, run: Run) -> str:
        tried.append(run.task.text)
        if len(tried) == 1:
            await run.step("another step", asyncio.Event().wait)
        return await run.converse()

    task_id = await begun(tmp_path, ScriptedModel(asks("0.25")))
    async with kept(tmp_path, keeper(opened=True, run=other_road), model=ScriptedModel(reply("0.5"))) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
        assert (outcome.status, outcome.attempt, outcome.cost_usd) == ("succeeded", 2, Decimal("0.75"))
        await ledger_of(mesh, outcome)


async def test_a_task_that_is_taken_up_again_books_what_was_reserved_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = keeper()
    with monkeypatch.context() as patch:  # as where its process is killed
        patch.setattr(AccountClient, "settle", lambda client, settled: None)
        async with kept(tmp_path, agent, model=ScriptedModel(asks("0.25")), ledger=_BUDGET) as mesh:
            task_id = (
                await mesh.get(Tasks).submit(TaskRequest(agent_id="keeper", payload={"text": "Do it."}))
            ).task_id
            await agent.began.wait()
            [view] = await mesh.get(Spending).budget_views()
            assert view.reserved_usd > 0
    async with kept(tmp_path, keeper(opened=True), model=ScriptedModel(reply("0.5")), ledger=_BUDGET) as mesh:
        await mesh.get(Tasks).outcome(task_id)
        await mesh.get(Budgets).settled()
        [view] = await mesh.get(Spending).budget_views()
        assert (view.spent_usd, view.reserved_usd, view.estimated_usd) == (Decimal("0.75"), 0, 0)


@pytest.mark.parametrize("budgets", [{}, {"ledger": _BUDGET}], ids=["no budget", "a budget"])
async def test_a_kill_during_tools_adds_no_call_of_a_model(tmp_path: Path, budgets: dict[str, Any]) -> None:
    three = tuple(ToolCall(id=f"c{n}", name="hold", arguments="{}") for n in range(3))
    agent = keeper()
    async with kept(
        tmp_path, agent, model=ScriptedModel(reply("0.25", "", tool_calls=three)), **budgets
    ) as mesh:
        request = TaskRequest(agent_id="keeper", payload={"text": "Do it thrice."})
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        await agent.began.wait()
    async with kept(tmp_path, keeper(opened=True), model=ScriptedModel(reply("0.5")), **budgets) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
        assert (outcome.status, outcome.cost_usd) == ("succeeded", Decimal("0.75"))
        assert (await ledger_of(mesh, outcome)).calls == 2
