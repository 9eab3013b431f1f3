"""Calls whose results type checkers know by their shape; it is checked, and never run."""

from typing import Any, assert_type

from pydantic import BaseModel

from meshwright import (
    Agent,
    BlockingClient,
    Capability,
    Client,
    Delegation,
    Limits,
    Outcome,
    Receipt,
    Run,
    TaskRequest,
    ToolContext,
)
from meshwright.testing import MeshUnderTest


class Verdict(BaseModel):
    """An answer."""

    urgent: bool


class Judge(Agent):
    """Answers in a shape of its own."""

    agent_id = "judge"
    capabilities = (Capability("judging"),)
    limits = Limits(max_repeats=200, max_usd="0.50")

    async def run(self, run: Run) -> Verdict:
        """Judge."""
        return await run.converse(Verdict)


async def of_a_client(mesh: Client | MeshUnderTest) -> None:
    """The calls of a client, and of a mesh under test."""
    assert_type(await mesh.ask("triage", "It burns.", payload={"host": "web"}, budget_usd="0.10"), Outcome)
    assert_type(await mesh.ask("triage", "It burns.", shape=Verdict, thread_id="web"), Verdict)
    assert_type(await mesh.ask(TaskRequest(capability="triage", text="It burns."), shape=str), str)
    receipt = await mesh.submit("triage", "It burns.")
    assert_type(receipt, Receipt)
    assert_type(await mesh.outcome(receipt, shape=dict[str, Any]), dict[str, Any])
    for question in await mesh.questions() if isinstance(mesh, MeshUnderTest) else await mesh.inbox():
        await mesh.answer(question, {"approve": True})


def of_a_program(mesh: BlockingClient) -> None:
    """The same without await."""
    assert_type(mesh.ask("triage", "It burns."), Outcome)
    assert_type(mesh.ask("triage", "It burns.", shape=Verdict, thread_id="web"), Verdict)
    assert_type(mesh.outcome(mesh.submit("triage", "It burns."), shape=Verdict), Verdict)


async def of_a_tool(context: ToolContext) -> None:
    """A delegation of a tool."""
    assert_type(await context.delegate("triage", "It burns.", payload={"host": "web"}), str)
    assert_type(await context.delegate(capability="triaging", text="It burns.", shape=Verdict), Verdict)


async def of_a_run(run: Run) -> None:
    """Delegations."""
    assert_type(await run.delegate("triage", "It burns."), str)
    assert_type(await run.delegate("triage", "It burns.", shape=Verdict, thread_id="web"), Verdict)
    wanted = [Delegation("triage", text, shape=Verdict) for text in ("It burns.", "It smokes.")]
    assert_type(await run.delegate_all(wanted), list[Verdict])
    assert_type(await run.delegate_all([Delegation("triage", "It burns.")]), list[str])
