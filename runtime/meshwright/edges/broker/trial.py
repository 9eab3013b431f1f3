"""A trial of a broker: the edge publishes to itself, cuts a connection off, and sees what comes again.

No answer of a broker says how it treats a resumed session. The trial has a client id, a session and topics of
its own, below `PREFIX/default/trial/`, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from meshwright.core.encoding import Struct
from meshwright.core.errors import MeshError
from meshwright.core.ids import new_id
from meshwright.edges.broker.connection import BrokerAway, BrokerConnection, MqttMessage, Publication, Take

TRIAL_SECONDS = 8.0
"""The longest that a trial takes."""
_ARRIVE_SECONDS = 2.0  # for a message that is on its way to us
_PAUSE_SECONDS = 0.5  # between the connections; rumqttd loses the session of one whose end it has not seen
_ABSENT_SECONDS = 0.5  # after which one that might come does not
_LEFT_SECONDS = 60  # that the broker keeps what a trial that was killed has left
Open = Callable[[Take], Awaitable[BrokerConnection]]
"""Opens a connection of the trial, with the session of the one before."""


class BrokerTraits(Struct, kw_only=True):
    """How a broker delivers again over a resumed session, and the other habits that no answer of it names."""

    resumes: bool = True
    """Whether it delivers a message that was not acknowledged again, over the next connection."""
    sets_dup: bool
    """Whether it marks such a message with the flag DUP."""
    keeps_packet_id: bool
    """Whether that message has the packet id that it had before."""
    has_own_packet_ids: bool
    """Whether a message has another packet id than the one before it, which is acknowledged."""
    heeds_no_local: bool
    """Whether a client that asked for No Local gets none of its own messages."""
    retained_by_wildcard: bool
    """Whether a subscription with a wildcard gets retained messages."""

    @property
    def knows_each_message(self) -> bool:
        """Whether packet id and DUP tell a message that is delivered again from an equal one that is new."""
        return self.sets_dup and self.keeps_packet_id and self.has_own_packet_ids


class TrialFailed(MeshError):
    """The broker did not deliver what the mesh published to itself."""


class Trial:
    """Finds the traits of a broker, by two connections one after the other."""

    def __init__(self, open_connection: Open, base: str) -> None:
        self._open = open_connection
        self._topic = f"{base}/{new_id()}"
        self._messages: asyncio.Queue[MqttMessage] = asyncio.Queue()
        self._heeds_no_local = True

    async def run(self) -> BrokerTraits:
        """Returns what was seen. Raises BrokerAway, or TrialFailed."""
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                messages = await self._hold()
                await asyncio.sleep(_PAUSE_SECONDS)
                return await self._resume(messages)
        except TimeoutError as error:
            raise TrialFailed(f"it took more than {TRIAL_SECONDS:g} s") from error

    async def _hold(self) -> tuple[MqttMessage, MqttMessage] | None:
        """Take a message and acknowledge it, take another, and break off; returns both, None at QoS 0."""
        connection = await self._open(self._take)
        try:
            connection.receive()
            await connection.observe(f"{self._topic}/echo", no_local=True)
            await connection.observe(f"{self._topic}/held")
            for name in ("echo", "held"):
                await self._publish(connection, name)
            before = await self._message("held")
            if not before.qos:
                return None
            is_read = asyncio.Event()
            connection.acknowledge(before, is_read.set)
            await is_read.wait()
            await self._publish(connection, "held")
            return before, await self._message("held")
        finally:
            connection.abort("the trial breaks it off")

    async def _resume(self, messages: tuple[MqttMessage, MqttMessage] | None) -> BrokerTraits:
        connection = await self._open(self._take)
        try:
            connection.receive()
            before, held = messages or (None, None)
            again: MqttMessage | None = None
            if held is not None and connection.session_present:
                with suppress(TrialFailed):
                    again = await self._message("held")
                    connection.acknowledge(again)
            return BrokerTraits(
                resumes=again is not None,
                sets_dup=again is not None and again.repeated,
                keeps_packet_id=_have_same_id(held, again),
                has_own_packet_ids=held is not None and not _have_same_id(before, held),
                heeds_no_local=self._heeds_no_local,
                retained_by_wildcard=await self._sees_retained(connection),
            )
        finally:
            with suppress(BrokerAway):
                await connection.close(ends_session=True)

    async def _sees_retained(self, connection: BrokerConnection) -> bool:
        if not connection.retains:
            return False
        retained = Publication(f"{self._topic}/kept", b"1", retain=True, expiry_seconds=_LEFT_SECONDS)
        await (await connection.send(retained))
        await connection.observe(f"{self._topic}/+")
        try:
            connection.acknowledge(await self._message("kept", _ABSENT_SECONDS))
        except TrialFailed:
            return False
        finally:
            await (await connection.send(Publication(retained.topic, b"", retain=True)))
        return True

    def _take(self, connection: BrokerConnection, message: MqttMessage) -> None:
        connection.release()
        if message.topic == f"{self._topic}/echo":
            self._heeds_no_local = False
            connection.acknowledge(message)
        else:
            self._messages.put_nowait(message)

    async def _publish(self, connection: BrokerConnection, name: str) -> None:
        await (await connection.send(Publication(f"{self._topic}/{name}", b"trial")))

    async def _message(self, name: str, seconds: float = _ARRIVE_SECONDS) -> MqttMessage:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await self._messages.get()
                    if message.topic == f"{self._topic}/{name}":
                        return message
        except TimeoutError as error:
            raise TrialFailed(
                f"what the mesh publishes to {self._topic}/{name} does not come back",
                remedy="Let its user read and write below mqtt.prefix",
            ) from error


def _have_same_id(one: MqttMessage | None, other: MqttMessage | None) -> bool:
    return one is not None and other is not None and one.packet_id == other.packet_id
