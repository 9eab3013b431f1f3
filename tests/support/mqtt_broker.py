"""A real Mosquitto, the clients that come with it, one in Python, and a network that can fail."""

import asyncio
import getpass
import json
import signal
import socket
import ssl
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.mesh import Mesh
from meshwright.parts.stack.machine import Ports

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60  # that a client waits for what has to come
HELLO = {"agent_id": "echo", "payload": {"text": "hello"}}
SUBMIT = "mesh/default/submit"
OUTCOMES = "mesh/default/tasks/+/outcome"
PLAIN = ("allow_anonymous true",)
DURABLE = (
    "persistence true",
    "autosave_on_changes true",
    "autosave_interval 1",
    "persistence_location {folder}/",
)


class Mosquitto:
    """A broker on a port of its own, which stays the same when it is started again."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.ports = Ports()
        [self.port] = self.ports.take(1)
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.configuration = folder / "mosquitto.conf"
        self.lines = lines or PLAIN
        self.login: tuple[str, ...] = ()
        self._folder = folder
        self._process: Process | None = None

    async def start(self) -> None:
        """Start it, or start it again; it takes connections when this returns."""
        lines = [f"listener {self.port} 127.0.0.1", f"user {getpass.getuser()}", "set_tcp_nodelay true"]
        lines += [line.format(folder=self._folder) for line in self.lines]
        self.configuration.write_text("\n".join(lines) + "\n")
        self._process = await asyncio.create_subprocess_exec(
            "mosquitto", "-c", str(self.configuration), stderr=PIPE
        )
        assert self._process.stderr is not None
        said = b""
        while b" running" not in said:
            line = await self._process.stderr.readline()
            assert line, said.decode()
            said += line
        self._reading = asyncio.create_task(self._process.stderr.read())  # so that it never waits for us

    def reload(self) -> None:
        """Have it read its rights again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    async def kill(self) -> None:
        """Kill -9."""
        assert self._process is not None
        self._process.kill()
        await self._ended()

    async def stop(self) -> None:
        """Ask it to end, and wait. It forgets that it was asked if that was just when it began."""
        assert self._process is not None
        while self._process.returncode is None:
            self._process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), 1)
        await self._reading

    async def _ended(self) -> None:
        assert self._process is not None
        await self._process.wait()
        await self._reading


@asynccontextmanager
async def mosquitto(folder: Path, *lines: str) -> AsyncIterator[Mosquitto]:
    """A broker that runs; stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    broker = Mosquitto(folder, *lines)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()
        broker.ports.close()


async def payloads_of(mesh: Mesh, event_type: str, count: int = 1) -> list[dict[str, Any]]:
    """Wait for so many events of a type since the log began, and return what they tell."""
    events = []
    async with asyncio.timeout(SECONDS):
        async for event in mesh.log.tail(EventFilter(after_seq=0, event_type=event_type)):
            events.append(event.payload)
            if len(events) == count:
                return events
    raise AssertionError("the log has ended")


# The clients that come with Mosquitto


async def run(program: str, broker: Mosquitto, *arguments: str) -> str:
    """Run one of Mosquitto's clients to its end, and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        program,
        *("-h", "127.0.0.1", "-p", str(broker.port), "-V", "5"),
        *broker.login,
        *arguments,
        stdout=PIPE,
        stderr=PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return out.decode()


async def publish(broker: Mosquitto, topic: str, body: Any, *arguments: str) -> None:
    """Publish by mosquitto_pub; text goes as it is, all else as JSON."""
    text = body if isinstance(body, str) else json.dumps(body)
    await run("mosquitto_pub", broker, "-q", "1", "-t", topic, "-m", text, *arguments)


async def ask(broker: Mosquitto, topic: str, body: Any, *, reply_to: str = "", **properties: str) -> Any:
    """Ask by mosquitto_rr, and return the document of its one answer."""
    options = [
        part
        for name, value in properties.items()
        for part in ("-D", "publish", "user-property", dashed(name), value)
    ]
    text = body if isinstance(body, str) else json.dumps(body)
    reply_to = reply_to or f"{replies_to(topic)}{uuid4()}"
    wait = ("-W", str(SECONDS), "-q", "1")
    return json.loads(
        await run("mosquitto_rr", broker, "-t", topic, "-e", reply_to, "-m", text, *wait, *options)
    )


def replies_to(topic: str) -> str:
    below, named, client = topic.partition("/clients/")
    return f"{below}{named}{client.split('/')[0]}/replies/" if named else "replies/anonymous/"


def dashed(name: str) -> str:
    return name.replace("_", "-")


# A client in Python


