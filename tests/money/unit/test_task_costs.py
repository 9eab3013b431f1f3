"""A task's outcome costs what the ledger says of its calls, of all its attempts."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from decimal import Decimal

import pytest

from meshwright import Agent, Capability
from meshwright.agents.run.run import Run
from meshwright.core.errors import DelegationFailed
from meshwright.core.money import Price
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.work import AgentThread, Cancel, Claim
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ModelRefused, ModelTimeout
from meshwright.models.port import Adapter, Model, ModelReply, ModelRequest, OnDelta
from meshwright.money.costs import CostQuery
from meshwright.money.spending import Spending
from meshwright.testing import ManualClock, ScriptedModel, mesh_for
from meshwright.testing.mesh import ScriptEnded
from tests.support.interrupted_mesh import keeper
from tests.support.task_costs import HOLD, PRICE, ROOMY, Other, asks, ledger_of, remember, reply
from tests.support.turn_driver import Driven, a_dispatch, a_task


class Hanging(ScriptedModel):
    """Says what its script has for whom it is called by, and then never ends."""

    def __init__(self, *replies: ModelReply) -> None:
        super().__init__(*replies)
        self.hangs = asyncio.Event()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        try:
            return await super().complete(request)
        except ScriptEnded:
            self.ended = None
        self.hangs.set()
        await asyncio.Event().wait()
        raise AssertionError("it never ends")


# Attempts


async def test_a_task_costs_what_all_its_attempts_have_cost() -> None:
    model = ScriptedModel(asks("0.25"), ModelRefused("no"), reply("0.5"))
    async with mesh_for(keeper(opened=True), Other, model=model) as mesh:
        receipt = await mesh.submit(capability="keeping", payload={"text": "Do it."})
        outcome = await mesh.outcome(receipt.task_id)
        assert (outcome.agent_id, outcome.attempt, outcome.cost_usd) == ("other", 2, Decimal("0.75"))
        await ledger_of(mesh.mesh, outcome)
        view = await mesh.mesh.get(Tasks).task(outcome.task_id)
        [listed] = (await mesh.mesh.log.tasks(tenant_id="default")).items
    assert [attempt.cost_usd for attempt in view.attempts] == [Decimal("0.25"), Decimal("0.5")]
    assert (listed.cost_usd, listed.usage.prompt_tokens) == (Decimal("0.75"), 200)


async def test_one_attempt_of_unknown_cost_makes_the_cost_of_its_task_unknown() -> None:
    model = ScriptedModel(reply(None, "", tool_calls=HOLD), ModelRefused("no"), reply("0.5"))
    async with mesh_for(keeper(opened=True), Other, model=model) as mesh:
        receipt = await mesh.submit(capability="keeping", payload={"text": "Do it."})
        outcome = await mesh.outcome(receipt.task_id)
        assert (outcome.attempt, outcome.cost_usd) == (2, None)
        await ledger_of(mesh.mesh, outcome)


async def test_a_look_at_a_task_of_unknown_price_folds_no_events() -> None:
    async with mesh_for(Other, model=ScriptedModel(reply(None))) as mesh:
        outcome = await mesh.ask("other", "Do it.")
        view = await mesh.mesh.get(Tasks).task(outcome.task_id)
        read = "SELECT (SELECT max(position) FROM projection_positions), (SELECT seq FROM event_log)"
        [(folded, newest)] = await mesh.mesh.database.read(lambda session: session.execute(read).fetchall())
    assert view.outcome is not None
    assert (outcome.cost_usd, view.outcome.cost_usd) == (None, None)
    assert folded < newest


async def converses_and_hangs(self: Agent, run: Run) -> str:
    with suppress(ModelRefused):
        await run.converse()
    await asyncio.Event().wait()
    return "never"


@pytest.mark.parametrize("status", ["cancelled", "timed_out", "failed"])
async def test_a_task_that_did_not_succeed_has_cost_something_all_the_same(status: str) -> None:
    hangs = {"run": converses_and_hangs, "timeout": 0.3} if status == "timed_out" else {}
    agent = keeper(opened=status != "cancelled", **hangs)
    async with mesh_for(agent, model=ScriptedModel(asks("0.25"), ModelRefused("no"))) as mesh:
        receipt = await mesh.submit(agent_id="keeper", payload={"text": "Do it."})
        await agent.began.wait()
        if status == "cancelled":
            await mesh.mesh.get(Tasks).cancel(receipt.task_id)
        outcome = await mesh.outcome(receipt.task_id)
        assert (outcome.status, outcome.cost_usd) == (status, Decimal("0.25"))
        await ledger_of(mesh.mesh, outcome)


async def test_an_attempt_that_has_not_ended_by_the_deadline_costs_what_the_ledger_knows() -> None:
    agent, clock = keeper(), ManualClock()
    async with mesh_for(agent, model=ScriptedModel(asks("0.25")), clock=clock) as mesh:
        receipt = await mesh.submit(agent_id="keeper", payload={"text": "Do it."}, deadline=5)
        await agent.began.wait()
        await mesh.advance(6)
        outcome = await mesh.outcome(receipt.task_id)
        view = await mesh.mesh.get(Tasks).task(receipt.task_id)
    assert (outcome.status, outcome.cost_usd) == ("timed_out", Decimal("0.25"))
    assert view.outcome is not None and view.outcome.cost_usd == outcome.cost_usd


async def test_a_root_counts_a_descendant_that_timed_out() -> None:
    class Root(Agent):
        """Delegates, and answers by itself."""

        agent_id = "root"
        capabilities = (Capability("leading"),)
        delegates_to = ("keeper",)

        async def run(self, run: Run) -> str:
            with suppress(DelegationFailed):
                await run.delegate("keeper", "Do it.", deadline=5)
            return await run.ask("And you?")

    agent, clock = keeper(), ManualClock()
    model = ScriptedModel(asks("0.25"), reply("0.5"))
    async with mesh_for(Root, agent, model=model, clock=clock) as mesh:
        receipt = await mesh.submit(agent_id="root", payload={"text": "Lead."})
        await agent.began.wait()
        await mesh.advance(6)
        outcome = await mesh.outcome(receipt.task_id)
        view = await mesh.mesh.get(Tasks).task(receipt.task_id)
    assert (outcome.status, outcome.cost_usd) == ("succeeded", Decimal("0.75"))
    assert view.outcome is not None and view.outcome.cost_usd == outcome.cost_usd


def test_what_a_cancelled_task_cost_is_not_known_where_its_worker_is_gone() -> None:
    thread = Driven(ActorKind.from_class(AgentThread, type="helper"), "default:thread")
    thread.take("enqueue", a_dispatch(a_task("t1", thread_id="thread")))
    thread.take("claim", Claim(task_id="t1", owner="w1"))
    thread.take("cancel", Cancel(task_id="t1"))
    [ended] = thread.take("claim", Claim(task_id="t1", owner="w2", ended_owner="w1", is_settled=True)).events
    assert (ended.payload["status"], ended.payload["cost_usd"]) == ("cancelled", None)


# What else calls a model for a task


@pytest.mark.parametrize("answer", ["nonsense", ""])
async def test_a_task_pays_for_the_compression_of_its_context(answer: str) -> None:
    model = ScriptedModel(reply("0.5"))
    model.replies(reply("0.125", answer), to="context-service")
    async with mesh_for(keeper(), model=model, context=ROOMY) as mesh:
        await remember(mesh.mesh)
        outcome = await mesh.ask("keeper", "What is the event log?")
        assert outcome.cost_usd == Decimal("0.625")
        assert (await ledger_of(mesh.mesh, outcome)).calls == 2
        first, second = mesh.events("model.called").payloads
        by_agent = {
            item.key: item.cost_usd
            for item in (await mesh.mesh.get(Spending).costs(CostQuery("default"))).items
        }
    assert (first["user"], first["attempt"], first["step"]) == ("context-service", 1, 1)
    assert (second["user"], second["thread_id"]) == ("keeper", outcome.task_id)
    assert by_agent == {"keeper": Decimal("0.5"), "context-service": Decimal("0.125")}


async def test_a_task_pays_for_a_compression_that_timed_out() -> None:
    model = ScriptedModel(reply("0.5"))
    model.replies(*[ModelTimeout("no answer")] * 3, to="context-service")
    async with mesh_for(keeper(), model=model, ledger={"default_price": PRICE}, context=ROOMY) as mesh:
        await remember(mesh.mesh)
        outcome = await mesh.ask("keeper", "What is the event log?")
        cost = await ledger_of(mesh.mesh, outcome)
    assert (cost.calls, cost.failed) == (2, 1)
    assert (outcome.cost_usd or 0) > Decimal("0.5")


@pytest.mark.parametrize("price", [PRICE, None])
async def test_a_call_that_is_broken_off_is_a_row_and_its_task_pays_for_it(price: Price | None) -> None:
    model = Hanging(asks("0.25"))
    of_unknown_price = Adapter(model)  # a scripted model alone costs nothing
    async with mesh_for(keeper(opened=True), model=of_unknown_price, ledger={"default_price": price}) as mesh:
        receipt = await mesh.submit(agent_id="keeper", payload={"text": "Do it."})
        await model.hangs.wait()
        await mesh.mesh.get(Tasks).cancel(receipt.task_id)
        outcome = await mesh.outcome(receipt.task_id)
        cost = await ledger_of(mesh.mesh, outcome)
    assert (cost.calls, cost.failed) == (2, 1)
    assert outcome.cost_usd is None if price is None else (outcome.cost_usd or 0) > Decimal("0.25")


async def test_a_call_that_failed_for_nothing_is_a_row_that_costs_nothing() -> None:
    model = ScriptedModel(asks("0.25"), ModelRefused("no"))
    async with mesh_for(keeper(opened=True), model=model) as mesh:
        outcome = await mesh.ask("keeper", "Do it.")
        cost = await ledger_of(mesh.mesh, outcome)
        told = mesh.events("model.called").payloads
    assert (outcome.status, outcome.cost_usd) == ("failed", Decimal("0.25"))
    assert (cost.calls, cost.failed, cost.unpriced) == (2, 1, 0)
    assert [(each["outcome"], each["error"]) for each in told] == [("ok", None), ("failed", "ModelRefused")]


async def test_a_call_of_no_task_is_a_row_too() -> None:
    async with mesh_for(keeper(), model=ScriptedModel(reply("0.25"))) as mesh:
        await mesh.mesh.get(Model).complete(ModelRequest(messages=(), user="llm-service"))
        async for _ in mesh.mesh.log.tail(EventFilter(event_type="model.called", after_seq=0)):
            break
        [cost] = (await mesh.mesh.get(Spending).costs(CostQuery("default", "task"))).items
    assert (cost.key, cost.calls, cost.cost_usd) == (None, 1, Decimal("0.25"))
