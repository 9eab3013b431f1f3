"""Reads and clears retained messages, over short connections of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from meshwright.core.ids import new_id
from meshwright.edges.broker.connection import (
    BrokerConnection,
    BrokerRefuses,
    MqttMessage,
    Publication,
    publish_or_raise,
)
from meshwright.edges.broker.dialer import BrokerDialer

_RETURN_SECONDS = 10.0  # for a message to oneself


class RetainedMessages:
    """The retained messages of a broker, read and cleared by one client id."""

    def __init__(self, dialer: BrokerDialer, client_id: str) -> None:
        self._dialer, self._client_id = dialer, client_id

    async def read(self, name: str, end: str) -> dict[str, bytes]:
        """Return the messages to a filter by topic; those with wildcards not every broker sends.

        `end` is a topic of its own: the message to it that comes back is behind them. Raises BrokerAway, and
        BrokerRefuses where its user may not read or write there.
        """
        messages: asyncio.Queue[MqttMessage] = asyncio.Queue()

        def take(connection: BrokerConnection, message: MqttMessage) -> None:
            connection.release()
            connection.acknowledge(message)
            messages.put_nowait(message)

        mark, payloads = new_id().encode(), dict[str, bytes]()
        connection = await self._dialer.open(self._client_id, take, 0, clean_start=True)
        try:
            connection.receive()
            await connection.observe(name)
            await connection.observe(end)
            await publish_or_raise(connection, Publication(end, mark))
            async with asyncio.timeout(_RETURN_SECONDS):
                while (message := await messages.get()).payload != mark:
                    payloads[message.topic] = message.payload
        except TimeoutError:
            raise BrokerRefuses(
                f"what is published to {end} does not come back", remedy="Let its user read and write there"
            ) from None
        finally:
            await connection.close()
        return payloads

    async def clear(self, topics: Iterable[str]) -> None:
        """Clear the messages at topics; there need be none. Raises BrokerAway, BrokerRefuses."""
        connection = await self._dialer.open(self._client_id, _ignore, 0, clean_start=True)
        try:
            connection.receive()
            for topic in topics:
                await publish_or_raise(connection, Publication(topic, b"", retain=True))
        finally:
            await connection.close()

    async def end_session(self, client_id: str) -> None:
        """End the session of a client that is gone; its will is published before. Raises BrokerAway."""
        connection = await self._dialer.open(client_id, _ignore, 0, clean_start=True)
        await connection.close(ends_session=True)


def _ignore(connection: BrokerConnection, message: MqttMessage) -> None:
    connection.release()
