"""Hosts on real daprd, Redis and Mosquitto: each in a namespace of its own, each with a sidecar.

A snapshot is all that a crash would leave: what the store holds, the log, and what the broker had taken.
A broker may send the latter again, so a host that is opened on a snapshot is sent all of it once more.
"""

import itertools
import sqlite3
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.sqlite import FILE_NAME, SqliteDatabase
from meshwright.engine.stores.dapr import DaprStore, Options
from meshwright.parts.stack.machine import Ports
from tests.support.harness import RuntimeHarness, Setup, with_kinds
from tests.support.services import Services, Sidecar

COPY = """
for _, key in ipairs(redis.call('KEYS', 'state||' .. ARGV[1] .. '/*')) do
    local rest = string.sub(key, #('state||' .. ARGV[1]) + 1)
    if not (string.find(rest, '^/lease/') or string.find(rest, '^/adopting/')) then
        redis.call('COPY', key, 'state||' .. ARGV[2] .. rest)
    end
end
"""
"""All keys of one namespace into another, at one moment, but for what only the living hold."""


@dataclass(frozen=True)
class Data:
    """A namespace (keys of Redis, topics of the broker, actors of placement), and a folder for the log.

    `taken` are the broker's messages that may come again, as topics within the namespace and bodies.
    """

    namespace: str
    folder: Path
    taken: tuple[tuple[str, bytes], ...] = ()
    hosts: list[Runtime] = field(default_factory=list, compare=False)


class Broker:
    """A client of the broker that remembers what it took, and can send it again."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.username_pw_set(parts.username, parts.password)
        self._client.on_message = self._take
        self._taken: list[tuple[str, bytes]] = []
        self._marks: dict[bytes, threading.Event] = {}
        self._client.connect(parts.hostname or "", parts.port or 0)
        self._client.loop_start()
        self._client.subscribe("bus/#", qos=1)
        self.taken("")

    def taken(self, namespace: str) -> tuple[tuple[str, bytes], ...]:
        """All that was taken for a namespace so far, the very last included."""
        mark = f"{len(self._marks)}".encode()
        self._marks[mark] = threading.Event()
        self._client.publish("bus/mark", mark, qos=1)
        assert self._marks[mark].wait(10)
        prefix = f"bus/{namespace}/"
        return tuple(
            (topic.removeprefix(prefix), body) for topic, body in self._taken if topic.startswith(prefix)
        )

    def send(self, namespace: str, taken: tuple[tuple[str, bytes], ...]) -> None:
        for topic, body in taken:
            self._client.publish(f"bus/{namespace}/{topic}", body, qos=1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _take(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        if message.topic == "bus/mark":
            self._marks[message.payload].set()
        else:
            self._taken.append((message.topic, message.payload))


class DaprHarness(RuntimeHarness):
    """Workers of one app."""

    shares_data = True
    channel: Literal["grpc", "http"] = "grpc"
    bus = "mqtt"

    def __init__(self, folder: Path, seed: int, services: Services) -> None:
        super().__init__(folder, seed)
        self.services = services
        self.stores: dict[Runtime, DaprStore] = {}
        self._sidecars: dict[Runtime, Sidecar] = {}
        self._numbers = itertools.count()
        self._ports = Ports()
        self._broker = Broker(services.broker_url)

    def new_data(self) -> Data:
        namespace = f"c{self.folder.name[-12:]}-{next(self._numbers)}".replace("_", "-").lower()
        folder = self.folder / namespace
        folder.mkdir()
        return Data(namespace, folder)

    def build(self, data: Data, setup: Setup) -> Runtime:
        (port,) = self._ports.take(1)
        running = [runtime for runtime in data.hosts if runtime in self._open]
        pod = f"mesh-{len(running)}_{data.namespace}"
        sidecar = self.services.daprd(
            "mesh", port=port, namespace=data.namespace, pod=pod, protocol=self.channel, bus=self.bus
        )
        sidecar.launch()
        options = Options(
            app_id="mesh",
            replica=pod,
            namespace=data.namespace,
            grpc_port=sidecar.app.grpc_port,
            app_port=port,
            channel=self.channel,
            api_token=sidecar.app.api_token,
            app_token=sidecar.app.app_token,
            broker_url=self.services.broker_url,
            redrive_seconds=1.0,
            lease_seconds=4.0,
            renew_seconds=0.5,
        )
        database = None if running else SqliteDatabase(data.folder)
        log = EventLog(database) if database else None
        store = DaprStore(options, clock=setup.clock, database=database, log=log)
        runtime = Runtime(
            store, clock=setup.clock, max_mailbox=setup.max_mailbox, max_record_bytes=setup.max_record_bytes
        )
        data.hosts.append(runtime)
        self._sidecars[runtime], self.stores[runtime] = sidecar, store
        return runtime

    async def open_on(self, data: Data, setup: Setup) -> Runtime:
        runtime = await super().open_on(data, setup)
        self._broker.send(data.namespace, data.taken)
        return runtime

    def snapshot(self, runtime: Runtime) -> Data:
        """Redis runs a script alone, so what it holds is of one moment."""
        _, data = self._open[runtime]
        copy = self.new_data()
        address, port = self.services.redis_host.split(":")
        command = ["redis-cli", "-h", address, "-p", port, "--no-auth-warning", "eval", COPY, "0"]
        subprocess.run(
            [*command, data.namespace, copy.namespace],
            check=True,
            capture_output=True,
            env={"REDISCLI_AUTH": self.services.redis_password},
        )
        source = sqlite3.connect(f"{(data.folder / FILE_NAME).as_uri()}?mode=ro", uri=True)
        target = sqlite3.connect(copy.folder / FILE_NAME)
        source.backup(target)
        source.close()
        target.close()
        return Data(copy.namespace, copy.folder, self._broker.taken(data.namespace))

    async def end(self, runtime: Runtime) -> None:
        self._sidecars[runtime].kill()
        await super().end(runtime)

    async def reopen(self, runtime: Runtime, *kinds: ActorKind) -> Runtime:
        setup, data = self._open.pop(runtime)
        await runtime.stop()
        self._sidecars[runtime].stop()
        return await self.open_on(data, with_kinds(setup, kinds))

    async def close(self) -> None:
        await super().close()
        self._broker.close()
        for sidecar in self._sidecars.values():
            sidecar.end()
        self._ports.close()


class DaprHttpHarness(DaprHarness):
    """Over the channel of older sidecars."""

    channel = "http"
