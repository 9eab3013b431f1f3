"""Any input of each edge gets an answer in time, an error of ours, nothing of others, and never a crash.

The time is that of FUZZ_SECONDS for all doors together, or the number that of FUZZ_INPUTS; the chance is that
of MESH_TEST_SEED. Signed messages are in test_fuzz_signed.py, files in test_fuzz_files.py.
"""

import asyncio
import base64
import json
import random
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from meshwright.core.access import ALL_ROLES
from meshwright.core.events import Event
from meshwright.core.messages import Caller, TaskRequest
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.stores.dapr import DaprStore, Options
from meshwright.engine.stores.dapr.channels import make_channel
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.keys import Keys
from tests.support.event_logs import START, open_log
from tests.support.fuzz import ANSWER_SECONDS, CANARY, TIMEOUT, VALUES, body, nothing_left, torn, turns
from tests.support.fuzz_http import check, header_of, post
from tests.support.http_mesh import Api, http_mesh
from tests.support.mqtt_broker import HELLO, SUBMIT, client, mosquitto

pytestmark = pytest.mark.timeout(TIMEOUT)
STREAMS = ("/events/stream",)
SUBSCRIBE = {"type": "subscribe", "channel": "agent_config"}


# HTTP


def head_of(chance: random.Random, method: str, path: str, known: bytes, length: int = 0) -> bytes:
    """A request's head, mostly of somebody who is known, sometimes with a hostile header."""
    extra = b"".join(header_of(chance) for _ in range(chance.choice((0, 0, 1, 2))))
    line = f"{method.upper()} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n".encode()
    who = b"" if chance.random() < 0.1 else b"authorization: Bearer " + known + b"\r\n"
    return line + who + b"content-length: %d\r\n" % length + extra + b"\r\n"


def request_of(
    chance: random.Random, method: str, path: str, operation: dict[str, Any], known: bytes, cursor: str
) -> bytes:
    """A request for an operation of the document, with hostile values where it takes some."""
    parameters = operation.get("parameters", [])
    asked = [one["name"] for one in parameters if one["in"] == "query" and chance.random() < 0.5]

    def value(name: str) -> str:
        hostile = str(chance.choice(VALUES))[:200] or "x"
        if name == "cursor" and chance.random() < 0.7:
            hostile = torn(chance, cursor.encode()).decode("latin-1")
        return quote(hostile, safe="%" if chance.random() < 0.1 else "")

    path = re.sub(r"\{[^}]+\}", lambda _: value("path"), path)
    query = "&".join(f"{name}={value(name)}" for name in asked)
    sent = b""
    if content := operation.get("requestBody", {}).get("content", {}).get("application/json"):
        sent = body(chance, content.get("example", {"text": "x"}))
    return head_of(chance, method, f"{path}{'?' if query else ''}{query}", known, len(sent)) + sent


