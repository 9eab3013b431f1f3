"""The client over a network that breaks, and against a mesh that refuses."""

import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from meshwright import BlockingClient, Client
from meshwright.client import MeshUnreachable
from meshwright.core.errors import Conflict, InvalidInput, MeshError, NotFound, Overloaded
from meshwright.core.events import Event
from meshwright.edges.client.transports import server_events
from meshwright.models.errors import BudgetExceeded

RECEIPT = {"task_id": "t1", "status": "dispatched", "dispatched_to": "a", "score": 1.0}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshwright.edges.client.transports.FIRST_PAUSE_SECONDS", 0.005)


@asynccontextmanager
async def served(*routes: web.RouteDef, timeout: float = 20.0) -> AsyncIterator[Client]:
    application = web.Application()
    application.add_routes(routes)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with Client(f"http://127.0.0.1:{runner.addresses[0][1]}/", timeout=timeout) as mesh:
            yield mesh
    finally:
        await runner.cleanup()


def event(seq: int | None, event_type: str = "model.called") -> dict[str, Any]:
    return {"id": "a/1", "event_type": event_type, "topic": "t", "time": "2030-01-01T00:00:00Z", "seq": seq}


def frame(seq: int | None, event_type: str = "model.called") -> bytes:
    head = b"" if seq is None else b"id: %d\n" % seq
    return head + f"event: {event_type}\ndata: {json.dumps(event(seq, event_type))}\n\n".encode()


@pytest.mark.parametrize("body", ['{"a": 1}', "[1]", "<html>"])
@pytest.mark.parametrize(
    "ask", [Client.agents, Client.events, Client.costs, Client.keys_required, Client.verify_audit]
)
async def test_an_answer_that_no_mesh_gives_names_the_address(ask: Any, body: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body)

    async with served(web.get("/{path:.*}", answer)) as other:
        with pytest.raises(MeshError, match="answered 200 in no way that a mesh does"):
            await ask(other)


async def show_task(request: web.Request) -> web.Response:
    return web.json_response({"task_id": "t1", "generation": 1})


TASK = web.get("/tasks/t1", show_task)


