"""How others follow the models of agents: subscribers of /ws, and backends with a client of their own."""

import asyncio
import json
import logging
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshwright import MeshError
from meshwright.money.keys import Keys
from meshwright.parts.agent_config.client import AgentConfigClient
from tests.support.configured_agents import ADMIN, AS_ADMIN, KEY, change, config, mesh_of, next_event
from tests.support.fake_provider import FakeProvider
from tests.support.http_mesh import http_mesh

SUBSCRIBE = {"type": "subscribe", "channel": "agent_config"}


async def test_subscribers_get_each_configuration_without_its_key(tmp_path: Path, fake: FakeProvider) -> None:
    async with mesh_of(tmp_path) as api, api.session.ws_connect("/ws", headers=AS_ADMIN) as socket:
        for wrong, message in [
            ("nothing", "expected {"),
            ('["agent_config"]', "expected {"),
            ('{"subscribe": "tasks"}', "known is agent_config"),
            ('{"subscribe": {}}', "known is agent_config"),
            ('{"type": "subscribe", "channel": "tasks"}', "known is agent_config"),
            ('{"type": "shout", "channel": "agent_config"}', "known are subscribe"),
        ]:
            await socket.send_str(wrong)
            answer = await socket.receive_json()
            assert answer["type"] == "error" and message in answer["message"]
        for subscription in (SUBSCRIBE, {"subscribe": "agent_config"}):
            await socket.send_json(subscription)
            assert await socket.receive_json() == {"type": "subscribed", "channel": "agent_config"}
        await change(api, "POST", "", config(fake.url))
        await change(api, "PUT", "/asker", {"llm_model": "larger", "llm_api_key": KEY})
        shown = await api.call("GET", "/api/agents/asker", headers=AS_ADMIN)
        await change(api, "DELETE", "/asker")
        heard = [await socket.receive_json(timeout=60) for _ in range(3)]
        assert [(message["type"], message["agent_id"]) for message in heard] == [
            ("agent_created", "asker"),
            ("agent_config_changed", "asker"),
            ("agent_deleted", "asker"),
        ]
        assert heard[1]["changed"] == ["llm_api_key", "llm_model"]
        assert heard[1]["config"] == {name: shown[1][name] for name in shown[1].keys() - {"problem"}}
        assert (heard[1]["config"]["llm_model"], heard[2]["config"]) == ("larger", None)
        assert KEY not in json.dumps(heard)
        key = (await api.mesh.get(Keys).create("boss", tenant_id="acme", roles=("admin",))).key
        as_acme = {"Authorization": f"Bearer {key}"}
        async with api.session.ws_connect("/ws", headers=as_acme) as other:
            await other.send_json(SUBSCRIBE)
            await other.receive_json()
            await change(api, "POST", "", config(fake.url))
            of_acme = config(fake.url, agent_id="theirs")
            assert (await api.call("POST", "/api/agents", json=of_acme, headers=as_acme))[0] == 201
            assert (await other.receive_json(timeout=60))["agent_id"] == "theirs"


async def test_a_websocket_is_guarded_as_any_request(tmp_path: Path) -> None:
    async with mesh_of(tmp_path, agent_config={"max_subscribers": 1}) as api:
        for headers, status in [
            ({"Origin": "https://evil.example"}, 403),
            ({"Host": "evil.example"}, 421),
            ({"Authorization": "Bearer mesh-admin-wrong"}, 401),
        ]:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await api.session.ws_connect("/ws", headers=headers)
            assert refused.value.status == status
        async with api.session.ws_connect("/ws", headers=AS_ADMIN) as socket:
            async with api.session.ws_connect("/ws", headers=AS_ADMIN) as second:
                closed = await second.receive(timeout=60)
                assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1013)
                assert "1 subscribers" in closed.extra
            await socket.send_str("x" * 70_000)
            closed = await socket.receive(timeout=60)
            assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1009)


async def test_a_subscriber_that_does_not_read_is_dropped(tmp_path: Path) -> None:
    async with mesh_of(tmp_path) as api:
        url = api.url.removeprefix("http://")
        host, _, port = url.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        lines = (
            *("GET /ws HTTP/1.1", f"Host: {url}", "Upgrade: websocket", "Connection: Upgrade"),
            *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""),
        )
        writer.write("\r\n".join(lines).encode())
        assert b"101" in await reader.readline()
        frame = b"\x81\x82\x00\x00\x00\x00{}"  # masked text, which is answered by an error
        subscribe = json.dumps(SUBSCRIBE).encode()
        writer.write(b"\x81%c\x00\x00\x00\x00%b" % (0x80 | len(subscribe), subscribe))
        with pytest.raises(TimeoutError):
            while True:  # until the mesh reads no more either
                writer.write(frame * 10_000)
                await asyncio.wait_for(writer.drain(), 2)
        for _ in range(70):
            api.mesh.tell("agent_config.changed", {"changed": []}, agent_id="asker")
        event = await asyncio.wait_for(next_event(api, "subscriber.dropped"), 60)
        assert "not read in time" in event.payload["reason"]
        writer.transport.abort()
        api.misfits.clear()  # those changes had half a payload


