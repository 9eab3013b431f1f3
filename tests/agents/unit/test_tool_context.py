"""The run as its tools see it: the id of a call, people, files, progress, and money that a tool spends."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshwright import Agent, Capability, File, Limits, TaskRequest, ToolContext, tool
from meshwright.agents.run.run import Run
from meshwright.core.money import Budget, Price
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.budgets import Budgets
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import kept
from tests.support.lookup_agent import tool_answers
from tests.support.task_costs import ledger_of

SEARCH = tool_call("search", query="fences")


class Searcher(Agent):
    """Searches with a service that costs money."""

    agent_id = "searcher"
    capabilities = (Capability("searching"),)
    searched: ClassVar[list[str]] = []
    ids: ClassVar[list[str]] = []
    began: ClassVar[asyncio.Event]
    opened: ClassVar[asyncio.Event]

    @tool(idempotent=True, effect="read")
    async def search(self, query: str, context: ToolContext) -> str:
        """Search for something."""
        await context.charge(Decimal("0.5"), "web-search")
        self.searched.append(query)
        return "found"

    @tool(idempotent=True)
    async def hold(self, context: ToolContext) -> str:
        """Wait for the test."""
        await context.charge(Decimal("0.25"), "hold")
        self.ids.append(context.step_id)
        self.began.set()
        await self.opened.wait()
        return "held"

    @tool(idempotent=True)
    async def consult(self, context: ToolContext) -> str:
        """Ask a person, and say so in a file."""
        await context.progress("asks")
        name = await context.ask_person("What is it called?")
        await context.attach(File(name="name.txt", data=name.encode()))
        return name

    @tool(effect="read")
    async def overcharge(self, what: str, context: ToolContext) -> str:
        """Charge wrongly."""
        await context.charge(Decimal(-1) if what == "minus" else Decimal(1), what)
        return "charged"


class Modest(Searcher):
    """May spend little."""

    agent_id = "modest"
    limits = Limits(max_usd=Decimal("0.9"))


class Stepless(Agent):
    """Asks for the id of a step outside of one."""

    agent_id = "stepless"
    capabilities = (Capability("asking"),)

    async def run(self, run: Run) -> str:
        return run.step_id


@pytest.fixture(autouse=True)
def searcher() -> None:
    Searcher.searched, Searcher.ids = [], []
    Searcher.began, Searcher.opened = asyncio.Event(), asyncio.Event()


def costs(budget: Budget) -> dict[str, Any]:
    return {"ledger": {"budgets": [budget], "default_price": Price(input=Decimal(0), output=Decimal(0))}}


async def test_money_of_a_tool_is_in_outcome_ledger_and_budget() -> None:
    budget = Budget(name="all", scope="mesh", limit_usd=Decimal(1))
    async with mesh_for(Searcher, model=ScriptedModel(SEARCH, "Done."), **costs(budget)) as mesh:
        outcome = await mesh.ask("searcher", "What is a fence?")
        assert (outcome.cost_usd, outcome.model) == (Decimal("0.5"), "scripted")
        await ledger_of(mesh.mesh, outcome)
        [called] = [event for event in mesh.events("model.called").payloads if event["model"] != "scripted"]
        assert (called["model"], called["cost_usd"], called["user"]) == ("tool:web-search", "0.5", "searcher")
        [view] = await mesh.mesh.get(Budgets).views([])
        assert (view.spent_usd, view.reserved_usd) == (Decimal("0.5"), Decimal(0))


async def test_a_tool_spends_nothing_that_a_budget_has_no_room_for() -> None:
    budget = Budget(name="all", scope="mesh", limit_usd=Decimal("0.6"))
    model = ScriptedModel(SEARCH, SEARCH, "Done.")
    async with mesh_for(Searcher, model=model, **costs(budget)) as mesh:
        outcome = await mesh.ask("searcher", "What is a fence?")
    assert outcome.cost_usd == Decimal("0.5") and Searcher.searched == ["fences"]
    assert "Budget all of the mesh exceeded: $0.50 of $0.60 spent" in tool_answers(model)[1]


async def test_money_of_a_tool_counts_for_the_limit_of_a_run() -> None:
    model = ScriptedModel(SEARCH, SEARCH, "Done.")
    async with mesh_for(Modest, model=model) as mesh:
        outcome = await mesh.ask("modest", "What is a fence?")
    assert outcome.cost_usd == Decimal("0.5") and Searcher.searched == ["fences"]
    assert "the run would exceed max_usd ($0.9)" in tool_answers(model)[1]


@pytest.mark.parametrize("what", ["minus", "two words", ""])
async def test_a_charge_that_cannot_be_booked_is_a_fault_of_the_tool(what: str) -> None:
    model = ScriptedModel(tool_call("overcharge", what=what))
    async with mesh_for(Searcher, model=model) as mesh:
        outcome = await mesh.outcome((await mesh.submit(agent_id="searcher")).task_id)
    assert outcome.error is not None and "charge(Decimal(" in outcome.error.message


async def test_a_call_that_is_run_again_has_its_id_and_is_charged_once(tmp_path: Path) -> None:
    request = TaskRequest(agent_id="searcher", payload={"text": "Do it."})
    first = ScriptedModel([SEARCH, tool_call("hold")])
    async with kept(tmp_path, Searcher, model=first) as mesh:
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        await Searcher.began.wait()
    Searcher.opened.set()
    async with kept(tmp_path, Searcher, model=ScriptedModel(tool_call("hold"), "Done.")) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
        await ledger_of(mesh, outcome)
    before, again, other = Searcher.ids
    assert before == again != other
    assert (outcome.cost_usd, Searcher.searched) == (Decimal("1.0"), ["fences"])  # of two calls of `hold`


async def test_a_tool_asks_a_person_and_attaches_a_file() -> None:
    async with mesh_for(Searcher, model=ScriptedModel(tool_call("consult"), "Done.")) as mesh:
        task_id = (await mesh.submit(agent_id="searcher", payload={"text": "Ask."})).task_id
        [question] = await mesh.questions()
        await mesh.answer(question, "Iris")
        outcome = await mesh.outcome(task_id)
        assert [event["text"] for event in mesh.events("run.progress").payloads] == ["asks"]
    assert [file.name for file in outcome.files] == ["name.txt"] and tool_answers_of(mesh) == ["Iris"]


def tool_answers_of(mesh: MeshUnderTest) -> Any:
    assert isinstance(mesh.model, ScriptedModel)
    return tool_answers(mesh.model)


async def test_there_is_no_id_of_a_step_outside_of_one() -> None:
    async with mesh_for(Stepless) as mesh:
        outcome = await mesh.outcome((await mesh.submit(agent_id="stepless")).task_id)
    assert outcome.error is not None and "outside of a step" in outcome.error.message
