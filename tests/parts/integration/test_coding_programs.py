"""The real Codex and Claude Code, by adapters and headless, against a scripted model: `make harness`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from benchmarks.coding.program_course import kill_program
from meshwright import Capability, CodingAgent
from meshwright.agents.trees.leases import Trees
from meshwright.models.port import ModelReply, ModelRequest, OnDelta, ToolCall
from meshwright.parts.coding.component import CodingComponent
from meshwright.testing import MeshUnderTest, mesh_for
from tests.support.coding_agents import working_below
from tests.support.repositories import repository

pytestmark = [
    pytest.mark.needs("git", "bwrap", "node"),
    pytest.mark.soak("programs of 1.2 GB, which make harness installs; CI has an agent that is a fake"),
]
INSTALL = Path(__file__).resolve().parents[2] / "support/harness_programs/install"
COMMAND = "sed -i 's/a - b/a + b/' calc.py && echo it-is-done"
ENDLESS = "while true; do echo beat >> beats.txt; sleep 0.1; done"
CALLS: dict[str, dict[str, object]] = {
    "exec_command": {"cmd": COMMAND},
    "Bash": {"command": COMMAND, "description": "Have it add"},
}
"""The tool that runs a command, of each program."""
PROGRAMS = {
    "codex-acp": ("codex", "acp"),
    "codex": ("codex", "headless"),
    "claude-code-acp": ("claude", "acp"),
    "claude": ("claude", "headless"),
}


class Fixer(CodingAgent):
    """Has bugs fixed."""

    agent_id = "fixer"
    capabilities = (Capability("bug-fix"),)


class CommandModel:
    """Asks for one command, again if it did not run, and then answers."""

    name = "commands"

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.requests.append(request)
        tool = next((tool.name for tool in request.tools if tool.name in CALLS), None)
        has_run = any(message.role == "tool" and "it-is-done" in str(message) for message in request.messages)
        if tool is None or has_run:
            return ModelReply(content="It adds now.", model="scripted", cost_usd=Decimal("0.001"))
        call = ToolCall(id=f"call_{len(self.requests)}", name=tool, arguments=json.dumps(CALLS[tool]))
        return ModelReply(
            tool_calls=(call,), model="scripted", cost_usd=Decimal("0.001"), finish_reason="tool_calls"
        )

    async def close(self) -> None:
        pass


class EndlessModel(CommandModel):
    """Asks first for a command that never ends."""

    has_begun = False

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        reply = await super().complete(request, on_delta)
        if self.has_begun or not reply.tool_calls:
            return reply
        self.has_begun = True
        [call] = reply.tool_calls
        arguments = call.arguments.replace(json.dumps(COMMAND)[1:-1], ENDLESS)
        return reply.model_copy(update={"tool_calls": (call.model_copy(update={"arguments": arguments}),)})


@pytest.fixture(scope="module")
def programs() -> Path:
    where = subprocess.run([sys.executable, INSTALL, "--where"], capture_output=True, text=True, check=False)
    if where.returncode:
        pytest.skip("the coding agents are not installed: make harness")
    return Path(where.stdout.strip())


@pytest.fixture
def options(programs: Path, tmp_path: Path) -> Callable[[str], dict[str, dict[str, dict[str, object]]]]:
    """The settings of a mesh with a program, by its command."""

    def settings(command: str, **fields: object) -> dict[str, dict[str, dict[str, object]]]:
        program, protocol = PROGRAMS[command]
        table = {"program": program, "protocol": protocol, "command": str(programs / command), **fields}
        return {
            "trees": {"code": {"repository": str(repository(tmp_path / "source"))}},
            "coding": {"fixer": table},
        }

    return settings


async def waiting(mesh: MeshUnderTest, task_id: str, times: int) -> None:
    """Return once a task has waited so often, or has ended: programs may take minutes for a turn."""
    async for event in mesh.client.follow(task_id):
        times -= event.event_type == "task.waiting"
        if not times:
            return


async def done(mesh: MeshUnderTest) -> list[str]:
    """Approve what is asked until the change is committed; returns the questions."""
    receipt = await mesh.client.submit("fixer", "Have add() add.")
    questions = list[str]()
    while True:
        await waiting(mesh, receipt.task_id, len(questions) + 1)
        [question] = await mesh.questions()
        questions.append(question.question)
        await mesh.answer(question, {"approve": True})
        if "propose" in question.question:
            break
    outcome = await mesh.client.outcome(receipt.task_id)
    assert outcome.success, outcome.error
    assert outcome.result["changed"] == ["M calc.py"]
    assert outcome.result["failing"] == []
    assert outcome.cost_usd == Decimal("0.001") * len(mesh.events("model.called"))
    return questions


@pytest.mark.parametrize("command", PROGRAMS)
async def test_the_program_does_its_job_in_the_box(
    options: Callable[..., dict[str, dict[str, dict[str, object]]]], command: str
) -> None:
    async with mesh_for(Fixer, model=CommandModel(), **options(command)) as mesh:
        [check] = mesh.mesh.get(CodingComponent).checks()
        assert await check.ask()
        questions = await done(mesh)
        assert len(questions) == 1
        called = mesh.events("coding.call").payloads
        assert any("sed -i" in call["title"] for call in called)
        assert mesh.events("sandbox.host_refused") == []


@pytest.mark.parametrize("command", ["codex-acp", "claude-code-acp"])
async def test_a_permission_of_the_program_is_asked_once(
    options: Callable[..., dict[str, dict[str, dict[str, object]]]], command: str
) -> None:
    async with mesh_for(Fixer, model=CommandModel(), **options(command, permissions="ask")) as mesh:
        permission, proposal = await done(mesh)
        assert "sed -i 's/a - b/a + b/' calc.py" in permission
        assert "propose" in proposal
        how = [event["how"] for event in mesh.events("coding.session").payloads]
        assert how == ["new", "resumed"]


@pytest.mark.parametrize("command", ["codex-acp", "codex"])
async def test_a_running_command_ends_with_the_program_that_kill_9_ends(
    options: Callable[..., dict[str, dict[str, dict[str, object]]]], command: str
) -> None:
    async with mesh_for(Fixer, model=EndlessModel(), **options(command)) as mesh:
        receipt = await mesh.client.submit("fixer", "Have add() add.")
        trees = mesh.mesh.get(Trees).folder
        while not list(trees.rglob("beats.txt")):
            await asyncio.sleep(0.05)  # a command that runs has no event
        kill_program(os.getpid(), command)
        await waiting(mesh, receipt.task_id, 1)
        assert not working_below(trees)
        how = [event["how"] for event in mesh.events("coding.session").payloads]
        assert how == ["new", "resumed"]
