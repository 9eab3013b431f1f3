"""The tools for money: exact figures of the task's tenant, and allowances that a person approves."""

import json
from decimal import Decimal
from typing import Any

import pytest

from meshwright import Agent, Capability, Run
from meshwright.core.messages import Caller, TaskRequest
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.inbox import Inbox
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.allowances import Allowances
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for, tool_call
from meshwright.testing.mesh import Reply
from meshwright.toolsets.money import MoneyReadTools, MoneyTools
from tests.money.unit.test_keys import MASTER, FakeProxy
from tests.support.task_costs import reply


class Worker(Agent):
    """Makes one call of a model for each task."""

    agent_id = "worker"
    capabilities = (Capability("working"),)
    prompt_text = "Work."
    remembers = False

    async def run(self, run: Run) -> str:
        return await run.ask("Go on.")


class Treasurer(Agent):
    """Answers with figures."""

    agent_id = "treasurer"
    capabilities = (Capability("reporting"),)
    toolsets = (MoneyTools,)
    prompt_text = "Report."
    remembers = False
    reads_log = True


async def work(mesh: MeshUnderTest, tenant_id: str, *costs: str | None) -> None:
    for cost in costs:
        mesh_model(mesh).replies(reply(cost), to="worker")
        await done(mesh, "worker", tenant_id)


async def done(mesh: MeshUnderTest, agent_id: str, tenant_id: str) -> str:
    tasks, caller = mesh.mesh.get(Tasks), Caller(tenant_id=tenant_id)
    receipt = await tasks.submit(TaskRequest(agent_id=agent_id, payload={"text": "Go on."}), caller)
    outcome = await tasks.outcome(receipt.task_id, tenant_id)
    assert outcome.success, outcome.error
    return outcome.text or ""


def mesh_model(mesh: MeshUnderTest) -> ScriptedModel:
    assert isinstance(mesh.model, ScriptedModel)
    return mesh.model


async def results(mesh: MeshUnderTest, tenant_id: str, *calls: Reply) -> list[Any]:
    """The answers of tools to a treasurer of a tenant."""
    mesh_model(mesh).replies(*calls, "Reported.", to="treasurer")
    await done(mesh, "treasurer", tenant_id)
    messages = mesh_model(mesh).requests[-1].messages
    return [read(message.content) for message in messages if message.role == "tool"]


def read(content: Any) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content


async def test_figures_are_exact_and_those_of_the_tasks_tenant_alone() -> None:
    async with mesh_for(Worker, Treasurer) as mesh:
        await work(mesh, "default", "0.10", "0.20", None)
        await work(mesh, "acme", "7.00")
        asked = (
            tool_call("spend", by="agent"),
            tool_call("tasks_by_cost", limit=1),
            tool_call("estimate", agent="worker"),
            tool_call("spend", by="tenant", bucket="day"),
        )
        by_agent, tasks, estimate, by_tenant = await results(mesh, "default", *asked)
        [theirs] = await results(mesh, "acme", tool_call("spend", by="tenant"))
    worker = next(item for item in by_agent["items"] if item["key"] == "worker")
    assert (worker["cost_usd"], worker["calls"], worker["unpriced"]) == ("0.3", 3, 1)
    assert (worker["share"], by_agent["total"]["cost_usd"]) == ("100.0%", "0.3")
    assert [item["cost_usd"] for item in tasks["items"]] == ["0.2"]
    assert (tasks["items"][0]["share"], tasks["omitted"]) == ("66.7%", 3)  # two other tasks, and this one
    assert (estimate["tasks"], estimate["unknown"], estimate["median_usd"]) == (2, 1, "0.10")
    assert [item["key"] for item in by_tenant["items"]] == ["default"]
    assert [(item["key"], item["cost_usd"]) for item in theirs["items"]] == [("acme", "7")]


async def test_budgets_say_how_much_of_them_is_used() -> None:
    budgets = [{"name": "all", "scope": "mesh", "limit_usd": "2", "window": "day"}]
    ledger = {"budgets": budgets, "default_price": {"input": "1", "output": "1"}}
    async with mesh_for(Worker, Treasurer, ledger=ledger) as mesh:
        await work(mesh, "default", "0.50")
        [[found]] = await results(mesh, "default", tool_call("budgets"))
    assert (found["budget"], found["spent_usd"], found["share"]) == ("all", "0.50", "25.0%")


