"""One connection to a broker: paho's client on the sockets of the event loop, with bounds on both ways.

Too many messages that are not handled yet, and the socket is not read until there are fewer: the broker keeps
the rest. At most so many of ours wait for the broker's word. It begins, ends once, and is not used again, so
that an acknowledgement cannot reach another connection than that of its message.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from meshwright.edge.mqtt.packets import Delivery, Publication
from meshwright.errors import HostError

ANSWER_SECONDS = 10.0  # that the broker has to answer CONNECT and SUBSCRIBE
TICK_SECONDS = 1.0  # between looks at whether it is time to ping
MAX_OPEN = 128  # deliveries being handled, above which the socket is not read
RESUME_AT = 32
MAX_UNACKNOWLEDGED = 1024  # deliveries that are held; a broker that heeds no limit sends more
MAX_UNANSWERED = 64  # publications at qos 1 that wait for the broker's word
FRAME_BYTES = 1024  # what a packet may hold around topic and payload
QUOTA_EXCEEDED = "Quota exceeded"
TOO_LARGE = "Packet too large"

ELSEWHERE = "give each mesh on a broker an mqtt_prefix of its own"
CREDENTIALS = (
    "check mqtt_username and mqtt_password (MESH_MQTT_PASSWORD), and what the broker allows that user"
)
REMEDIES = {
    "Bad user name or password": CREDENTIALS,
    "Not authorized": CREDENTIALS,
    "Client identifier not valid": ELSEWHERE,
    "Session taken over": ELSEWHERE,
    "Unsupported protocol version": "use a broker that speaks MQTT 5",
    "Banned": CREDENTIALS,
}
"""Reasons that do not pass by themselves, and what to do."""


class BrokerAway(HostError):
    """The broker cannot be reached, or the connection has ended; a later try may succeed."""


class BrokerRefuses(BrokerAway):
    """The broker does not let us in: somebody has to do something first."""


class Overrun(BrokerAway):
    """The broker sent more than can be held, and has to send what was left aside over a new connection."""


Take = Callable[["Connection", Delivery], None]
"""Takes what comes over a connection: `release` it once handled, and `acknowledge` it. Must not raise."""


class Connection:
    """A connection that is being opened, stands, or has ended."""

    def __init__(self, client: Client, take: Take) -> None:
        sock = client.socket()
        assert isinstance(sock, socket.socket)
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._sock = sock
        self._take = take
        self._ended: asyncio.Future[BrokerAway] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[list[ReasonCode]]] = {}
        self._welcome: asyncio.Future[tuple[bool, Properties]] = self._loop.create_future()
        self._unanswered: dict[int, asyncio.Future[str]] = {}
        self._shadowed: set[int] = set()
        self._window = asyncio.Semaphore(MAX_UNANSWERED)
        self._written = asyncio.Event()
        self._written.set()
        self._tick: asyncio.TimerHandle | None = None
        self._reading = False
        self._open = 0
        self._unacknowledged = 0
        self._overrun = False
        self._max_bytes: float = float("inf")
        self.session_present = False

    async def start(self) -> None:
        """Take over the socket, and wait for the broker's welcome. Raises BrokerAway or BrokerRefuses."""
        client = self._client
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_more_to_write
        client.on_socket_unregister_write = self._on_written
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._look()
        self._go_on_reading()
        if client.want_write():
            client.loop_write()
        try:
            self.session_present, limits = await self._in_time(self._welcome)
        except BaseException:  # a cancelled start too must leave no socket open
            self._end(BrokerAway("the connection was given up"))
            raise
        self._window = asyncio.Semaphore(
            min(MAX_UNANSWERED, getattr(limits, "ReceiveMaximum", MAX_UNANSWERED))
        )
        self._max_bytes = getattr(limits, "MaximumPacketSize", self._max_bytes)

    async def subscribe(self, topic_filter: str) -> None:
        """Ask for the messages of others to some topics, new ones only. Raises BrokerRefuses."""
        options = SubscribeOptions(qos=1, noLocal=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        _, mid = self._client.subscribe(topic_filter, options=options)
        assert mid is not None
        self._answers[mid] = self._loop.create_future()
        [reason] = await self._in_time(self._answers[mid])
        if reason.is_failure:
            raise BrokerRefuses(
                f"it does not let us subscribe to {topic_filter}: {reason}", remedy=CREDENTIALS
            )

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._ended.done()

    async def ended(self) -> BrokerAway:
        """Wait for the end, and return why."""
        return await asyncio.shield(self._ended)

    async def sleep(self, seconds: float) -> None:
        """Wait some time. Raises BrokerAway when the connection ends meanwhile."""
        await asyncio.wait([self._ended], timeout=seconds)
        self._check()

    # What comes

    def release(self) -> None:
        """A delivery is handled: it holds up the reading of others no more."""
        self._open -= 1
        if not self._reading and self._open <= RESUME_AT and not self.is_over:
            self._go_on_reading()

    def acknowledge(self, delivery: Delivery) -> None:
        """Tell the broker that it may forget a delivery."""
        if delivery.qos and not self.is_over:
            self._unacknowledged -= 1
            self._client.ack(delivery.packet_id, delivery.qos)
            if self._overrun and not self._unacknowledged:
                self._client.loop_write()
                self._end(Overrun("it sent more than it was asked for, and gives the rest once more"))

    # What goes

    async def send(self, publication: Publication) -> asyncio.Future[str]:
        """Publish at qos 1, when it is its turn. Raises BrokerAway.

        The result is nothing once the broker has it, else why it does not take it; BrokerAway if it never
        said. What is published or acknowledged later goes out later.
        """
        await self._window.acquire()
        answer: asyncio.Future[str] = self._loop.create_future()
        if self.is_over or self._is_too_large(publication):
            self._window.release()
            self._check()
            answer.set_result(TOO_LARGE)
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
        await self._written.wait()
        self._check()

    async def close(self) -> None:
        """Say goodbye, so that our will is not sent, and end. What was published before goes out before."""
        if not self.is_over:
            self._client.disconnect()
            await asyncio.wait([self._ended], timeout=ANSWER_SECONDS)
        self.abort("it was closed")

    def abort(self, why: str) -> None:
        """End at once; the broker sends our will."""
        self._end(BrokerAway(why))

    def _is_too_large(self, publication: Publication) -> bool:
        """Whether the broker would rather break the connection off."""
        return len(publication.topic) + len(publication.payload) + FRAME_BYTES > self._max_bytes

    def _put(self, publication: Publication) -> int:
        return self._client.publish(
            publication.topic,
            publication.payload,
            publication.qos,
            publication.retain,
            publication.properties(),
        ).mid

    def _check(self) -> None:
        if self._ended.done():
            raise self._ended.result()

    # The socket

    async def _in_time(self, answer: asyncio.Future[Any]) -> Any:
        """What the broker answers. Raises BrokerAway if it does not."""
        await asyncio.wait([answer, self._ended], timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        self.abort(f"it did not answer within {ANSWER_SECONDS:g} s")
        raise self._ended.result()

    def _go_on_reading(self) -> None:
        self._reading = True
        self._loop.add_reader(self._sock, self._read)
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        if not self._reading:
            return
        self._guarded(self._client.loop_read)
        if self._reading and isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            self._loop.call_soon(self._read)  # it is in memory already: the socket will not tell

    def _look(self) -> None:
        self._guarded(self._client.loop_misc)
        if not self.is_over:
            self._tick = self._loop.call_later(TICK_SECONDS, self._look)

    def _write(self) -> None:
        self._guarded(self._client.loop_write)

    def _guarded(self, step: Any) -> None:
        """Let paho do something; what it cannot read ends the connection."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 paho meets a broken packet with any kind of error
            self._end(BrokerAway(f"it sent what cannot be read: {error}"))

    def _end(self, why: BrokerAway) -> None:
        if self.is_over:
            return
        self._ended.set_result(why)
        if self._tick is not None:
            self._tick.cancel()
        self._forget_socket()
        self._sock.close()
        self._window.release()  # whoever waits for a turn wakes the next, and finds the end
        self._written.set()
        for answer in self._unanswered.values():
            answer.set_exception(why)
            answer.exception()  # seen: not everybody waits for it
        self._unanswered.clear()

    def _forget_socket(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
        self._reading = False

    # What paho calls

    def _on_connect(
        self,
        client: Client,
        userdata: Any,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._end(_refusal(reason))
        elif not self._welcome.done():
            self._welcome.set_result((flags.session_present, properties or Properties(PacketTypes.CONNACK)))

    def _on_disconnect(
        self,
        client: Client,
        userdata: Any,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._end(_refusal(reason))
        else:
            self._end(BrokerAway("the connection was lost"))

    def _on_subscribe(
        self,
        client: Client,
        userdata: Any,
        mid: int,
        reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:
        answer = self._answers.pop(mid, None)
        if answer is not None and not answer.done():
            answer.set_result(reasons)

    def _on_publish(
        self, client: Client, userdata: Any, mid: int, reason: ReasonCode, properties: Properties
    ) -> None:
        if mid in self._shadowed:
            self._shadowed.discard(mid)
        elif mid in self._unanswered:
            self._window.release()
            self._unanswered.pop(mid).set_result(str(reason) if reason.is_failure else "")

    def _on_message(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        if message.qos and self._unacknowledged >= MAX_UNACKNOWLEDGED:
            self._overrun = True
            return
        self._unacknowledged += message.qos
        self._open += 1
        if self._open >= MAX_OPEN and self._reading:
            self._loop.remove_reader(self._sock)
            self._reading = False
        self._take(self, Delivery.of(message))

    def _on_socket_close(self, client: Client, userdata: Any, sock: Any) -> None:
        self._forget_socket()

    def _on_more_to_write(self, client: Client, userdata: Any, sock: Any) -> None:
        self._written.clear()
        self._loop.add_writer(self._sock, self._write)

    def _on_written(self, client: Client, userdata: Any, sock: Any) -> None:
        self._written.set()
        if self._sock.fileno() >= 0:
            self._loop.remove_writer(self._sock)


def _refusal(reason: ReasonCode) -> BrokerAway:
    name = reason.getName()
    kind = BrokerRefuses if name in REMEDIES else BrokerAway
    return kind(f"it says: {name.lower()}", remedy=REMEDIES.get(name, ""))
