"""A client whose connection breaks while it waits: the mesh was killed, or what lies between gave up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from meshwright import Client
from meshwright.edges.client import transports
from tests.support.http_mesh import http_mesh


class CutLine:
    """Passes bytes on to a server, until it cuts all connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self.used = asyncio.Event()
        self.url = ""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[CutLine]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await server.wait_closed()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, back}
        await asyncio.gather(
            self._pass_on(reader, back), self._pass_on(there, writer), return_exceptions=True
        )
        back.close()
        writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
            self.used.set()


async def test_the_first_request_of_a_client_outlives_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "RETRY_SECONDS", 0.0)  # as if it had waited as long as it tries again
    async with (
        http_mesh(tmp_path) as api,
        CutLine(urlsplit(api.url).port or 0).opened() as line,
        Client(line.url) as client,
    ):
        asking = asyncio.create_task(client.ask("gate", "Wait."))
        await line.used.wait()
        line.cut()
        api.gate.set()
        outcome = await asking
        assert outcome.success
        assert [task.task_id for task in await api.client.tasks()] == [outcome.task_id]
