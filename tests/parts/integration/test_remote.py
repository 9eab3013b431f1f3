"""Agents elsewhere as agents of a mesh: another mesh as the peer, and peers that misbehave."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

from meshwright import Agent, Capability, Run
from meshwright.core.messages import Outcome
from tests.support.http_mesh import Api, http_mesh
from tests.support.mcp_agents import ConfirmDelete, Drawer, FailingJob, ProtocolErrorJob
from tests.support.running_mesh import run


class Buyer(Agent):
    """Spends money, and answers with data."""

    agent_id = "buyer"
    capabilities = (Capability("buying"),)
    remembers = False

    async def run(self, run: Run) -> dict[str, Any]:
        await run.charge(Decimal("0.25"), "shop")
        return {"text": "bought", "items": run.task.payload.get("items")}


def table(peer: Api, agent: str, **fields: object) -> dict[str, object]:
    return {"a2a": f"{peer.url}/a2a/agents/{agent}", **fields}


async def ended(own: Api, agent: str, **fields: Any) -> Outcome:
    return await own.client.outcome((await own.client.submit(agent_id=agent, **fields)).task_id)


async def test_mesh_gives_tasks_to_a_mesh(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    agents = ("echo", "drawer", "failing_job", "protocol_error_job", "buyer")
    async with http_mesh(tmp_path, Drawer, FailingJob, ProtocolErrorJob, Buyer) as peer:
        tables = {f"their-{agent}": table(peer, agent) for agent in agents}
        async with http_mesh(tmp_path / "own", remote=tables) as own:
            said = await ended(own, "their-echo", text="hello")
            assert (said.result, said.outside) == ({"text": "you said: hello"}, True)
            drawn = await ended(own, "their-drawer", text="draw")
            assert drawn.result == {"text": "Here it is."}
            assert (await own.client.file(drawn.task_id)).data == b"a chart"
            bought = await ended(own, "their-buyer", text="buy", payload={"items": ["tea", 2]})
            assert bought.result == {"text": "bought", "items": ["tea", 2]}
            assert bought.cost_usd == Decimal("0.25")
            over = await ended(own, "their-buyer", text="buy", budget_usd="0.10")  # the money is spent
            assert (over.success, over.cost_usd) == (True, Decimal("0.25"))
            declined = await ended(own, "their-failing_job", text="x")
            broken = await ended(own, "their-protocol_error_job", text="x")
            errors = [(one.error.type, one.error.message) for one in (declined, broken) if one.error]
            assert errors == [
                ("ToolFailed", "their-failing_job declined: the job failed"),
                ("RemoteTaskFailed", errors[1][1]),
            ]
            assert "panic" in errors[1][1]
        assert len(await peer.client.tasks()) == len(agents) + 1


def test_agents_of_tables_are_known_to_checks(tmp_path: Path) -> None:
    """An agent of the project may delegate to one that a table makes, and may not have its name."""
    (tmp_path / "actors").mkdir()
    table = '[remote.weather]\na2a = "http://127.0.0.1:1"\n'
    (tmp_path / "mesh.toml").write_text(table)
    code = (
        "from meshwright import Agent, Capability\n\n\nclass One(Agent):\n    agent_id = 'NAME'\n"
        "    capabilities = (Capability('being'),)\n    delegates_to = ('OTHER',)\n    prompt_text = 'Be.'\n"
    )
    for name, other, sentence in (
        ("one", "weather", "weather cannot be reached"),
        ("one", "wether", "did you mean 'weather'?"),
        ("weather", "weather", "a table of the settings makes an agent 'weather' too"),
    ):
        text = code.replace("NAME", name).replace("OTHER", other)
        (tmp_path / "actors/one.py").write_text(text)
        done = run("check", "--data", str(tmp_path / "data"), cwd=tmp_path, MESH_MODELS__ADAPTER="offline")
        said = " ".join(f"{done.stdout} {done.stderr}".split())
        assert sentence in said and ("delegates to" in said) == (other == "wether"), said


async def test_questions_skills_and_cancels_pass_through(tmp_path: Path) -> None:
    """A task for a skill of the mesh elsewhere; a person of the caller's answers, and cancels another."""
    (tmp_path / "own").mkdir()
    async with http_mesh(tmp_path, ConfirmDelete) as peer:
        tables = {"theirs": {"a2a": f"{peer.url}/a2a", "skills": ["del*", "wait*"]}}
        async with http_mesh(tmp_path / "own", remote=tables) as own:
            while True:
                [info] = [agent for agent in await own.client.agents() if agent.agent_id == "theirs"]
                if len(info.capabilities) == 3:
                    break
                await asyncio.sleep(0.05)
            assert {one.name: one.weight for one in info.capabilities} == {
                "theirs": 0.9,
                "deleting": 0.9,
                "waiting": 0.9,
            }
            task = await own.client.submit(capability="deleting", payload={"filename": "a.txt"})
            async for event in own.client.follow(task.task_id):
                if event.event_type == "task.waiting" and event.fields.get("kind") == "person":
                    break
            [asked] = await own.client.inbox()
            assert asked.question == "theirs asks: Delete a.txt?"
            assert asked.answer_schema["required"] == ["confirm"]
            await own.client.answer(asked, {"confirm": True})
            outcome = await own.client.outcome(task.task_id)
            assert outcome.result == {"text": "deleted"}
            [remote] = await peer.client.tasks()
            assert remote.status == "succeeded"
            task = await own.client.submit(agent_id="theirs", capability="waiting", text="wait")
            async for event in own.client.follow(task.task_id):
                if event.fields.get("kind") == "timer":  # it has the id of the peer's task
                    break
            [remote] = await peer.client.tasks(capability="waiting")
            await own.client.cancel(task.task_id)
            assert (await peer.client.outcome(remote.task_id)).status == "cancelled"
