"""Requests are limited in size and time, and its neighbours are answered meanwhile."""

import asyncio
import json
import os
import resource
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from meshwright.core import http_limits
from meshwright.engine.stores.dapr.channels import HttpChannel
from tests.support.dapr_channels import Recorder
from tests.support.http_mesh import Api, http_mesh
from tests.support.running_mesh import RunningMesh, mesh_up

HEAD = b"POST /tasks HTTP/1.1\r\nHost: localhost\r\n"
MEGABYTE = 1_000_000


class Connection:
    """A raw connection to an HTTP server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, pieces: Iterable[bytes]) -> int:
        """Send until the server takes no more; returns how many bytes went out."""
        sent = 0
        try:
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
                sent += len(piece)
        except ConnectionError:
            pass
        return sent

    async def answer(self) -> tuple[int, bytes]:
        """The status and the body of the next answer; 0 where the server closes without a word."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0, b""
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
        return int(head.split()[1]), await self.reader.readexactly(int(length.split()[1]))


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[Connection]:
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


async def answer_to(url: str, *pieces: bytes) -> tuple[int, bytes]:
    async with connection(url) as there:
        await there.send(pieces)
        return await there.answer()


def memory_of(mesh: RunningMesh) -> int:
    """The resident bytes of its process."""
    pid = json.loads((mesh.data / "mesh.json").read_text())["pid"]
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def probe(mesh: RunningMesh, enough: Callable[[list[float]], bool]) -> list[float]:
    """The seconds that each of a neighbour's requests took."""
    found: list[float] = []
    while not enough(found):
        began = time.perf_counter()
        assert (await mesh.get("/healthz")).status == 200
        found.append(time.perf_counter() - began)
    return found


@pytest.mark.parametrize(
    ("begin", "piece", "count"),
    [
        (b"X-Long: ", b"x" * MEGABYTE, 120),
        (b"", b"a: b\r\n" * 100_000, 120),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Long: ", b"x" * MEGABYTE, 120),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 100_000, 120),
    ],
    ids=["one header", "many headers", "one trailer", "many trailers"],
)
async def test_endless_headers_neither_fill_the_memory_nor_stall_neighbours(
    tmp_path: Path, begin: bytes, piece: bytes, count: int
) -> None:
    async with mesh_up(tmp_path, MESH_MODELS__ADAPTER="offline") as mesh:
        floor = statistics.median(await probe(mesh, lambda found: len(found) == 100))
        before = memory_of(mesh)

        async def attack() -> list[int]:
            taken = []
            for _ in range(5):
                async with connection(mesh.url) as there:
                    taken.append(await there.send([HEAD + begin, *[piece] * count]))
            return taken

        attacking = asyncio.create_task(attack())
        waits = await probe(mesh, lambda found: attacking.done() and len(found) >= 20)
        taken = await attacking
        assert max(taken) < 0.2 * len(piece) * count  # what sockets hold, and no more
        assert statistics.median(waits) < max(20 * floor, 1.0)
        assert memory_of(mesh) - before < 20 * MEGABYTE


async def test_a_request_over_the_limit_is_answered_with_431(tmp_path: Path) -> None:
    async with http_mesh(tmp_path) as api:
        head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        for more in (b"X-Long: %s\r\n" % (b"x" * 65_536), b"a: b\r\n" * 99, b"X: " + b"x" * 100_000):
            status, body = await answer_to(api.url, head + more + b"\r\n")
            assert (status, json.loads(body)["status"]) == (431, 431)
        for more in (b"X-Long: %s\r\n" % (b"x" * 65_000), b"a: b\r\n" * 98):
            assert (await answer_to(api.url, head + more + b"\r\n"))[0] == 200
        assert (await answer_to(api.url, b"nonsense\r\n\r\n"))[0] == 400


async def test_the_channel_of_dapr_has_the_same_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = HttpChannel(0, "secret")
    await channel.listen(Recorder())
    url = f"http://127.0.0.1:{channel.port}"
    head = b"GET /dapr/config HTTP/1.1\r\nHost: localhost\r\n"
    try:
        assert (await answer_to(url, head + b"Connection: close\r\n\r\n"))[0] == 401
        assert (await answer_to(url, head + b"X-Long: %s\r\n\r\n" % (b"x" * 70_000)))[0] == 431
        monkeypatch.setattr(http_limits, "HEADER_SECONDS", 0.2)
        assert (await answer_to(url, head))[0] == 408
    finally:
        await channel.stop()


