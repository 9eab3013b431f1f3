"""The answer to one task of a thread is in the conversation of the next, on any store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Client, tool
from meshwright.engine.stores.memory import Faults
from meshwright.models.circuits import MAX_TRIES
from meshwright.models.errors import ModelUnavailable
from meshwright.models.port import ModelReply, ModelRequest
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import kept, told_of
from tests.support.postgres import Location

TURNS = 8


class Left(Agent):
    """Answers first."""

    agent_id = "left"
    capabilities = (Capability("answering"),)


class Right(Agent):
    """Answers next."""

    agent_id = "right"
    capabilities = (Capability("answering"),)


def count(request: ModelRequest) -> ModelReply:
    return ModelReply(content=f"That was message {len(request.messages) - 1}.", model="m")


ANSWERS = [f"That was message {2 * n + 1}." for n in range(TURNS)]


def stored_at(location: Location) -> dict[str, Any]:
    return {} if isinstance(location, Path) else {"database": location}


@pytest.mark.parametrize("seed", range(5))
async def test_a_conversation_is_whole_where_messages_are_late(seed: int) -> None:
    faults = Faults(seed, duplicate=0.3, delay=0.5, reorder=0.5, conflict=0.2)
    async with mesh_for(Left, Right, model=ScriptedModel(*[count] * TURNS), faults=faults) as mesh:
        answers = [
            (await mesh.ask(("left", "right")[n % 2], "Count.", thread_id="talk")).text for n in range(TURNS)
        ]
    assert answers == ANSWERS


async def test_a_conversation_is_whole_on_a_database(location: Location, tmp_path: Path) -> None:
    settings = stored_at(location)
    async with kept(tmp_path, Left, Right, model=ScriptedModel(*[count] * TURNS), **settings) as mesh:
        client = Client.local(mesh)
        answers = [
            (await client.ask(("left", "right")[n % 2], "Count.", thread_id="talk")).text
            for n in range(TURNS)
        ]
    assert answers == ANSWERS


class Noter(Agent):
    """Notes what a person lets it note."""

    agent_id = "noter"
    capabilities = (Capability("noting"),)

    @tool(idempotent=True, needs_approval=True)
    async def note(self, name: str) -> str:
        """Note a name."""
        return f"noted {name}"


def name_said(request: ModelRequest) -> ModelReply:
    said = " ".join(message.content for message in request.messages[:-1])
    return ModelReply(content="Ada" if "Ada" in said else "unknown", model="m")


def contents(request: ModelRequest) -> list[str]:
    return [message.content for message in request.messages[1:]]


async def test_a_request_waits_behind_one_whose_provider_is_away(location: Location, tmp_path: Path) -> None:
    away = ModelUnavailable("The provider is away")
    model = ScriptedModel(*[away] * MAX_TRIES, *[name_said] * 2)
    settings = {**stored_at(location), "models": {"park": True, "park_seconds": 0.5}}
    async with kept(tmp_path, Noter, model=model, **settings) as mesh:
        client = Client.local(mesh)
        for text in ("My name is Ada.", "What is my name?"):
            receipt = await client.submit("noter", text, thread_id="talk")
        assert (await client.outcome(receipt.task_id)).text == "Ada"
        assert len(await client.events(event_type="task.waiting")) == 1


@pytest.mark.parametrize("ends", ["approved", "cancelled"])
async def test_a_request_is_told_of_one_that_waits_for_a_person(
    location: Location, tmp_path: Path, ends: str
) -> None:
    model = ScriptedModel(tool_call("note", name="Ada"), name_said)
    async with kept(tmp_path, Noter, Left, model=model, **stored_at(location)) as mesh:
        client = Client.local(mesh)
        first = await client.submit("noter", "My name is Ada.", thread_id="talk")
        key = (await told_of(mesh, "task.waiting")).payload["key"]
        asked = await client.ask("noter", "What is my name?", thread_id="talk")
        open_request, note, _ = contents(model.requests[1])
        assert (asked.text, open_request) == ("Ada", "My name is Ada.")
        assert note.startswith("Still open: this request waits for a person: noter wants to run note(")
        model.replies(*["Noted."] * (ends == "approved"), "Bye.")
        if ends == "approved":
            await client.answer(first.task_id, {"approve": True}, key=key)
        else:
            await client.cancel(first.task_id)
        await client.outcome(first.task_id)
        await client.ask("left", "Bye.", thread_id="talk")
    answered = ["The answer is further below.", "What is my name?", "Ada"]
    later = ['The answer to the earlier request "My name is Ada.":', "Noted.", "Bye."]
    whole = ["My name is Ada.", *answered, *later] if ends == "approved" else [*answered[1:], "Bye."]
    assert contents(model.requests[-1]) == whole
