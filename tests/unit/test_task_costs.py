"""A task's outcome costs what the ledger says of its calls: of all attempts, before a crash and after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meshwright import Agent, Capability, Mesh, TaskRequest, build_mesh, load_settings, tool
from meshwright.errors import ModelError
from meshwright.events.filter import EventFilter
from meshwright.ledger.calls import called, leave
from meshwright.ledger.costs import Cost
from meshwright.messages import Outcome, Usage
from meshwright.models.port import (
    ContentRefused,
    Model,
    ModelRefused,
    ModelReply,
    ModelRequest,
    OnDelta,
    RateLimited,
    ToolCall,
)
from meshwright.money import Price
from meshwright.run import Run
from meshwright.run.calls import Spent
from meshwright.testing import ManualClock, ScriptedModel, mesh_for
from meshwright.testing.model import ScriptEnded
from meshwright.turns import ActorKind
from meshwright.work import AgentThread, Cancel, Claim, ThreadState
from tests.unit.turns import Driven, a_dispatch, a_task

PATIENCE_SECONDS = 10
PRICE = Price(input=Decimal(3), output=Decimal(15))
HOLD = (ToolCall(id="c1", name="hold", arguments="{}"),)
LONG = "The event log is a table of the file mesh.db, and it holds whatever happens. " * 100


def reply(cost: str | None, content: str = "Done.", **fields: Any) -> ModelReply:
    usage = Usage(prompt_tokens=100, completion_tokens=10)
    known = None if cost is None else Decimal(cost)
    return ModelReply(content=content, model="big", usage=usage, cost_usd=known, **fields)


def asks(cost: str) -> ModelReply:
    return reply(cost, "", tool_calls=HOLD)


class Keeper(Agent):
    """Has a tool in which a test can stop the mesh, or the task."""

    agent_id = "keeper"
    capabilities = (Capability("keeping", preferred=True),)
    began: asyncio.Event
    opened: asyncio.Event

    @tool(idempotent=True)
    async def hold(self) -> str:
        """Wait for the test."""
        self.began.set()
        await self.opened.wait()
        return "held"


class Other(Agent):
    """Does what the keeper could not."""

    agent_id = "other"
    capabilities = (Capability("keeping"),)


def keeper(*, opened: bool = False, **fields: Any) -> type[Keeper]:
    made = type("TestKeeper", (Keeper,), {"began": asyncio.Event(), "opened": asyncio.Event(), **fields})
    if opened:
        made.opened.set()
    return made


async def ledger_of(mesh: Mesh, outcome: Outcome) -> Cost:
    """What the ledger says of a task, which must be what its outcome says."""
    found = await mesh.costs("task")
    [cost] = [item for item in found.items if item.key == outcome.task_id]
    assert (cost.prompt_tokens, cost.completion_tokens) == (
        outcome.usage.prompt_tokens,
        outcome.usage.completion_tokens,
    )
    if outcome.cost_usd is None:
        assert cost.unpriced
    else:
        assert (cost.cost_usd, cost.unpriced) == (outcome.cost_usd, 0)
    return cost


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
        view = await mesh.mesh.task(outcome.task_id)
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


@pytest.mark.parametrize("status", ["cancelled", "timed_out", "failed"])
async def test_a_task_that_did_not_succeed_has_cost_something_all_the_same(status: str) -> None:
    agent = keeper(opened=status == "failed")
    async with mesh_for(agent, model=ScriptedModel(asks("0.25"), ModelRefused("no"))) as mesh:
        timeout = 0.3 if status == "timed_out" else 60
        receipt = await mesh.submit(agent_id="keeper", payload={"text": "Do it."}, timeout=timeout)
        await agent.began.wait()
        if status == "cancelled":
            await mesh.mesh.cancel(receipt.task_id)
        outcome = await mesh.outcome(receipt.task_id)
        assert (outcome.status, outcome.cost_usd) == (status, Decimal("0.25"))
        await ledger_of(mesh.mesh, outcome)


async def test_what_an_attempt_cost_that_has_not_ended_by_the_deadline_is_not_known() -> None:
    agent, clock = keeper(), ManualClock()
    async with mesh_for(agent, model=ScriptedModel(asks("0.25")), clock=clock) as mesh:
        receipt = await mesh.submit(agent_id="keeper", payload={"text": "Do it."}, deadline=5)
        await agent.began.wait()
        await mesh.advance(6)
        outcome = await mesh.outcome(receipt.task_id)
    assert (outcome.status, outcome.cost_usd) == ("timed_out", None)


async def test_a_task_cancelled_while_it_waits_says_what_its_calls_had_cost() -> None:
    async def run(self: Agent, run: Run) -> str:
        await run.converse()
        return await run.delegate("other", "Do it.")

    child, asking = Hanging(), keeper(run=run, delegates_to=("other",))
    child.replies(reply("0.25"), to="keeper")
    async with mesh_for(asking, Other, model=child, default_price=PRICE) as mesh:
        receipt = await mesh.submit(agent_id="keeper", payload={"text": "Have it done."})
        await child.hangs.wait()
        await mesh.mesh.cancel(receipt.task_id)
        outcome = await mesh.outcome(receipt.task_id)
        assert (outcome.status, outcome.cost_usd) == ("cancelled", Decimal("0.25"))
        await ledger_of(mesh.mesh, outcome)


async def test_what_a_run_cost_before_it_waited_counts_where_it_is_cancelled_after_its_answer() -> None:
    async def run(self: Agent, run: Run) -> str:
        await run.converse()
        await run.delegate("other", "Do it.")
        return await run.converse()

    model, asking = Hanging(), keeper(run=run, delegates_to=("other",))
    model.replies(reply("0.25"), to="keeper")
    model.replies(reply("0.5"), to="other")
    async with mesh_for(asking, Other, model=model, default_price=PRICE) as mesh:
        receipt = await mesh.submit(agent_id="keeper", payload={"text": "Have it done."})
        await model.hangs.wait()
        await mesh.mesh.cancel(receipt.task_id)
        outcome = await mesh.outcome(receipt.task_id)
        assert outcome.status == "cancelled"
        assert (await ledger_of(mesh.mesh, outcome)).calls == 2


def test_what_a_cancelled_task_cost_is_not_known_where_its_worker_is_gone() -> None:
    thread = Driven(ActorKind.of(AgentThread, type="helper"), "default:thread")
    thread.take("enqueue", a_dispatch(a_task("t1", thread_id="thread")))
    thread.take("claim", Claim(task_id="t1", owner="w1"))
    thread.take("cancel", Cancel(task_id="t1"))
    [ended] = thread.take("claim", Claim(task_id="t1", owner="w2", gone="w1")).events
    assert (ended.payload.status, ended.payload.cost_usd) == ("cancelled", None)


def test_an_inbox_and_a_wait_from_before_they_knew_costs_can_be_read() -> None:
    asked = {"task_id": "t1", "fence": 1, "key": "k", "step": 2, "kind": "wait", "request_hash": "h"}
    dispatch = a_dispatch(a_task("t1")).model_dump(mode="json")
    stored = {"dispatch": dispatch, "queued_at": "2026-01-01T00:00:00Z", "suspended": asked}
    [entry] = ThreadState.model_validate({"version": 1, "inbox": [stored]}).inbox
    assert entry.suspended is not None
    assert (entry.cost_usd, entry.usage, entry.suspended.cost_usd) == (0, Usage(), 0)


# What else calls a model for a task


@pytest.mark.parametrize("answer", ["nonsense", ""])
async def test_a_task_pays_for_the_compression_of_its_context(answer: str) -> None:
    model = ScriptedModel(reply("0.5"))
    model.replies(reply("0.125", answer), to="context-service")
    async with mesh_for(keeper(), model=model) as mesh:
        outcome = await mesh.ask("keeper", LONG)
        assert outcome.cost_usd == Decimal("0.625")
        assert (await ledger_of(mesh.mesh, outcome)).calls == 2
        first, second = mesh.events("model.called").payloads
        by_agent = {item.key: item.cost_usd for item in (await mesh.mesh.costs("agent")).items}
    assert (first["user"], first["attempt"], first["step"]) == ("context-service", 1, 1)
    assert (second["user"], second["thread_id"]) == ("keeper", outcome.task_id)
    assert by_agent == {"keeper": Decimal("0.5"), "context-service": Decimal("0.125")}


async def test_a_delegated_task_pays_for_itself() -> None:
    async def run(self: Agent, run: Run) -> str:
        await run.converse()
        return await run.delegate("other", "Do it.")

    asking = keeper(run=run, delegates_to=("other",))
    model = ScriptedModel()
    model.replies(reply("0.25"), to="keeper")
    model.replies(reply("0.5"), to="other")
    async with mesh_for(asking, Other, model=model) as mesh:
        outcome = await mesh.ask("keeper", "Have it done.")
        [waiting] = mesh.events("task.waiting").payloads
        child = await mesh.outcome(waiting["child_task_id"])
        assert (outcome.cost_usd, child.cost_usd) == (Decimal("0.25"), Decimal("0.5"))
        await ledger_of(mesh.mesh, outcome)
        await ledger_of(mesh.mesh, child)
        assert (await mesh.mesh.costs()).total.cost_usd == Decimal("0.75")


@pytest.mark.parametrize("price", [PRICE, None])
async def test_a_call_that_is_broken_off_is_a_row_and_its_task_pays_for_it(price: Price | None) -> None:
    model = Hanging(asks("0.25"))
    async with mesh_for(keeper(opened=True), model=model, default_price=price) as mesh:
        receipt = await mesh.submit(agent_id="keeper", payload={"text": "Do it."})
        await model.hangs.wait()
        await mesh.mesh.cancel(receipt.task_id)
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
        await mesh.mesh.model.complete(ModelRequest(messages=(), user="llm-service"))
        async for _ in mesh.mesh.log.tail(EventFilter(event_type="model.called", after_seq=0)):
            break
        [cost] = (await mesh.mesh.costs("task")).items
    assert (cost.key, cost.calls, cost.cost_usd) == (None, 1, Decimal("0.25"))


def test_a_call_that_failed_at_a_cost_counts_and_one_that_nobody_told_of_does_not() -> None:
    request = ModelRequest(messages=(), user="keeper")
    error = asyncio.CancelledError()
    spent = Spent()
    with pytest.raises(ModelRefused), spent.counting():
        raise ModelRefused("no")
    assert (spent.cost_usd, spent.model) == (0, None)
    leave(error, called(request, call_id="c", error=error, cancelled=True, cost_usd=Decimal("0.25")))
    with pytest.raises(asyncio.CancelledError), spent.counting():
        raise error
    assert spent.cost_usd == Decimal("0.25")


# Crashes


@asynccontextmanager
async def kept(folder: Path, *agents: type[Agent], model: Model, **settings: Any) -> AsyncIterator[Mesh]:
    """A mesh on the files of a folder; at its end work is left where it is."""
    mesh = build_mesh(load_settings(folder, **settings), project=folder, agents=agents, model=model)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await mesh.start()
        yield mesh
        await mesh.stop(drain_seconds=0)


async def begun(folder: Path, model: ScriptedModel, text: str = "Do it.") -> str:
    """A task whose mesh was stopped in the middle of a tool."""
    agent = keeper()
    async with kept(folder, agent, model=model) as mesh:
        request = TaskRequest(agent_id="keeper", payload={"text": text})
        task_id = (await mesh.submit(request)).task_id
        await agent.began.wait()
    return task_id


async def test_calls_from_before_a_crash_count_once(tmp_path: Path) -> None:
    first = ScriptedModel(asks("0.25"))
    first.replies(reply("0.125", "nonsense"), to="context-service")
    task_id = await begun(tmp_path, first, LONG)
    async with kept(tmp_path, keeper(opened=True), model=ScriptedModel(reply("0.5"))) as mesh:
        outcome = await mesh.outcome(task_id)
        assert outcome.cost_usd == Decimal("0.875")
        assert (await ledger_of(mesh, outcome)).calls == 3


async def test_calls_that_a_resumed_run_does_not_come_to_again_count_too(tmp_path: Path) -> None:
    async def runs_away(self: Agent, run: Run) -> str:
        await run.prepare()
        raise ValueError("another road")

    task_id = await begun(tmp_path, ScriptedModel(asks("0.25")))
    async with kept(tmp_path, keeper(run=runs_away), model=ScriptedModel()) as mesh:
        outcome = await mesh.outcome(task_id)
        assert (outcome.status, outcome.cost_usd) == ("failed", Decimal("0.25"))
        await ledger_of(mesh, outcome)


async def test_calls_that_a_resumed_run_came_to_again_count_once_where_it_fails(tmp_path: Path) -> None:
    task_id = await begun(tmp_path, ScriptedModel(asks("0.25")))
    async with kept(tmp_path, keeper(opened=True), model=ScriptedModel(ModelRefused("no"))) as mesh:
        outcome = await mesh.outcome(task_id)
        assert (outcome.status, outcome.cost_usd) == ("failed", Decimal("0.25"))
        await ledger_of(mesh, outcome)


async def test_an_attempt_that_begins_anew_after_a_crash_adds_to_the_one_before(tmp_path: Path) -> None:
    tried: list[str] = []

    async def other_road(self: Agent, run: Run) -> str:
        tried.append(run.task.text)
        if len(tried) == 1:
            await run.step("another road", asyncio.Event().wait)
        return await run.converse()

    task_id = await begun(tmp_path, ScriptedModel(asks("0.25")))
    async with kept(tmp_path, keeper(opened=True, run=other_road), model=ScriptedModel(reply("0.5"))) as mesh:
        outcome = await mesh.outcome(task_id)
        assert (outcome.status, outcome.attempt, outcome.cost_usd) == ("succeeded", 2, Decimal("0.75"))
        await ledger_of(mesh, outcome)


async def test_a_step_inside_a_tool_that_is_not_run_again_counts_once(tmp_path: Path) -> None:
    async def run(self: Keeper, run: Run) -> str:
        async def asks_itself() -> str:
            return await run.ask("What is it?")

        await run.step("tool", asks_itself)
        await run.step("hold", self.hold)
        return await run.ask("And now?")

    agent = keeper(run=run)
    async with kept(tmp_path, agent, model=ScriptedModel(reply("0.25"))) as mesh:
        task_id = (await mesh.submit(TaskRequest(agent_id="keeper", payload={"text": "Do it."}))).task_id
        await agent.began.wait()
    agent = keeper(opened=True, run=run)
    async with kept(tmp_path, agent, model=ScriptedModel(reply("0.5"))) as mesh:
        outcome = await mesh.outcome(task_id)
        assert (outcome.status, outcome.cost_usd) == ("succeeded", Decimal("0.75"))
        await ledger_of(mesh, outcome)


# Any road


class Roadside:
    """A model that does what the last message says: answers at a cost, fails, or never ends.

    It `stops` until the mesh is stopped, and answers when it is asked again.
    """

    name = "roadside"

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
    """Goes down a road; the mesh is stopped at each `restart` that it has not `passed` yet."""

    agent_id = "walker"
    capabilities = (Capability("walking", preferred=True),)
    delegates_to = ("other",)
    road: tuple[str, ...] = ()
    passed: int
    stops: asyncio.Event

    async def run(self, run: Run) -> str:
        for n, move in enumerate(self.road):
            match move.split():
                case ["delegate", what]:
                    await run.delegate("other", f"{what} {n}")
                case ["nested", what]:
                    await run.step("tool", partial(run.ask, f"{what} {n}"))
                case ["restart"]:
                    await run.step("restart", partial(self.restart, self.road[:n].count("restart")))
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
ROADS = st.lists(st.sampled_from([move.strip() for move in MOVES.split(";")]), min_size=1, max_size=6)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(road=ROADS.map(tuple), price=st.sampled_from([PRICE, None]))
@example(road=("repeat", "nested reported", "restart", "repeat", "delegate hang"), price=PRICE)
@example(road=("reported", "restart", "delegate reported", "forbidden"), price=PRICE)
@example(road=("reported", "stop", "delegate stop", "nested stop", "priced"), price=PRICE)
@example(road=("caught forbidden", "delegate reported", "restart", "reported"), price=PRICE)
def test_whichever_road_tasks_take_their_outcomes_cost_what_the_ledger_says(
    road: tuple[str, ...], price: Price | None
) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(walk(Path(folder), road, price))


async def walk(folder: Path, road: tuple[str, ...], price: Price | None) -> None:
    """Go down a road to its end; what never ends is cancelled."""
    model, task_id, passed = Roadside(), None, 0
    while True:
        stops = asyncio.Event()
        walker = type("TestWalker", (Walker,), {"road": road, "passed": passed, "stops": stops})
        async with kept(folder, walker, Follower, model=model, default_price=price, cache="memory") as mesh:
            if task_id is None:
                request = TaskRequest(capability="walking", payload={"text": "Walk."})
                task_id = (await mesh.submit(request)).task_id
            await first_of(mesh.outcome(task_id), stops.wait(), model.stops.wait(), model.hangs.wait())
            if stops.is_set() or model.stops.is_set():
                passed += stops.is_set()
                model.stops.clear()
                continue
            if model.hangs.is_set():
                await mesh.cancel(task_id)
            await mesh.outcome(task_id)
            return await check_all(mesh)


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def check_all(mesh: Mesh) -> None:
    """Each task's outcome is what the ledger says, and those together are all of it."""
    tasks = (await mesh.log.tasks(tenant_id="default")).items
    outcomes = [await mesh.outcome(each.task_id) for each in tasks]
    found = await mesh.costs("task")
    known = {item.key for item in found.items}
    for outcome in outcomes:
        if outcome.task_id in known:
            await ledger_of(mesh, outcome)
        else:
            assert (outcome.cost_usd, outcome.usage) == (0, Usage())
    if not found.total.unpriced:
        assert sum(outcome.cost_usd or 0 for outcome in outcomes) == (found.total.cost_usd or 0)
