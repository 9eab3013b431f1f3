"""The HTTP API does what its document says, and answers every mistake with a problem that helps."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.http_mesh import Api, http_mesh

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


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
    await api.mesh.outcome(receipt["task_id"])

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


async def test_a_task_may_bring_its_own_id(api):
    assert await api.submit(task_id="mine-1", agent_id="echo") == "mine-1"


async def test_a_task_belongs_to_the_trace_of_its_client(api):
    headers = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
    _, receipt = await api.call("POST", "/tasks", json={"agent_id": "echo"}, headers=headers)
    assert (await api.get(f"/tasks/{receipt['task_id']}"))["trace_id"] == TRACE_ID
    events = (await api.get("/events", trace_id=TRACE_ID))["items"]
    assert "task.accepted" in [event["event_type"] for event in events]


async def test_a_malformed_trace_is_passed_over(api):
    for value in ("nonsense", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"ff-{TRACE_ID}-00f067aa0ba902b7-01"):
        _, receipt = await api.call(
            "POST", "/tasks", json={"agent_id": "echo"}, headers={"traceparent": value}
        )
        assert (await api.get(f"/tasks/{receipt['task_id']}"))["trace_id"] != TRACE_ID


WRONG_TASKS = [
    ("{nope", 400, "body", "MalformedJson"),
    ("", 400, "body", "MalformedJson"),
    ('{"agent_id": "echo", "payload": {"n": NaN}}', 400, "body", "MalformedJson"),
    ('{"agent_id": "echo", "payload": {"t": "\\ud800"}}', 400, "body", "MalformedJson"),
    ("[]", 422, "body", "InvalidInput"),
    ("{}", 422, "capability", "InvalidInput"),
    ('{"capability": "echoing", "payload": [1]}', 422, "payload", "InvalidInput"),
    ('{"capability": "echoing", "priority": 11}', 422, "priority", "InvalidInput"),
    ('{"capability": "echoing", "timeout": 0}', 422, "timeout", "InvalidInput"),
    ('{"capability": "echoing", "timeout": 1e9}', 422, "timeout", "InvalidInput"),
    ('{"capability": "two words"}', 422, "capability", "InvalidInput"),
    ('{"capability": "echoing", "task_id": "../x"}', 422, "task_id", "InvalidInput"),
    ('{"capability": "echoing", "thread_id": "' + "x" * 65 + '"}', 422, "thread_id", "InvalidInput"),
    ('{"capability": "painting"}', 503, "capability", "NoAgentAvailable"),
    ('{"capability": "waiting", "agent_id": "echo"}', 503, "capability", "NoAgentAvailable"),
    ('{"agent_id": "ghost"}', 404, "agent_id", "NotFound"),
    ('{"agent_id": "event-logger"}', 404, "agent_id", "NotFound"),
    ('{"agent_id": "echo", "payload": ' + '{"a":' * 40 + "1" + "}" * 41, 413, "body", "TooLarge"),
    ('{"agent_id": "echo", "payload": ' + "[" * 90_000 + "]" * 90_000 + "}", 413, "body", "TooLarge"),
    ('{"agent_id": "echo", "payload": {"t": "' + "x" * 300_000 + '"}}', 413, "body", "TooLarge"),
]


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
    assert problem["remedy"] == "did you mean 'priority'?"


async def test_a_body_that_does_not_end_is_cut_off_at_the_limit(api):
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65_536
            yield b" " * 65_536

    status, problem = await api.call("POST", "/tasks", data=endless())
    assert (status, problem["code"]) == (413, "TooLarge")
    assert sent < 100 * 65_536


async def test_an_impossible_idempotency_key_is_refused(api):
    for key in ("", "x" * 256):
        headers = {"Idempotency-Key": key}
        status, problem = await api.call("POST", "/tasks", json={"agent_id": "echo"}, headers=headers)
        assert (status, problem["field"]) == (422, "Idempotency-Key")


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
    assert (await api.mesh.outcome(task_id)).status == "cancelled"
    status, task = await api.call("POST", f"/tasks/{task_id}/cancel")
    assert (status, task["status"]) == (200, "cancelled")


@pytest.mark.parametrize("path", ["/tasks/{}", "/tasks/{}/events"])
async def test_what_is_not_there_is_not_found(api, path):
    status, problem = await api.call("GET", path.format("nothing"))
    assert (status, problem["field"]) == (404, "task_id")
    status, problem = await api.call("GET", path.format("two%20words"))
    assert (status, problem["field"]) == (422, "task_id")


async def test_a_task_that_is_not_there_cannot_be_cancelled(api):
    status, problem = await api.call("POST", "/tasks/nothing/cancel")
    assert (status, problem["field"]) == (404, "task_id")


async def test_events_are_found_by_each_of_their_fields(api):
    headers = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01", "Idempotency-Key": "key-1"}
    _, receipt = await api.call("POST", "/tasks", json={"agent_id": "echo"}, headers=headers)
    await api.mesh.outcome(receipt["task_id"])
    api.gate.set()
    await api.finished(agent_id="gate")
    [accepted] = (await api.get("/events", task_id=receipt["task_id"], event_type="task.accepted"))["items"]
    fields = ("trace_id", "task_id", "agent_id", "event_type", "aggregate_id", "idempotency_key", "topic")
    for name in fields:
        found = (await api.get("/events", **{name: accepted[name]}, limit=1000))["items"]
        assert accepted in found, name
        assert all(event[name] == accepted[name] for event in found)
        assert (await api.get("/events", **{name: "other"}))["items"] == []
    assert accepted in (await api.get("/events", event_version=1))["items"]
    assert (await api.get("/events", event_version=2))["items"] == []


async def test_events_are_read_by_range(api):
    task_id = await api.finished(agent_id="echo")
    same = {"task_id": task_id, "topic": "task-progress"}  # spans of the task may still come
    everything = (await api.get("/events", **same))["items"]
    seqs = [event["seq"] for event in everything]
    assert seqs == sorted(seqs)
    middle = everything[len(everything) // 2]

    async def seqs_of(**params: Any) -> list[int]:
        return [event["seq"] for event in (await api.get("/events", **same, **params))["items"]]

    assert await seqs_of(after_seq=middle["seq"]) == [seq for seq in seqs if seq > middle["seq"]]
    assert await seqs_of(before_seq=middle["seq"]) == [seq for seq in seqs if seq < middle["seq"]]
    assert await seqs_of(order="desc", limit=2) == seqs[::-1][:2]
    assert middle["seq"] in await seqs_of(since=middle["time"], until=middle["time"])
    assert await seqs_of(until="2020-01-01T00:00:00Z") == []


async def test_pages_of_events_join_without_a_gap(api):
    await api.finished(agent_id="echo")
    everything = (await api.get("/events", order="desc", limit=1000))["items"]
    for order, bound in (("asc", "after_seq"), ("desc", "before_seq")):
        pages: list[Any] = []
        params: dict[str, Any] = {"order": order, "limit": 3, "before_seq": everything[0]["seq"] + 1}
        while True:
            page = await api.get("/events", **params)
            pages += page["items"]
            if page["next_seq"] is None:
                break
            params[bound] = page["next_seq"]
        assert pages == (everything if order == "desc" else everything[::-1])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"tpye": "task.accepted"}, "tpye"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2030-01-01T00:00:00"}, "since"),
        ({"after_seq": "-1"}, "after_seq"),
        ({"after_seq": str(2**63)}, "after_seq"),
        ({"order": "random"}, "order"),
        ({"tenant_id": "other"}, "tenant_id"),
    ],
)
async def test_a_wrong_query_is_refused_with_its_field(api, query, field):
    status, problem = await api.call("GET", "/events", params=query)
    assert (status, problem["field"]) == (422, field)


async def test_a_wrong_cursor_or_status_is_refused(api):
    for name, value in (("cursor", "zzz"), ("status", "lost"), ("limit", "501"), ("color", "red")):
        status, problem = await api.call("GET", "/tasks", params={name: value})
        assert (status, problem["field"]) == (422, name)


async def test_the_events_of_a_task_are_a_page_for_whoever_takes_json(api):
    task_id = await api.finished(agent_id="echo")
    await api.finished(agent_id="echo")
    page = await api.get(f"/tasks/{task_id}/events")
    assert {event["task_id"] for event in page["items"]} == {task_id}
    assert page["items"][0]["event_type"] == "task.accepted"
    assert "task.succeeded" in [event["event_type"] for event in page["items"]]


async def test_agents_are_listed_with_how_they_are(api):
    agents = {agent["agent_id"]: agent for agent in (await api.get("/agents"))["items"]}
    assert {"echo", "gate", "orchestrator", "event-logger", "context-service"} <= set(agents)
    echo = agents["echo"]
    assert (echo["status"], echo["healthy"], echo["kind"]) == ("online", True, "agent")
    assert echo["capabilities"][0]["name"] == "echoing"
    assert echo["capabilities"][0]["async"] is True


async def test_scores_show_every_factor(api):
    [card] = (await api.get("/agents/score/echoing"))["items"]
    assert card["score"] == 1.05
    assert {"weight", "health", "success", "streak", "preferred"} <= set(card)
    status, problem = await api.call("GET", "/agents/score/painting")
    assert (status, problem["field"]) == (404, "capability")
    assert "echoing" in problem["remedy"]


async def test_a_context_is_compressed(api):
    request = {"sender": "pm", "receiver": "architect-agent", "project_id": "p", "task_summary": "Choose"}
    status, made = await api.call("POST", "/compress", json=request)
    assert status == 200
    assert set(made) == {
        "success",
        "compressed_context",
        "method",
        "stats",
        "validation_passed",
        "error",
    }
    assert made["method"] == "deterministic"
    assert {"input_tokens", "output_tokens", "ratio", "duration_ms"} <= set(made["stats"])
    status, problem = await api.call("POST", "/compress", json={"sender": "pm"})
    assert (status, problem["field"]) == (422, "receiver")


async def test_it_says_that_it_lives_and_whether_it_is_ready(api):
    assert (await api.get("/healthz"))["status"] == "ok"
    assert await api.get("/readyz") == {"status": "ready"}
    api.mesh.ready = False
    async with api.session.get("/readyz") as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
    api.mesh.ready = True


@pytest.mark.parametrize("path", ["/healthz", "/tasks", "/events", "/agents", "/tasks/nobody", "/nowhere"])
async def test_a_document_ends_its_line_as_a_shell_wants_it(api, path):
    async with api.session.get(path) as response:
        assert (await response.text()).endswith("}\n")


async def test_a_wrong_method_is_told_the_right_ones(api):
    async with api.session.delete("/tasks") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET, POST")
        assert (await response.json(content_type=None))["remedy"] == "use GET, POST"


async def test_an_unknown_path_is_a_problem_too(api):
    status, problem = await api.call("GET", "/nowhere")
    assert (status, problem["detail"]) == (404, "GET /nowhere: not found")


async def test_an_unexpected_error_tells_the_client_nothing_of_its_content(api, caplog):
    api.mesh.context = None
    request = {"sender": "pm", "receiver": "a", "project_id": "p", "task_summary": "a secret"}
    status, problem = await api.call("POST", "/compress", json=request)
    assert (status, problem["code"]) == (500, "InternalError")
    assert "NoneType" not in json.dumps(problem)
    assert "compress" in caplog.text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "169.254.1.1"])
async def test_a_foreign_host_name_is_refused_on_loopback(api, host):
    status, problem = await api.call("GET", "/healthz", headers={"Host": host})
    assert (status, problem["field"]) == (421, "Host")


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1", "[::1]:8000"])
async def test_loopback_names_are_ours(api, host):
    status, _ = await api.call("GET", "/healthz", headers={"Host": host})
    assert status == 200


async def test_a_page_of_another_site_cannot_use_the_mesh(api):
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        status, problem = await api.call("POST", "/tasks", data='{"agent_id": "echo"}', headers=headers)
        assert (status, problem["field"]) == (403, "Origin")
    status, _ = await api.call("POST", "/tasks", json={"agent_id": "echo"}, headers={"Origin": api.url})
    assert status == 202


async def test_the_document_describes_every_operation_with_an_example(api):
    document = await api.get("/openapi.json")
    operations = [
        operation
        for path in document["paths"].values()
        for method, operation in path.items()
        if method in ("get", "post")
    ]
    assert len(operations) > 13
    for operation in operations:
        assert operation["description"]
        assert "application/problem+json" in operation["responses"]["default"]["content"]
        body = operation.get("requestBody")
        for part in [body] if body else []:
            assert "example" in part["content"]["application/json"]
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"]


async def test_the_example_of_the_document_works(api):
    document = await api.get("/openapi.json")
    body = document["paths"]["/compress"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert (await api.call("POST", "/compress", json=body))[0] == 200
