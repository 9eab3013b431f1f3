"""One connection to a broker, with bounds on both ways, and what goes over it as plain data.

Too many messages that are not handled yet, and the socket is not read until there are fewer: the broker keeps
the rest. At most so many of ours wait for the broker's word. It begins, ends once, and is not used again, so
that an acknowledgement cannot reach another connection than that of its message.

Messages are acknowledged in the order in which they came, as MQTT 5 asks for (4.6); rumqttd ends the
connection of a client that does not. The broker never confirms an acknowledgement, but it reads in order what
we send: its answer to a ping that went behind an acknowledgement says that it has read that too.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from paho.mqtt.client import Client, MQTTErrorCode, MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import MalformedPacket, Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from meshwright.core.errors import MeshError

_logger = logging.getLogger("meshwright.edges.mqtt")
_ANSWER_SECONDS = 10.0  # that the broker has to answer CONNECT and SUBSCRIBE
_MAX_OPEN = 128  # deliveries being handled, above which the socket is not read
_RESUME_AT = 32
_MAX_UNACKNOWLEDGED = 1024  # deliveries that are held; a broker that heeds no limit sends more
_MAX_UNANSWERED = 64  # publications at qos 1 that wait for the broker's word
_IN_ORDER_SECONDS = 1.0  # that a message which is not handled yet holds up the acknowledgement of later ones
_FRAME_BYTES = 1024  # what a packet may hold around topic and payload
_FIRST_PACKET_ID = 32_768
_TICK_SECONDS = 1.0  # between looks at whether it is time to ping
JSON = "application/json"
QUOTA_EXCEEDED = "Quota exceeded"
TOO_LARGE = "Packet too large"
ELSEWHERE = "Give each mesh on a broker an mqtt.prefix of its own"
_CREDENTIALS = (
    "Check username and password of [mqtt] (MESH_MQTT__PASSWORD), and what the broker allows that user"
)
_SILENT = "It may not speak MQTT 5, which the mesh needs, or ask for mqtt.cert_file over TLS"
_REMEDIES = {
    "Bad user name or password": _CREDENTIALS,
    "Not authorized": _CREDENTIALS,
    "Client identifier not valid": ELSEWHERE,
    "Session taken over": ELSEWHERE,
    "Unsupported protocol version": "Use a broker that speaks MQTT 5",
    "Banned": _CREDENTIALS,
}
"""Reasons of the broker that do not pass by themselves, and what to do."""


class BrokerAway(MeshError):
    """The broker cannot be reached, or the connection has ended; a later try may succeed."""


class BrokerRefuses(BrokerAway):
    """The broker does not let us in: somebody has to do something first."""


class BrokerOverrun(BrokerAway):
    """The broker sent more than can be held, and has to send what was left aside over a new connection."""


@dataclass(frozen=True, slots=True)
class MqttMessage:
    """A message that the broker gave us.

    `repeated` says that the broker may have sent it before (DUP). Not every broker says so, or sends it again
    under the same `packet_id` (0 where `qos` is): see `Redeliveries`. `properties` are the sender's own, by
    lower-case name.
    """

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    repeated: bool
    response_topic: str | None = None
    correlation: bytes | None = None
    properties: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_paho(cls, message: MQTTMessage) -> MqttMessage:
        """Take what paho read."""
        properties = message.properties
        return cls(
            topic=message.topic,
            payload=bytes(message.payload),
            qos=message.qos,
            packet_id=message.mid,
            repeated=message.dup,
            response_topic=getattr(properties, "ResponseTopic", None),
            correlation=getattr(properties, "CorrelationData", None),
            properties={name.lower(): value for name, value in getattr(properties, "UserProperty", ())},
        )

    def digest(self) -> str:
        """A hash of everything that its sender wrote."""
        parts = (self.topic, self.payload, self.response_topic, self.correlation, self.properties)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Publication:
    """A message for the broker. At `qos` 0 it is sent once, at 1 until the broker has it."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    content_type: str | None = None
    correlation: bytes | None = None
    expiry_seconds: int | None = None
    response_topic: str | None = None
    user_properties: tuple[tuple[str, str], ...] | None = None

    def properties(self) -> Properties | None:
        """Returns the properties as paho wants them; None is cheaper than none of them."""
        properties = None
        for name, value in (
            ("ContentType", self.content_type),
            ("CorrelationData", self.correlation),
            ("MessageExpiryInterval", self.expiry_seconds),
            ("ResponseTopic", self.response_topic),
            ("UserProperty", self.user_properties and [*self.user_properties]),
        ):
            if value is not None:
                properties = properties or Properties(PacketTypes.PUBLISH)
                setattr(properties, name, value)
        return properties


