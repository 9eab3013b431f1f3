"""Requests that wait for the end of a task: `wait` of `POST /tasks` and of `GET /tasks/{task_id}`."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from meshwright import Agent, Capability, Client, Run
from meshwright.edges.http.server import serving
from meshwright.mesh.identity.settings import ADMIN_PREFIX
from tests.support.http_mesh import Api, http_mesh
from tests.support.webhook_mesh import until

ADMIN = f"{ADMIN_PREFIX}{'x' * 32}"
LONG = 60


class Asker(Agent):
    """Asks a person, and says what that has answered."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return f"{await run.ask_person('Which colour?')} and {await run.ask_person('Which size?')}"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path, Asker) as api:
        yield api


async def submit(api: Api, agent_id: str, wait: float = LONG, **headers: str) -> tuple[int, Any]:
    body = {"agent_id": agent_id, "payload": {"text": "hello"}}
    return await api.call("POST", "/tasks", params={"wait": wait}, json=body, headers=headers)


async def show(api: Api, task_id: str, wait: float = LONG) -> tuple[int, Any]:
    return await api.call("GET", f"/tasks/{task_id}", params={"wait": wait})


async def waiting(count: int) -> None:
    """Return once so many requests wait."""
    await until(lambda: [task.get_name() for task in asyncio.all_tasks()].count("waiting request") == count)


async def test_one_request_submits_a_task_and_answers_with_its_outcome(api):
    status, task = await submit(api, "echo")
    assert (status, task["status"], task["outcome"]["result"]["text"]) == (
        200,
        "succeeded",
        "you said: hello",
    )
    assert task == (await show(api, task["task_id"]))[1] == await api.get(f"/tasks/{task['task_id']}")


async def test_a_task_that_goes_on_is_shown_as_it_is_when_the_time_is_up(api):
    status, task = await submit(api, "gate", wait=0.01)
    assert (status, task["outcome"]) == (202, None)
    assert (await show(api, task["task_id"], wait=0.01))[1]["outcome"] is None
    showing = asyncio.create_task(show(api, task["task_id"]))
    await waiting(1)
    api.gate.set()
    status, task = await showing
    assert (status, task["status"]) == (200, "succeeded")


async def test_repeats_of_a_key_wait_for_the_same_task_and_see_it_cancelled(api):
    key = {"Idempotency-Key": "order-7"}
    submits = [asyncio.create_task(submit(api, "gate", **key)) for _ in range(3)]
    await waiting(3)
    [task] = (await api.get("/tasks"))["items"]
    await api.client.cancel(task["task_id"])
    for status, view in await asyncio.gather(*submits):
        assert (status, view["task_id"], view["status"]) == (200, task["task_id"], "cancelled")


async def test_a_question_is_answered_at_once_and_each_next_one(api):
    status, task = await submit(api, "asker")
    [question] = task["waits"]
    assert (status, task["outcome"], question["reason"]) == (202, None, "Which colour?")
    showing = asyncio.create_task(show(api, task["task_id"]))  # an open question does not end it
    await waiting(1)
    await api.client.answer(task["task_id"], "red", key=question["wait_id"])
    [question] = (await showing)[1]["waits"]
    assert question["reason"] == "Which size?"
    showing = asyncio.create_task(show(api, task["task_id"]))
    await waiting(1)
    await api.client.answer(task["task_id"], "tall", key=question["wait_id"])
    assert (await showing)[1]["outcome"]["result"]["text"] == "red and tall"


async def test_a_client_that_leaves_leaves_nothing_behind_and_its_task_goes_on(api):
    host, port = api.url.removeprefix("http://").split(":")
    body = json.dumps({"agent_id": "gate"})
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /tasks?wait={LONG} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    writer.write(head.encode())
    await waiting(1)
    writer.close()
    await waiting(0)
    [task] = (await api.get("/tasks"))["items"]
    api.gate.set()
    assert (await show(api, task["task_id"]))[1]["status"] == "succeeded"


async def test_a_server_that_stops_answers_those_who_wait(api):
    async with serving(api.mesh, "127.0.0.1", 0) as server:
        path, body = f"{server.url}/tasks", {"agent_id": "gate"}
        submitting = asyncio.create_task(api.call("POST", path, params={"wait": LONG}, json=body))
        await waiting(1)
    status, task = await submitting
    assert (status, task["outcome"]) == (202, None)


async def test_a_wait_that_is_too_long_is_refused_and_no_task_made(api):
    for path, method in (("/tasks", "POST"), ("/tasks/nope", "GET")):
        for seconds in ("301", "-1", "soon"):
            status, problem = await api.call(
                method, path, params={"wait": seconds}, json={"agent_id": "echo"}
            )
            assert (status, problem["field"]) == (422, "wait")
    assert (await api.get("/tasks"))["items"] == []
    assert (await show(api, "nope"))[0] == 404


async def test_a_key_that_is_revoked_ends_its_waits(tmp_path):
    async with http_mesh(tmp_path, admin_token=SecretStr(ADMIN)) as api, Client(api.url, ADMIN) as admin:
        key = await admin.create_key(name="shop", roles=["submitter"])
        headers = {"Authorization": f"Bearer {key.key}"}
        submitting = asyncio.create_task(submit(api, "gate", **headers))
        await waiting(1)
        await admin.revoke_key(key.key_id)
        status, problem = await submitting
        assert (status, problem["code"]) == (401, "Unauthenticated")


async def test_many_asks_at_once_share_a_few_connections(api):
    asks = [asyncio.create_task(api.client.ask("gate")) for _ in range(280)]
    await waiting(256)
    assert (await api.client.ask("echo", "hello")).text == "you said: hello"
    api.gate.set()
    assert {outcome.status for outcome in await asyncio.gather(*asks)} == {"succeeded"}
