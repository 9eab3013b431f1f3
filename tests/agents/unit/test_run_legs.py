"""Agents of frameworks run legs side by side, and give calls up: resumed, each leg gets its own results."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from meshwright import Agent, Capability, MeshError, Run, TaskRequest, ToolContext, tool
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply, ModelRequest, OnDelta
from meshwright.testing import mesh_for
from tests.support.interrupted_mesh import kept
from tests.support.run_clients import EchoingModel, ask, author, resumed_text

SEEDS = range(12)
pytest.importorskip("openai")


class Slow:
    """A model that answers after a while, in an order of its own; it counts what it was asked."""

    name = "slow"

    def __init__(self, seed: int = 0) -> None:
        self.calls: Counter[str] = Counter()
        self._random = random.Random(seed)

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        text = request.messages[-1].text
        self.calls[text] += 1
        if on_delta is not None and text.startswith("stream"):
            on_delta("the first piece")
            await asyncio.sleep(30)
        elif text.startswith("never"):
            await asyncio.sleep(30)
        elif text.startswith("late"):
            await asyncio.sleep(7)
        else:
            await asyncio.sleep(self._random.choice((0, 0, 0.002, 0.01)))
        return ModelReply(content=f"{text}!", model="m", cost_usd=Decimal("0.001"))

    async def close(self) -> None:
        pass


class Tickets(Agent):
    """Each leg asks a model, gets a ticket by an equal call, and asks with what it got."""

    agent_id = "tickets"
    capabilities = (Capability("tickets"),)
    prompt_text = "x"
    legs = 3
    taken: Counter[str]

    @tool(effect="change", idempotent=True)
    async def next_ticket(self, context: ToolContext) -> str:
        """A ticket."""
        self.taken[context.step_id] += 1
        return f"T-{context.step_id[-6:]}"

    async def run(self, run: Run) -> dict[str, Any]:
        client, (next_ticket,) = run.openai(), run.functions("next_ticket")

        async def say(text: str) -> str:
            messages: Any = [{"role": "user", "content": text}]
            reply = await client.chat.completions.create(model="default", messages=messages)
            return reply.choices[0].message.content or ""

        async def leg(number: int) -> str:
            said = await say(f"plan {number}")
            ticket = await next_ticket()
            said = await say(f"{said} has {ticket}")
            other = await next_ticket()
            return await say(f"{said} has {other}")

        legs = await asyncio.gather(*map(leg, range(self.legs)))
        for _ in range(3):
            await run.sleep(seconds=0.01)
        return {"legs": legs}


async def hedged(*asked: Coroutine[Any, Any, Any]) -> Any:
    """The text of the first reply; the others are given up."""
    calls = [asyncio.ensure_future(call) for call in asked]
    done, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    for call in pending:
        call.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return done.pop().result().choices[0].message.content


async def cancelled_at_each_turn(run: Run, number: int) -> list[str]:
    """The pieces of a stream, once it is given up as scopes of anyio do it."""
    pieces, has_begun = list[str](), asyncio.Event()

    def on_delta(text: str) -> None:
        pieces.append(text)
        has_begun.set()

    messages = [{"role": "user", "content": f"stream {number}"}]
    call = asyncio.ensure_future(run.complete(messages, on_delta=on_delta))
    await has_begun.wait()
    while not call.done():
        call.cancel()
        await asyncio.sleep(0)
    return pieces


class Impatient(Agent):
    """Gives calls up as frameworks do: by a timeout, by a hedge, by leaving a stream early."""

    agent_id = "impatient"
    capabilities = (Capability("haste"),)
    prompt_text = "x"

    async def run(self, run: Run) -> dict[str, Any]:
        client, how = run.openai(), run.task.text

        def say(text: str, **options: Any) -> Any:
            messages: Any = [{"role": "user", "content": text}]
            return client.chat.completions.create(model="default", messages=messages, **options)

        got = []
        for number in range(3):
            if how == "timeout":
                try:
                    await asyncio.wait_for(say(f"never {number}"), 0.05)
                except TimeoutError:
                    got.append("timeout")
            elif how == "scope":
                try:
                    async with asyncio.timeout(0.05):
                        await say(f"never {number}")
                except TimeoutError:
                    got.append("timeout")
            elif how == "twice":
                got += await cancelled_at_each_turn(run, number)
            elif how == "hedge":
                got.append(await hedged(*(say(f"{name} {number}") for name in ("never", "soon"))))
            else:
                stream = await say(f"stream {number}", stream=True)
                async for part in stream:
                    if part.choices and part.choices[0].delta.content:
                        got.append(part.choices[0].delta.content)
                        break
                await stream.close()
        for _ in range(4):
            await run.sleep(seconds=0.01)
        return {"got": got, "end": (await say("the end")).choices[0].message.content}


async def ended(agent: type[Agent], model: Slow, text: str = "go") -> Any:
    async with mesh_for(agent, model=model, models={"read_on_seconds": 0.1}) as mesh:
        receipt = await mesh.mesh.get(Tasks).submit(
            TaskRequest(agent_id=agent.agent_id, payload={"text": text})
        )
        outcome = await mesh.mesh.get(Tasks).outcome(receipt.task_id)
        view = await mesh.mesh.get(Tasks).task(receipt.task_id)
    assert outcome.success, outcome.error
    assert len(view.attempts) == 1
    return outcome


@pytest.mark.parametrize("seed", SEEDS)
async def test_each_leg_gets_its_own_results_whatever_the_order_of_replies(seed: int) -> None:
    agent, model = type("TestTickets", (Tickets,), {"taken": Counter()}), Slow(seed)
    outcome = await ended(agent, model)
    assert set(model.calls.values()) == {1} and model.calls.total() == 3 * Tickets.legs
    assert set(agent.taken.values()) == {1} and len(agent.taken) == 2 * Tickets.legs
    assert len({leg.split("has")[1] for leg in outcome.result["legs"]}) == Tickets.legs


class Sleeper(Tickets):
    """One leg sleeps by itself before it asks; the other one has asked a model that answers later."""

    agent_id = "sleeper"

    async def run(self, run: Run) -> dict[str, Any]:
        (next_ticket,) = run.functions("next_ticket")

        async def sleeps() -> str:
            await asyncio.sleep(6)
            return await next_ticket()

        async def waits() -> str:
            await run.complete([{"role": "user", "content": "late"}])
            return await next_ticket()

        tickets = await asyncio.gather(sleeps(), waits())
        messages = [{"role": "user", "content": f"first {tickets[0]}, then {tickets[1]}"}]
        said = (await run.complete(messages)).content
        await run.sleep(seconds=0.01)
        return {"said": said, "tickets": tickets}


async def test_a_leg_that_sleeps_by_itself_has_its_own_results() -> None:
    agent, model = type("TestSleeper", (Sleeper,), {"taken": Counter()}), Slow()
    outcome = await ended(agent, model)
    assert set(model.calls.values()) == {1} and len(model.calls) == 2
    assert outcome.result["said"] == "first {}, then {}!".format(*outcome.result["tickets"])


class AtOnce(Agent):
    """Takes the first of two results that come at once, while other legs are about to ask."""

    agent_id = "at-once"
    capabilities = (Capability("racing"),)
    prompt_text = "x"
    turns: int
    begun: asyncio.Event
    lives: list[list[str]]

    async def run(self, run: Run) -> dict[str, Any]:
        async def say(text: str, turns: int = 0) -> str:
            for _ in range(turns):
                await asyncio.sleep(0)
            return (await run.complete([{"role": "user", "content": text}])).content

        async def race() -> str:
            calls = [asyncio.ensure_future(say(text)) for text in ("second", "first")]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            winner = next(call for call in calls if call.done())
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            return winner.result()

        async def behind() -> str:
            said = await say("before")
            self.begun.set()
            return f"{said}, {await say('behind', self.turns)}"

        async def beside() -> str:
            is_first = not self.begun.is_set()
            await self.begun.wait()
            return await say("beside", is_first * (self.turns - 1))

        self.lives.append(results := await asyncio.gather(race(), behind(), beside()))
        await run.sleep(seconds=0.01)
        return {"results": results}


class Starter(Slow):
    """Answers two calls at once, when the code says so."""

    def __init__(self, begun: asyncio.Event) -> None:
        super().__init__()
        self._begun = begun

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        text = request.messages[-1].text
        if text in ("first", "second"):
            await self._begun.wait()
        if text == "second":
            await asyncio.sleep(0)
        if text == "before":
            await asyncio.sleep(0.05)
        return ModelReply(content=text, model="m", cost_usd=Decimal(0))


@pytest.mark.parametrize("turns", range(5, 25, 4))
async def test_results_at_once_are_two_results_when_they_first_come(turns: int) -> None:
    begun, lives = asyncio.Event(), list[list[str]]()
    agent = type("TestAtOnce", (AtOnce,), {"turns": turns, "begun": begun, "lives": lives})
    await ended(agent, Starter(begun))
    assert len(lives) == 2 and lives[0] == lives[1]


class SlowOnce(EchoingModel):
    """Never answers a call that is slow."""

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        if request.messages[-1].content == "slow":
            await asyncio.Event().wait()
        return await super().complete(request, on_delta)


async def test_a_call_behind_its_timeout_stays_behind_what_the_code_asked_for_then(tmp_path: Path) -> None:
    lives: list[list[str]] = []

    async def run(self: Agent, run: Run) -> str:
        lives.append(got := [])
        shielded = asyncio.ensure_future(ask(run, "slow"))
        try:
            got.append((await asyncio.wait_for(asyncio.shield(shielded), 0.3)).content)
        except TimeoutError:
            got.append("late")
        got.append((await ask(run, "quick")).content)
        got.append((await ask(run, "held")).content)
        await shielded
        return ", ".join(got)

    text = await resumed_text(tmp_path, author(run), SlowOnce("held"), EchoingModel())
    assert text == "late, quick 1, held 1"
    assert len(lives) == 2


class Forgetful(Tickets):
    """Gives a call up before its legs, which it does not make when it is resumed, or does not give up."""

    agent_id = "forgetful"

    async def run(self, run: Run) -> dict[str, Any]:
        text = run.task.text
        if not self.taken or text == "late":
            with suppress(TimeoutError):
                call = run.complete([{"role": "user", "content": text}])
                await asyncio.wait_for(call, 60 if self.taken else 0.05)
        return await super().run(run)


@pytest.mark.parametrize(("text", "calls"), [("never", 1), ("late", 2)])
async def test_a_call_that_was_given_up_may_be_left_out_or_made(text: str, calls: int) -> None:
    agent = type("TestForgetful", (Forgetful,), {"taken": Counter()})
    model = Slow(1)
    await ended(agent, model, text)
    assert model.calls.pop(text) == calls and set(model.calls.values()) == {1}
    assert set(agent.taken.values()) == {1}


class Unhurried(Tickets):
    """Gives a call up at first, and later waits for its result, beside its legs."""

    agent_id = "unhurried"

    async def run(self, run: Run) -> dict[str, Any]:
        call = run.complete([{"role": "user", "content": "late"}])
        is_first = not self.taken

        async def first() -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(call, 0.05 if is_first else 60)

        legs, _ = await asyncio.gather(super().run(run), first())
        return legs


async def test_a_call_that_is_made_beside_others_changes_the_place_of_none() -> None:
    agent, model = type("TestUnhurried", (Unhurried,), {"taken": Counter()}), Slow(2)
    await ended(agent, model)
    assert model.calls.pop("late") == 2 and set(model.calls.values()) == {1}
    assert set(agent.taken.values()) == {1}


async def test_a_call_that_is_made_keeps_its_place_when_its_mesh_has_gone(tmp_path: Path) -> None:
    agent = type("TestForgetful", (Forgetful,), {"taken": Counter()})
    model = Slow(1)
    async with kept(tmp_path, agent, model=model) as mesh:
        request = TaskRequest(agent_id=agent.agent_id, payload={"text": "late"})
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        async for event in mesh.log.tail(EventFilter(after_seq=0, event_type="model.called")):
            if model.calls["late"] == 2 and event.fields["outcome"] == "ok":
                break  # its result is recorded, and the code has not got it yet
    async with kept(tmp_path, agent, model=model) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
        view = await mesh.get(Tasks).task(task_id)
    assert outcome.success and len(view.attempts) == 1
    assert model.calls.pop("late") == 2 and set(model.calls.values()) == {1}
    assert set(agent.taken.values()) == {1}


class Hurried(Tickets):
    """Gives a tool up some turns of the loop behind its begin, beside legs whose results come just then."""

    agent_id = "hurried"
    turns: ClassVar[int]
    seen: ClassVar[list[str]]

    @tool(effect="change")
    async def pay(self) -> str:
        """Pay."""
        return "paid"

    async def run(self, run: Run) -> str:
        async def nothing() -> str:
            for _ in range(self.turns):
                await asyncio.sleep(0)
            return "nothing"

        async def hedge() -> str:
            calls = [asyncio.ensure_future(call) for call in (run.call("pay"), nothing())]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            first = next(call for call in calls if call.done())
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            return str(first.result())

        say = run.complete([{"role": "user", "content": "plan"}])
        _, text, _ = await run.gather(run.call("pay"), hedge(), say)
        self.seen.append(text)
        await run.sleep(seconds=0.01)
        return text


@pytest.mark.parametrize("turns", range(0, 42, 3))
async def test_a_step_that_was_given_up_as_its_result_came_is_given_up_again(turns: int) -> None:
    agent = type("TestHurried", (Hurried,), {"taken": Counter(), "turns": turns, "seen": []})
    outcome = await ended(agent, Slow(1))
    assert len(agent.seen) == 2 and {*agent.seen} == {outcome.text}


class Threads(Tickets):
    """The same legs as sync code in threads."""

    agent_id = "threads"

    async def run(self, run: Run) -> dict[str, Any]:
        transport, (next_ticket,) = run.transport(), run.functions("next_ticket")
        loop = asyncio.get_running_loop()

        def leg(number: int) -> str:
            def say(text: str) -> str:
                body = {"model": "default", "messages": [{"role": "user", "content": text}]}
                with httpx.Client(transport=transport) as client:
                    reply = client.post("http://run/v1/chat/completions", json=body, timeout=60)
                return reply.json()["choices"][0]["message"]["content"]

            def take() -> str:
                return asyncio.run_coroutine_threadsafe(next_ticket(), loop).result(60)

            said = say(f"plan {number}")
            said = say(f"{said} has {take()}")
            return say(f"{said} has {take()}")

        legs = await asyncio.gather(*(asyncio.to_thread(leg, number) for number in range(self.legs)))
        for _ in range(3):
            await run.sleep(seconds=0.01)
        return {"legs": legs}


@pytest.mark.parametrize("seed", range(6))
async def test_each_leg_in_a_thread_gets_its_own_results(seed: int) -> None:
    agent, model = type("TestThreads", (Threads,), {"taken": Counter()}), Slow(seed)
    await ended(agent, model)
    assert set(model.calls.values()) == {1} and model.calls.total() == 3 * Tickets.legs
    assert set(agent.taken.values()) == {1} and len(agent.taken) == 2 * Tickets.legs


@pytest.mark.parametrize("seed", range(6))
async def test_legs_go_on_after_their_mesh_has_gone(seed: int, tmp_path: Path) -> None:
    agent, model = type("TestTickets", (Tickets,), {"taken": Counter()}), Slow(seed)
    chance, task_id = random.Random(seed), ""
    for _ in range(4):
        async with kept(tmp_path, agent, model=model) as mesh:
            if not task_id:
                request = TaskRequest(agent_id="tickets", payload={"text": "go"})
                task_id = (await mesh.get(Tasks).submit(request)).task_id
            await asyncio.sleep(chance.random() * 0.04)
    async with kept(tmp_path, agent, model=model) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
        view = await mesh.get(Tasks).task(task_id)
    assert outcome.success and len(view.attempts) == 1
    assert len(agent.taken) == 2 * Tickets.legs


class Approved(Tickets):
    """Asks a person before its legs, in a branch; what comes behind them fails at first."""

    agent_id = "approved"
    gone_well: list[list[str]]

    async def run(self, run: Run) -> dict[str, Any]:
        await asyncio.gather(run.ask_person("May the legs begin?"))
        legs = (await super().run(run))["legs"]
        self.gone_well.append(legs)
        if len(self.gone_well) == 1:
            raise MeshError("the end is not ready")
        return {"legs": legs}


@pytest.mark.parametrize("seed", SEEDS[:5])
async def test_a_retry_has_the_order_of_results_behind_an_answer(seed: int) -> None:
    agent = type("TestApproved", (Approved,), {"taken": Counter(), "gone_well": []})
    model = Slow(seed)
    async with mesh_for(agent, model=model) as mesh:
        tasks = mesh.mesh.get(Tasks)
        receipt = await tasks.submit(TaskRequest(agent_id="approved", payload={"text": "go"}))
        (question,) = await mesh.questions()
        await mesh.answer(question, "yes")
        assert not (await tasks.outcome(receipt.task_id)).success
        await tasks.retry(receipt.task_id, begin="journal")
        outcome = await tasks.outcome(receipt.task_id)
    assert outcome.success, outcome.error
    assert set(model.calls.values()) == {1} and set(agent.taken.values()) == {1}
    assert agent.gone_well[0] == agent.gone_well[1]


@pytest.mark.parametrize("how", ["timeout", "scope", "twice", "hedge", "stream"])
async def test_a_call_that_its_caller_gave_up_is_made_once(how: str) -> None:
    model = Slow()
    outcome = await ended(Impatient, model, how)
    assert set(model.calls.values()) == {1}
    assert outcome.result["end"] == "the end!"
    assert len(outcome.result["got"]) == 3


class Doubtful(Agent):
    """Gives up what is no call of a framework: tools, waits and tasks of others, by a timeout of its own."""

    agent_id = "doubtful"
    capabilities = (Capability("doubt"),)
    prompt_text = "x"
    delegates_to = ("patient",)
    made: Counter[str]

    @tool(effect="change", idempotent=True)
    async def ship(self, context: ToolContext) -> str:
        """Ship it."""
        return await self._never("ship")

    @tool(effect="change")
    async def pay(self, context: ToolContext) -> str:
        """Pay it."""
        return await self._never("pay")

    async def _never(self, name: str) -> str:
        self.made[name] += 1
        await asyncio.sleep(60)
        return name

    async def run(self, run: Run) -> dict[str, Any]:
        how = run.task.text
        waits: dict[str, Callable[[], Any]] = {
            "step": lambda: run.step("look", lambda: self._never("look")),
            "person": lambda: run.ask_person("Is it right?"),
            "sleep": lambda: run.sleep(seconds=0.5),
            "task": lambda: run.delegate("patient", "wait"),
        }
        begin = waits.get(how, lambda: run.call(how))

        async def beside() -> str:
            return await run.step("beside", lambda: asyncio.sleep(0.4, "done"))

        async def leg() -> str:
            try:
                await asyncio.wait_for(begin(), 0.1)
            except TimeoutError:
                return "gave up"
            return "got it"

        got = await asyncio.gather(leg(), beside())
        for _ in range(3):
            await run.sleep(seconds=0.3)
        return {"got": got, "sure": await run.ask_person("Sure?")}


class Patient(Agent):
    """Waits for a person."""

    agent_id = "patient"
    capabilities = (Capability("patience"),)
    prompt_text = "x"

    async def run(self, run: Run) -> str:
        return await run.ask_person("When?")


@pytest.mark.parametrize("how", ["ship", "pay", "step", "person", "sleep", "task"])
async def test_what_its_caller_gave_up_is_given_up_again(how: str) -> None:
    agent = type("TestDoubtful", (Doubtful,), {"made": Counter()})
    async with mesh_for(agent, Patient) as mesh:
        receipt = await mesh.mesh.get(Tasks).submit(TaskRequest(agent_id="doubtful", payload={"text": how}))
        while (questions := await mesh.questions())[-1].question != "Sure?":
            await asyncio.sleep(0.05)
        assert [question.question for question in questions] == ["Sure?"]
        await mesh.answer(questions[0], "yes")
        outcome = await mesh.mesh.get(Tasks).outcome(receipt.task_id)
        ends = [
            event.payload["how"] for event in mesh.events("wait.ended") if event.payload["how"] == "withdrawn"
        ]
    assert outcome.success, outcome.error
    assert outcome.result["got"] == ["gave up", "done"]
    assert sum(agent.made.values()) == (how in ("ship", "pay", "step"))
    assert len(ends) == (how in ("person", "sleep", "task"))


class Failing(Doubtful):
    """Fails at first, behind a payment that it gave up."""

    agent_id = "failing"

    async def run(self, run: Run) -> Any:
        try:
            await asyncio.wait_for(run.call("pay"), 0.1)
        except TimeoutError:
            self.made["given up"] += 1
        if self.made["given up"] == 1:
            raise MeshError("the end is not ready")
        return "done"


async def test_a_retry_gives_up_what_was_given_up_and_asks_nobody() -> None:
    agent = type("TestFailing", (Failing,), {"made": Counter()})
    async with mesh_for(agent, Patient) as mesh:
        tasks = mesh.mesh.get(Tasks)
        receipt = await tasks.submit(TaskRequest(agent_id="failing", payload={"text": "go"}))
        assert not (await tasks.outcome(receipt.task_id)).success
        plan = await tasks.retry_plan(receipt.task_id)
        assert not next(way for way in plan.ways if way.begin == "journal").asks
        await tasks.retry(receipt.task_id, begin="journal")
        outcome = await tasks.outcome(receipt.task_id)
    assert outcome.success and outcome.answer == "done", outcome.error
    assert agent.made["pay"] == 1
