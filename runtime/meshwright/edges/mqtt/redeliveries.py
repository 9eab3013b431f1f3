"""Redeliveries: which messages are new, and which the broker has delivered before.

Packet ids and DUP do not tell: over a resumed session RabbitMQ and Artemis number held messages anew, Artemis
and rumqttd do not flag them, and HiveMQ gives nearly every message the id 1. So a message that names neither
a key nor a task is known by its content, and by a durable row that says that it came:

- The row is stored before the task is accepted, and has the task's id.
- It goes when the broker has read our acknowledgement: it has answered a ping that went behind that.
- Over a resumed session each row that is left takes one delivery of an equal message. Any further one is new.

A broker that is killed may forget acknowledgements that it has read. So rows that went are remembered for
some seconds, and count if the broker could not be reached in between. A broker that keeps packet ids, gives
each message its own and flags redeliveries (Mosquitto) decides by these: its newest 1,000 rows stay.

At a broker of the other kind one case is undecidable: a message that equals another, sent in the moment in
which the connection ends, between our acknowledgement of the other and the broker's word.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from meshwright.core.errors import HostError
from meshwright.core.ids import new_id
from meshwright.edges.broker.connection import BrokerConnection, MqttMessage
from meshwright.edges.broker.trial import BrokerTraits
from meshwright.edges.mqtt import table
from meshwright.edges.mqtt.table import DeliveryRow
from meshwright.edges.replies.courier import until_answered
from meshwright.engine.work.protocol import TaskKey
from meshwright.mesh.mesh import Mesh

_logger = logging.getLogger("meshwright.edges.mqtt")
_MAX_SETTLED = 1_000  # rows whose acknowledgement the broker has read
_MAX_DELETED = 100  # rows in one statement
_MAX_OPEN = 128  # rows whose task a process that was killed may not have accepted
_FORGOTTEN_SECONDS = 10.0  # before its end, whose acknowledgements a killed broker may have forgotten
_QUIET_SECONDS = 5.0  # without an open delivery, after which a broker has delivered again all that it held
_MAX_REDELIVERED = 4_096  # deliveries over a resumed session, after which the rest is new


@dataclass(slots=True, eq=False)
class _AcceptedMessage:
    """A message that became a task."""

    delivery: DeliveryRow
    is_stored: bool = False
    is_accepted: bool = False
    settled_at: float | None = None


class Redeliveries:
    """Recognises the messages of one session that the broker delivers again."""

    def __init__(self, mesh: Mesh, client_id: str, broker: str) -> None:
        self._mesh = mesh
        self._client_id = client_id
        self._broker = broker
        # Those of which the broker may hold the message, by number.
        self._rows: dict[int, _AcceptedMessage] = {}
        self._settled: deque[_AcceptedMessage] = deque()
        self._by_delivery: dict[int, _AcceptedMessage] = {}  # under way, by the id() of the message
        # Those that a message over this connection may be, by digest.
        self._candidates: dict[str, list[_AcceptedMessage]] = {}
        self._received = 0
        self._next_n = 1
        self._was_away = False
        self._is_loaded = False
        self._has_session = False
        self._ended_at = 0.0
        self._to_delete: list[int] = []
        self._deleting: asyncio.Task[None] | None = None
        self._quiet: asyncio.TimerHandle | None = None
        self.is_older_session = False
        """Whether the broker has a session that these tables do not know: of an earlier version."""
        self.traits: BrokerTraits | None = None
        """How the broker delivers again, once that was tried."""

    async def resume(self, connection: BrokerConnection, *, was_away: bool) -> bool:
        """Prepare for the messages of a connection, before it receives. Raises BrokerAway.

        `was_away` says that the broker could not be reached since the connection before. Returns whether the
        broker has lost the session, with all messages that it held for us.
        """
        await until_answered(self._load, connection.sleep)
        had_session, self._has_session = self._has_session, True
        self.is_older_session = connection.session_present and not had_session
        self._by_delivery.clear()
        self._candidates.clear()
        self._received = 0
        if connection.session_present:
            self._was_away = was_away
            self._offer_rows()
            self._watch_for_quiet(connection)
        else:
            self._rows.clear()
            self._settled.clear()
            await until_answered(self._forget_all, connection.sleep)
        if not had_session:
            await until_answered(self._store_session, connection.sleep)
        return had_session and not connection.session_present

    def end(self) -> None:
        """The connection has ended."""
        self._ended_at = asyncio.get_running_loop().time()
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None

    async def learn(self, traits: BrokerTraits) -> None:
        """Note how the broker delivers again."""
        self.traits = traits
        await until_answered(self._store_session)

    def receive(self, delivery: MqttMessage) -> None:
        """Take a message in the order of its coming: it may be one of those that came before."""
        self._received += 1
        rows = self._candidates.get(delivery.digest()) if self._candidates and delivery.qos else None
        if not rows:
            return
        # A task that was never accepted is certainly still to come.
        row = next((row for row in rows if not row.is_accepted), None)
        row = row or next((row for row in rows if self._is_same(row, delivery)), None)
        if row is not None:
            rows.remove(row)
            if row.settled_at is not None:
                self._settled.remove(row)
                row.settled_at = None
            row.delivery = row.delivery._replace(packet_id=delivery.packet_id)
            self._rows[row.delivery.n] = row
            self._by_delivery[id(delivery)] = row

    async def task_id(self, delivery: MqttMessage, tenant_id: str) -> str:
        """The id of the task of a message that names none: of one that came before, the same."""
        if not delivery.qos:
            return new_id()
        row = self._by_delivery.get(id(delivery))
        if row is None:
            stored = DeliveryRow(
                self._next_n, delivery.digest(), delivery.packet_id, tenant_id, task_id=new_id()
            )
            self._next_n += 1
            row = self._by_delivery[id(delivery)] = self._rows[stored.n] = _AcceptedMessage(stored)
        if not row.is_stored:
            if row.delivery.n in self._to_delete:
                self._to_delete.remove(row.delivery.n)
            await self._mesh.database.write(table.add_delivery, self._client_id, tuple(row.delivery))
            row.is_stored = True
        return row.delivery.task_id

    def release(self, delivery: MqttMessage, *, is_accepted: bool) -> Callable[[], None] | None:
        """A message is handled. Returns what to call when the broker has read its acknowledgement."""
        row = self._by_delivery.pop(id(delivery), None)
        if row is None:
            return None
        row.is_accepted = row.is_accepted or is_accepted
        return partial(self._settle, row)

    def _is_same(self, row: _AcceptedMessage, delivery: MqttMessage) -> bool:
        """Whether a message with the content of a row may be the one that came before."""
        traits = self.traits
        by_packet_id = traits is not None and traits.knows_each_message
        if traits is None and row.settled_at is not None:  # before the first trial: most are as Mosquitto
            by_packet_id = not self._was_away
        if by_packet_id:
            return delivery.repeated and delivery.packet_id == row.delivery.packet_id
        return delivery.repeated or traits is None or not traits.sets_dup

    def _settle(self, row: _AcceptedMessage) -> None:
        """The broker has read the acknowledgement of a message."""
        if self._rows.pop(row.delivery.n, None) is None:
            return
        row.settled_at = asyncio.get_running_loop().time()
        self._settled.append(row)
        if self.traits is None or not self.traits.knows_each_message:
            self._delete(row)
        if len(self._settled) > _MAX_SETTLED + _MAX_DELETED:  # together, by one statement
            for _ in range(_MAX_DELETED):
                self._delete(self._settled.popleft())

    def _offer_rows(self) -> None:
        """Let the messages of the connection be those of the rows that are left."""
        recent = [*self._settled]
        if self.traits is None or not self.traits.knows_each_message:
            since = self._ended_at - _FORGOTTEN_SECONDS
            may_be_forgotten = self._was_away or self.traits is None
            recent = [row for row in recent if may_be_forgotten and (row.settled_at or 0) >= since]
        for row in sorted((*self._rows.values(), *recent), key=lambda row: row.delivery.n):
            self._candidates.setdefault(row.delivery.digest, []).append(row)

    def _watch_for_quiet(self, connection: BrokerConnection) -> None:
        """Take all for new once the broker has delivered again what it held."""
        loop = asyncio.get_running_loop()
        quiet_since, count = loop.time(), self._received

        def look() -> None:
            nonlocal quiet_since, count
            if connection.has_open_deliveries or self._received != count:
                quiet_since, count = loop.time(), self._received
            if loop.time() - quiet_since >= _QUIET_SECONDS or self._received > _MAX_REDELIVERED:
                self._take_rest_for_new()
            else:
                self._quiet = loop.call_later(_QUIET_SECONDS / 5, look)

        if self._candidates:
            self._quiet = loop.call_later(_QUIET_SECONDS / 5, look)

    def _take_rest_for_new(self) -> None:
        rows = [row for rows in self._candidates.values() for row in rows]
        self._candidates.clear()
        for row in rows:
            self._settle(row)

    # The database

    async def _load(self) -> None:
        """Read what an earlier process has left."""
        if self._is_loaded:
            return
        database = self._mesh.database
        session = await database.read(table.read_session, self._client_id)
        if session is not None and session.broker == self._broker:
            self.traits, self._has_session = session.traits, True
        rows = [
            _AcceptedMessage(row, is_stored=True, is_accepted=True)
            for row in await database.read(table.read_deliveries, self._client_id)
        ]
        counts: dict[str, int] = {}
        for row in rows:
            counts[row.delivery.digest] = counts.get(row.delivery.digest, 0) + 1
        for row in rows[-_MAX_OPEN:]:
            if counts[row.delivery.digest] > 1:  # of equal ones those without a task come first
                key = TaskKey(row.delivery.tenant_id, row.delivery.task_id)
                row.is_accepted = await self._mesh.runtime.read(key.ref) is not None
        self._rows = {row.delivery.n: row for row in rows}
        self._next_n = max(self._rows, default=0) + 1
        self._is_loaded = True

    async def _store_session(self) -> None:
        traits = "" if self.traits is None else self.traits.model_dump_json()
        await self._mesh.database.write(table.write_session, self._client_id, self._broker, traits)

    async def _forget_all(self) -> None:
        await self._mesh.database.write(table.delete_all_deliveries, self._client_id)

    def _delete(self, row: _AcceptedMessage) -> None:
        """Forget a row, with others that go meanwhile."""
        if row.is_stored:
            row.is_stored = False
            self._to_delete.append(row.delivery.n)
            if self._deleting is None:
                self._deleting = asyncio.create_task(self._delete_rows(), name="mqtt-deliveries")

    async def _delete_rows(self) -> None:
        try:
            while self._to_delete:
                numbers, self._to_delete = self._to_delete[:_MAX_DELETED], self._to_delete[_MAX_DELETED:]
                await self._mesh.database.write(table.delete_deliveries, self._client_id, numbers)
        except HostError as error:  # the rows stay until their session ends
            _logger.info("Rows of MQTT messages are not deleted: %s", error)
        finally:
            self._deleting = None