async def test_budgets_of_the_mesh_are_not_shown_to_other_tenants() -> None:
    budgets = [
        {"name": "all", "scope": "mesh", "limit_usd": "9"},
        {"name": "each", "scope": "tenant", "limit_usd": "5"},
        {"name": "workers", "scope": "agent", "limit_usd": "7"},
    ]
    ledger = {"budgets": budgets, "default_price": {"input": "1", "output": "1"}}
    async with mesh_for(Worker, Treasurer, ledger=ledger) as mesh:
        await work(mesh, "default", "0.50")
        await work(mesh, "acme", "0.25")
        [ours] = await results(mesh, "default", tool_call("budgets"))
        [theirs] = await results(mesh, "acme", tool_call("budgets"))
    assert {"all", "each", "workers"} == {budget["budget"] for budget in ours}
    assert {budget["key"] for budget in ours if budget["budget"] == "each"} == {"default"}
    assert [(budget["budget"], budget["key"], budget["spent_usd"]) for budget in theirs] == [
        ("each", "acme", "0.25")
    ]


@pytest.mark.parametrize("call", [{"by": "mood"}, {"since": "yesterday"}, {"until": "x" * 41}])
async def test_wrong_question_is_answered_with_what_is_right(call: dict[str, str]) -> None:
    async with mesh_for(Treasurer) as mesh:
        [result] = await results(mesh, "default", tool_call("spend", **call))
    assert result.keys() == {"error"}


@pytest.mark.parametrize("approve", [True, False])
async def test_allowance_is_set_for_the_tasks_tenant_once_a_person_approves(approve: bool) -> None:
    model = ScriptedModel(tool_call("set_allowance", whose="worker", amount="5/day"), "Done.")
    async with mesh_for(Worker, Treasurer, model=model) as mesh:
        tasks, caller = mesh.mesh.get(Tasks), Caller(tenant_id="acme", requested_by="ann")
        request = TaskRequest(agent_id="treasurer", payload={"text": "Allow it."})
        asked = mesh.events("task.waiting")
        receipt = await tasks.submit(request, caller)
        while not (asked := mesh.events("task.waiting")):
            await next_event(mesh)
        assert await mesh.mesh.get(Allowances).items() == ()
        [question] = (await mesh.mesh.get(Inbox).page("acme")).items
        assert question.subject["effect"] == {
            "allows": "worker",
            "amount": "5/day",
            "on_empty": "fail",
            "now": [],
        }
        wait_id = (await tasks.task(receipt.task_id, "acme")).waits[0].wait_id
        boss = Caller(tenant_id="acme", requested_by="bob")
        await tasks.answer(asked[0].task_id or "", wait_id, {"approve": approve}, boss)
        await tasks.outcome(receipt.task_id, "acme")
        set_now = await mesh.mesh.get(Allowances).items()
        recorded = await mesh.mesh.log.query(EventFilter(event_type="audit.recorded"))
    assert [(budget.of, budget.limit_usd, budget.tenant_id) for budget in set_now] == (
        [("worker", Decimal(5), "acme")] if approve else []
    )
    actions = [(event.fields["action"], event.fields["caller"]["requested_by"]) for event in recorded]
    assert (("allowance.set", "treasurer") in actions) is approve


async def next_event(mesh: MeshUnderTest) -> None:
    import asyncio

    news = asyncio.Event()
    stop = mesh.mesh.runtime.listen("#", lambda event: news.set())
    try:
        async with asyncio.timeout(240):
            await news.wait()
    finally:
        stop()


async def test_spend_of_a_proxy_is_shown_to_the_tenant_that_the_settings_name() -> None:
    proxy = FakeProxy()
    async with proxy.running() as url:
        models = {"base_url": f"{url}/v1", "api_key": MASTER}
        tools = {"money": {"litellm_tenant": "acme"}}
        async with mesh_for(Treasurer, models=models, tools=tools) as mesh:
            [theirs] = await results(mesh, "acme", tool_call("litellm_spend"))
            [refused] = await results(mesh, "default", tool_call("litellm_spend"))
    assert theirs == {"research": "0.0000084", "cheap": "0.1"}
    assert "may not be read for this tenant" in refused["error"]
    assert [path for path, _ in proxy.asked] == ["GET /spend/tags"]


async def test_tools_that_need_a_setting_or_change_something_are_offered_only_where_they_belong() -> None:
    async with mesh_for(Treasurer) as mesh:
        await results(mesh, "default")
        offered = {spec.name for spec in mesh_model(mesh).requests[-1].tools}
    assert offered == {"spend", "tasks_by_cost", "budgets", "estimate", "prices", "set_allowance"}
    assert "set_allowance" not in vars(MoneyReadTools)