class Client:
    """A paho client that is connected, and all that it has got."""

    def __init__(self, broker: Mosquitto, client_id: str = "", **login: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._broker = broker
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
        self._client.max_inflight_messages = 0
        if login:
            self._client.username_pw_set(login["username"], login["password"])
        self._messages: asyncio.Queue[paho.MQTTMessage] = asyncio.Queue()
        self._subscribed: asyncio.Queue[Any] = asyncio.Queue()
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *known: self._loop.call_soon_threadsafe(
            self._subscribed.put_nowait, known[3]
        )

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self._loop.call_soon_threadsafe(self._messages.put_nowait, message)

    async def connect(self, *, session_seconds: int = 0) -> None:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = session_seconds
        self._client.connect("127.0.0.1", self._broker.port, clean_start=False, properties=properties)
        sock = self._client.socket()
        assert isinstance(sock, socket.socket)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client.loop_start()

    async def close(self) -> None:
        self._client.disconnect()
        with suppress(AttributeError):  # The thread may end by itself while paho is about to join it.
            await asyncio.to_thread(self._client.loop_stop)

    async def subscribe(self, topic: str, qos: int = 1) -> None:
        self._client.subscribe(topic, qos)
        [reason] = await asyncio.wait_for(self._subscribed.get(), SECONDS)
        assert not reason.is_failure, reason

    def publish(
        self, topic: str, body: Any, *, qos: int = 1, reply_to: str = "", correlation: bytes = b"", **own: str
    ) -> paho.MQTTMessageInfo:
        """Publish, with properties: the sender's own are given by name."""
        properties = Properties(PacketTypes.PUBLISH)
        if reply_to:
            properties.ResponseTopic = reply_to
        if correlation:
            properties.CorrelationData = correlation
        if own:
            properties.UserProperty = [(dashed(name), value) for name, value in own.items()]
        payload = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return self._client.publish(topic, payload, qos, properties=properties)

    @property
    def waiting(self) -> int:
        """How many messages have come that nobody looked at."""
        return self._messages.qsize()

    async def message(self) -> paho.MQTTMessage:
        """The next that has come, or comes."""
        return await asyncio.wait_for(self._messages.get(), SECONDS)

    async def documents(self, topic: str, enough: Callable[[list[Any]], bool]) -> list[Any]:
        found: list[Any] = []
        while not enough(found):
            message = await self.message()
            if paho.topic_matches_sub(topic, message.topic):
                found.append(json.loads(message.payload))
        return found

    async def document(self, topic: str = "#") -> Any:
        """The next document at a topic."""
        [document] = await self.documents(topic, bool)
        return document

    async def request(self, topic: str, body: Any, **options: Any) -> paho.MQTTMessage:
        """Publish a request and return the answer to it."""
        reply_to, correlation = f"replies/anonymous/{uuid4()}", uuid4().bytes
        await self.subscribe(reply_to)
        self.publish(topic, body, reply_to=reply_to, correlation=correlation, **options)
        while True:
            message = await self.message()
            if message.topic == reply_to:
                assert message.properties is not None and message.properties.CorrelationData == correlation
                return message

    async def silence(self, seconds: float) -> None:
        """Nothing comes for some time."""
        with suppress(TimeoutError):
            message = await asyncio.wait_for(self._messages.get(), seconds)
            raise AssertionError(f"{message.topic}: {message.payload!r}")


@asynccontextmanager
async def client(broker: Mosquitto, *topics: str, client_id: str = "", **login: str) -> AsyncIterator[Client]:
    """A client that is connected and has subscribed."""
    one = Client(broker, client_id, **login)
    await one.connect()
    try:
        for topic in topics:
            await one.subscribe(topic)
        yield one
    finally:
        await one.close()


# The network


class Network:
    """A link to the broker that can lose what is sent on it, hold or forge what comes back, and break."""

    def __init__(self, broker: Mosquitto) -> None:
        self._broker = broker
        self._writers: set[asyncio.StreamWriter] = set()
        self.loses_what_is_sent = False
        self.holds_what_comes_back = False
        self.forged: dict[bytes, Callable[[bytes], bytes]] = {}
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._broker.port)
        self._writers |= {writer, there_writer}
        await asyncio.gather(self._there(reader, there_writer), self._back(there_reader, writer))

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if not self.loses_what_is_sent:
                    writer.write(data)
        writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held = b""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                kind, body = await packet(reader)
                body = self.forged.get(kind, bytes)(body)
                held += kind + length(len(body)) + body
                if not self.holds_what_comes_back:
                    writer.write(held)
                    held = b""
        writer.close()

    def breaks(self) -> None:
        """Cut every connection off."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


PUBACK, SUBACK = b"\x40", b"\x90"


def quota_exceeded(puback: bytes) -> bytes:
    return puback[:2] + b"\x97"


def not_authorized(suback: bytes) -> bytes:
    return suback[:-1] + b"\x87"


async def packet(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The next packet: its first byte, and what follows its length."""
    kind, size, shift = await reader.readexactly(1), 0, 0
    while True:
        [byte] = await reader.readexactly(1)
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return kind, await reader.readexactly(size)


def length(size: int) -> bytes:
    """A length as packets have it."""
    encoded = bytearray()
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    return bytes([*encoded, size])


@asynccontextmanager
async def network(broker: Mosquitto, tls: ssl.SSLContext | None = None) -> AsyncIterator[Network]:
    """A link to a broker, at an address of its own."""
    link = Network(broker)
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0, ssl=tls)
    link.url = f"mqtt{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        server.close()
        link.breaks()
