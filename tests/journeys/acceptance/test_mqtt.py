"""The mesh on MQTT, as its user starts it, driven by the clients that come with Mosquitto alone."""

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshwright.client import ENDINGS
from tests.journeys.acceptance.test_crash import ASKING
from tests.support.mqtt_broker import Mosquitto, ask, mosquitto, publish
from tests.support.running_mesh import RunningMesh, mesh, mesh_up

pytestmark = pytest.mark.needs("mosquitto", "mosquitto_pub", "mosquitto_rr", "mosquitto_sub")
SUBMIT = "mesh/default/submit"
QUESTION = {"capability": "general-query", "payload": {"text": "What is Meshwright?"}}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with mosquitto(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
async def running(tmp_path: Path, broker: Mosquitto) -> AsyncIterator[RunningMesh]:
    async with mesh_up(tmp_path / "data", "--mqtt", broker.url) as running:
        yield running


class Looker:
    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._lines = process.stdout
        self._first: deque[tuple[str, Any]] = deque()

    async def ready(self) -> None:
        """Wait for the message that says that it looks, and keep what came before."""
        before = [line async for line in self._until("ready")]
        self._first.extend(before)

    async def __aiter__(self) -> AsyncIterator[tuple[str, Any]]:
        while self._first:
            yield self._first.popleft()
        async for line in self._until(None):
            yield line

    async def until(self, topic: str, **known: Any) -> Any:
        """The next document of a topic that says so."""
        async for found, document in self:
            if found == topic and known.items() <= document.items():
                return document
        raise AssertionError(f"nothing at {topic}")

    async def _until(self, last: str | None) -> AsyncIterator[tuple[str, Any]]:
        async for line in self._lines:
            topic, _, text = line.decode().rstrip("\n").partition(" ")
            if topic == last:
                return
            yield topic, json.loads(text) if text not in ("", "(null)") else {}


@asynccontextmanager
async def mosquitto_sub(broker: Mosquitto, topic: str) -> AsyncIterator[Looker]:
    process = await asyncio.create_subprocess_exec(
        "mosquitto_sub", "-p", str(broker.port), "-V", "5", "-v", "-t", topic, "-t", "ready", stdout=PIPE
    )
    looker = Looker(process)
    await publish(broker, "ready", "{}", "-r")
    await looker.ready()
    try:
        yield looker
    finally:
        process.terminate()
        await process.wait()


async def test_a_ready_mesh_says_where_it_is_on_mqtt(running: RunningMesh, broker: Mosquitto) -> None:
    await running.errors.until(f"MQTT: {broker.url}, topics below mesh/")


async def test_a_question_gets_its_answer_from_one_command(running: RunningMesh, broker: Mosquitto) -> None:
    outcome = await ask(broker, SUBMIT, QUESTION, reply="outcome")
    assert outcome["success"] and "Meshwright" in outcome["result"]["text"]


async def test_a_task_that_waits_for_a_person_is_answered_and_another_cancelled(
    tmp_path: Path, broker: Mosquitto
) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/deployer.py").write_text(ASKING)
    actors = {"MESH_AGENTS__DIR": str(tmp_path / "actors")}
    task = "mesh/default/tasks/deploy-1"
    async with mesh_up(tmp_path / "data", "--mqtt", broker.url, **actors) as first:
        await publish(broker, SUBMIT, {"agent_id": "deployer", "task_id": "deploy-1"})
        assert first.process.stdout is not None
        assert await first.process.stdout.readline() == b"deploying\n"
        await first.kill()
    async with (
        mosquitto_sub(broker, "mesh/default/tasks/+/+") as looker,
        mesh_up(tmp_path / "data", "--mqtt", broker.url, **actors),
    ):
        waiting = await looker.until(f"{task}/progress", event_type="task.waiting")
        key = waiting["payload"]["key"]
        view = await ask(
            broker, f"{task}/answer", {"key": key, "value": {"approve": False, "result": "version 7 is out"}}
        )
        assert view["task_id"] == "deploy-1"
        outcome = await looker.until(f"{task}/outcome")
        assert outcome["result"]["text"] == "deployed: version 7 is out"

        await publish(broker, SUBMIT, {"agent_id": "deployer", "task_id": "deploy-2"})
        await looker.until("mesh/default/tasks/deploy-2/progress", event_type="task.started")
        await publish(broker, "mesh/default/tasks/deploy-2/cancel", "")
        outcome = await looker.until("mesh/default/tasks/deploy-2/outcome")
        assert outcome["status"] == "cancelled"


async def test_a_mesh_whose_broker_is_away_works_and_says_so_once(tmp_path: Path, broker: Mosquitto) -> None:
    await broker.stop()
    async with mesh_up(tmp_path / "data", "--mqtt", broker.url) as running:
        story = await running.story(await running.submit("Hello"))
        assert story[-1]["event_type"] in ENDINGS
        await running.stop()
        said = await running.errors.whole()
    warnings = [line for line in map(json.loads, said.splitlines()) if line["level"] == "warning"]
    assert [line["message"] for line in warnings] == [
        f"{broker.url}: cannot be reached: Connection refused; trying on"
    ]
    assert said.count(broker.url) == 2


async def test_an_address_that_is_none_is_one_line(tmp_path: Path) -> None:
    done = await mesh("up", "--data", str(tmp_path / "data"), "--mqtt", "localhost:1883")
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    assert "mqtt.url: expected a URL without a user (mqtt.username), like mqtt://127.0.0.1:1883" in done.err
