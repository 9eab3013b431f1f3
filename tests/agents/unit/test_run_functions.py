"""The tools of a run as functions: with their signatures, approved and checked as other calls."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import pytest
from annotated_types import Ge
from pydantic import StringConstraints
from pydantic.fields import FieldInfo

from meshwright import Agent, Capability, CheckResult, Client, tool
from meshwright.agents.run.functions import tool_function
from meshwright.agents.run.run import Run
from meshwright.agents.tools.tool import Tool
from meshwright.core.errors import AgentError
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import mesh_for
from tests.support.interrupted_mesh import kept, told_of
from tests.support.run_clients import EchoingModel, ask, author, submitted, swallowing


class Shop(Agent):
    """Has tools of each kind."""

    agent_id = "author"
    capabilities = (Capability("writing"),)
    charged: list[str]

    @tool
    async def charge(self, order: str, amount: float = 1.5) -> dict[str, Any]:
        """Charge a card.

        Args:
            order: the order
        """
        self.charged.append(order)
        return {"order": order, "amount": amount}

    @tool(needs_approval=True)
    async def ship(self, order: str) -> str:
        """Ship an order."""
        return f"shipped {order}"


async def test_an_approval_parks_a_framework_that_catches_every_error(tmp_path: Path) -> None:
    charged: list[str] = []
    seen: list[Any] = []

    async def run(self: Agent, run: Run) -> str:
        charge, ship = run.functions("charge", "ship")
        reply = await swallowing(
            run.openai().chat.completions.create(
                model="default", messages=[{"role": "user", "content": "Which?"}]
            )
        )
        paid = await asyncio.gather(swallowing(charge("A1")), swallowing(ship(order="A1")))
        seen.append(paid)
        return f"{reply.choices[0].message.content}: {paid}"

    agent = author(run, Shop, charged=charged)
    model = EchoingModel()
    async with kept(tmp_path, agent, model=model) as mesh:
        task_id = await submitted(mesh)
        question = await told_of(mesh, "approval.requested")
    async with kept(tmp_path, agent, model=model) as mesh:
        await mesh.get(Tasks).answer(task_id, question.payload["key"], {"approve": True})
        outcome = await mesh.get(Tasks).outcome(task_id)
    assert outcome.text == "Which? 1: [{'order': 'A1', 'amount': 1.5}, 'shipped A1']"
    assert charged == ["A1"]
    assert model.calls == {"Which?": 1}
    assert len(seen) == 1


async def test_no_call_is_booked_for_a_tool_whose_check_says_that_it_happened(tmp_path: Path) -> None:
    class Payer(Agent):
        """Pays, and is stopped while it does."""

        agent_id = "payer"
        capabilities = (Capability("paying"),)
        began = asyncio.Event()

        @tool(check="was_paid")
        async def pay(self) -> str:
            """Pay."""
            self.began.set()
            await asyncio.Event().wait()
            return "paid"

        async def was_paid(self) -> CheckResult:
            return CheckResult.happened("paid")

    async def work(agent: Agent, run: Run) -> str:
        [pay] = run.functions("pay")
        await asyncio.create_task(ask(run, "first"))
        paid = await asyncio.create_task(pay())
        reply = await asyncio.create_task(ask(run, "second"))
        return f"{paid}, {reply.content}"

    model, payer = EchoingModel(), author(work, Payer)
    async with kept(tmp_path, payer, model=model) as mesh:
        task_id = await submitted(mesh)
        await Payer.began.wait()
    async with kept(tmp_path, payer, model=model) as mesh:
        assert (await mesh.get(Tasks).outcome(task_id)).text == "paid, second 1"
        calls = await Client.local(mesh).events(task_id=task_id, event_type="model.called")
    assert [event.payload["outcome"] for event in calls] == ["ok", "ok"]


async def test_functions_have_the_signatures_of_their_tools() -> None:
    shown: dict[str, Any] = {}

    async def run(self: Agent, run: Run) -> str:
        functions = {function.__name__: function for function in run.functions()}
        charge = functions["charge"]
        shown.update(
            names=sorted(functions),
            fields=[
                extra
                for function in functions.values()
                for hint in inspect.get_annotations(function).values()
                for extra in get_args(hint)
                if isinstance(extra, FieldInfo)
            ],
            signature=str(inspect.signature(charge)),
            hints=inspect.get_annotations(charge),
            doc=charge.__doc__,
            is_async=inspect.iscoroutinefunction(charge),
            results=[await charge("A", 2), await charge(order="B")],
        )
        with pytest.raises(TypeError, match="missing a required argument"):
            await charge()
        return "done"

    charged: list[str] = []
    async with mesh_for(author(run, Shop, charged=charged)) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert outcome.text == "done"
    assert shown["names"] == ["charge", "recall", "remember", "ship"]
    assert shown["signature"] == "(order: str, amount: float = 1.5) -> dict[str, typing.Any]"
    assert shown["hints"] == {"order": str, "amount": float, "return": dict[str, Any]}
    assert shown["doc"].startswith("Charge a card.\n\nArgs:\n    order: the order")
    assert shown["is_async"] and shown["fields"] == []  # strands refuses functions with pydantic.Field
    assert shown["results"] == [{"order": "A", "amount": 2.0}, {"order": "B", "amount": 1.5}]


async def test_a_parameter_with_metadata_has_its_description_first() -> None:
    """Haystack takes the first for a description, and refuses a tool whose description is no text."""
    shown: dict[str, Any] = {}

    class Limited(Shop):
        @tool
        async def find(
            self,
            text: Annotated[str, StringConstraints(min_length=1)],
            limit: Annotated[int, "how many", Ge(1)],
        ) -> str:
            """Find an order.

            Args:
                text: the words
            """
            return f"{limit} of {text}"

    async def run(self: Agent, run: Run) -> str:
        [find] = run.functions("find")
        shown.update(inspect.get_annotations(find))
        return await find("lamp", 2)

    async with mesh_for(author(run, Limited, charged=[])) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert outcome.text == "2 of lamp", outcome.error
    assert get_args(shown["text"]) == (str, "the words", StringConstraints(min_length=1))
    assert get_args(shown["limit"]) == (int, "how many", Ge(1))


class SchemaTool(Tool):
    """A tool that is known by its schema alone, as those of an MCP server."""

    name, description, idempotent = "search", "Search the catalogue.", True
    parameters: ClassVar = {
        "type": "object",
        "properties": {
            "limit": {"type": "integer", "default": 5},
            "query": {"type": "string", "description": "the words"},
            "kind": {"enum": ["book", "map"]},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["query"],
    }

    async def call(self, arguments: str, context: Any) -> Any:
        raise NotImplementedError


async def test_a_tool_with_a_schema_alone_gets_its_signature_from_that() -> None:
    calls: list[str] = []

    async def call(arguments: str) -> str:
        calls.append(arguments)
        return "found"

    function = tool_function(SchemaTool(), call)
    parameters = inspect.signature(function).parameters
    assert list(parameters) == ["query", "limit", "kind", "tags"]
    assert (parameters["query"].annotation, parameters["limit"].default) == (str, 5)
    assert parameters["kind"].annotation == Literal["book", "map"] | None
    assert parameters["tags"].annotation == list[str] | None
    assert inspect.getdoc(function) == "Search the catalogue.\n\nArgs:\n    query: the words"
    await function("x", kind=None)
    await function("x", tags=["a"])
    assert calls == ['{"query":"x"}', '{"query":"x","tags":["a"]}']
    odd = SchemaTool()
    odd.parameters = {"type": "object", "properties": {"file-path": {"type": "string"}}}
    with pytest.raises(AgentError, match=r"the parameter 'file-path', which Python cannot name"):
        tool_function(odd, call)


async def test_functions_of_another_run_or_after_the_end_are_not_called() -> None:
    charged: list[str] = []
    calls: list[Any] = []

    async def run(self: Agent, run: Run) -> str:
        if not calls:
            calls.extend([*run.functions("charge"), lambda text: ask(run, text)])
            return str(await calls[0]("A1"))
        return "; ".join([str(await swallowing(call("B2"))) for call in calls])

    model = EchoingModel()
    async with mesh_for(author(run, Shop, charged=charged), model=model) as mesh:
        await mesh.ask("author", "1")
        second = await mesh.ask("author", "2")
        late = await swallowing(calls[0]("C3"))
    refusal = "swallowed The run of this call has ended, so it is not made"
    assert (second.text or "").count(refusal) == 2
    assert late.startswith(refusal)
    assert charged == ["A1"]
    assert not model.calls


@pytest.mark.parametrize("turns", [0, 1, 50])
@pytest.mark.parametrize("how", ["call", "ask", "step", "complete", "client", "functions"])
async def test_code_that_is_left_behind_makes_no_call(how: str, turns: int) -> None:
    charged: list[str] = []
    left: list[asyncio.Future[Any]] = []

    async def run(self: Agent, run: Run) -> str:
        async def step() -> None:
            await asyncio.sleep(0)
            charged.append("C3")

        [charge], client = run.functions("charge"), run.openai().chat.completions
        messages: Any = [{"role": "user", "content": "x"}]
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "call": lambda: run.call("charge", order="A1"),
            "ask": lambda: run.ask("x"),
            "step": lambda: run.step("own", step),
            "complete": lambda: ask(run, "x"),
            "client": lambda: client.create(model="default", messages=messages),
            "functions": lambda: charge("B2"),
        }

        async def later() -> Any:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await swallowing(calls[how]())

        left.append(asyncio.ensure_future(later()))
        await asyncio.sleep(0)
        return "done"

    model = EchoingModel()
    async with mesh_for(author(run, Shop, charged=charged), model=model) as mesh:
        outcome = await mesh.ask("author", "Do it.")
        await asyncio.wait(left)
    assert (outcome.text, charged, model.calls) == ("done", [], {})


async def test_calls_on_another_event_loop_are_refused() -> None:
    charged: list[str] = []

    async def run(self: Agent, run: Run) -> str:
        [charge], client = run.functions("charge"), run.openai()
        messages: Any = [{"role": "user", "content": "x"}]

        async def elsewhere() -> list[Any]:
            answer = client.chat.completions.create(model="default", messages=messages)
            return [await swallowing(call) for call in (charge("A1"), ask(run, "x"), answer)]

        return "; ".join(map(str, await asyncio.to_thread(lambda: asyncio.run(elsewhere()))))

    model = EchoingModel()
    async with mesh_for(author(run, Shop, charged=charged), model=model) as mesh:
        outcome = await mesh.ask("author", "Do it.")
    assert (outcome.text or "").count("A call of the run is made on another event loop. Await it in") == 3
    assert not charged and not model.calls
