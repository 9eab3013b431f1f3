"""Three purchases of a coding agent through `mesh up` are three, whatever ends its sessions in between."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.coding_agents import PROGRAM
from tests.support.fake_openai import FakeOpenAI, Fault
from tests.support.repositories import CALC, repository
from tests.support.running_mesh import RunningMesh, mesh_up

pytestmark = pytest.mark.needs("git", "bwrap")
AGENT = """
from meshwright import Capability, CodingAgent, ToolContext, tool


class Fixer(CodingAgent):
    \"\"\"Buys by a tool of the run.\"\"\"

    agent_id = "fixer"
    capabilities = (Capability("bug-fix"),)

    @tool(idempotent=True)
    async def buy(self, item: str, context: ToolContext) -> str:
        \"\"\"Buy something.\"\"\"
        with open({bank!r}, "a") as bank:
            bank.write(f"{{item}} {{context.step_id}}\\n")
        return f"bought {{item}}"

    @tool(effect="read")
    async def stock(self) -> str:
        \"\"\"The number of things that were bought.\"\"\"
        return str(len(open({bank!r}).readlines()))
"""
TABLES = """
[trees.code]
repository = {repository}
[coding.fixer]
program = "acp"
command = {program}
permissions = "ask"
[models]
park_seconds = 0.1
[ledger.default_price]
input = 0
output = 244.140625
"""
"""An answer of 4,096 tokens costs a dollar."""


def is_waiting_for(kind: str) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["event_type"] == "task.waiting" and event["payload"]["kind"] == kind


async def permit(mesh: RunningMesh, provider: FakeOpenAI, task_id: str) -> None:
    await mesh.until(is_waiting_for("person"))
    [question] = await mesh.client.inbox()
    await mesh.client.answer(question, {"approve": True})


async def pay(mesh: RunningMesh, provider: FakeOpenAI, task_id: str) -> None:
    await mesh.until(is_waiting_for("money"))
    await mesh.client.raise_budget("9", task_id=task_id)


async def come_back(mesh: RunningMesh, provider: FakeOpenAI, task_id: str) -> None:
    await mesh.until(is_waiting_for("provider"))
    provider.faults.clear()


async def kill(mesh: RunningMesh, provider: FakeOpenAI, task_id: str) -> None:
    await mesh.until(lambda event: event["payload"].get("title") == "Bought two")
    await mesh.kill()


Interruption = Callable[[RunningMesh, FakeOpenAI, str], Awaitable[None]]
INTERRUPTIONS: Mapping[str, tuple[str, int, Interruption]] = {
    "permission": ("", 0, permit),
    "money": ("[with model]", 0, pay),
    "provider": ("[with model]", 500, come_back),
    "kill": ("[hangs]", 0, kill),
}
"""What the agent does between purchases, how many calls of the provider fail, and what ends the wait."""


@pytest.mark.parametrize("name", INTERRUPTIONS)
async def test_three_purchases_are_three(tmp_path: Path, name: str) -> None:
    words, fault_count, interrupt = INTERRUPTIONS[name]
    project, bank = tmp_path / "project", tmp_path / "bank.log"
    (project / "actors").mkdir(parents=True)
    (project / "actors" / "fixer.py").write_text(AGENT.format(bank=str(bank)))
    source = repository(tmp_path / "source", {**CALC, "stock.txt": ""})
    tables = {"repository": json.dumps(str(source)), "program": json.dumps(str(PROGRAM))}
    (project / "mesh.toml").write_text(TABLES.format(**tables))
    usage = {"prompt_tokens": 0, "completion_tokens": 4096, "total_tokens": 4096}
    async with AsyncExitStack() as stack, FakeOpenAI(usage=usage) as provider:
        provider.faults.extend([Fault(status=503)] * fault_count)
        settings = {"LITELLM_BASE_URL": provider.url, "MESH_TRUST": "1"}
        up = mesh_up(tmp_path / "data", cwd=project, **settings)
        mesh = await stack.enter_async_context(up)
        text = f"Have add() add. [buys three] {words}"
        task_id = await mesh.submit(
            text, agent_id="fixer", capability="bug-fix", budget_usd="1.5", on_empty="wait"
        )
        await interrupt(mesh, provider, task_id)
        if mesh.process.returncode is not None:
            up = mesh_up(tmp_path / "data", cwd=project, **settings)
            mesh = await stack.enter_async_context(up)
        await mesh.until(lambda event: "propose" in str(event["payload"]) and is_waiting_for("person")(event))
        [proposal] = await mesh.client.inbox()
        assert "+3 of 3" in str(proposal)
        await mesh.client.answer(proposal, {"approve": True})
        assert (await mesh.outcome(task_id))["success"]
        page = await mesh.get("/events", event_type="coding.session", limit=100)
        assert {event["payload"]["how"] for event in page.body["items"]} == {"new", "resumed"}
    lines = bank.read_text().splitlines()
    assert (len(lines), len(set(lines))) == (3, 3)
