"""A configuration that is changed at a front decides the next calls of every worker, within a second."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from meshwright.client import ENDINGS
from meshwright.engine.sql.encryption import new_key
from tests.engine.integration.test_postgres_workers import process, ready
from tests.support.configured_agents import ADMIN, AS_ADMIN, SOURCE, called, config
from tests.support.fake_provider import FakeProvider
from tests.support.postgres import Address
from tests.support.running_stack import stack_up

SECONDS = 30.0  # far less than the time after which a worker reads its configurations again
TASKS = 6


async def moved_within(
    http: aiohttp.ClientSession, urls: Sequence[str], fake: FakeProvider
) -> tuple[float, set[str]]:
    """Move an agent that works on tasks to another address, and back without its configuration.

    Returns how long after a change the last call went to the earlier address, and the workers of the tasks.
    """
    fake.seconds = 0.02

    async def change(url: str, method: str, path: str, body: object = None) -> float:
        async with http.request(method, f"{url}/api/agents{path}", json=body, headers=AS_ADMIN) as answer:
            assert answer.status in (200, 201), await answer.text()
        return time.monotonic()

    async def submit(number: int) -> str:
        body = {"agent_id": "asker", "payload": {"text": f"Begin {number}."}}
        url = f"{urls[number % len(urls)]}/tasks"
        async with http.post(url, json=body, headers=AS_ADMIN) as answer:
            assert answer.status == 202, await answer.text()
            return (await answer.json())["task_id"]

    await change(urls[0], "POST", "", config(fake.at("north")))
    tasks = await asyncio.gather(*(submit(number) for number in range(TASKS)))
    late = 0.0
    await called(fake, "north", 5 * TASKS)
    for before, after, url in (("north", "south", urls[-1]), ("south", "west", urls[0])):
        at = await change(url, "PUT", "/asker", {"llm_endpoint": fake.at(after)})
        await called(fake, after, 20 * TASKS)
        late = max(late, fake.calls_of(before)[-1].at - at)
    fake.replies.extend({"content": "stop"} for _ in range(TASKS))
    owners, ended = set[str](), list[str]()
    for task_id in tasks:
        url = f"{urls[0]}/tasks/{task_id}/events"
        async with http.get(url, headers={**AS_ADMIN, "Accept": "text/event-stream"}) as stream:
            async for line in stream.content:
                name, _, value = line.decode().partition(": ")
                event = json.loads(value) if name == "data" else {}
                if event.get("event_type") == "task.started":
                    owners.add(event["payload"]["owner"])
                if event.get("event_type") in ENDINGS:
                    ended.append(event["event_type"])
                    break
    assert ended == ["task.succeeded"] * TASKS
    return late, owners


def project(folder: Path) -> None:
    (folder / "actors").mkdir()
    (folder / "actors" / "asker.py").write_text(SOURCE)


async def test_two_workers_on_postgres_go_by_a_change_on_all_workers(
    tmp_path: Path, postgres_url: Address, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path)
    monkeypatch.setenv("MESH_ADMIN_TOKEN", ADMIN)
    monkeypatch.setenv("MESH_SECRETS__KEYS", json.dumps([new_key()]))
    up = ("up", "--port", "0", "--trust")
    async with (
        process(tmp_path / "one", postgres_url, *up) as one,
        process(tmp_path / "two", postgres_url, *up) as two,
        aiohttp.ClientSession() as http,
    ):
        late, owners = await moved_within(http, [await ready(one), await ready(two)], fake)
    assert late < SECONDS and len(owners) == 2


@pytest.mark.needs("mosquitto", "redis-server")
async def test_two_workers_on_dapr_go_by_a_change_on_all_workers(tmp_path: Path, fake: FakeProvider) -> None:
    project(tmp_path)
    environment = {"MESH_AGENTS__DIR": str(tmp_path / "actors"), "MESH_ADMIN_TOKEN": ADMIN}
    async with (
        stack_up(tmp_path / "data", "--trust", "--replicas", "2", **environment) as stack,
        aiohttp.ClientSession() as http,
    ):
        late, owners = await moved_within(http, [stack.url], fake)
        assert await stack.stop() == 0
    assert late < SECONDS and len(owners) == 2
