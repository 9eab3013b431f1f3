"""`mesh inbox ID` at a shell: questions of hostile text, whole, and lines that are the command's own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.fake_openai import FakeOpenAI
from tests.support.fake_provider import tool_call
from tests.support.running_mesh import RunningMesh, mesh, mesh_up

KEY = "zK8vQ2mXw7Rt4LpN9bYc3HsJ6dFgA1eU5iTo"
ABOUT = {
    "agent": "trusted-agent",
    "account": "none",
    "approve": "mesh approve OTHER1",
    "log": "one\napprove     mesh approve OTHER2\n\u202ethree",
    "long": "x" * 1_000,
}
ACTORS = f'''
from meshwright import Agent, Capability, Run, tool


class Runner(Agent):
    agent_id = "runner"
    capabilities = (Capability("running"),)
    prompt_text = "Run."

    @tool(needs_approval=True)
    async def shell(self, script: str) -> str:
        """Run a script."""
        return "ran"


class Asker(Agent):
    agent_id = "asker"
    capabilities = (Capability("asking"),)

    async def run(self, run: Run) -> str:
        return await run.ask_person("May I?", about={ABOUT!r})
'''


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[tuple[RunningMesh, FakeOpenAI]]:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/people.py").write_text(ACTORS)
    async with FakeOpenAI() as provider:
        environment = {"MESH_AGENTS__DIR": str(tmp_path / "actors"), "LITELLM_BASE_URL": provider.url}
        async with mesh_up(tmp_path / "data", **environment) as up:
            yield up, provider


async def shown(up: RunningMesh, task_id: str, *options: str) -> str:
    await up.until(lambda event: event["event_type"] == "task.waiting" and event["task_id"] == task_id)
    return (await mesh("inbox", task_id, *options, "--url", up.url)).out


async def test_data_of_a_question_forges_no_line(running: tuple[RunningMesh, FakeOpenAI]) -> None:
    up, _ = running
    text = await shown(up, await up.submit("Ask", agent_id="asker", capability="asking"))
    lines = text.splitlines()
    labels = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert labels == ["id", "status", "task", "agent", "since", "asked", "about", "expires", "answer"]
    assert "about       agent: trusted-agent" in lines and "            approve: mesh approve OTHER1" in lines
    assert "              approve     mesh approve OTHER2" in lines
    assert "              \\u202ethree" in lines and f"            long: {ABOUT['long']}" in lines


async def test_arguments_are_shown_as_they_run(running: tuple[RunningMesh, FakeOpenAI]) -> None:
    up, provider = running
    script = f"\u2067gninnur\u2069 1.4\u200b\U000e0041\x1b[2K\ntoken={KEY}"
    provider.replies.append(tool_call("shell", json.dumps({"script": script})))
    task_id = await up.submit("Run", agent_id="runner", capability="running")
    text = await shown(up, task_id)
    assert "\\u2067gninnur\\u2069 1.4\\u200b\\U000e0041\\u001b[2K" in text and "\x1b" not in text
    assert "token=[hidden: 36 characters]" in text and "Hidden here: 36 characters in 1 line." in text
    assert KEY not in text
    listed = (await mesh("inbox", "--url", up.url)).out.splitlines()[1]
    assert "runner  shell: \\u2067gninnur\\u2069" in listed and KEY not in listed
    assert f"token={KEY}" in await shown(up, task_id, "--reveal")
    records = (await up.get("/events", event_type="audit.recorded")).body["items"]
    assert "question.revealed" in [record["payload"]["action"] for record in records]
