"""cost-tracker: its figures are those of the ledger and of the task's tenant, whatever a model writes."""

from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Outcome, Run
from meshwright.agents.loader import load_agents
from meshwright.core.messages import Caller, TaskRequest
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.allowances import Allowances
from meshwright.testing import ManualClock, MeshUnderTest, ScriptedModel, mesh_for, tool_call
from meshwright.testing.mesh import Reply
from tests.support.task_costs import reply

ROOT = Path(__file__).parents[3]
DAYS = 0.001
PERIOD_SECONDS = DAYS * 86_400
BUDGETS = [{"name": "all", "scope": "mesh", "limit_usd": "1", "window": "day"}]
LEDGER = {"budgets": BUDGETS, "default_price": {"input": "1", "output": "1"}}


class Worker(Agent):
    """Makes one call of a model for each task."""

    agent_id = "worker"
    capabilities = (Capability("working"),)
    prompt_text = "Work."
    remembers = False

    async def run(self, run: Run) -> str:
        return await run.ask("Go on.")


@pytest.fixture(scope="module")
def tracker() -> type[Agent]:
    return next(agent for agent in load_agents(ROOT / "actors") if agent.agent_id == "cost-tracker")


def running(tracker: type[Agent], **settings: Any) -> Any:
    return mesh_for(Worker, tracker, project=ROOT, clock=ManualClock(), **settings)


async def asked(mesh: MeshUnderTest, *replies: Reply, tenant: str = "default", **task: Any) -> Outcome:
    """The outcome of a task, to whose agent a model gives these replies."""
    assert isinstance(mesh.model, ScriptedModel)
    mesh.model.replies(*replies, to=task.get("agent_id", "cost-tracker"))
    payload = {"text": "Go on."} if "agent_id" in task else {"days": DAYS}
    request = TaskRequest(**{"payload": payload, **task})
    receipt = await mesh.mesh.get(Tasks).submit(request, Caller(tenant_id=tenant))
    return await mesh.mesh.get(Tasks).outcome(receipt.task_id, tenant)


async def spend(mesh: MeshUnderTest, *costs: str | None, tenant: str = "default") -> None:
    for cost in costs:
        outcome = await asked(mesh, reply(cost), tenant=tenant, agent_id="worker")
        assert outcome.success, outcome.error
    await mesh.advance(1)  # a period ends before the task that looks at it


async def report(mesh: MeshUnderTest, *lead: Reply, capability: str = "cost-reporting", **task: Any) -> str:
    outcome = await asked(mesh, *lead, capability=capability, **task)
    return outcome.text or str(outcome.error)


async def test_figures_are_those_of_the_ledger_and_of_the_tenant(tracker: type[Agent]) -> None:
    async with running(tracker) as mesh:
        await spend(mesh, "0.10", "0.20", None)
        await spend(mesh, "7.00", tenant="acme")
        text = await report(mesh, "worker spent $0.3000 for 3 calls.")
    lead, _, body = text.partition("\n\n")
    assert lead == "worker spent $0.3000 for 3 calls."
    assert body.splitlines() == [
        "Costs in 2025-12-31 23:58 to 2026-01-01 00:00 UTC: $0.3000 for 3 calls",
        "",
        "By agent:",
        "  worker: $0.3000, 100.0%, 3 calls",
        "",
        "By model:",
        "  big: $0.3000, 100.0%, 3 calls",
        "",
        "Unusual:",
        "  the cost of 1 call is not known, and in no figure",
    ]


@pytest.mark.parametrize("lead", ["worker spent $4.50.", "All is well.", "worker saved 99% of 3 calls."])
async def test_words_with_a_figure_that_is_in_no_report_are_left_out(tracker: type[Agent], lead: str) -> None:
    async with running(tracker) as mesh:
        await spend(mesh, "0.10", "0.20")
        assert (await report(mesh, lead)).startswith("Costs in ")


async def test_agent_far_over_its_own_average_is_an_alert_and_a_usual_period_asks_no_model(
    tracker: type[Agent],
) -> None:
    async with running(tracker) as mesh:
        for cost in ("0.10", "0.10", "0.10", "0.10", "0.12"):
            await mesh.advance(PERIOD_SECONDS - 1)
            await spend(mesh, cost)
        quiet = await report(mesh, capability="spend-alerting")
        await mesh.advance(PERIOD_SECONDS - 1)
        await spend(mesh, "0.40")
        alert = await report(mesh, "worker is 3.8 times its average.", capability="spend-alerting")
    assert quiet.startswith("Nothing unusual in ")
    assert "  worker: $0.4000, 3.8 times its average" in alert.splitlines()


async def test_budget_that_is_used_up_is_an_alert_and_leaves_the_report_without_words(
    tracker: type[Agent],
) -> None:
    async with running(tracker, ledger=LEDGER) as mesh:
        await spend(mesh, "0.40")
        assert "Nothing unusual in" in await report(mesh, capability="spend-alerting")
        await spend(mesh, "0.40")
        alert = await report(mesh, capability="spend-alerting")
    assert alert.startswith("Costs in ") and "  budget all (mesh, day): $0.8000 of $1.0000 used" in alert


async def test_period_without_costs_asks_no_model(tracker: type[Agent]) -> None:
    async with running(tracker) as mesh:
        assert (await report(mesh)).endswith("$0.0000 for 0 calls\n\nNothing unusual.")


@pytest.mark.parametrize("days", [0, -1, 1e6, "week", True])
async def test_days_that_make_no_sense_are_refused(tracker: type[Agent], days: object) -> None:
    async with running(tracker) as mesh:
        assert "Give more than 0, at most 93" in await report(mesh, payload={"days": days})


@pytest.mark.parametrize("approve", [True, False])
async def test_question_is_answered_with_tools_and_an_allowance_is_set_if_a_person_agrees(
    tracker: type[Agent], approve: bool
) -> None:
    async with running(tracker) as mesh:
        await spend(mesh, "0.25")
        allowance = tool_call("set_allowance", whose="worker", amount="5/day")
        mesh.model.replies(tool_call("spend", by="mood"), tool_call("spend"), allowance, "That is all.")
        question = {"text": "Is worker dear? Allow it 5 a day."}
        receipt = await mesh.submit(capability="usage-analysis", payload=question)
        [approval] = await mesh.questions()
        assert approval.subject["effect"]["amount"] == "5/day"
        assert await mesh.mesh.get(Allowances).items() == ()
        await mesh.answer(approval, {"approve": approve, "reason": "too much"})
        outcome = await mesh.outcome(receipt.task_id)
        assert (outcome.text, outcome.changed) == ("That is all.", approve)
        assert len(await mesh.mesh.get(Allowances).items()) == approve
        results = [message.content for message in mesh.model.requests[-1].messages if message.role == "tool"]
    assert "error" in results[0] and '"0.25"' in results[1] and ("too much" in results[2]) != approve
