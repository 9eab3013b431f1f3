"""The HTTP API does what its document says, and answers every mistake with a problem that helps."""

import asyncio
import errno
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from meshwright.agents.context.service import ContextClient
from meshwright.core.parts import event_types
from meshwright.edges.http.routing import make_router
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.event_logs import payload_fields
from tests.support.http_mesh import TRACE_ID, Api, http_mesh
from tests.support.observer import eventually
from tests.support.tenants import Asker, fill


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path) as api:
        yield api


async def test_events_are_found_by_each_of_their_fields(api):
    headers = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01", "Idempotency-Key": "key-1"}
    _, receipt = await api.call("POST", "/tasks", json={"agent_id": "echo"}, headers=headers)
    await api.mesh.get(Tasks).outcome(receipt["task_id"])
    api.gate.set()
    await api.finished(agent_id="gate")
    [accepted] = (await api.get("/events", task_id=receipt["task_id"], event_type="task.accepted"))["items"]
    fields = ("trace_id", "task_id", "agent_id", "event_type", "aggregate_id", "idempotency_key", "topic")
    for name in fields:
        found = (await api.get("/events", **{name: accepted[name]}, limit=1000))["items"]
        assert accepted in found, name
        assert all(event[name] == accepted[name] for event in found)
        if name != "agent_id":
            assert (await api.get("/events", **{name: "other"}))["items"] == []
    status, refused = await api.call("GET", "/events?agent_id=other")
    assert (status, refused["code"], refused["field"]) == (404, "NotFound", "agent_id")
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
    assert set(made) == {"success", "compressed_context", "method", "stats", "validation_passed", "error"}
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
        assert (await response.json(content_type=None))["remedy"] == "Use GET, POST"


async def test_an_unknown_path_is_a_problem_too(api):
    status, problem = await api.call("GET", "/nowhere")
    assert (status, problem["detail"]) == (404, "GET /nowhere: not found")


def test_a_route_whose_first_request_fails_answers_the_next(monkeypatch):
    def refuse(*_: object, **options: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")  # as its imports do

    router = make_router()
    router.get("/things")(_things)
    [route] = router.routes
    with monkeypatch.context() as patch:
        patch.setattr(APIRoute, "__init__", refuse)
        for _ in range(2):
            with pytest.raises(OSError):
                _ = route.app
    assert route.app is not None


async def _things() -> list[str]:
    return []


async def test_an_unexpected_error_tells_the_client_nothing_of_its_content(api, caplog, monkeypatch):
    monkeypatch.setattr(api.mesh.get(ContextClient), "compress", None)
    request = {"sender": "pm", "receiver": "a", "project_id": "p", "task_summary": "a secret"}
    logged = asyncio.Event()
    monkeypatch.setattr(caplog.handler, "filters", [lambda record: logged.set() or True])
    status, problem = await api.call("POST", "/compress", json=request)
    assert (status, problem["code"]) == (500, "InternalError")
    assert "NoneType" not in json.dumps(problem)
    await eventually(lambda: "compress" in caplog.text, logged)  # the server logs it after its answer


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
    assert document["paths"]["/tasks/{task_id}"]["get"]["operationId"] == "show_task_tasks__task_id__get"
    for operation in operations:
        assert operation["operationId"][0] != "_"
        assert operation["description"]
        assert "application/problem+json" in operation["responses"]["default"]["content"]
        body = operation.get("requestBody")
        for part in [body] if body else []:
            assert "example" in part["content"]["application/json"]
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"]


async def test_writing_the_document_holds_nobody_up(tmp_path: Path) -> None:
    async with http_mesh(tmp_path) as api:

        async def read(path: str, **headers: str) -> tuple[int, bytes, str | None]:
            async with api.session.get(path, headers=headers) as response:
                return response.status, await response.read(), response.headers.get("ETag")

        documents = [asyncio.create_task(read("/openapi.json")) for _ in range(40)]
        assert (await read("/healthz"))[0] == 200
        assert not any(document.done() for document in documents)
        answers = await asyncio.gather(*documents)
        assert len(set(answers)) == 1
        status, body, tag = answers[0]
        assert (status, json.loads(body)["openapi"]) == (200, "3.1.0")
        assert await read("/openapi.json", **{"If-None-Match": str(tag)}) == (304, b"", tag)


async def test_the_example_of_the_document_works(api):
    document = await api.get("/openapi.json")
    body = document["paths"]["/compress"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert (await api.call("POST", "/compress", json=body))[0] == 200


async def test_an_allowed_host_may_be_a_proxy_in_front(tmp_path):
    async with http_mesh(tmp_path, allowed_hosts=["Mesh.Example.com"]) as api:
        for host in ("mesh.example.com", "mesh.example.com:443", "localhost"):
            headers = {"Host": host, "Origin": "https://mesh.example.com"}
            assert (await api.call("GET", "/tasks", headers=headers))[0] == 200
        assert (await api.call("GET", "/tasks", headers={"Host": "other.example.com"}))[0] == 421
        foreign = {"Host": "mesh.example.com", "Origin": "https://other.example.com"}
        assert (await api.call("GET", "/tasks", headers=foreign))[0] == 403


async def test_events_have_the_payloads_that_components_declare(tmp_path: Path) -> None:
    budget = {"name": "all", "scope": "mesh", "limit_usd": "5"}
    async with http_mesh(tmp_path, Asker, budgets=[budget]) as api:
        await fill(api, "acme")
        declared = payload_fields()
        assert {name for name in {*event_types(), *api.mesh.events} if not name.endswith("*")} <= {*declared}
        events = await api.mesh.log.query(EventFilter(limit=1000))
        of_the_mesh = [event for event in events if not event.event_type.startswith("app.")]
        assert len({event.event_type for event in of_the_mesh} & {*declared}) > 20
        for event in of_the_mesh:
            if (fields := declared[event.event_type]) is not None:
                assert {*event.fields} <= fields | {"step", "path", "attempt"}, event.event_type