class BreakingStream:
    """Events 1 to 9, two to a connection, the second of which is cut in the middle of a third event."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(int(request.headers["Last-Event-ID"]))
        first = self.asked[-1] + 1
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": hello\n\n" + b"".join(map(frame, range(first, min(first + 2, 10)))))
        if len(self.asked) == 2:
            await response.write(frame(first + 2)[:-9])
            assert request.transport is not None
            request.transport.abort()
        return response


@pytest.mark.parametrize("path", ["/tasks/t1/events", "/events/stream"])
async def test_a_broken_stream_resumes_where_it_broke(path: str) -> None:
    stream = BreakingStream()
    async with served(web.get(path, stream.answer), TASK) as mesh:
        events = mesh.follow("t1") if path.startswith("/tasks") else mesh.stream(after_seq=0)
        async with aclosing(events):
            seen = [(await anext(events)).seq for _ in range(9)]
    assert seen == list(range(1, 10))
    assert stream.asked == [0, 2, 4, 6, 8]


async def test_a_stream_resumes_behind_the_last_logged_event() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers["Last-Event-ID"])
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(frame(len(asked)) + frame(None, "model.delta"))
        return response

    async with (
        served(web.get("/tasks/t1/events", answer), TASK) as mesh,
        aclosing(mesh.follow("t1")) as events,
    ):
        seen = [(await anext(events)).seq for _ in range(4)]
    assert seen == [1, None, 2, None]
    assert asked == ["0", "1"]


async def test_following_a_task_ends_with_its_last_event() -> None:
    async def answer(request: web.Request) -> web.Response:
        body = frame(1) + frame(2, "task.cancelled") + frame(3)
        return web.Response(body=body, content_type="text/event-stream")

    async with served(web.get("/tasks/t1/events", answer), TASK) as mesh:
        assert [found.seq async for found in mesh.follow("t1")] == [1, 2]


async def test_a_refused_stream_is_not_tried_again() -> None:
    async with served() as mesh:
        with pytest.raises(MeshError, match="answered 404 in no way that a mesh does"):
            await anext(mesh.follow("t1"))


async def test_no_mesh_at_the_address_is_one_sentence_at_once() -> None:
    async with Client("http://127.0.0.1:1") as mesh:
        assert not await mesh.is_alive()
        with pytest.raises(MeshUnreachable, match=r":1 \(Connection refused\)\. start one with"):
            await mesh.tasks()
        with pytest.raises(MeshUnreachable):
            await anext(mesh.follow("t1"))


async def test_a_mesh_that_went_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshwright.edges.client.transports.RETRY_SECONDS", 0.05)

    answered: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        answered.append(request.path)
        if len(answered) > 1:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"items": []})

    async with served(web.get("/agents", answer)) as mesh:
        assert await mesh.agents() == []
        with pytest.raises(MeshUnreachable):
            await mesh.agents()
    assert len(answered) > 2


class Flaky:
    """Breaks the connection of every first request, and answers every second."""

    def __init__(self, document: dict[str, Any], status: int = 200) -> None:
        self.bodies: list[Any] = []
        self._document = document
        self._status = status

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json() if request.can_read_body else None)
        if len(self.bodies) % 2:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(self._document, status=self._status)


async def healthy(request: web.Request) -> web.Response:
    return web.json_response({"items": []})


async def test_a_submission_is_sent_again_as_the_same_task() -> None:
    flaky = Flaky(RECEIPT, 202)
    async with served(web.get("/agents", healthy), web.post("/tasks", flaky.answer)) as mesh:
        await mesh.agents()
        receipt = await mesh.submit("a", "Hello", thread_id=None)
    assert receipt.task_id == "t1"
    first, second = flaky.bodies
    assert first == second
    assert first == {"agent_id": "a", "payload": {"text": "Hello"}, "task_id": first["task_id"]}


async def test_what_could_happen_twice_is_sent_once() -> None:
    flaky = Flaky({})
    async with served(web.get("/agents", healthy), web.post("/tasks/t1/answer", flaky.answer)) as mesh:
        await mesh.agents()
        with pytest.raises(MeshUnreachable):
            await mesh.answer("t1", True, key="approval")
    assert flaky.bodies == [{"key": "approval", "value": True}]


async def test_a_call_has_a_time_limit() -> None:
    hanging = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await hanging.wait()
        return web.Response()

    async with served(web.post("/tasks", hang), timeout=0.05) as mesh:
        with pytest.raises(MeshUnreachable, match=r"\(no reply in time\)"):
            await mesh.submit("a", "Hello")
        hanging.set()


@pytest.mark.parametrize(
    ("status", "problem", "kind", "told"),
    [
        (
            404,
            {"code": "NotFound", "detail": "no task 'x'", "remedy": "mesh tasks"},
            NotFound,
            "no task 'x'. mesh tasks",
        ),
        (
            409,
            {"code": "IdempotencyConflict", "detail": "another body", "field": "f"},
            Conflict,
            "another body",
        ),
        (422, {"code": "TooLarge", "detail": "large"}, InvalidInput, "large"),
        (402, {"code": "BudgetExceeded", "detail": "spent"}, BudgetExceeded, "spent"),
        (500, {"code": "os", "title": "Internal Server Error"}, MeshError, "Internal Server Error"),
        (502, ["a proxy"], MeshError, "/tasks/x answered 502 in no way that a mesh does. Check that --url"),
    ],
)
async def test_a_problem_document_becomes_its_error(
    status: int, problem: object, kind: type[MeshError], told: str
) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response(problem, status=status, content_type="application/problem+json")

    async with served(web.get("/tasks/x", refuse)) as mesh:
        with pytest.raises(kind) as raised:
            await mesh.task("x")
    assert told in str(raised.value)


async def test_a_budget_without_room_is_named() -> None:
    async def refuse(request: web.Request) -> web.Response:
        problem = {"code": "BudgetExceeded", "detail": "spent", "budget": "daily", "retry_after_seconds": 60}
        return web.json_response(problem, status=402, content_type="application/problem+json")

    async with served(web.post("/tasks", refuse)) as mesh:
        with pytest.raises(BudgetExceeded) as raised:
            await mesh.submit("a", "Hello")
    assert (raised.value.budget, raised.value.retry_after_seconds) == ("daily", 60)


async def test_an_overloaded_mesh_says_when_to_come_again() -> None:
    async def refuse(request: web.Request) -> web.Response:
        problem = {"code": "Overloaded", "detail": "full", "retry_after_seconds": 7}
        return web.json_response(problem, status=429, content_type="application/problem+json")

    async with served(web.post("/tasks", refuse)) as mesh:
        with pytest.raises(Overloaded) as raised:
            await mesh.submit("a", "Hello")
    assert (raised.value.status, raised.value.retry_after_seconds) == (429, 7)


async def in_chunks(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_server_events_are_read_however_they_are_cut(size: int) -> None:
    first, second = event(7), event(None, "é")
    halves = json.dumps(first).partition(",")
    text = f": ping\n\nid: 7\r\ndata: {halves[0]},\r\ndata:  {halves[2]}\r\n\r\nevent: x\n".encode()
    text += f"data:{json.dumps(second, ensure_ascii=False)}\n\ndata: cut off".encode()
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    seen = [found async for found in server_events(in_chunks(chunks))]
    assert seen == [Event.model_validate(first), Event.model_validate(second)]


def test_the_client_loads_nothing_of_what_runs_a_mesh() -> None:
    code = "import sys, meshwright.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    parts = {".".join(name.split(".")[1:3]) for name in done.stdout.split() if name.startswith("meshwright.")}
    assert parts.isdisjoint({"engine.kernel", "engine.work", "engine.stores", "money", "models", "mesh.mesh"})


def test_the_blocking_client_has_every_method_and_argument() -> None:
    methods = {name for name in dir(Client) if not name.startswith("_")} - {"close", "open"}
    assert methods - {*dir(BlockingClient)} == set()
    assert inspect.signature(BlockingClient) == inspect.signature(Client)
    assert inspect.signature(BlockingClient.local) == inspect.signature(Client.local)
