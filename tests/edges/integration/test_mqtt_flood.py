"""A flood of messages: the mesh takes no more at a time than it can hold, and every one is answered."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.http_mesh import Api, http_mesh
from tests.support.mqtt_broker import HELLO, SECONDS, SUBMIT, Mosquitto, client, mosquitto

pytestmark = pytest.mark.needs("mosquitto")
FLOOD = 2000
MOST_BEFORE = 200  # that wait for the mesh at a time
MOST = 1400  # that are held at a time, those that wait to be answered with them


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    no_limits = ("allow_anonymous true", "max_queued_messages 0", "max_inflight_messages 0")
    async with mosquitto(tmp_path / "broker", *no_limits) as broker:
        yield broker


@pytest.fixture
async def api(tmp_path: Path, broker: Mosquitto) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path, mqtt_url=broker.url) as api:
        yield api


class Dam:
    """Holds every task back until it is opened, and counts those that wait before it."""

    def __init__(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting = 0
        self.most_before = 0
        self.most = 0
        self.opened = asyncio.Event()
        self._submit = api.mesh.get(Tasks).submit
        monkeypatch.setattr(api.mesh.get(Tasks), "submit", self.submit)

    async def settled(self) -> None:
        """Wait until no more come."""
        before = 0
        while before == 0 or before != self.waiting:
            before = self.waiting
            await asyncio.sleep(1)

    async def submit(self, *args: Any, **options: Any) -> Any:
        self.waiting += 1
        self.most_before = max(self.most_before, self.waiting)
        self.most = max(self.most, sum(task.get_name() == "mqtt-command" for task in asyncio.all_tasks()))
        await self.opened.wait()
        self.waiting -= 1
        return await self._submit(*args, **options)


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_flood_is_taken_in_bounded_pieces_and_all_of_it_is_answered(
    api: Api, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch, qos: int
) -> None:
    dam = Dam(api, monkeypatch)
    async with client(broker) as caller:
        await caller.subscribe("replies/anonymous/flood", qos)
        for n in range(FLOOD):
            correlation = str(n).encode()
            caller.publish(
                SUBMIT, HELLO, qos=qos, reply_to="replies/anonymous/flood", correlation=correlation
            )
        await dam.settled()
        assert dam.most_before <= MOST_BEFORE
        dam.opened.set()
        answered, tasks = set(), set()
        while len(answered) < FLOOD:
            message = await caller.message()
            assert message.properties is not None
            answered.add(message.properties.CorrelationData)
            tasks.add(json.loads(message.payload)["task_id"])
        assert len(tasks) == FLOOD
        assert dam.most_before <= MOST_BEFORE and dam.most <= MOST


async def test_a_flood_holds_up_nobody_else(api: Api, broker: Mosquitto) -> None:
    async with client(broker, "replies/anonymous/flood") as caller:
        for n in range(FLOOD):
            caller.publish(SUBMIT, HELLO, reply_to="replies/anonymous/flood", correlation=str(n).encode())
        await caller.message()
        api.gate.set()
        await asyncio.wait_for(api.finished(agent_id="gate"), SECONDS)
        assert caller.waiting < FLOOD - 1, "it came after the flood"
        for _ in range(FLOOD - 1):
            await caller.message()
