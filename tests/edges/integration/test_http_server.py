"""The server begins with one line, ends without cutting anybody off, and says why it cannot begin."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import aiohttp
import pytest

from meshwright.core.errors import ConfigError
from meshwright.edges.http.server import listen, serve, serving
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from tests.support.http_mesh import Echo, http_mesh
from tests.support.settings import load_settings


def make_mesh(project: Path) -> Mesh:
    return build_mesh(
        load_settings(project, durability="normal", model="offline"), project=project, agents=[Echo]
    )


async def test_any_free_port_will_do(tmp_path):
    async with make_mesh(tmp_path) as mesh, serving(mesh, "127.0.0.1", 0) as server:
        assert server.url.startswith("http://127.0.0.1:")
        async with aiohttp.ClientSession(server.url) as session, session.get("/healthz") as response:
            assert response.status == 200


def test_a_port_in_use_is_one_line_that_says_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            listen("127.0.0.1", port)
    assert str(caught.value) == (
        f"port {port} of 127.0.0.1 is in use. choose another with --port N, or 0 for a free one"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "nobody.invalid"])
def test_an_address_of_another_machine_is_refused(host):
    with pytest.raises(ConfigError, match="cannot be listened on"):
        listen(host, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_and_its_streams(tmp_path, number):
    ready: asyncio.Queue[str] = asyncio.Queue()
    async with make_mesh(tmp_path) as mesh:
        serving_task = asyncio.create_task(serve(mesh, listen("127.0.0.1", 0), ready.put_nowait))
        url = await ready.get()
        stream = "/events/stream?topic=board"
        async with aiohttp.ClientSession(url) as session, session.get(stream) as response:
            assert await response.content.readline() == b"retry: 1000\n"
            os.kill(os.getpid(), number)
            assert await response.content.read() == b"\n"
        await serving_task


async def test_a_request_under_way_gets_its_answer(tmp_path):
    arrived = asyncio.Event()
    go_on = asyncio.Event()

    async def slow_body():
        yield b'{"agent_id": "echo"'
        arrived.set()
        await go_on.wait()
        yield b"}"

    async with make_mesh(tmp_path) as mesh, aiohttp.ClientSession() as session:

        async def submit(url: str) -> int:
            async with session.post(f"{url}/tasks", data=slow_body()) as response:
                return response.status

        async with serving(mesh, "127.0.0.1", 0) as server:
            request = asyncio.create_task(submit(server.url))
            await arrived.wait()
            await until_open(server)
            server.stop()
            go_on.set()
            assert await request == 202


async def until_open(server) -> None:
    while not server.server_state.tasks:
        await asyncio.sleep(0)


async def test_two_meshes_are_served_in_one_process(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with http_mesh(tmp_path / "a") as first, http_mesh(tmp_path / "b") as second:
        await first.finished(agent_id="echo")
        assert len((await first.get("/tasks"))["items"]) == 1
        assert (await second.get("/tasks"))["items"] == []
