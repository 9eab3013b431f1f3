"""A session that goes on is no program that begins again: each of its calls of tools takes effect."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from meshwright import Capability, CodingAgent, ToolContext, tool
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from tests.support.coding_agents import PROGRAM, delegated
from tests.support.repositories import CALC, repository

pytestmark = pytest.mark.needs("bwrap")
TREE: Mapping[str, str] = {**CALC, "stock.txt": ""}
STREAMS = PROGRAM.parent / "fake_acp_streams"


class Buyer(CodingAgent):
    """Buys by a tool of the run."""

    agent_id = "fixer"
    capabilities = (Capability("bug-fix"),)
    num_retries = 0
    bank: list[str]

    @tool(idempotent=True)
    async def buy(self, item: str, context: ToolContext) -> str:
        """Buy something."""
        self.bank.append(f"{item} {context.step_id}")
        return f"bought {item}"

    @tool(effect="read")
    async def stock(self) -> str:
        """The number of things that were bought."""
        return str(len(self.bank))


def buyer() -> type[Buyer]:
    return type("TestBuyer", (Buyer,), {"bank": [], "__doc__": Buyer.__doc__})


def settings(tmp_path: Path, *, command: Path = PROGRAM, **options: Any) -> dict[str, Any]:
    source = tmp_path / "source"
    repository(source, TREE)
    coder = {"program": "acp", "command": str(command), "permissions": "ask", **options}
    return {"trees": {"code": {"repository": str(source)}}, "coding": {"fixer": coder}}


async def test_purchases_of_a_session_that_goes_on_take_place(tmp_path: Path) -> None:
    agent = buyer()
    async with mesh_for(agent, **settings(tmp_path)) as mesh:
        receipt = await mesh.client.submit("fixer", "Have add() add. [buys three]")
        [question] = await mesh.questions()
        await mesh.answer(question, {"approve": True})
        [proposal] = await mesh.questions()
        assert "+3 of 3" in str(proposal)
        await mesh.answer(proposal, {"approve": False})
        assert (await mesh.client.outcome(receipt.task_id)).success
        assert [event["how"] for event in mesh.events("coding.session").payloads][-1] == "resumed"
    assert len(set(agent.bank)) == 3


async def test_a_program_that_begins_anew_while_the_mesh_lives_buys_nothing_twice(tmp_path: Path) -> None:
    agent = buyer()
    async with mesh_for(agent, **settings(tmp_path, args=["no-load"])) as mesh:
        outcome = await delegated(mesh, "Have add() add. [buys anew]")
        assert outcome.result["changed"] == ["M calc.py"]
        titles = {event["title"] for event in mesh.events("coding.call").payloads}
        assert titles == {"Saw 0 teas", "Saw 2 teas", "Edit calc.py"}  # reads are never those of another life
        assert [event["how"] for event in mesh.events("coding.session").payloads] == ["new", "restarted"]
    assert (len(agent.bank), len(set(agent.bank))) == (3, 3)


@pytest.mark.parametrize(("word", "count"), [("keeps", 2), ("interrupted", 1), ("drops", 1)])
async def test_a_purchase_that_the_session_has_lost_is_not_made_again(
    tmp_path: Path, word: str, count: int
) -> None:
    agent = buyer()
    model = ScriptedModel(*[tool_call("mcp__mesh__buy", item="tea")] * 2, "Done.")
    async with mesh_for(agent, model=model, **settings(tmp_path)) as mesh:
        outcome = await delegated(mesh, f"Have add() add. [buys as told] [{word}]")
        assert outcome.result["changed"] == ["M calc.py"]
        assert [event["how"] for event in mesh.events("coding.session").payloads] == ["new", "resumed"]
    assert (len(agent.bank), len(set(agent.bank))) == (count, count)


async def test_the_box_allows_what_a_program_asks(tmp_path: Path) -> None:
    async with mesh_for(buyer(), **settings(tmp_path, permissions="box")) as mesh:
        outcome = await delegated(mesh, "Have add() add. [asks]")
        assert outcome.result["changed"] == ["M calc.py"]
        assert mesh.events("coding.permission").payloads == []
        assert {event["title"] for event in mesh.events("coding.call").payloads} == {"Edit calc.py"}


async def test_an_agent_without_http_has_the_tools_by_stdio(tmp_path: Path) -> None:
    async with mesh_for(buyer(), **settings(tmp_path, args=["no-http"])) as mesh:
        await mesh.client.submit("fixer", "Have add() add. [calls by stdio]")
        [proposal] = await mesh.questions()
        assert "+0, ended by 0" in str(proposal)


async def test_an_argument_called_self_is_refused_by_its_name(tmp_path: Path) -> None:
    async with mesh_for(buyer(), **settings(tmp_path)) as mesh:
        await mesh.client.submit("fixer", "Have add() add. [passes self]")
        [proposal] = await mesh.questions()
        assert "stock was not run: self: Extra inputs" in str(proposal)


async def test_the_table_alone_chooses_the_deployment(tmp_path: Path) -> None:
    model = ScriptedModel("So.")
    async with mesh_for(buyer(), model=model, **settings(tmp_path)) as mesh:
        await delegated(mesh, "Have add() add. [chooses]")
    assert ["expensive" in request.tags for request in model.requests] == [False]


async def test_folders_deeper_than_a_recursion_fail_no_task(tmp_path: Path) -> None:
    async with mesh_for(buyer(), **settings(tmp_path)) as mesh:
        outcome = await delegated(mesh, "Have add() add. [nests]")
        assert outcome.result["changed"] == ["M calc.py"]


async def test_an_agent_whose_output_is_a_pipe_of_its_event_loop_works(tmp_path: Path) -> None:
    assert os.access(STREAMS, os.X_OK)
    async with mesh_for(buyer(), **settings(tmp_path, command=STREAMS)) as mesh:
        outcome = await delegated(mesh, "Have add() add.")
        assert outcome.result["changed"] == ["M calc.py"]
