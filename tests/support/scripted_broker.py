"""A small MQTT broker in Python with the habits of real ones, so that CI need not build them.

It speaks what the mesh and its clients use: QoS 0 and 1, sessions, retained messages, wildcards, No Local and
wills. Each of `HABITS` was seen with the software and version that it names. Properties of messages are not
read. To clients of MQTT 3.1.1 a filter with `$share` is a literal topic, as it is at RabbitMQ 4.3.6.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

from paho.mqtt.client import topic_matches_sub

from tests.support.mqtt_broker import length, packet

CONNECT, PUBLISH, PUBACK, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 4, 8, 10, 12, 14
_SESSION_EXPIRY, _RECEIVE_MAXIMUM, _MAXIMUM_QOS, _RETAIN_AVAILABLE = 0x11, 0x21, 0x24, 0x25
_USER_PROPERTY = b"\x26\0"  # and the length of its name
_MAX_PACKET_IDS = 65_535


@dataclass(frozen=True, slots=True)
class Habits:
    """What a broker does in its own way."""

    flags_dup: bool = True
    keeps_packet_ids: bool = True
    takes_lowest_free_id: bool = False
    sends_one_at_a_time: bool = False
    echoes: bool = False
    retained_by_wildcard: bool = True
    granted_qos: int = 1
    maximum_qos: int = 1
    retains: bool = True
    session_seconds: int | None = None
    cuts_off_resumed: bool = False
    closes_without_a_word: bool = False
    wants_acknowledgements_in_order: bool = False
    uses_window_up: bool = False
    ends_at_user_properties: bool = False


HABITS = {
    "mosquitto-2.0.11": Habits(),
    "rabbitmq-4.3.6": Habits(keeps_packet_ids=False, retained_by_wildcard=False),
    "artemis-2.55": Habits(keeps_packet_ids=False, flags_dup=False),
    "hivemq-ce-2025.5": Habits(takes_lowest_free_id=True, sends_one_at_a_time=True),
    "rumqttd-0.20": Habits(
        keeps_packet_ids=False, flags_dup=False, echoes=True, wants_acknowledgements_in_order=True
    ),
}
"""The habits of brokers as they were seen with paho-mqtt 2.2."""
MOCHI = Habits(cuts_off_resumed=True)
"""mochi 2.7.9 with its Bolt hook after a restart: a session with held messages ends behind each CONNACK."""
MOCHI_WINDOW = Habits(uses_window_up=True)
"""mochi 2.7.9: a message that has waited for a place among those under way never gives that place back."""
MOCHI_ANSWERS = Habits(ends_at_user_properties=True)
"""mochi 2.7.9: it answers a message with a user property so that clients end the connection."""
RABBITMQ_3_10 = Habits(closes_without_a_word=True)
"""RabbitMQ 3.10.8, which does not know MQTT 5."""


@dataclass(slots=True, eq=False)
class _Held:
    topic: str
    properties: bytes
    payload: bytes
    qos: int
    packet_id: int = 0
    was_sent: bool = False
    has_waited: bool = False


@dataclass(slots=True, eq=False)
class _Session:
    filters: dict[str, tuple[int, bool]] = field(default_factory=dict)
    waiting: deque[_Held] = field(default_factory=deque)
    flying: list[_Held] = field(default_factory=list)
    next_id: int = 1
    places: int = _MAX_PACKET_IDS
    link: _Link | None = None
    acknowledged: list[_Held] = field(default_factory=list)


class ScriptedBroker:
    """A broker on a port of its own. `habits` may change while it runs, for what follows."""

    def __init__(self, habits: Habits) -> None:
        self.habits = habits
        self.login: tuple[str, ...] = ()
        self.connects: list[str] = []
        """The client ids of all that have connected, in order."""
        self.subscriptions: dict[str, list[str]] = {}
        """The filters that each client id has asked for, in order."""
        self.wills: dict[str, bytes] = {}
        """The properties of the will of each client id."""
        self.sessions: dict[str, _Session] = {}
        self.retained: dict[str, _Held] = {}
        self.refusals = 0
        """Connections that it closed without a word."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, or start it again at the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def kill(self, *, forgets_acknowledgements: bool = False) -> None:
        """End it as kill -9 does: what it holds stays, as on a disk that may lack acknowledgements."""
        if self._server is not None:
            self._server.close()
        self.break_links()
        for session in self.sessions.values():
            if forgets_acknowledgements:
                session.flying = [*session.acknowledged, *session.flying]
            session.acknowledged = []

    def break_links(self) -> None:
        """Cut all connections off."""
        for link in [*self._links]:
            link.end()

    def ignore(self, client_id: str) -> None:
        """Read nothing more that a client sends over its connection, as where the network loses it."""
        if (link := self.sessions[client_id].link) is not None:
            link.is_ignored = True

    def pause(self, client_id: str) -> None:
        """Read what a client sends over its connection later, once it is resumed."""
        if (link := self.sessions[client_id].link) is not None:
            link.may_read.clear()

    def resume(self, client_id: str) -> None:
        """Read on what a client sends."""
        if (link := self.sessions[client_id].link) is not None:
            link.may_read.set()

    def forget(self) -> None:
        """Lose all sessions."""
        self.sessions.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await link.serve()
        finally:
            self._links.discard(link)
            link.end()

    def publish(self, message: _Held, *, sender: _Link | None, retain: bool = False) -> None:
        if retain and self.habits.retains:
            self.retained.pop(message.topic, None)
            if message.payload:
                self.retained[message.topic] = message
        for session in [*self.sessions.values()]:
            for name, (qos, no_local) in session.filters.items():
                is_own = sender is not None and session.link is sender
                if topic_matches_sub(name, message.topic) and not (
                    is_own and no_local and not self.habits.echoes
                ):
                    session.waiting.append(replace(message, qos=min(message.qos, qos)))
            if session.link is not None:
                session.link.send_waiting()


