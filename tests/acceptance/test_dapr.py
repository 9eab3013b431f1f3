"""`mesh up --host dapr` in each of its forms, as its user starts and asks it."""

import json
import re
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.acceptance.driver import MESH, mesh, mesh_up, start
from tests.run import DAPR

pytestmark = [pytest.mark.needs(*DAPR, "mosquitto_rr"), pytest.mark.timeout(150)]
UP = [*MESH, "up", "--host", "dapr"]


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        ([], ["mosquitto", "redis", "placement", "scheduler", "daprd-mesh-0", "mesh-0"]),
        (["--replicas", "2"], ["daprd-mesh-0", "daprd-mesh-1", "mesh-0", "mesh-1"]),
        (["--bus", "redis"], ["redis", "placement", "scheduler", "daprd-mesh-0", "mesh-0"]),
        (["--per-agent"], ["orchestrator-0", "event-logger-0", "context-service-0", "architect-agent-0"]),
    ],
    ids=["one app", "two workers", "Redis streams", "an app for each agent"],
)
async def test_a_mesh_on_dapr_shows_what_runs_where_and_answers(
    tmp_path: Path, arguments: list[str], rows: list[str]
) -> None:
    data = tmp_path / "data"
    async with mesh_up(data, *arguments, up=UP) as running:
        asked = await mesh("ask", "architect-agent", "Is this safe against kill -9?", "--data", str(data))
        assert asked.status == 0, asked.err
        assert "succeeded" in asked.err + asked.out
        tasks = (await running.get("/tasks")).body["items"]
        assert {task["status"] for task in tasks} == {"succeeded"}
        agents = {agent["agent_id"] for agent in (await running.get("/agents")).body["items"]}
        assert {"architect-agent", "researcher-agent", "orchestrator", "event-logger"} <= agents
        await running.errors.until("logs: ")
        told = running.errors.text
    shown = re.findall(r"^(\S+)\s+\S+\s+\d+$", told, re.MULTILINE)
    assert set(rows) <= set(shown)
    assert ("mosquitto" in shown) == ("redis" not in arguments)


async def test_a_mesh_on_dapr_answers_mqtt_clients_that_know_nothing_of_it(tmp_path: Path) -> None:
    question = {"capability": "general-query", "payload": {"text": "What is Meshwright?"}}
    async with mesh_up(tmp_path / "data", up=UP) as running:
        await running.errors.until("logs: ")
        address = re.search(r"mosquitto\s+mqtt://(\S+):(\d+)", running.errors.text)
        assert address is not None
        command = ["mosquitto_rr", "-V", "5", "-h", address[1], "-p", address[2], "-W", "30", "-q", "1"]
        topics = ["-t", "mesh/default/submit", "-e", "replies/me"]
        wish = ["-D", "publish", "user-property", "reply", "outcome"]
        asked = await start([*command, *topics, *wish, "-m", json.dumps(question)], {}, stdout=PIPE)
        answer, _ = await asked.communicate()
        outcome = json.loads(answer)
        assert outcome["status"] == "succeeded"
        task = await running.get(f"/tasks/{outcome['task_id']}")
        assert task.body["outcome"]["result"] == outcome["result"]
