"""The broker keeps who is in the mesh, and says by itself when the mesh is gone."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.http_mesh import http_mesh
from tests.support.mqtt_broker import Client, Mosquitto, ask, client
from tests.support.running_mesh import mesh_up

pytestmark = pytest.mark.needs("mosquitto", "mosquitto_rr")
STATUS = "mesh/default/status"
AGENTS = "mesh/default/agents"
SILENCES = {"heartbeat_seconds": 0.2, "degraded_after_seconds": 1.0, "offline_after_seconds": 2.0}


async def retained(broker: Mosquitto, count: int) -> dict[str, Any]:
    """So many documents that the broker keeps for who comes now, by topic; newer ones while the mesh runs."""
    async with client(broker) as looker:
        found: dict[str, Any] = {}
        await looker.subscribe(STATUS)
        await looker.subscribe(f"{AGENTS}/+")
        while len(found) < count:
            message = await looker.message()
            found[message.topic] = json.loads(message.payload)
        return found


async def until(looker: Client, topic: str, status: str) -> dict[str, Any]:
    """Wait for a document with that status."""
    return (await looker.documents(topic, lambda found: bool(found) and found[-1]["status"] == status))[-1]


async def test_who_is_there_is_kept_as_the_api_shows_it(tmp_path: Path, broker: Mosquitto) -> None:
    async with http_mesh(tmp_path, mqtt_url=broker.url) as api:
        await ask(broker, "mesh/default/submit", {"agent_id": "echo"})
        agents = (await api.get("/agents"))["items"]
        found = await retained(broker, len(agents) + 1)
        assert found[STATUS]["status"] == "online"
        for agent in agents:
            shown = found[f"{AGENTS}/{agent['agent_id']}"]
            assert {**shown, "last_seen": ""} == {**agent, "last_seen": ""}


async def test_a_clean_stop_says_that_all_are_gone(tmp_path: Path, broker: Mosquitto) -> None:
    async with http_mesh(tmp_path, mqtt_url=broker.url) as api:
        count = len((await api.get("/agents"))["items"]) + 1
        await retained(broker, count)
    found = await retained(broker, count)
    assert [topic for topic, document in found.items() if document["status"] != "offline"] == []
    assert found[STATUS]["reason"] == "stopped"


async def test_an_agent_is_seen_again_with_each_heartbeat(tmp_path: Path, broker: Mosquitto) -> None:
    async with (
        client(broker, f"{AGENTS}/echo") as looker,
        http_mesh(tmp_path, mqtt_url=broker.url, heartbeat_seconds=SILENCES["heartbeat_seconds"]),
    ):
        seen = await looker.documents(f"{AGENTS}/echo", lambda found: len(found) == 4)
    assert len({document["last_seen"] for document in seen}) == 4
    assert {document["status"] for document in seen} == {"online"}


async def test_a_mesh_that_is_killed_is_gone_and_its_agents_with_it(
    tmp_path: Path, broker: Mosquitto
) -> None:
    environment = {f"MESH_PRESENCE__{name.upper()}": str(value) for name, value in SILENCES.items()}
    async with (
        client(broker, STATUS) as looker,
        mesh_up(tmp_path / "data", "--mqtt", broker.url, **environment) as running,
    ):
        await until(looker, STATUS, "online")
        agents = (await running.get("/agents")).body["items"]
        await retained(broker, len(agents) + 1)
        await running.kill()
        assert (await until(looker, STATUS, "offline"))["reason"] == "connection lost"
        while True:  # their documents run out
            async with client(broker, f"{AGENTS}/+", STATUS) as later:
                if (await later.message()).topic == STATUS:
                    break
        async with mesh_up(tmp_path / "data", "--mqtt", broker.url, **environment):
            await until(looker, STATUS, "online")
            assert len(await retained(broker, len(agents) + 1)) == len(agents) + 1
