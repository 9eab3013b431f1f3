"""`mesh up --host dapr` from nothing running until ready; how soon a task is accepted over MQTT and HTTP."""

from __future__ import annotations

import asyncio
import os
import re
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from socket import IPPROTO_TCP, TCP_NODELAY
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTProtocolVersion
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from pydantic_core import to_json

from benchmarks.bench import Bench, Round
from benchmarks.client import Connection, make_request
from benchmarks.dapr_ground import missing
from benchmarks.figures import Row, column, compared
from benchmarks.sides import ROOT, clean_environment
from benchmarks.starts import MESH

TASK = to_json({"agent_id": "simple-agent", "payload": {"text": "What is this project, in one sentence?"}})
SUBMITS, WARM_UPS = 60, 10
MAX_UP_SECONDS, ANSWER_SECONDS, STOP_SECONDS = 15.0, 30.0, 60.0
SUBMIT, REPLIES = "mesh/default/submit", "replies/anonymous/bench"
WHAT = "`mesh up --host dapr` from nothing until ready"


async def measure(bench: Bench) -> list[Row]:
    if reason := missing():
        return [Row(WHAT, f"not run: {reason}")]

    async def up() -> Round:
        with bench.folder() as folder:
            return await started(folder, bench.count(SUBMITS))

    rounds = (await bench.in_turns({"ours": up}))["ours"]
    ready = column(rounds, "ready_s", "s", 2)
    return [
        Row(WHAT, ready, target="<= 15 s", met=ready.median <= MAX_UP_SECONDS),
        compared(
            "submit until the receipt, MQTT beside HTTP, p50",
            column(rounds, "mqtt_ms", "ms", 2),
            column(rounds, "http_ms", "ms", 2),
            note="on that mesh, one at a time",
        ),
    ]


async def started(folder: Path, submits: int) -> Round:
    """Start it, wait until it is ready, and give it tasks both ways."""
    began = time.perf_counter()
    async with running(folder) as process:
        said = await _until_ready(process)
        ready = time.perf_counter() - began
        url, broker = said["ready"], said["broker"]
        http = await over_http(url, submits)
        mqtt = await asyncio.to_thread(over_mqtt, broker, submits)
    return {"ready_s": ready, "http_ms": http, "mqtt_ms": mqtt}


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Process]:
    """`mesh up --host dapr` on a folder, stopped at the end."""
    named = {name: value for name, value in os.environ.items() if name == "MESH_DAPR_BIN"}
    process = await asyncio.create_subprocess_exec(
        *(MESH, "up", "--host", "dapr", "--port", "0", "--data", str(folder)),
        cwd=ROOT,
        env={**clean_environment(), **named},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        yield process
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), STOP_SECONDS)


async def _until_ready(process: Process) -> dict[str, str]:
    """What it says by then: where its API is, and its broker. Raises RuntimeError where it ends instead."""
    assert process.stdout is not None
    said: list[str] = []
    while not (said and said[-1].startswith("ready ")):
        line = (await asyncio.wait_for(process.stdout.readline(), STOP_SECONDS)).decode()
        if not line:
            raise RuntimeError("mesh up ended: " + " ".join(said[-5:]))
        said.append(line.strip())
    [broker, *_] = re.findall(r"mqtt://[\w.:]+", "\n".join(said))
    return {"ready": said[-1].removeprefix("ready "), "broker": broker}


async def over_http(url: str, submits: int) -> float:
    """The median until a task is accepted by POST /tasks, in ms."""
    connection = await Connection.open(url)
    asked = make_request("POST", "/tasks", TASK)
    times = []
    for _ in range(WARM_UPS + submits):
        began = time.perf_counter()
        reply = await connection.request(asked)
        times.append(time.perf_counter() - began)
        assert reply.status == 202, reply
    connection.close()
    return median(times[WARM_UPS:]) * 1000


def over_mqtt(broker: str, submits: int) -> float:
    """The median until a task's receipt comes to the response topic, in ms."""
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = REPLIES
    times = []
    with client_of(broker) as (client, replies):
        for _ in range(WARM_UPS + submits):
            began = time.perf_counter()
            client.publish(SUBMIT, TASK, qos=1, properties=properties)
            reply = _next(replies)
            times.append(time.perf_counter() - began)
            assert b'"task_id"' in reply, reply
    return median(times[WARM_UPS:]) * 1000


@contextmanager
def client_of(broker: str) -> Any:
    """A client of the broker that has subscribed to its replies, and a queue of them."""
    replies: SimpleQueue[bytes] = SimpleQueue()
    where = urlsplit(broker)
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_message = lambda client, userdata, message: replies.put(bytes(message.payload))
    client.on_subscribe = lambda *known: replies.put(b"")
    client.on_socket_open = _without_delay
    client.connect(where.hostname or "", where.port or 1883)
    client.loop_start()
    client.subscribe(REPLIES, qos=1)
    _next(replies)
    try:
        yield client, replies
    finally:
        client.disconnect()
        client.loop_stop()


def _without_delay(client: Client, userdata: Any, opened: Any) -> None:
    opened.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)


def _next(replies: SimpleQueue[bytes]) -> bytes:
    try:
        return replies.get(timeout=ANSWER_SECONDS)
    except Empty:
        raise RuntimeError(f"nothing came to {REPLIES} within {ANSWER_SECONDS:.0f} s") from None
