"""Talking to a mesh over a network that breaks, and to one that refuses."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest
from aiohttp import web

from meshwright.cli.remote import LostMesh, RemoteMesh, remote_mesh
from meshwright.cli.sse import server_events
from meshwright.errors import Conflict, MeshError, NotFound


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshwright.cli.remote.FIRST_PAUSE_SECONDS", 0.005)


@asynccontextmanager
async def served(*routes: web.RouteDef) -> AsyncIterator[RemoteMesh]:
    application = web.Application()
    application.add_routes(routes)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with remote_mesh(f"http://127.0.0.1:{runner.addresses[0][1]}/") as mesh:
            yield mesh
    finally:
        await runner.cleanup()


def frame(seq: int) -> bytes:
    return f"id: {seq}\nevent: model.called\ndata: {json.dumps({'seq': seq})}\n\n".encode()


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


async def test_a_broken_stream_goes_on_where_it_broke() -> None:
    stream = BreakingStream()
    async with (
        served(web.get("/tasks/t1/events", stream.answer)) as mesh,
        aclosing(mesh.follow(task_id="t1")) as events,
    ):
        seen = [(await anext(events))["seq"] for _ in range(9)]
    assert seen == list(range(1, 10))
    assert stream.asked == [0, 2, 4, 6, 8]


async def test_a_stream_that_breaks_after_what_no_log_keeps_goes_on_behind_the_last_that_one_does() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers["Last-Event-ID"])
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(frame(len(asked)) + b'event: model.delta\ndata: {"seq": null}\n\n')
        return response

    async with (
        served(web.get("/tasks/t1/events", answer)) as mesh,
        aclosing(mesh.follow(task_id="t1")) as events,
    ):
        seen = [(await anext(events))["seq"] for _ in range(4)]
    assert seen == [1, None, 2, None]
    assert asked == ["0", "1"]


async def test_a_refused_stream_is_not_tried_again() -> None:
    async with served() as mesh:
        with pytest.raises(MeshError):
            await anext(mesh.follow(task_id="t1"))


async def test_a_mesh_that_is_gone_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshwright.cli.remote.GIVE_UP_SECONDS", 0.05)
    async with served() as mesh:
        pass
    async with remote_mesh(mesh.where) as gone:
        assert not await gone.answers()
        with pytest.raises(LostMesh, match="start one with: mesh up"):
            await anext(gone.follow(task_id="t1"))


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


async def in_chunks(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_server_events_are_read_however_they_are_cut(size: int) -> None:
    text = ': ping\n\nid: 7\r\ndata: {"a":\r\ndata:  1}\r\n\r\nevent: x\ndata:é\n\ndata: cut off'.encode()
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    seen = [event async for event in server_events(in_chunks(chunks))]
    assert seen == [("7", '{"a":\n 1}'), ("7", "é")]
