"""Tasks over HTTP: accepted, refused, listed and ended, and every mistake named."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.http_mesh import TRACE_ID, WRONG_TASKS, Api, http_mesh


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path) as api:
        yield api


async def test_a_task_is_accepted_and_its_outcome_can_be_read(api):
    status, receipt = await api.call(
        "POST", "/tasks", json={"capability": "echoing", "payload": {"text": "hello"}}
    )
    assert status == 202
    assert set(receipt) == {"task_id", "status", "dispatched_to", "score"}
    assert (receipt["dispatched_to"], receipt["score"]) == ("echo", 1.05)
    await api.mesh.get(Tasks).outcome(receipt["task_id"])

    task = await api.get(f"/tasks/{receipt['task_id']}")
    assert (task["capability"], task["payload"], task["status"]) == (
        "echoing",
        {"text": "hello"},
        "succeeded",
    )
    [attempt] = task["attempts"]
    assert attempt["agent_id"] == "echo"
    assert attempt["score_card"]["preferred"] == 1.05
    assert attempt["started_at"] <= attempt["ended_at"]
    outcome = task["outcome"]
    assert outcome["result"]["text"] == "you said: hello"
    assert (outcome["status"], outcome["success"], outcome["error"]) == ("succeeded", True, None)
    assert {"prompt_tokens", "completion_tokens"} <= set(outcome["usage"])
    assert {"duration_ms", "model", "cost_usd", "completed_at"} <= set(outcome)


async def test_the_answer_says_where_the_task_is(api):
    async with api.session.post("/tasks", json={"agent_id": "echo"}) as response:
        receipt = await response.json()
        assert response.headers["Location"] == f"/tasks/{receipt['task_id']}"


async def test_a_failed_task_shows_its_error(api):
    task_id = await api.finished(agent_id="echo", payload={"fail": True})
    task = await api.get(f"/tasks/{task_id}")
    assert task["status"] == "failed"
    assert task["outcome"]["error"] == {"type": "ToolFailed", "message": "told to fail"}
    assert task["attempts"][0]["error"]["type"] == "ToolFailed"


async def test_a_repeated_idempotency_key_is_the_same_task(api):
    async def send(text: str) -> tuple[int, Any]:
        body = {"capability": "echoing", "payload": {"text": text}}
        return await api.call("POST", "/tasks", json=body, headers={"Idempotency-Key": "order-7"})

    (first_status, first), (second_status, second) = await send("hello"), await send("hello")
    assert first_status == second_status == 202
    assert {**second, "status": first["status"]} == first
    status, problem = await send("something else")
    assert (status, problem["code"], problem["field"]) == (409, "IdempotencyConflict", "Idempotency-Key")
    assert "new Idempotency-Key" in problem["remedy"]
    assert len((await api.get("/tasks"))["items"]) == 1


async def test_space_behind_an_idempotency_key_is_no_part_of_it(api):
    receipts = []
    for key in ("order-7", "order-7 "):
        headers = {"Idempotency-Key": key}
        _, receipt = await api.call("POST", "/tasks", json={"agent_id": "echo"}, headers=headers)
        receipts.append(receipt["task_id"])
    assert receipts[0] == receipts[1]


async def test_a_task_belongs_to_the_trace_of_its_client(api):
    headers = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
    _, receipt = await api.call("POST", "/tasks", json={"agent_id": "echo"}, headers=headers)
    assert (await api.get(f"/tasks/{receipt['task_id']}"))["trace_id"] == TRACE_ID
    events = (await api.get("/events", trace_id=TRACE_ID))["items"]
    assert "task.accepted" in [event["event_type"] for event in events]
    headers["traceparent"] = f"ff-{TRACE_ID}-00f067aa0ba902b7-01"
    _, receipt = await api.call("POST", "/tasks", json={"agent_id": "echo"}, headers=headers)
    assert (await api.get(f"/tasks/{receipt['task_id']}"))["trace_id"] != TRACE_ID
    headers["traceparent"] = f"ff-{TRACE_ID}-00f067aa0ba902b7-01"
    _, receipt = await api.call("POST", "/tasks", json={"agent_id": "echo"}, headers=headers)
    assert (await api.get(f"/tasks/{receipt['task_id']}"))["trace_id"] != TRACE_ID
    headers["traceparent"] = f"ff-{TRACE_ID}-00f067aa0ba902b7-01"
    _, receipt = await api.call("POST", "/tasks", json={"agent_id": "echo"}, headers=headers)
    assert (await api.get(f"/tasks/{receipt['task_id']}"))["trace_id"] != TRACE_ID
    headers["traceparent"] = f"ff-{TRACE_ID}-00f067aa0ba902b7-01"
    _, receipt = await api.call("POST", "/tasks", json={"agent_id": "echo"}, headers=headers)
    assert (await api.get(f"/tasks/{receipt['task_id']}"))["trace_id"] != TRACE_ID
    headers["traceparent"] = f"ff-{TRACE_ID}-00f067aa0ba902b7-01"
    _, receipt = await api.call("POST", "/tasks", json={"agent_id": "echo"}, headers=headers)
    assert (await api.get(f"/tasks/{receipt['task_id']}"))["trace_id"] != TRACE_ID


@pytest.mark.parametrize(("body", "status", "field", "code"), WRONG_TASKS)
async def test_a_wrong_task_is_refused_with_its_field(api, body, status, field, code):
    found, problem = await api.call("POST", "/tasks", data=body)
    assert (found, problem["status"], problem["field"], problem["code"]) == (status, status, field, code)
    assert problem["type"] == f"urn:meshwright:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert (await api.get("/tasks"))["items"] == []


async def test_every_wrong_field_is_named_and_a_misspelt_one_corrected(api):
    _, problem = await api.call(
        "POST", "/tasks", json={"agent_id": "echo", "priority": -1, "timeout": "soon"}
    )
    assert [error["field"] for error in problem["errors"]] == ["priority", "timeout"]
    _, problem = await api.call("POST", "/tasks", json={"agent_id": "echo", "prioritty": 3})
    assert problem["remedy"] == "Did you mean 'priority'?"


async def test_a_body_that_does_not_end_is_cut_off_at_the_limit(api):
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65_536
            yield b" " * 65_536

    status, problem = await api.call("POST", "/tasks", data=endless())
    assert (status, problem["code"]) == (413, "TooLarge")
    assert sent < 32 * 1024 * 1024  # the limit, and the buffers of two sockets


async def test_tasks_are_listed_by_status_and_capability_page_by_page(api):
    waiting = await api.submit(agent_id="gate")
    done = [await api.finished(agent_id="echo") for _ in range(3)]
    assert [task["task_id"] for task in (await api.get("/tasks", status="succeeded"))["items"]] == done[::-1]
    assert [task["task_id"] for task in (await api.get("/tasks", capability="waiting"))["items"]] == [waiting]
    first = await api.get("/tasks", limit=2)
    second = await api.get("/tasks", limit=2, cursor=first["cursor"])
    assert [task["task_id"] for task in first["items"] + second["items"]] == [*done[::-1], waiting]
    assert second["cursor"] is None


async def test_a_task_is_ended_before_its_time(api):
    task_id = await api.submit(agent_id="gate")
    status, _ = await api.call("POST", f"/tasks/{task_id}/cancel")
    assert status in (200, 202)
    assert (await api.mesh.get(Tasks).outcome(task_id)).status == "cancelled"
    status, task = await api.call("POST", f"/tasks/{task_id}/cancel")
    assert (status, task["status"]) == (200, "cancelled")


@pytest.mark.parametrize("path", ["/tasks/{}", "/tasks/{}/events"])
async def test_what_is_not_there_is_not_found(api, path):
    status, problem = await api.call("GET", path.format("nothing"))
    assert (status, problem["field"]) == (404, "task_id")
    status, problem = await api.call("GET", path.format("two%20words"))
    assert (status, problem["field"]) == (422, "task_id")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"agent_id": "two words"}, "may use letters, digits, - and _, at most 64"),
        ({"agent_id": "echo", "priority": 11}, "must be at most 10"),
        ({"agent_id": "echo", "timeout": "soon"}, "must be a number"),
        ({"agent_id": "echo", "payload": []}, "must be an object"),
        ({"agent_id": 7}, "must be text"),
    ],
)
async def test_a_wrong_field_is_described_in_plain_words(api, body, message):
    _, problem = await api.call("POST", "/tasks", json=body)
    assert problem["errors"][0]["message"] == message


async def test_costs_summed_by_nothing_are_refused_with_the_keys_there_are(api):
    status, problem = await api.call("GET", "/costs?by=colour")
    assert (status, problem["field"], "pattern" in str(problem)) == (422, "by", False)
    assert "model" in problem["remedy"]