async def test_a_backend_follows_changes_and_falls_back(tmp_path: Path, fake: FakeProvider) -> None:
    variables = {"LLM_PROVIDER": "openai", "LLM_MODEL": "gpt-5.4", "LLM_TIMEOUT": "12"}
    async with AsyncExitStack() as clients:
        async with mesh_of(tmp_path) as api:
            bare, models = [
                await clients.enter_async_context(AgentConfigClient(api.url, ADMIN, environment=environment))
                for environment in ({}, variables)
            ]
            built_in = await bare.llm("asker")
            assert (built_in.llm_endpoint, built_in.source) == ("http://localhost:11434", "built-in")
            found = await models.llm("asker")
            assert (found.llm_model, found.llm_timeout, found.source) == ("gpt-5.4", 12.0, "environment")
            await change(api, "POST", "", config(fake.url, agent_id="other", is_default=True))
            assert (await _llm(models, "asker", "default")).llm_api_key == KEY
            await change(api, "POST", "", config(fake.url, llm_model="own"))
            assert (await _llm(models, "asker", "agent")).llm_model == "own"
            await change(api, "DELETE", "/asker")
            await _llm(models, "asker", "default")
        assert (await models.llm("asker")).source == "default"  # although the mesh is away


async def _llm(models: AgentConfigClient, agent_id: str, source: str) -> Any:
    async with asyncio.timeout(240):  # far less than the time after which a client asks again
        while (found := await models.llm(agent_id)).source != source:
            await asyncio.sleep(0)
    return found


async def test_a_client_without_a_mesh_uses_what_is_built_in() -> None:
    async with AgentConfigClient("http://127.0.0.1:9", ADMIN, environment={}) as models:
        assert (await models.llm("asker")).source == "built-in"
    for wrong, problem in [
        ({"LLM_PROVIDER": "ollama", "LLM_MODEL": "small", "LLM_TIMEOUT": "soon"}, "LLM_TIMEOUT: "),
        ({"LLM_MODEL": "small", "LLM_TIMEOUT": "9"}, "LLM_MODEL, LLM_TIMEOUT, and no LLM_PROVIDER"),
        ({"AUTOBOT_LLM_MODEL": "small"}, "AUTOBOT_LLM_MODEL, and no AUTOBOT_LLM_PROVIDER"),
    ]:
        prefix = "AUTOBOT_" if "AUTOBOT_LLM_MODEL" in wrong else ""
        async with AgentConfigClient("http://127.0.0.1:9", environment=wrong, prefix=prefix) as models:
            with pytest.raises(MeshError, match=problem):
                await models.llm("asker")


async def test_the_variables_of_a_backend_may_have_a_prefix() -> None:
    environment = {"AUTOBOT_LLM_PROVIDER": "ollama", "AUTOBOT_LLM_MODEL": "small", "LLM_MODEL": "other"}
    closed = AgentConfigClient("http://127.0.0.1:9", environment=environment, prefix="AUTOBOT_")
    async with closed as models:
        found = await models.llm("asker")
    assert (found.llm_provider, found.llm_model, found.source) == ("ollama", "small", "environment")


async def test_handshakes_and_texts_that_are_malformed_are_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handshake = (
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    sent = {
        "a long header": handshake + b"x: " + b"9" * 9_000 + b"\r\n\r\n",
        "no credentials": handshake + b"\r\n",
        "frames before its answer": handshake + b"\r\n" + b"\xff" * 2_000_000,  # more than is read at once
    }
    async with http_mesh(tmp_path, require_keys=True) as api:
        for name, data in sent.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", api.session._base_url.port)
            writer.write(data)
            with suppress(ConnectionError):
                answer = await asyncio.wait_for(reader.read(), 60)
                assert not answer or answer.startswith(b"HTTP/1.1 4"), name
            writer.close()
    text, close = b"\x81\x81\0\0\0\0\xff", b"\x88\x80\0\0\0\0"
    async with http_mesh(tmp_path / "open") as api:
        for frames in (text, text + close):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.session._base_url.port)
            writer.write(handshake + b"\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            writer.write(frames)
            await asyncio.wait_for(reader.read(), 60)
            writer.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