async def test_http(tmp_path: Path, chance: random.Random, no_errors: None) -> None:
    async with http_mesh(tmp_path, require_keys=True) as api:
        made = await api.mesh.get(Keys).create("caller", roles=ALL_ROLES)
        await api.mesh.get(Keys).create(CANARY, tenant_id="acme")
        of_others = Caller(tenant_id="acme", requested_by=CANARY)
        request = TaskRequest(agent_id="echo", task_id="t-1", payload={"text": CANARY}, thread_id="t-1")
        await api.mesh.get(Tasks).submit(request, of_others)
        await api.mesh.get(Tasks).outcome("t-1", "acme")
        known, auth = made.key.encode(), {"Authorization": f"Bearer {made.key}"}
        _, document = await api.call("GET", "/openapi.json")
        operations = [
            (method, path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]
        for number in range(3):
            await still_works(api, auth, number)
        _, page = await api.call("GET", "/tasks?limit=1", headers=auth)
        answered = Counter[int]()

        async def ask(number: int) -> None:
            method, path, operation = operations[number % len(operations)]
            data = request_of(chance, method, path, operation, known, page["cursor"])
            is_whole, is_stream = chance.random() < 0.9, path.startswith(STREAMS)
            data = data if is_whole else torn(chance, data)
            answered[await check(api.url, data, is_whole=is_whole, is_stream=is_stream)] += 1

        for number in range(len(operations)):  # what is loaded once is loaded
            await ask(number)
        async with nothing_left():
            for number in turns("HTTP", 0.25, least=len(operations)):
                await ask(number)
            for _ in turns("event streams", 0.05, least=30):
                await check(api.url, stream_of(chance, known), is_stream=True)
            for _ in turns("WebSocket", 0.08, least=40):
                await talk(api.url, websocket_of(chance, known), frames_of(chance))
        assert answered[200] and answered[401] and answered[422], answered
        await still_works(api, auth, 4)


def stream_of(chance: random.Random, known: bytes) -> bytes:
    """A request for a stream of events from a place that may be none."""
    names = ("after_seq", "task_id", "topic", "event_version", "trace_id", "x", "since")
    query = "&".join(f"{chance.choice(names)}={quote(str(chance.choice(VALUES))[:300])}" for _ in range(2))
    path = chance.choice((f"/events/stream?{query}", f"/tasks/t-1/events?{query}", "/events/stream"))
    places = (b"1", b"0", b"-1", b"9" * 19, b"9" * 5_000, b"\xb2", b"1e3", b" 7 ", b"")
    last = b"last-event-id: " + chance.choice(places) + b"\r\n"
    head = head_of(chance, "GET", path, known)[:-2]
    return head + b"accept: text/event-stream\r\n" + last + b"\r\n"


async def talk(url: str, handshake: bytes, frames: bytes) -> None:
    """A WebSocket takes frames that are nearly right, and ends with its client; it says nothing of others."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    async with asyncio.timeout(ANSWER_SECONDS):
        with suppress(OSError):  # it is refused before all was read
            writer.write(handshake)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith((b"HTTP/1.1 101", b"HTTP/1.1 4")), (handshake, answer)
            writer.write(frames)
            writer.write_eof()
            assert CANARY.encode() not in await reader.read(), frames[:2000]
        writer.close()


def websocket_of(chance: random.Random, known: bytes) -> bytes:
    """A WebSocket's handshake, mostly of somebody who is known."""
    extra = header_of(chance) if chance.random() < 0.1 else b""
    who = b"" if chance.random() < 0.1 else b"authorization: Bearer " + known + b"\r\n"
    return (
        b"GET /ws HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        + who
        + extra
        + b"\r\n"
    )


def frames_of(chance: random.Random) -> bytes:
    frames = b""
    for _ in range(chance.randint(1, 4)):
        sent = body(chance, chance.choice((SUBSCRIBE, {"type": "unsubscribe", "channel": 1})))
        if chance.random() < 0.05:
            sent = b"[" * chance.choice((200, 60_000, 70_000))
        opcode = chance.choice((0x81, 0x81, 0x81, 0x82, 0x80, 0x01, 0x89, 0x8A, 0x83, 0xC1))
        frames += frame(chance, opcode, sent)
    return torn(chance, frames) if chance.random() < 0.3 else frames + frame(chance, 0x88, b"\x03\xe8")


def frame(chance: random.Random, opcode: int, data: bytes) -> bytes:
    """One frame of a client."""
    key = chance.randbytes(4)
    size = len(data)
    length = (
        bytes([0x80 | size])
        if size < 126
        else b"\xfe" + size.to_bytes(2)
        if size < 2**16
        else b"\xff" + size.to_bytes(8)
    )
    whole = (key * (size // 4 + 1))[:size]
    masked = (int.from_bytes(data) ^ int.from_bytes(whole)).to_bytes(size)
    return bytes([opcode]) + length + key + masked


async def still_works(api: Api, headers: dict[str, str], number: int = 0) -> None:
    task = {"agent_id": "echo", "payload": {"text": f"still there, {number}?"}}
    status, receipt = await api.call("POST", "/tasks", json=task, headers=headers)
    assert status == 202
    assert (await api.mesh.get(Tasks).outcome(receipt["task_id"])).text == f"you said: still there, {number}?"


# MQTT


@pytest.mark.needs("mosquitto")
async def test_mqtt(tmp_path: Path, chance: random.Random, no_errors: None) -> None:
    ends = ("submit", "tasks/x/cancel", "tasks/x/answer", "clients/a/submit", "events", "registry/x", "x")
    async with (
        mosquitto(tmp_path / "broker") as broker,
        http_mesh(tmp_path / "mesh", mqtt_url=broker.url) as api,
        client(broker) as caller,
        nothing_left(),
    ):
        for number in turns("MQTT", 0.12, least=100):
            sent = body(chance, chance.choice((HELLO, {"key": "steps/x/1", "value": "yes"})))
            topic = f"mesh/{chance.choice(('default', 'acme', '💥'))}/{chance.choice(ends)}"
            caller._client.publish(topic, sent, chance.randrange(3), properties=properties_of(chance))
            if number % 20 == 19:  # all that was sent before is dealt with
                caller.publish(SUBMIT, HELLO)
                assert (await caller.request(SUBMIT, HELLO)).payload
        await still_works(api, {})


def properties_of(chance: random.Random) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    if chance.random() < 0.5:
        wanted = ("replies/anonymous/x", "mesh/default/submit", "a/b", "$SYS/x", "x" * 2000, "bus/x")
        properties.ResponseTopic = chance.choice(wanted)
        properties.CorrelationData = chance.choice((b"", b"\xff" * 300, b"x"))
    names = ("idempotency-key", "traceparent", "authorization", "tenant", "", "content-type", "reply")
    chosen = [(chance.choice(names), str(chance.choice(VALUES))[:300]) for _ in range(chance.randrange(4))]
    properties.UserProperty = [(name, value.replace("\0", "")) for name, value in chosen]
    if chance.random() < 0.3:
        properties.ContentType = "text/plain"
    return properties


# Dapr


async def test_cloud_events(tmp_path: Path, chance: random.Random, no_errors: None) -> None:
    fields = {"event_type": "x", "topic": "mesh", "time": START, "aggregate_id": "a"}
    event = Event(id="e-1", **fields).model_dump(mode="json")
    documents = (
        event,
        {"v": 1, "from": "other", "n": 1, "events": [event], "passing": [event]},
        {"logged": {"me": [1, 2]}},
        {"ping": "x", "topic": "mesh"},
    )
    async with open_log(tmp_path) as kept:
        store = DaprStore(Options(), log=kept.log)
        store.assemble(Runtime(store))
        published = []
        store.broker.publish_raw = lambda topic, data: _noted(published, data)
        store.outbox.emit = lambda events, actor=None: _noted(published, events)
        callbacks = store.callbacks
        callbacks.opened.set()
        channel = make_channel("http", app_port=0, sidecar_port=1, app_token="token")
        await channel.listen(callbacks)
        await channel.serve_actors()
        url = f"http://127.0.0.1:{channel.port}"
        try:
            async with nothing_left():
                for number in turns("CloudEvents", 0.08, least=60):
                    data = cloud_event_of(chance, chance.choice(documents), number)
                    await check(url, data, is_whole=chance.random() < 0.9)
                    published.clear()
            sent = json.dumps({"data_base64": "", "pubsubname": "bus", "topic": "events"}).encode()
            assert await check(url, post("/topics/0", sent, {"dapr-api-token": "token"})) == 200
        finally:
            await channel.stop()


async def _noted(list_: list[Any], item: Any) -> None:
    list_.append(item)


def cloud_event_of(chance: random.Random, document: dict[str, Any], number: int) -> bytes:
    inner = body(chance, document)
    if chance.random() < 0.5:
        cloud = {"specversion": "1.0", "id": f"e-{number}", "source": "x", "type": "y", "data": document}
        if chance.random() < 0.3:
            cloud = {**cloud, "data_base64": base64.b64encode(inner).decode()}
        inner = body(chance, cloud)
    envelope = {"data_base64": base64.b64encode(inner).decode(), "pubsubname": "bus", "topic": "events"}
    sent = body(chance, envelope) if chance.random() < 0.3 else json.dumps(envelope).encode()
    token = "token" if chance.random() < 0.95 else "forged"
    path = chance.choice(("/topics/0", "/topics/0", "/topics/0", "/topics/x/y", "/dapr/config", "/%00"))
    extra = header_of(chance) if chance.random() < 0.1 else b""
    return post(path, sent, {"dapr-api-token": token}, extra)