class LenientClient(Client):
    """Drops a message that paho cannot read, such as one with U+FEFF in a property, which MQTT allows.

    Paho would break the connection off, and the broker send the message again over each new one. `on_pong` is
    called with each answer to a ping; paho has no callback for that.
    """

    on_pong: Callable[[], None] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Mochi refuses a packet id of ours that one of its own messages has, and those begin at 1.
        self._last_mid = _FIRST_PACKET_ID - 1

    def ping(self) -> None:
        """Ask the broker for a sign of life."""
        self._send_pingreq()

    def _handle_pingresp(self) -> MQTTErrorCode:
        code = super()._handle_pingresp()
        if self.on_pong is not None:
            self.on_pong()
        return code

    def _handle_publish(self) -> MQTTErrorCode:
        try:
            return super()._handle_publish()
        except MalformedPacket as error:
            _logger.warning("a message is dropped, since it cannot be read: %s", error)
            command, packet = self._in_packet["command"], self._in_packet["packet"]
            (topic_bytes,) = struct.unpack_from("!H", packet)
            qos = command >> 1 & 3
            if qos:
                (packet_id,) = struct.unpack_from("!H", packet, 2 + topic_bytes)
                self.ack(packet_id, qos)
            return MQTTErrorCode.MQTT_ERR_SUCCESS


@dataclass(slots=True)
class _Unacknowledged:
    """A message that came over a connection, until the broker is told that it may forget it."""

    delivery: MqttMessage
    came_at: float
    is_handled: bool = False
    on_confirmed: Callable[[], None] | None = None


Take = Callable[["BrokerConnection", MqttMessage], None]
"""Takes what comes over a connection: `release` it once handled, and `acknowledge` it. Must not raise."""


