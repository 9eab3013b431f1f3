"""What cannot be accepted is refused with a reason, and nothing of it is kept."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.running_mesh import RunningMesh, mesh_up


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningMesh]:
    async with mesh_up(tmp_path_factory.mktemp("bad") / "data") as running:
        yield running


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


def request(**fields: Any) -> dict[str, Any]:
    return {"capability": "general-query", "payload": {"text": "Hello"}} | fields


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (request(capability="no-such-thing"), 503, "capability"),
        (request(agent_id="nobody"), 404, "agent_id"),
        (request(capability="a b"), 422, "capability"),
        (request(task_id="../../etc"), 422, "task_id"),
        (request(task_id="x" * 65), 422, "task_id"),
        (request(thread_id=""), 422, "thread_id"),
        (request(payload="Hello"), 422, "payload"),
        (request(payload=["Hello"]), 422, "payload"),
        (request(payload={"text": 7}), 422, "payload.text"),
        (request(payload={"text": None}), 422, "payload.text"),
        (request(payload=nested(60)), 413, "body"),
        (request(payload={"text": "x" * 300_000}), 413, "body"),
        (request(priority=11), 422, "priority"),
        (request(priority=-1), 422, "priority"),
        (request(timeout=0), 422, "timeout"),
        (request(timeout=1e9), 422, "timeout"),
        (request(deadline=-1), 422, "deadline"),
        (request(prority=3), 422, "prority"),
        ({"payload": {}}, 422, "capability"),
        ([], 422, ""),
    ],
)
async def test_a_bad_task_is_refused_by_the_name_of_its_field(
    running: RunningMesh, body: Any, status: int, field: str
) -> None:
    before = (await running.get("/events", limit=1, order="desc")).body["items"][0]["seq"]
    reply = await running.post("/tasks", body)
    assert reply.status == status, reply
    assert reply.body["status"] == status
    assert field in reply.body.get("field", "")
    assert reply.body["detail"]
    after = (await running.get("/events", after_seq=before)).body["items"]
    assert [event for event in after if event["event_type"] == "task.accepted"] == []


async def test_a_body_that_is_not_json_is_refused(running: RunningMesh) -> None:
    headers = {"content-type": "application/json"}
    reply = await running.call("POST", "/tasks", data=b'{"capability": ', headers=headers)
    assert reply.status in (400, 422) and reply.body["detail"]


@pytest.mark.parametrize("path", ["/tasks/01ABC", "/tasks/01ABC/events", "/nowhere"])
async def test_what_is_not_there_is_not_found(running: RunningMesh, path: str) -> None:
    reply = await running.get(path)
    assert reply.status == 404 and reply.body["status"] == 404


async def test_after_all_of_this_the_mesh_still_works(running: RunningMesh) -> None:
    assert (await running.outcome(await running.submit("Hello")))["success"]