class _Link:
    """A connection of a client."""

    def __init__(
        self, broker: ScriptedBroker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._broker = broker
        self._reader = reader
        self._writer = writer
        self._session = _Session()
        self._client_id = ""
        self._will: tuple[_Held, bool] | None = None
        self._expiry = 0
        self._is_v5 = True
        self.is_ignored = False
        self.may_read = asyncio.Event()
        self.may_read.set()

    def end(self) -> None:
        if self._session.link is self:
            self._session.link = None
            if not self._expiry:
                self._broker.sessions.pop(self._client_id, None)
            if self._will is not None:
                message, retain = self._will
                self._broker.publish(message, sender=None, retain=retain)
        self._writer.transport.abort()

    async def serve(self) -> None:
        kind, body = await packet(self._reader)
        assert kind[0] >> 4 == CONNECT
        if self._broker.habits.closes_without_a_word:
            self._broker.refusals += 1
            return
        if not self._connect(body):
            return
        handlers: dict[int, Callable[[int, bytes], None]] = {
            PUBLISH: self._publish,
            PUBACK: self._acknowledge,
            SUBSCRIBE: self._subscribe,
            UNSUBSCRIBE: self._unsubscribe,
            PINGREQ: lambda flags, body: self._write(0xD0, b""),
        }
        while True:
            kind, body = await packet(self._reader)
            await self.may_read.wait()
            if self.is_ignored:
                continue
            if kind[0] >> 4 == DISCONNECT:
                self._will = None
                if b"\x11\x00\x00\x00\x00" in body:
                    self._expiry = 0
                return
            handlers[kind[0] >> 4](kind[0] & 15, body)

    def _connect(self, body: bytes) -> bool:
        broker, habits = self._broker, self._broker.habits
        self._is_v5, flags = body[6] == 5, body[7]
        is_clean = bool(flags & 2)
        properties, rest = self._properties(body[10:])
        self._expiry = _number(properties, _SESSION_EXPIRY) if self._is_v5 else int(not is_clean)
        client_id, rest = _text(rest)
        client_id = self._client_id = client_id or f"anonymous-{len(broker.connects)}"
        broker.connects.append(client_id)
        if flags & 4:
            self._take_will(flags, rest)
        if is_clean:
            broker.sessions.pop(client_id, None)
        is_present = client_id in broker.sessions
        session = self._session = broker.sessions.setdefault(client_id, _Session())
        if session.link is not None:
            session.link._will = None
            session.link.end()
            broker.sessions[client_id] = session
        session.link = self
        self._write(0x20, bytes([is_present, 0]) + self._with_properties(self._limits()))
        if habits.cuts_off_resumed and is_present and (session.flying or session.waiting):
            return False
        if not habits.keeps_packet_ids:
            session.next_id = 1
            for message in session.flying:
                message.packet_id = 0
        session.waiting.extendleft(reversed(session.flying))
        session.flying = []
        session.places = _receive_maximum(properties) if habits.uses_window_up else _MAX_PACKET_IDS
        self.send_waiting()
        return True

    def _take_will(self, flags: int, rest: bytes) -> None:
        self._broker.wills[self._client_id], rest = self._properties(rest)
        topic, rest = _text(rest)
        payload, _ = _binary(rest)
        self._will = _Held(topic, b"", payload, flags >> 3 & 3), bool(flags & 32)

    def _limits(self) -> bytes:
        """The properties of CONNACK."""
        habits, limits = self._broker.habits, b""
        if habits.session_seconds is not None:
            limits += struct.pack("!BI", _SESSION_EXPIRY, habits.session_seconds)
        if habits.maximum_qos < 1:
            limits += bytes([_MAXIMUM_QOS, habits.maximum_qos])
        if not habits.retains:
            limits += bytes([_RETAIN_AVAILABLE, 0])
        return limits

    def send_waiting(self) -> None:
        session, habits = self._session, self._broker.habits
        while session.waiting and not (habits.sends_one_at_a_time and session.flying):
            if not session.places:
                for message in session.waiting:
                    message.has_waited = True
                return
            message = session.waiting.popleft()
            if habits.uses_window_up and message.qos:
                session.places -= 1
            if message.qos:
                message.packet_id = message.packet_id or self._next_id()
                session.flying.append(message)
            dup = message.was_sent and message.qos and habits.flags_dup
            message.was_sent = True
            head = _sized(message.topic.encode())
            number = struct.pack("!H", message.packet_id) if message.qos else b""
            body = head + number + self._with_properties(message.properties) + message.payload
            self._write(0x30 | bool(dup) << 3 | message.qos << 1, body)

    def _next_id(self) -> int:
        session = self._session
        if self._broker.habits.takes_lowest_free_id:
            taken = {message.packet_id for message in session.flying}
            return next(number for number in range(1, 65_536) if number not in taken)
        session.next_id += 1
        return session.next_id - 1

    def _publish(self, flags: int, body: bytes) -> None:
        topic, rest = _text(body)
        qos = flags >> 1 & 3
        number, rest = (rest[:2], rest[2:]) if qos else (b"", rest)
        properties, payload = self._properties(rest)
        if self._broker.habits.ends_at_user_properties and _USER_PROPERTY in properties:
            raise ConnectionError
        self._broker.publish(_Held(topic, properties, payload, qos), sender=self, retain=bool(flags & 1))
        if qos:
            self._write(0x40, number)

    def _acknowledge(self, flags: int, body: bytes) -> None:
        session = self._session
        [number] = struct.unpack_from("!H", body)
        message = next(message for message in session.flying if message.packet_id == number)
        if self._broker.habits.wants_acknowledgements_in_order and message is not session.flying[0]:
            raise ConnectionError
        session.flying.remove(message)
        session.acknowledged.append(message)
        session.places += self._broker.habits.uses_window_up and not message.has_waited
        self.send_waiting()

    def _subscribe(self, flags: int, body: bytes) -> None:
        number, rest = body[:2], body[2:]
        _, rest = self._properties(rest)
        answers = b""
        while rest:
            name, rest = _text(rest)
            options, rest = rest[0], rest[1:]
            qos = min(options & 3, self._broker.habits.granted_qos)
            self._session.filters[name] = (qos, bool(options & 4))
            self._broker.subscriptions.setdefault(self._client_id, []).append(name)
            answers += bytes([qos])
            if options >> 4 & 3 == 0 and (self._broker.habits.retained_by_wildcard or not _is_wild(name)):
                retained = [*self._broker.retained.values()]
                self._session.waiting.extend(
                    replace(message, was_sent=False, packet_id=0, qos=min(message.qos, qos))
                    for message in retained
                    if topic_matches_sub(name, message.topic)
                )
        self._write(0x90, number + self._with_properties(b"") + answers)
        self.send_waiting()

    def _unsubscribe(self, flags: int, body: bytes) -> None:
        number, rest = body[:2], body[2:]
        _, rest = self._properties(rest)
        answers = b""
        while rest:
            name, rest = _text(rest)
            answers += b"\x11" if self._session.filters.pop(name, None) is None else b"\0"
        self._write(0xB0, number + (b"\0" + answers if self._is_v5 else b""))

    def _properties(self, data: bytes) -> tuple[bytes, bytes]:
        return _properties(data) if self._is_v5 else (b"", data)

    def _with_properties(self, properties: bytes) -> bytes:
        return length(len(properties)) + properties if self._is_v5 else b""

    def _write(self, kind: int, body: bytes) -> None:
        self._writer.write(bytes([kind]) + length(len(body)) + body)


def _is_wild(name: str) -> bool:
    return "+" in name or "#" in name


def _binary(data: bytes) -> tuple[bytes, bytes]:
    [size] = struct.unpack_from("!H", data)
    return data[2 : 2 + size], data[2 + size :]


def _text(data: bytes) -> tuple[str, bytes]:
    text, rest = _binary(data)
    return text.decode(), rest


def _sized(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data


def _properties(data: bytes) -> tuple[bytes, bytes]:
    size = shift = place = 0
    while True:
        byte = data[place]
        size |= (byte & 127) << shift
        shift, place = shift + 7, place + 1
        if byte < 128:
            return data[place : place + size], data[place + size :]


def _number(properties: bytes, name: int) -> int:
    """A property of four bytes; the mesh and paho send it first."""
    return struct.unpack_from("!I", properties, 1)[0] if properties[:1] == bytes([name]) else 0


def _receive_maximum(properties: bytes) -> int:
    """How many messages a client takes at a time, which it says behind the expiry of its session."""
    place = 5 if properties[:1] == bytes([_SESSION_EXPIRY]) else 0
    has_limit = properties[place : place + 1] == bytes([_RECEIVE_MAXIMUM])
    return struct.unpack_from("!H", properties, place + 1)[0] if has_limit else _MAX_PACKET_IDS


@asynccontextmanager
async def scripted_broker(habits: Habits) -> AsyncIterator[ScriptedBroker]:
    """A broker that runs; ended at the end."""
    broker = ScriptedBroker(habits)
    await broker.start()
    try:
        yield broker
    finally:
        broker.kill()