class BrokerConnection:
    """A connection that is being opened, stands, or has ended.

    `session_present` says that the broker still has our session, `session_seconds` for how long it keeps it
    while we are away; `max_qos`, `retains` and `shares` (shared subscriptions) are the broker's limits.
    """

    def __init__(self, client: LenientClient, take: Take, session_seconds: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._socket = _LoopSocket(client, self.abort)
        self._take = take
        self._ended: asyncio.Future[BrokerAway] = self._loop.create_future()
        self._welcome: asyncio.Future[tuple[bool, Properties]] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[list[ReasonCode]]] = {}
        self._unanswered: dict[int, asyncio.Future[str]] = {}
        self._shadowed: set[int] = set()
        self._window = asyncio.Semaphore(_MAX_UNANSWERED)
        self._open = 0
        self._unacknowledged: deque[_Unacknowledged] = deque()
        self._late: asyncio.TimerHandle | None = None
        self._overrun = False
        self._is_pinging = False
        self._unconfirmed: list[Callable[[], None]] = []
        self._confirming: list[Callable[[], None]] = []
        self._max_bytes: float = float("inf")
        self.session_present = False
        self.session_seconds = session_seconds
        self.max_qos = 2
        self.retains = True
        self.shares = True
        self._answered: asyncio.Future[None] = self._loop.create_future()

    async def start(self) -> None:
        """Take over the client, and wait for the broker's welcome. Raises BrokerAway or BrokerRefuses.

        Messages behind the welcome are not read before `receive`.
        """
        client = self._client
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_subscribe, client.on_publish = self._on_answer, self._on_publish
        client.on_unsubscribe = self._on_answer
        client.on_message, client.on_pong = self._on_message, self._on_pong
        try:
            self._socket.open()
            self.session_present, limits = await self._in_time(self._welcome)
        except BaseException:  # a cancelled start too must leave no socket open
            self.abort("the connection was given up")
            raise
        maximum = getattr(limits, "ReceiveMaximum", _MAX_UNANSWERED)
        self._window = asyncio.Semaphore(min(_MAX_UNANSWERED, maximum))
        self._max_bytes = getattr(limits, "MaximumPacketSize", self._max_bytes)
        self.session_seconds = getattr(limits, "SessionExpiryInterval", self.session_seconds)
        self.max_qos = getattr(limits, "MaximumQoS", self.max_qos)
        self.retains = bool(getattr(limits, "RetainAvailable", 1))
        self.shares = bool(getattr(limits, "SharedSubscriptionAvailable", 1))

    def receive(self) -> None:
        """Begin to read what the broker sends, and have it answer once."""
        if not self.is_over:
            self._socket.read()
            self._ping()

    async def subscribe(self, filters: Sequence[str]) -> int:
        """Ask for the messages of others to some topics, new ones only. Returns the QoS that they come at.

        Raises BrokerAway, or BrokerRefuses.
        """
        options = SubscribeOptions(qos=1, noLocal=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        reasons = await self._answer(self._client.subscribe([(name, options) for name in filters])[1])
        for name, reason in zip(filters, reasons, strict=False):
            if reason.is_failure:
                raise BrokerRefuses(f"it does not let us subscribe to {name}: {reason}", remedy=_CREDENTIALS)
        return min((reason.value for reason in reasons), default=1)

    async def observe(self, name: str, *, no_local: bool = False) -> None:
        """Ask for all messages to a topic, our own too unless `no_local`. Raises as `subscribe` does."""
        options = SubscribeOptions(qos=1, noLocal=no_local)
        [reason, *_] = await self._answer(self._client.subscribe([(name, options)])[1])
        if reason.is_failure:
            raise BrokerRefuses(f"it does not let us subscribe to {name}: {reason}", remedy=_CREDENTIALS)

    async def unsubscribe(self, name: str) -> None:
        """Ask for the messages to a filter no more; it need not be there. Raises BrokerAway."""
        await self._answer(self._client.unsubscribe(name)[1])

    async def _answer(self, mid: int | None) -> list[ReasonCode]:
        answer = self._answers[mid or 0] = self._loop.create_future()
        return await self._in_time(answer)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._ended.done()

    @property
    def is_answered(self) -> bool:
        """Whether the broker has answered more than CONNECT."""
        return self._answered.done()

    async def answered(self) -> None:
        """Wait until the broker has answered more than CONNECT. Raises BrokerAway.

        Some cut a session that they cannot resume off behind their welcome, each time.
        """
        await asyncio.wait([self._answered, self._ended], return_when=asyncio.FIRST_COMPLETED)
        self._check()

    async def ended(self) -> BrokerAway:
        """Wait for the end, and return why."""
        return await asyncio.shield(self._ended)

    async def sleep(self, seconds: float) -> None:
        """Wait some time. Raises BrokerAway when the connection ends meanwhile."""
        await asyncio.wait([self._ended], timeout=seconds)
        self._check()

    # Incoming

    @property
    def has_open_deliveries(self) -> bool:
        """Whether messages have come that are not handled or not acknowledged yet."""
        return bool(self._open or self._unacknowledged)

    def release(self) -> None:
        """A delivery is handled: it holds up the reading of others no more."""
        self._open -= 1
        if not self._socket.is_reading and self._open <= _RESUME_AT and not self.is_over:
            self._socket.read()

    def acknowledge(self, delivery: MqttMessage, on_confirmed: Callable[[], None] | None = None) -> None:
        """Tell the broker that it may forget a delivery, once it is told so of those before it.

        `on_confirmed` is called when the broker has read that, unless the connection ends before.
        """
        if not delivery.qos or self.is_over:
            return
        for one in self._unacknowledged:
            if one.delivery is delivery:
                one.is_handled, one.on_confirmed = True, on_confirmed
                break
        self._send_acknowledgements()

    def _send_acknowledgements(self) -> None:
        """Acknowledge what is handled. A message that waits for long holds the others up no more."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        left: deque[_Unacknowledged] = deque()
        now = self._loop.time()
        while self._unacknowledged:
            one = self._unacknowledged.popleft()
            if one.is_handled:
                self._client.ack(one.delivery.packet_id, one.delivery.qos)
                if one.on_confirmed is not None:
                    self._unconfirmed.append(one.on_confirmed)
                continue
            left.append(one)
            if (wait := one.came_at + _IN_ORDER_SECONDS - now) > 0:
                if self._unacknowledged:
                    self._late = self._loop.call_later(wait, self._send_acknowledgements)
                break
        left.extend(self._unacknowledged)
        self._unacknowledged = left
        if self._unconfirmed:
            self._ping()
        if self._overrun and not self._unacknowledged:
            self._socket.flush()
            self._end(BrokerOverrun("it sent more than it was asked for, and gives the rest once more"))

    def _ping(self) -> None:
        """Learn what the broker has read, unless it owes us that word already."""
        if not self._is_pinging and not self.is_over:
            self._is_pinging = True
            self._confirming, self._unconfirmed = self._unconfirmed, self._confirming
            self._client.ping()

    # Outgoing

    async def send(self, publication: Publication) -> asyncio.Future[str]:
        """Publish at qos 1, when it is its turn. Raises BrokerAway.

        The result is nothing once the broker has it, else why it does not take it; BrokerAway if it never
        said. Later publications and acknowledgements go out later.
        """
        await self._window.acquire()
        answer: asyncio.Future[str] = self._loop.create_future()
        if self.is_over or self._is_too_large(publication):
            self._window.release()
            self._check()
            answer.set_result(TOO_LARGE)
        elif not self.max_qos:  # the broker answers nothing at QoS 0
            self._window.release()
            self._put(publication)
            answer.set_result("")
        else:
            self._unanswered[self._put(publication)] = answer
        return answer

    def put(self, publication: Publication) -> bool:
        """Publish at qos 0, now, unless it is too large; `written` says when to go on. Raises BrokerAway."""
        self._check()
        if self._is_too_large(publication):
            return False
        mid = self._put(publication)
        if mid in self._unanswered:  # paho numbers both kinds together, and from 1 again after 65,535
            self._shadowed.add(mid)
        return True

    async def written(self) -> None:
        """Wait until all that was published has gone into the socket. Raises BrokerAway."""
        await self._socket.written.wait()
        self._check()

    async def close(self, *, ends_session: bool = False) -> None:
        """Disconnect, so that our will is not sent, and end. Earlier publications go out before."""
        if not self.is_over:
            properties = Properties(PacketTypes.DISCONNECT)
            if ends_session:
                properties.SessionExpiryInterval = 0
            self._client.disconnect(properties=properties)
            await asyncio.wait([self._ended], timeout=_ANSWER_SECONDS)
        self.abort("it was closed")

    def abort(self, why: str) -> None:
        """End at once; the broker sends our will."""
        self._end(BrokerAway(why))

    def _is_too_large(self, publication: Publication) -> bool:
        return len(publication.topic) + len(publication.payload) + _FRAME_BYTES > self._max_bytes

    def _put(self, publication: Publication) -> int:
        topic, payload, properties = publication.topic, publication.payload, publication.properties()
        qos, retain = min(publication.qos, self.max_qos), publication.retain and self.retains
        return self._client.publish(topic, payload, qos, retain, properties).mid

    def _check(self) -> None:
        if self._ended.done():
            raise self._ended.result()

    async def _in_time(self, answer: asyncio.Future[Any]) -> Any:
        """Returns the broker's answer. Raises BrokerAway if there is none."""
        await asyncio.wait(
            [answer, self._ended], timeout=_ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if answer.done():
            return answer.result()
        silence = f"it did not answer within {_ANSWER_SECONDS:g} s"
        # amqtt is silent so where MQTT 5 is asked for
        self._end(BrokerAway(silence) if self._welcome.done() else BrokerAway(silence, remedy=_SILENT))
        raise self._ended.result()

    def _end(self, why: BrokerAway) -> None:
        if self.is_over:
            return
        self._ended.set_result(why)
        self._socket.close()
        if self._late is not None:
            self._late.cancel()
        self._window.release()  # each waiting sender wakes the next, and finds the end
        for answer in self._unanswered.values():
            if not answer.done():
                answer.set_exception(why)
                answer.exception()  # seen: not everybody waits for it
        self._unanswered.clear()

    # Callbacks of paho

    def _on_connect(self, client: Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._end(_refusal(reason))
        elif not self._welcome.done():
            self._socket.pause()  # redeliveries may follow at once, before anybody is ready for them
            self._welcome.set_result((flags.session_present, properties or Properties(PacketTypes.CONNACK)))

    def _on_disconnect(self, client: Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self._end(_refusal(reason))
        elif self._welcome.done():
            self._end(BrokerAway("the connection was lost"))
        else:  # RabbitMQ 3.10 closes so where MQTT 5 is asked for, Mosquitto where a certificate is
            self._end(BrokerAway("it closed the connection without a word", remedy=_SILENT))

    def _on_answer(self, client: Client, data: Any, mid: int, reasons: Any, properties: Any) -> None:
        if (answer := self._answers.pop(mid, None)) is not None and not answer.done():
            answer.set_result(reasons)

    def _on_pong(self) -> None:
        self._is_pinging = False
        if not self._answered.done():
            self._answered.set_result(None)
        while self._confirming:
            self._confirming.pop()()
        if self._unconfirmed:
            self._ping()

    def _on_publish(self, client: Client, data: Any, mid: int, reason: Any, properties: Any) -> None:
        if mid in self._shadowed:
            self._shadowed.discard(mid)
        elif mid in self._unanswered:
            self._window.release()
            answer = self._unanswered.pop(mid)
            if not answer.done():  # the caller may have left
                answer.set_result(str(reason) if reason.is_failure else "")

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        if message.qos and len(self._unacknowledged) >= _MAX_UNACKNOWLEDGED:
            self._overrun = True
            return
        delivery = MqttMessage.from_paho(message)
        if message.qos:
            self._unacknowledged.append(_Unacknowledged(delivery, self._loop.time()))
        self._open += 1
        if self._open >= _MAX_OPEN:
            self._socket.pause()
        self._take(self, delivery)


async def publish_or_raise(connection: BrokerConnection, publication: Publication) -> None:
    """Publish at qos 1, and wait until the broker has it. Raises BrokerAway, BrokerRefuses if it says no."""
    if reason := await (await connection.send(publication)):
        raise BrokerRefuses(
            f"it does not let us publish to {publication.topic}: {reason}", remedy=_CREDENTIALS
        )


def _refusal(reason: ReasonCode) -> BrokerAway:
    name = reason.getName()
    kind = BrokerRefuses if name in _REMEDIES else BrokerAway
    return kind(f"it says: {name.lower()}", remedy=_REMEDIES.get(name, ""))


class _LoopSocket:
    """Lets paho read and write when it can. `on_broken` is called with what paho cannot do, once at most."""

    def __init__(self, client: Client, on_broken: Callable[[str], None]) -> None:
        sock = client.socket()
        assert isinstance(sock, socket.socket)
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._sock = sock
        self._on_broken = on_broken
        self._tick: asyncio.TimerHandle | None = None
        self.written = asyncio.Event()
        self.written.set()
        self.is_reading = False

    def open(self) -> None:
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client.on_socket_close = self._on_close
        self._client.on_socket_register_write = self._on_more_to_write
        self._client.on_socket_unregister_write = self._on_written
        self._look()
        self.read()
        self.flush()

    def close(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
        self._forget()
        self._sock.close()
        self.written.set()

    def read(self) -> None:
        self.is_reading = True
        self._loop.add_reader(self._sock, self._read)
        self._read_what_is_here()

    def pause(self) -> None:
        """Read no more: what comes stays with the system, and then with the broker."""
        self._loop.remove_reader(self._sock)
        self.is_reading = False

    def flush(self) -> None:
        self._guarded(self._client.loop_write)

    def _read(self) -> None:
        if self.is_reading:
            self._guarded(self._client.loop_read)
            self._read_what_is_here()

    def _read_what_is_here(self) -> None:
        """See to what TLS has read already: for that the system will not call."""
        if self.is_reading and isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            self._loop.call_soon(self._read)

    def _look(self) -> None:
        self._tick = self._loop.call_later(_TICK_SECONDS, self._look)
        self._guarded(self._client.loop_misc)

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:  # paho meets a broken packet with any kind of error, and then is broken
            _logger.exception("an MQTT connection is broken off")
            self._on_broken(f"it sent what cannot be read: {error}")

    def _forget(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
        self.is_reading = False

    # Callbacks of paho, which gets itself and our data first

    def _on_close(self, *arguments: Any) -> None:
        self._forget()

    def _on_more_to_write(self, *arguments: Any) -> None:
        self.written.clear()
        self._loop.add_writer(self._sock, self.flush)

    def _on_written(self, *arguments: Any) -> None:
        self.written.set()
        if self._sock.fileno() >= 0:
            self._loop.remove_writer(self._sock)
