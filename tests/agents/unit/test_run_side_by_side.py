"""The calls of one reply run side by side, unless a tool says that it is exclusive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, TaskRequest, ToolFailed, tool
from meshwright.agents.run.run import Run
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply, ModelRequest
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import kept
from tests.support.lookup_agent import tool_answers


def echo(request: ModelRequest) -> ModelReply:
    return ModelReply(content=f"Echo: {request.messages[-1].content}", model="m")


class Party(Agent):
    """Its tools note who is there at the same time."""

    agent_id = "party"
    capabilities = (Capability("meeting"),)
    expected = 0
    present: list[str]
    log: list[str]
    all_there: asyncio.Event

    @tool(idempotent=True)
    async def meet(self, name: str) -> str:
        """Come, and wait for all others."""
        self.present.append(name)
        self.log.append(name)
        if len(self.present) >= self.expected:
            self.all_there.set()
        await self.all_there.wait()
        if name == "bad":
            raise ToolFailed("was not invited")
        return f"{name} was there"

    @tool(idempotent=True, exclusive=True)
    async def alone(self, name: str) -> str:
        """Come when nobody else is there."""
        self.log.append(f"{name} after {','.join(sorted(self.present))}")
        return f"{name} was alone"


def a_party(expected: int) -> type[Party]:
    fields = {"present": [], "log": [], "all_there": asyncio.Event(), "expected": expected}
    return type("TestParty", (Party,), fields)


async def test_calls_of_one_reply_run_side_by_side_and_are_answered_in_order() -> None:
    names = [f"guest-{n}" for n in range(20)]
    model = ScriptedModel([tool_call("meet", name=name) for name in names], "All came.")
    async with mesh_for(a_party(20), model=model) as mesh:
        assert (await mesh.ask("party", "Invite them.")).text == "All came."
    assert tool_answers(model) == [f"{name} was there" for name in names]


async def test_one_that_fails_leaves_the_others_their_results() -> None:
    model = ScriptedModel([tool_call("meet", name=name) for name in ("a", "bad", "c")], "Two came.")
    async with mesh_for(a_party(3), model=model) as mesh:
        assert (await mesh.ask("party", "Invite them.")).text == "Two came."
    first, second, third = tool_answers(model)
    assert (first, third) == ("a was there", "c was there")
    assert "was not invited" in second


async def test_an_exclusive_tool_runs_alone() -> None:
    party = a_party(2)
    calls = [
        tool_call("meet", name="a"),
        tool_call("meet", name="b"),
        tool_call("alone", name="x"),
        tool_call("alone", name="y"),
        tool_call("meet", name="c"),
    ]
    model = ScriptedModel(calls, "Done.")
    async with mesh_for(party, model=model) as mesh:
        assert (await mesh.ask("party", "Go.")).text == "Done."
    assert party.log[2:] == ["x after a,b", "y after a,b", "c"]
    assert tool_answers(model) == ["a was there", "b was there", "x was alone", "y was alone", "c was there"]


class Printer(Agent):
    """Has one printer: its tools note when they begin and end."""

    agent_id = "printer"
    capabilities = (Capability("printing"),)
    order = ("one", "two")
    log: list[str]
    began: asyncio.Event
    opened: asyncio.Event

    @tool(exclusive=True)
    async def print_page(self, page: str) -> str:
        """Print a page, alone."""
        self.log.append(f"{page} begins")
        self.began.set()
        await self.opened.wait() if page == "two" else await asyncio.sleep(0)
        self.log.append(f"{page} ends")
        return f"printed {page}"

    @tool(needs_approval=True, exclusive=True)
    async def sign(self, page: str) -> str:
        """Sign a page, alone."""
        return f"signed {page}"

    @tool(idempotent=True)
    async def nested(self, page: str) -> str:
        """Print a page by a call of its own."""
        run = Run.current()
        return "" if run is None else str(await run.call("print_page", page=page))


def a_printer(run: Callable[[Any, Run], Awaitable[Any]], **fields: Any) -> type[Printer]:
    own = {"log": [], "began": asyncio.Event(), "opened": asyncio.Event(), "run": run}
    return type("TestPrinter", (Printer,), {**own, **fields})


async def prints_by_functions(self: Printer, run: Run) -> str:
    [print_page] = run.functions("print_page")
    return ", ".join(await asyncio.gather(*(print_page(page=page) for page in self.order)))


async def prints_by_calls(self: Printer, run: Run) -> str:
    return ", ".join(await run.gather(*(run.call("print_page", page=page) for page in self.order)))


@pytest.mark.parametrize("run", [prints_by_functions, prints_by_calls])
async def test_calls_of_an_exclusive_tool_by_code_exclude_one_another(run: Any) -> None:
    printer = a_printer(run, order=("one", "two", "three"))
    printer.opened.set()
    async with mesh_for(printer) as mesh:
        assert (await mesh.ask("printer", "Go.")).text == "printed one, printed two, printed three"
    assert printer.log == [f"{page} {what}" for page in printer.order for what in ("begins", "ends")]


async def test_an_exclusive_call_is_not_kept_from_what_a_person_approved() -> None:
    async def run(self: Printer, run: Run) -> str:
        sign, print_page = run.functions("sign", "print_page")
        return ", ".join(await asyncio.gather(sign(page="one"), print_page(page="three"), sign(page="two")))

    async with mesh_for(a_printer(run)) as mesh:
        task = await mesh.submit("printer", "Go.")
        for question in await mesh.questions(2):
            await mesh.answer(question, {"approve": True})
        assert (await mesh.outcome(task)).text == "signed one, printed three, signed two"


async def test_a_tool_that_calls_an_exclusive_one_does_not_wait_for_itself() -> None:
    async def run(self: Printer, run: Run) -> str:
        return str(await run.call("nested", page="one"))

    async with mesh_for(a_printer(run)) as mesh:
        assert (await mesh.ask("printer", "Go.")).text == "printed one"


async def test_a_recorded_exclusive_call_is_taken_up_behind_a_new_one(tmp_path: Path) -> None:
    class Again(Printer):
        @tool(idempotent=True, exclusive=True)
        async def print_page(self, page: str) -> str:
            """Print a page, alone."""
            return await Printer.print_page(self, page)

    first = a_printer(prints_by_functions, print_page=Again.print_page)
    async with kept(tmp_path, first) as mesh:
        request = TaskRequest(agent_id="printer", payload={"text": "Go."})
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        while "two begins" not in first.log:
            await first.began.wait()
            first.began.clear()
    second = a_printer(prints_by_functions, order=("two", "one"), print_page=Again.print_page)
    second.opened.set()
    async with kept(tmp_path, second) as mesh:
        assert (await mesh.get(Tasks).outcome(task_id)).text == "printed two, printed one"
        assert not await mesh.log.query(EventFilter(task_id=task_id, event_type="attempt.failed"))
    assert second.log == ["two begins", "two ends"]


async def test_only_what_was_unfinished_is_repeated_after_a_stop(tmp_path: Path) -> None:
    calls = [tool_call("meet", name=name) for name in ("a", "b", "c")]

    class Stays(Party):
        agent_id = "party"

        @tool(idempotent=True)
        async def meet(self, name: str) -> str:
            """Come; one of them stays."""
            self.log.append(name)
            if name == "b":
                await self.all_there.wait()
            return f"{name} was there"

    first = type("First", (Stays,), {"log": [], "all_there": asyncio.Event()})
    second = type("Second", (Stays,), {"log": [], "all_there": asyncio.Event()})
    second.all_there.set()
    async with kept(tmp_path, first, model=ScriptedModel(calls)) as mesh:
        task_id = (
            await mesh.get(Tasks).submit(TaskRequest(agent_id="party", payload={"text": "Go."}))
        ).task_id
        while (
            len(
                [
                    event
                    async for event in mesh.log.replay(EventFilter(task_id=task_id, event_type="tool.called"))
                ]
            )
            < 2
        ):
            await asyncio.sleep(0)
    model = ScriptedModel("Done.")
    async with kept(tmp_path, second, model=model) as mesh:
        assert (await mesh.get(Tasks).outcome(task_id)).text == "Done."
    assert sorted(first.log) == ["a", "b", "c"]
    assert second.log == ["b"]
    assert tool_answers(model) == ["a was there", "b was there", "c was there"]


async def test_two_agents_are_asked_side_by_side() -> None:
    class Asked(Agent):
        agent_id = "asked"
        capabilities = (Capability("answering"),)

    class Boss(Agent):
        agent_id = "boss"
        capabilities = (Capability("asking"),)
        delegates_to = ("asked",)

    model = ScriptedModel()
    delegations = [tool_call("delegate", agent_id="asked", text=f"Question {n}?") for n in range(3)]
    model.replies(delegations, "They said it.", to="boss")
    model.replies(*[echo] * 3, to="asked")
    async with mesh_for(Boss, Asked, model=model) as mesh:
        assert (await mesh.ask("boss", "Ask them.")).text == "They said it."
        waiting = mesh.events("task.waiting").payloads
    answers = [m.content for m in model.requests[-1].messages if m.role == "tool"]
    assert answers == [f"Echo: Question {n}?" for n in range(3)]
    assert len(waiting) >= 1
