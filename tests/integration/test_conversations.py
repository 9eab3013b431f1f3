"""Whoever has the answer to one task of a thread finds it in the conversation of the next, on any store."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright import Agent, Capability, Client
from meshwright.models.port import ModelReply, ModelRequest
from meshwright.stores.memory import Faults
from meshwright.testing import ScriptedModel, mesh_for
from tests.support.interrupted_mesh import kept
from tests.support.postgres import Place

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


@pytest.mark.parametrize("seed", range(5))
async def test_a_conversation_is_whole_where_messages_are_late(seed: int) -> None:
    faults = Faults(seed, duplicate=0.3, delay=0.5, reorder=0.5, conflict=0.2)
    async with mesh_for(Left, Right, model=ScriptedModel(*[count] * TURNS), faults=faults) as mesh:
        answers = [
            (await mesh.ask(("left", "right")[n % 2], "Count.", thread_id="talk")).text for n in range(TURNS)
        ]
    assert answers == ANSWERS


async def test_a_conversation_is_whole_on_a_database(place: Place, tmp_path: Path) -> None:
    settings = {} if isinstance(place, Path) else {"database": place}
    async with kept(tmp_path, Left, Right, model=ScriptedModel(*[count] * TURNS), **settings) as mesh:
        client = Client.local(mesh)
        answers = [
            (await client.ask("Count.", agent_id=("left", "right")[n % 2], thread_id="talk")).text
            for n in range(TURNS)
        ]
    assert answers == ANSWERS
