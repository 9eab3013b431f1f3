"""Deliveries that come twice and out of order, to a mesh that is killed: one task and one comment each.

`WEBHOOK_DELIVERIES` and `WEBHOOK_KILLS` make it larger: 10000 and 20 is the whole.
"""

import asyncio
import hashlib
import hmac
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.echo_agent import ECHO
from tests.support.fake_forge import FakeForge
from tests.support.running_mesh import RunningMesh, mesh_up

DELIVERIES = int(os.environ.get("WEBHOOK_DELIVERIES", "120"))
KILLS = int(os.environ.get("WEBHOOK_KILLS", "2"))
pytestmark = pytest.mark.timeout(600 + DELIVERIES // 10)
SENDERS = 16
WINDOW = 200  # deliveries within which the order is by chance
SECRET = "the secret of this test"
RULE = {
    "source": "github",
    "match": {"event": "issues"},
    "agent": "echo",
    "text": "{{issue.title}}",
    "reply": "comment",
}


class Deliveries:
    """Sends each delivery one to three times, again where no answer came, until each copy was accepted."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        copies = [number for number in range(DELIVERIES) for _ in range(chance.randint(1, 3))]
        copies.sort(key=lambda number: number + chance.uniform(0, WINDOW))
        self.left = copies[::-1]
        self.total = len(copies)
        self.tasks: dict[int, set[str]] = {number: set() for number in range(DELIVERIES)}
        self._accepted = 0
        self._changed = asyncio.Condition()
        self._url = ""
        self._is_up = asyncio.Event()

    def at(self, url: str) -> None:
        self._url = url
        self._is_up.set()

    async def cut_off(self, running: RunningMesh) -> None:
        """Kill the mesh, with what is under way."""
        self._is_up.clear()
        await running.kill()

    async def until(self, accepted: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._accepted >= accepted)

    async def send_all(self) -> None:
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(self._send_some(session))

    async def _send_some(self, session: aiohttp.ClientSession) -> None:
        while self.left:
            number = self.left.pop()
            while (found := await self._send(session, number)) is None:
                pass
            async with self._changed:
                self.tasks[number].update(found)
                self._accepted += 1
                self._changed.notify_all()

    async def _send(self, session: aiohttp.ClientSession, number: int) -> list[str] | None:
        await self._is_up.wait()
        issue = {"number": number + 1, "title": f"Issue {number}"}
        body = json.dumps(
            {"action": "opened", "issue": issue, "repository": {"full_name": "acme/api"}}
        ).encode()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "issues",
            "X-GitHub-Delivery": f"delivery-{number}",
            "X-Hub-Signature-256": f"sha256={hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}",
        }
        try:
            async with session.post(f"{self._url}/webhooks/github", data=body, headers=headers) as response:
                assert response.status in (202, 429, 503), await response.text()
                return (await response.json())["tasks"] if response.status == 202 else None
        except aiohttp.ClientError:  # it was killed
            return None


async def count(running: RunningMesh, event_type: str) -> Counter[str]:
    """How often each task or delivery is in the log with events of a type."""
    found: Counter[str] = Counter()
    after = 0
    while events := (await running.get("/events", event_type=event_type, after_seq=after, limit=1000)).body[
        "items"
    ]:
        found.update(event["task_id"] or event["payload"]["delivery"] for event in events)
        after = events[-1]["seq"]
    return found


async def test_each_delivery_is_one_task_through_kills(tmp_path: Path, seed: int) -> None:
    actors = tmp_path / "actors"
    actors.mkdir()
    (actors / "echo.py").write_text(ECHO)
    deliveries = Deliveries(seed)
    async with FakeForge() as forge, asyncio.TaskGroup() as group:
        source = {"kind": "github", "secret": SECRET, "token": "t", "api_url": forge.url}
        settings: dict[str, Any] = {"MESH_AGENTS__DIR": str(actors), "MESH_DURABILITY": "normal"}
        settings["MESH_WEBHOOKS__SOURCES"] = json.dumps({"github": source})
        settings["MESH_WEBHOOKS__RULES"] = json.dumps([RULE])
        sending = group.create_task(deliveries.send_all())
        for kill in range(KILLS):
            async with mesh_up(tmp_path / "data", **settings) as running:
                deliveries.at(running.url)
                await deliveries.until((kill + 1) * deliveries.total // (KILLS + 1))
                await deliveries.cut_off(running)
        async with mesh_up(tmp_path / "data", **settings) as running:
            deliveries.at(running.url)
            await sending
            ended: set[str] = set()
            async for event in running.stream(event_type="task.succeeded"):
                ended.add(event["task_id"])
                if len(ended) == DELIVERIES:
                    break
            while len(forge.comments) < DELIVERIES or not all(forge.comments.values()):
                await forge.posted()
            accepted = await count(running, "task.accepted")
            succeeded = await count(running, "task.succeeded")
            received = await count(running, "webhook.received")
            opened = await count(running, "board.issue_opened")
    ids = [task_id for found in deliveries.tasks.values() for task_id in found]
    assert len(ids) == len(set(ids)) == DELIVERIES, "each delivery is one task, whenever it came"
    for counted in (accepted, succeeded, received, opened):
        assert counted.total() == len(counted) == DELIVERIES
    assert set(accepted) == set(ids)
    assert [len(comments) for comments in forge.comments.values()] == [1] * DELIVERIES
