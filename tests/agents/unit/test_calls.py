"""A task is given by the same arguments everywhere, and its answer is read in the shape that is wanted."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from types import MappingProxyType
from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel

import meshwright
from meshwright import (
    Agent,
    BlockingClient,
    Capability,
    Client,
    Delegation,
    Outcome,
    Run,
    TaskFailed,
    TaskRequest,
    tool,
)
from meshwright.client import TaskFields
from meshwright.core.errors import Conflict, InvalidInput, NotFound
from meshwright.testing import MeshUnderTest, mesh_for


class Verdict(BaseModel):
    urgent: bool


class Triage(Agent):
    agent_id = "triage"
    capabilities = (Capability("triaging"),)
    delegates_to = ("echo", "echoing")

    async def run(self, run: Run) -> str | dict[str, Any]:
        match run.task.text:
            case "fail":
                raise ValueError("too hot")
            case "words":
                return "It can wait."
            case "same thread":
                wanted = [Delegation("echo", str(number), thread_id="talk") for number in range(2)]
                return "; ".join(await run.delegate_all(wanted))
            case "twice":
                return await run.delegate("echo", "one", payload={"text": "two"})
            case "bad thread":
                return await run.delegate("echo", "one", thread_id="a b")
        return {"urgent": run.task.payload.get("host") == "web"}


class Echo(Agent):
    agent_id = "echo"
    capabilities = (Capability("echoing"),)

    @tool(needs_approval=True)
    async def shout(self) -> str:
        """Shout."""
        return "It was shouted."

    async def run(self, run: Run) -> str:
        if run.task.text == "remember":
            return await run.remember("The gate is blue.", "agent")
        if run.task.text == "shout":
            return str(await run.call("shout"))
        return f"{run.task.text} in {run.task.thread_id}"


@pytest.fixture
async def under_test() -> AsyncIterator[MeshUnderTest]:
    async with mesh_for(Triage, Echo) as mesh:
        yield mesh


@pytest.fixture(params=["under test", "client"])
async def caller(request: pytest.FixtureRequest, under_test: MeshUnderTest) -> MeshUnderTest | Client:
    return under_test if request.param == "under test" else under_test.client


def test_the_calls_are_the_same_everywhere() -> None:
    for name in ("submit", "ask", "outcome"):
        assert len({str(inspect.signature(getattr(kind, name))) for kind in CALLERS}) == 1
    assert set(TaskRequest.model_fields) >= {*TaskFields.__annotations__} - {"idempotency_key"}
    assert get_type_hints(Delegation)["thread_id"] == str | None


CALLERS = (Client, BlockingClient, MeshUnderTest)


async def test_an_answer_is_read_in_the_shape_that_is_wanted(caller: MeshUnderTest | Client) -> None:
    outcome = await caller.ask("triage", "It burns.", payload={"host": "web"}, thread_id="web")
    assert isinstance(outcome, Outcome) and outcome.result == {"urgent": True}
    assert await caller.ask("triage", "It burns.", shape=Verdict) == Verdict(urgent=False)
    assert await caller.ask("triage", "It burns.", shape=dict[str, bool]) == {"urgent": False}
    assert await caller.ask("triage", "words", shape=str) == "It can wait."
    receipt = await caller.submit("triage", "It burns.", capability="triaging")
    assert (await caller.outcome(receipt)).task_id == receipt.task_id
    assert await caller.outcome(receipt.task_id, shape=Verdict) == Verdict(urgent=False)


async def test_an_answer_of_another_shape_is_an_error(caller: MeshUnderTest | Client) -> None:
    with pytest.raises(TaskFailed, match=r"triage did not succeed: too hot .*mesh task \w+ shows it"):
        await caller.ask("triage", "fail", shape=Verdict)
    with pytest.raises(TaskFailed, match=r"triage did not succeed: .* another shape .* result.urgent is"):
        await caller.ask("triage", "words", shape=Verdict)
    with pytest.raises(TaskFailed, match=r"another shape .* result.text must be true or false"):
        await caller.ask("triage", "words", shape=dict[str, bool])


async def test_a_task_may_be_given_whole(caller: MeshUnderTest | Client) -> None:
    request = TaskRequest(agent_id="triage", text="It burns.", payload={"host": "web"})
    assert request.payload == {"host": "web", "text": "It burns."}
    assert await caller.ask(request, shape=Verdict) == Verdict(urgent=True)
    first = await caller.submit(request, idempotency_key="order-7")
    assert (await caller.submit(request, idempotency_key="order-7")).task_id == first.task_id
    with pytest.raises(InvalidInput, match="a TaskRequest is given, and more beside it"):
        await caller.ask(request, "It smokes.")


async def test_the_order_of_before_is_refused(caller: MeshUnderTest | Client) -> None:
    with pytest.raises(InvalidInput, match=r"'It burns\.' is no id of an agent\. The agent is named before"):
        await caller.submit("It burns.", capability="triaging")
    old: Any = caller
    with pytest.raises(TypeError, match="multiple values for argument 'agent_id'"):
        await old.ask("It burns.", agent_id="triage")
    with pytest.raises(InvalidInput, match="the text and payload"):
        await caller.submit("triage", "It burns.", payload={"text": "It smokes."})
    with pytest.raises(InvalidInput, match=r"priority:? must be at most 10") as refused:
        await caller.submit("triage", "It burns.", priority=11)
    assert refused.value.field == "priority"


async def test_a_question_is_answered_as_it_was_given(
    under_test: MeshUnderTest, caller: MeshUnderTest | Client
) -> None:
    receipts = [await caller.submit("echo", "shout") for _ in range(2)]
    first, second = await under_test.questions(2)
    assert await under_test.client.inbox() == [first, second]
    await caller.answer(first, {"approve": True})
    await caller.answer(second.task_id, {"approve": True}, key=second.wait_id)
    assert [await caller.outcome(receipt, shape=str) for receipt in receipts] == ["It was shouted."] * 2
    with pytest.raises((Conflict, NotFound)):
        await caller.answer(first, {"approve": True})
    with pytest.raises(InvalidInput, match="an answer names no question"):
        await caller.answer(second.task_id, {"approve": True})


async def test_an_item_of_the_inbox_that_is_no_tasks_is_answered_too(
    under_test: MeshUnderTest, caller: MeshUnderTest | Client
) -> None:
    await caller.ask("echo", "remember", payload=MappingProxyType({}), outside=True, shape=str)
    [item] = await under_test.client.inbox()
    assert (item.source, item.task_id) != ("", "")
    await caller.answer(item, {"approve": True})
    assert await under_test.client.inbox() == []
    with pytest.raises(Conflict):
        await caller.answer(item, {"approve": True})


async def test_delegations_continue_the_conversation_that_they_name(under_test: MeshUnderTest) -> None:
    assert await under_test.ask("triage", "same thread", shape=str) == "0 in talk; 1 in talk"
    with pytest.raises(TaskFailed, match=r"its payload\['text'\] differ"):
        await under_test.ask("triage", "twice", shape=str)
    with pytest.raises(TaskFailed, match="the thread_id of a delegation is 'a b'"):
        await under_test.ask("triage", "bad thread", shape=str)


def test_an_author_sees_the_names_of_authors() -> None:
    assert len([name for name in dir(meshwright) if not name.startswith("_")]) == 33
    assert not {"Actor", "Component", "Tasks", "build_mesh"} & {*dir(meshwright)}
    with pytest.raises(ImportError, match="cannot import name 'Component'"):
        from meshwright import Component as Component
    internals = {"booked", "close", "confirm", "let_go", "prepare", "recover", "suspended", "tell_thread"}
    assert not internals & {*dir(Run)}


def test_one_module_has_the_names_for_parts_of_a_mesh() -> None:
    from meshwright import component

    assert all(hasattr(component, name) for name in component.__all__)
    assert not hasattr(component, "Task")