@pytest.mark.parametrize(
    "begun",
    [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", HEAD + b"Content-Length: 100000\r\n\r\n"],
    ids=["headers", "body"],
)
async def test_a_request_that_drips_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, begun: bytes
) -> None:
    monkeypatch.setattr(http_limits, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(http_limits, "BODY_SECONDS", 0.3)

    async def drip(there: Connection) -> None:
        while await there.send([b"x"]):
            await asyncio.sleep(0.02)

    async with http_mesh(tmp_path) as api, connection(api.url) as there:
        await there.send([begun])
        dripping = asyncio.create_task(drip(there))
        status, _ = await there.answer()
        await dripping
        assert status == 408
        monkeypatch.undo()
        assert await api.get("/healthz")
    assert not caplog.records


async def test_a_stream_whose_client_reads_nothing_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "UNREAD_SECONDS", 0.2)
    async with http_mesh(tmp_path) as api, connection(api.url) as there:
        there.writer.transport.pause_reading()
        await there.send([b"GET /events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"])
        event = {"topic": "app.orders", "event_type": "order.paid", "payload": {"text": "x" * 200_000}}
        while not api.mesh.log.readers:
            await asyncio.sleep(0)
        while api.mesh.log.readers:
            assert (await api.call("POST", "/events", json=event))[0] in (200, 201, 202)


async def test_connections_that_send_half_a_request_are_all_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "HEADER_SECONDS", 2.0)

    async def half(url: str) -> int:
        return (await answer_to(url, HEAD))[0]

    async with http_mesh(tmp_path) as api:
        asking = asyncio.gather(*(half(api.url) for _ in range(105)))
        while not asking.done():
            assert await api.get("/healthz")
        assert set(await asking) == {408}


async def test_an_idle_connection_is_closed_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "HEADER_SECONDS", 0.2)
    async with http_mesh(tmp_path) as api, connection(api.url) as there:
        assert await there.answer() == (0, b"")


async def test_connections_over_the_limit_are_refused_with_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "MAX_CONNECTIONS", 16)
    async with http_mesh(tmp_path) as api:
        assert await api.get("/healthz")
        opened = [await asyncio.open_connection(*address(api)) for _ in range(15)]
        assert (await answer_to(api.url, HEAD))[0] == 503
        assert await api.get("/healthz")  # who has a connection keeps it
        for _, writer in opened:
            writer.transport.abort()
        while (await answer_to(api.url, b"GET /healthz HTTP/1.0\r\n\r\n"))[0] != 200:
            await asyncio.sleep(0)


def test_the_limit_of_connections_is_below_that_of_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        assert http_limits.max_connections() == 96
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_an_event_stream_outlives_every_limit_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "HEADER_SECONDS", 2.0)
    monkeypatch.setattr(http_limits, "BODY_SECONDS", 2.0)
    async with (
        http_mesh(tmp_path) as api,
        api.stream("/events/stream", event_type="task.succeeded") as stream,
    ):
        async with connection(api.url) as other:
            await other.send([HEAD])
            assert (await other.answer())[0] == 408  # the time is over
        await api.submit(agent_id="echo")
        event = await stream.event()
        assert event is not None and event["event_type"] == "task.succeeded"


def address(api: Api) -> tuple[str, int]:
    where = urlsplit(api.url)
    assert where.hostname is not None and where.port is not None
    return where.hostname, where.port


@pytest.mark.parametrize(
    "headers",
    [
        b"Host: [::1\r\n",
        b"Host: localhost:x\r\n",
        b"Host: localhost/x\r\n",
        b"Host: user@localhost\r\n",
        b"Host: localhost\r\nHost: localhost\r\n",
        b"Host: evil.example\r\nHost: localhost\r\n",
    ],
)
async def test_a_host_header_that_is_none_is_a_400(
    tmp_path: Path, headers: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with http_mesh(tmp_path) as api:
        request = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n" + headers + b"\r\n"
        status, body = await answer_to(api.url, request)
    assert (status, json.loads(body)["field"]) == (400, "Host")
    assert not caplog.records


@pytest.mark.parametrize("origin", [b"http://[::1", b"null", b"http://" + b"x" * 60_000])
async def test_an_origin_that_is_none_is_refused_in_a_short_answer(
    tmp_path: Path, origin: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with http_mesh(tmp_path) as api:
        request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: " + origin
        status, body = await answer_to(api.url, request + b"\r\n\r\n")
    assert (status, json.loads(body)["field"]) == (403, "Origin")
    assert len(body) < 500
    assert not caplog.records
