"""Streams and WebSockets end with the credentials that they were opened with, whoever ended those."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import openai
import pytest

from meshwright import Client
from meshwright.engine.sql.folder import SOCKET_NAME
from meshwright.mesh.identity.auth import Unauthenticated
from meshwright.models.port import ModelReply, ModelRequest, OnDelta
from meshwright.money.keys import Keys
from tests.support.fake_issuer import AUDIENCE, fake_issuer
from tests.support.http_mesh import Stream, http_mesh
from tests.support.model_api import HELLO, service
from tests.support.postgres import Address
from tests.support.running_mesh import mesh, mesh_up

TOKEN = "the-admin-token-of-this-test-is-long"
SECONDS = 60.0


def shows(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Connections:
    """A stream of events and a WebSocket, both open."""

    def __init__(self, stream: Stream, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._stream = stream
        self._socket = socket

    async def reason(self) -> str:
        """Why both ended; events that come before are read."""
        block = {"event": ""}
        while block["event"] != "stream.ended":
            block = await self._stream.block()
        problem = json.loads(block["data"])
        assert (problem["status"], problem["code"]) == (401, "Unauthenticated")
        assert await self._stream.block() == {}  # that was the last
        closed = await self._socket.receive(timeout=SECONDS)
        assert (closed.type, closed.data, closed.extra) == (aiohttp.WSMsgType.CLOSE, 4401, problem["detail"])
        return str(problem["detail"])

    async def is_open(self) -> bool:
        await self._socket.send_str("?")
        return (await self._socket.receive(timeout=SECONDS)).type is aiohttp.WSMsgType.TEXT


@asynccontextmanager
async def connected(
    url: str, token: str = "", connector: aiohttp.BaseConnector | None = None
) -> AsyncIterator[Connections]:
    headers = shows(token) if token else {}
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    async with (
        aiohttp.ClientSession(url, headers=headers, timeout=timeout, connector=connector) as session,
        session.get("/events/stream") as response,
        session.ws_connect("/ws") as socket,
    ):
        assert response.status == 200
        stream = Stream(response)
        await stream.block()  # `retry`, which comes first
        yield Connections(stream, socket)


async def test_what_a_revoked_key_has_opened_ends_and_no_more(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, admin_token=TOKEN) as api, AsyncExitStack() as stack:
        ada, ben = [await api.mesh.get(Keys).create(name, roles=["viewer"]) for name in ("ada", "ben")]
        of_ada, of_ben = [await stack.enter_async_context(connected(api.url, key.key)) for key in (ada, ben)]
        follower = await stack.enter_async_context(Client(api.url, ada.key))
        events = follower.stream(after_seq=0)
        await anext(events)
        await api.call("DELETE", f"/keys/{ada.key_id}", headers=shows(TOKEN))
        assert await of_ada.reason() == f"Key {ada.key_id} was revoked"
        with pytest.raises(Unauthenticated, match="was revoked"):
            async for _ in events:
                pass
        assert await of_ben.is_open()
        await api.mesh.get(Keys).rotate(ben.key_id, grace="1s")  # the grace ends, and with it the old key
        assert "expired at" in await of_ben.reason()


async def test_event_streams_and_websockets_of_a_caller_and_a_tenant_are_limited(tmp_path: Path) -> None:
    limits = {"http": {"max_streams": 2}, "tenants": {"max_streams": 3}}
    async with http_mesh(tmp_path, admin_token=TOKEN, **limits) as api, AsyncExitStack() as stack:
        ada, ben, eve = [
            await api.mesh.get(Keys).create(name, roles=["viewer"]) for name in ("ada", "ben", "eve")
        ]

        async def refused(token: str) -> str:
            async with api.session.get("/events/stream", headers=shows(token)) as response:
                problem = await response.json(content_type=None)
                assert (response.status, response.headers["Retry-After"]) == (429, "5")
            async with api.session.ws_connect("/ws", headers=shows(token)) as socket:
                closed = await socket.receive(timeout=SECONDS)
                assert closed.data == 1013 and problem["detail"].startswith(closed.extra)
            return f"{problem['detail']}. {problem['remedy']}"

        async with connected(api.url, ada.key):
            assert "ada has 2 open" in (text := await refused(ada.key)) and "http.max_streams" in text
            await stack.enter_async_context(api.stream("/events/stream", token=ben.key))
            assert "Tenant default has 3" in (text := await refused(eve.key)) and "of [tenants]" in text
            for _ in range(4):
                await stack.enter_async_context(api.stream("/events/stream", token=TOKEN))
        while True:  # the server has yet to see that they left
            async with api.session.get("/events/stream", headers=shows(ada.key)) as response:
                if response.status == 200:
                    break


async def test_a_caller_may_wait_for_more_outcomes_than_it_may_have_streams(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, admin_token=TOKEN, http={"max_streams": 2}) as api:
        ada = await api.mesh.get(Keys).create("ada", roles=["submitter", "viewer"])
        async with Client(api.url, ada.key) as client:
            outcomes = await asyncio.gather(*[client.ask("echo", "Hello") for _ in range(12)])
    assert [outcome.status for outcome in outcomes] == ["succeeded"] * 12


class Unending:
    """A model that begins its answer and never ends it."""

    name = "unending"

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        assert on_delta is not None
        on_delta("Well, ")
        return await asyncio.Future()

    async def close(self) -> None:
        pass


async def test_a_running_answer_of_a_model_ends_with_its_key(tmp_path: Path) -> None:
    async with service(tmp_path, answering=Unending()) as api:
        key = await api.mesh.get(Keys).create("ada", roles=["submitter"])
        stream = await api.client(key.key).chat.completions.create(
            model="default", messages=HELLO, stream=True
        )
        await anext(stream)
        await api.mesh.get(Keys).revoke(key.key_id)
        with pytest.raises(openai.APIError, match="was revoked"):
            async for _ in stream:
                pass


async def test_a_key_that_another_worker_revokes_ends_its_connections(
    tmp_path: Path, postgres_url: Address
) -> None:
    """Both workers are in this process; all that they share is the database."""
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    async with (
        http_mesh(folders[0], database=postgres_url) as here,
        http_mesh(folders[1], database=postgres_url) as there,
    ):
        key = await there.mesh.get(Keys).create("simple-agent", roles=["viewer"])
        async with connected(here.url, key.key) as connections:
            await there.mesh.get(Keys).revoke(key.key_id)
            assert await connections.reason() == f"Key {key.key_id} was revoked"


async def test_connections_end_with_the_token_of_an_issuer(tmp_path: Path) -> None:
    async with fake_issuer() as issuer:
        settings = {"issuer": issuer.url, "audience": AUDIENCE, "default_roles": ["viewer"]}
        async with http_mesh(tmp_path, oidc=settings) as api:
            token = issuer.token(exp=int(time.time()) + 3)
            async with connected(api.url, token) as connections:
                # A request would be let in for 30 s more, for the clocks' sake.
                assert (await connections.reason()).startswith("The credentials expired at")


async def test_the_first_key_ends_what_was_opened_without_one_but_for_the_socket(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with mesh_up(data, MESH_MODELS__ADAPTER="offline") as running:
        local = aiohttp.UnixConnector(path=str(data / SOCKET_NAME))
        async with connected(running.url) as anonymous, connected("http://localhost", "", local) as owner:
            made = await mesh("keys", "create", "--agent", "simple-agent", "--yes", "--data", str(data))
            assert made.status == 0, made.err
            assert "requires a key" in await anonymous.reason()
            assert await owner.is_open()  # its user is known by the system, over a WebSocket too
            opened = aiohttp.UnixConnector(path=str(data / SOCKET_NAME))
            async with connected("http://localhost", "", opened) as later:
                assert await later.is_open()
