"""`mesh up --host dapr` in each of its forms, as its user starts and asks it."""

import re
from pathlib import Path

import pytest

from tests.acceptance.driver import MESH, mesh, mesh_up
from tests.run import DAPR

pytestmark = [pytest.mark.needs(*DAPR), pytest.mark.timeout(150)]
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
