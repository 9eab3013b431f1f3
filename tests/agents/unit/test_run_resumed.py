"""A run that is taken up again after a restart: where it was, with what it was begun with."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from meshwright import Agent, Capability, TaskRequest, tool
from meshwright.agents.run.run import Run
from meshwright.client import Client
from meshwright.core.messages import Usage
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.adapt import ANSWER_TOOL
from meshwright.models.errors import Unsupported
from meshwright.models.port import ModelReply, ModelRequest, ToolCall
from meshwright.testing import ScriptedModel, tool_call
from tests.support.interrupted_mesh import keeper, kept


def told(model: ScriptedModel) -> list[str]:
    return [message.content for message in model.requests[-1].messages if message.role == "tool"]


def system_of(request: ModelRequest) -> str:
    return request.messages[0].content


async def submitted(mesh: Mesh, agent_id: str, text: str = "Do it.") -> str:
    request = TaskRequest(agent_id=agent_id, payload={"text": text})
    return (await mesh.get(Tasks).submit(request)).task_id


async def test_a_resumed_run_keeps_its_prompt_and_repeats_no_call(tmp_path: Path) -> None:
    prompt = tmp_path / "prompts/keeper.prompt"
    prompt.parent.mkdir()
    text = "---\ndescription: d\ntags: [first]\n---\nBe {manner}.\n"
    prompt.write_text(text.format(manner="polite"))
    first, first_model = keeper(), ScriptedModel(tool_call("hold"))
    async with kept(tmp_path, first, model=first_model) as mesh:
        task_id = await submitted(mesh, "keeper")
        await first.began.wait()
    prompt.write_text(text.format(manner="rude").replace("first", "second"))
    second, second_model = keeper(), ScriptedModel("Done.")
    second.opened.set()
    async with kept(tmp_path, second, model=second_model) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
        assert outcome.text == "Done."
        second_model.replies("As you like.")
        await mesh.get(Tasks).outcome(await submitted(mesh, "keeper"))
    [before], [after, anew] = first_model.requests, second_model.requests
    assert system_of(after) == system_of(before)
    assert after.tags == before.tags == ("first",)
    assert [message.content for message in after.messages[-1:]] == ["held"]
    assert system_of(anew).startswith("Be rude.")
    assert anew.tags == ("second",)


def stepping() -> tuple[type[Agent], list[str], asyncio.Event, asyncio.Event]:
    """An agent with a run of its own, in three steps; the second holds until the test lets it go."""
    done: list[str] = []
    began, opened = asyncio.Event(), asyncio.Event()

    def step(name: str) -> Any:
        async def run() -> str:
            done.append(name)
            if name == "second":
                began.set()
                await opened.wait()
            return name

        return run

    async def run(self: Agent, run: Run) -> dict[str, Any]:
        first = await run.step("first", step("first"))
        second = await run.step("second", step("second"))
        return {"first": first, "second": second, "third": await run.step("third", step("third"))}

    fields = {"agent_id": "stepper", "capabilities": (Capability("stepping"),), "run": run}
    return type("Stepper", (Agent,), fields), done, began, opened


async def test_an_agents_own_steps_are_done_once_each(tmp_path: Path) -> None:
    stepper, done, began, opened = stepping()
    async with kept(tmp_path, stepper) as mesh:
        task_id = await submitted(mesh, "stepper")
        await began.wait()
    opened.set()
    async with kept(tmp_path, stepper) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
    assert outcome.result == {"first": "first", "second": "second", "third": "third"}
    assert done == ["first", "second", "second", "third"]


class Shipper(Agent):
    """Ships what a person lets it ship."""

    agent_id = "shipper"
    capabilities = (Capability("shipping"),)

    @tool(needs_approval=True)
    async def ship(self, order: str) -> str:
        """Ship."""
        return f"shipped {order}"


class FreeShipper(Shipper):
    """Asks nobody."""

    @tool(idempotent=True)
    async def ship(self, order: str, carrier: str = "post") -> str:
        """Ship an order."""
        return f"shipped {order} by {carrier}"


async def test_approvals_side_by_side_stand_where_the_tool_asks_for_none_any_more(tmp_path: Path) -> None:
    calls = [tool_call("ship", order=order) for order in ("a", "b", "a")]
    async with kept(tmp_path, Shipper, model=ScriptedModel(calls)) as mesh:
        task_id = await submitted(mesh, "shipper")
        while len((await mesh.get(Tasks).task(task_id)).waits) < len(calls):
            await asyncio.sleep(0.01)
    model = ScriptedModel("Done.")
    async with kept(tmp_path, FreeShipper, model=model) as mesh:
        for wait in sorted((await mesh.get(Tasks).task(task_id)).waits, key=lambda wait: wait.step.path):
            approve = wait.subject["arguments"]["order"] == "a"
            await mesh.get(Tasks).answer(task_id, wait.wait_id, {"approve": approve})
        assert (await mesh.get(Tasks).outcome(task_id)).attempt == 1
    assert told(model) == [
        "shipped a by post",
        '{"error": "ship was not run: anonymous denied it"}',
        "shipped a by post",
    ]


class Talker(Agent):
    """Talks."""

    agent_id = "talker"
    capabilities = (Capability("talking"),)


async def test_the_history_of_a_thread_outlives_a_restart(tmp_path: Path) -> None:
    async with kept(tmp_path, Talker, model=ScriptedModel("The capital is Lima.")) as mesh:
        await mesh.get(Tasks).ask("talker", "What is Peru's capital?", thread_id="talk")
        ref = ActorRef("Conversation", "default:talk")
        records = await mesh.runtime.records(ref, "messages")
        assert [record.value["role"] for record in records] == ["user", "assistant"]
    model = ScriptedModel("Lima.")
    async with kept(tmp_path, Talker, model=model) as mesh:
        await mesh.get(Tasks).ask("talker", "Say it again.", thread_id="talk")
    assert [message.content for message in model.requests[0].messages[1:]] == [
        "What is Peru's capital?",
        "The capital is Lima.",
        "Say it again.",
    ]


class Verdict(BaseModel):
    """A verdict."""

    guilty: bool


class Judge(Agent):
    """Answers in a shape."""

    agent_id = "judge"
    capabilities = (Capability("judging"),)
    answers = Verdict


class Forced:
    """A model that takes a shape only as a tool, and may hang instead of giving its last answer."""

    name = "forced"

    def __init__(self, *answers: str, hangs: bool = False) -> None:
        self.answers = list(answers)
        self.hangs = hangs
        self.hanging = asyncio.Event()
        self.requests: list[ModelRequest] = []

    async def complete(self, request: ModelRequest, on_delta: Any = None) -> ModelReply:
        if request.user != "judge" or request.response_schema is not None:
            raise Unsupported("answered 400", what="response_format")
        if self.hangs and not self.answers:
            self.hanging.set()
            await asyncio.Event().wait()
        self.requests.append(request)
        call = ToolCall(id="c1", name=ANSWER_TOOL, arguments=self.answers.pop(0))
        usage = Usage(prompt_tokens=10, completion_tokens=1)
        return ModelReply(tool_calls=(call,), model=self.name, usage=usage, cost_usd=Decimal("0.25"))

    async def close(self) -> None: ...


async def test_a_repair_goes_on_where_it_was_and_in_the_way_that_the_model_takes(tmp_path: Path) -> None:
    first = Forced('{"guilty": "maybe"}', '{"guilty": "no"}', hangs=True)
    async with kept(tmp_path, Judge, model=first) as mesh:
        task_id = await submitted(mesh, "judge")
        await first.hanging.wait()
    second = Forced('{"guilty": false}')
    async with kept(tmp_path, Judge, model=second) as mesh:
        outcome = await mesh.get(Tasks).outcome(task_id)
        told = await mesh.log.query(EventFilter(task_id=task_id, event_type="structure.invalid"))
        called = await mesh.log.query(EventFilter(task_id=task_id, event_type="model.called"))
    assert outcome.result == {"guilty": False}
    assert outcome.attempt == 1
    assert outcome.usage.prompt_tokens == sum(each.payload["usage"]["prompt_tokens"] for each in called)
    assert outcome.cost_usd is None  # nobody knows what the call cost that the stop broke off
    [last] = second.requests
    assert [message.content for message in last.messages if message.role == "assistant"] == [
        '{"guilty": "maybe"}',
        '{"guilty": "no"}',
    ]
    assert [event.payload["raw"] for event in told] == ['{"guilty": "maybe"}', '{"guilty": "no"}']
    assert len([event for event in called if event.payload["outcome"] == "ok"]) == 3


async def test_a_resumed_run_repeats_no_event_of_a_tool_that_does_not_exist(tmp_path: Path) -> None:
    first, second = keeper(), keeper(opened=True)
    wrong = [tool_call("stauts"), tool_call("stauts")]
    async with kept(
        tmp_path, first, model=ScriptedModel(tool_call("stauts"), wrong, tool_call("hold"))
    ) as mesh:
        task_id = await submitted(mesh, "keeper")
        await first.began.wait()
    async with kept(tmp_path, second, model=ScriptedModel("Done.")) as mesh:
        assert (await mesh.get(Tasks).outcome(task_id)).text == "Done."
        called = await mesh.log.query(EventFilter(task_id=task_id, event_type="tool.called"))
        steps = await Client.local(mesh).steps(task_id)
    assert [event.fields["tool"] for event in called] == ["stauts"] * 3 + ["hold"]
    refused = [step for step in steps if step.name == "stauts"]
    assert [(step.kind, step.status) for step in refused] == [("tool", "failed")] * 3
    assert refused[0].summary == "there is no tool 'stauts'; there are hold, remember, recall"
