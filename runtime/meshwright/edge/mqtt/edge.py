"""The edge as a part of the mesh: it keeps a connection to the broker, and all that lives on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from meshwright.edge.mqtt.broker import Broker
from meshwright.edge.mqtt.commands import Commands, Front
from meshwright.edge.mqtt.connection import Connection
from meshwright.edge.mqtt.faults import ELSEWHERE, BrokerAway, BrokerRefuses, Overrun
from meshwright.edge.mqtt.notices import Notices, Tell
from meshwright.edge.mqtt.outcomes import Outcomes
from meshwright.edge.mqtt.pauses import STEADY_SECONDS, Pauses
from meshwright.edge.mqtt.presence import Presence, will
from meshwright.edge.mqtt.topics import Topics
from meshwright.edge.mqtt.views import Views
from meshwright.errors import HostError
from meshwright.events.log import EventLog
from meshwright.host import Host
from meshwright.mesh import Mesh
from meshwright.messages import Event
from meshwright.orchestration.registry import Registry
from meshwright.settings import Settings

logger = logging.getLogger("meshwright.edge.mqtt")
FIRST_TRY_SECONDS = (
    2.0  # that a start waits, so that a mesh which is ready is at its broker where there is one
)
CUT_OFF_TIMES = 3  # in a row, soon after the broker let us in: that is no accident
LEAVE_SECONDS = 2.0  # that each step of a stop may take


class MqttEdge:
    """Makes any MQTT client of a broker a caller of the mesh. A part of it; `attach` it before the start.

    `own` are the agents that go when this process does.
    """

    def __init__(
        self,
        settings: Settings,
        project: Path,
        host: Host,
        log: EventLog,
        registry: Registry,
        *,
        own: Sequence[str],
        front: Front,
        tell: Tell,
    ) -> None:
        topics = Topics(settings.mqtt_prefix, settings.mqtt_reply_prefix)
        self._topics = topics
        self._broker = Broker.of(settings, project, will(topics))
        self._notices = Notices(tell)
        self._views = Views(topics, self._notices)
        self._outcomes = Outcomes(topics, host, log, self._notices)
        self._commands = Commands(topics, front, self._outcomes, self._notices, self._broker.client_id)
        self._presence = Presence(
            topics,
            registry,
            host.clock,
            self._notices,
            own,
            offline_after_seconds=settings.offline_after_seconds,
        )
        self._subscribed = False
        self._said = ""
        self._let_in = False
        self._cut_off = 0
        self._first_try = asyncio.Event()
        self._connection: Connection | None = None
        self._running: asyncio.Task[None] | None = None
        host.listen("#", self._hear)

    def attach(self, mesh: Mesh) -> None:
        """Ask this mesh for what clients ask for."""
        self._commands.attach(mesh)

    async def start(self) -> None:
        """Begin to connect. A broker that is away is told, and tried again for as long as the mesh runs."""
        await self._outcomes.start()
        self._running = asyncio.create_task(self._run(), name="mqtt-edge")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._first_try.wait(), FIRST_TRY_SECONDS)

    async def stop(self) -> None:
        """Take nothing new, end what is under way, and say goodbye. Idempotent."""
        running, self._running = self._running, None
        if running is None:
            return
        self._commands.close()
        if self._connection is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._views.shown(), LEAVE_SECONDS)
        running.cancel()
        await asyncio.wait([running])
        self._notices.close()
        with suppress(HostError):  # it says itself why it ended; some outcomes come twice then
            await self._outcomes.stop()

    def _hear(self, event: Event) -> None:
        self._views.hear(event)
        self._presence.hear(event)

    async def _run(self) -> None:
        pauses = Pauses()
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._connect()
            except BrokerAway as error:
                away = self._diagnosed(error, loop.time() - began)
                self._say_away(away)
                failure: Exception = away
            except Exception as error:  # a defect of one part must not take the mesh off its broker for good
                logger.exception("the MQTT edge failed, and begins anew")
                failure = error
            self._first_try.set()
            if loop.time() - began >= STEADY_SECONDS:
                pauses.reset()
            await asyncio.sleep(pauses.next(failure))

    def _diagnosed(self, error: BrokerAway, lived_seconds: float) -> BrokerAway:
        """Name the usual reason for being let in and cut off again and again; not every broker does."""
        was_let_in, self._let_in = self._let_in, False
        ours = isinstance(error, Overrun) or not was_let_in
        self._cut_off = 0 if ours or lived_seconds >= STEADY_SECONDS else self._cut_off + 1
        if self._cut_off < CUT_OFF_TIMES:
            return error
        return BrokerRefuses(
            "the broker lets us in and cuts us off again, as where another mesh comes in our name",
            remedy=ELSEWHERE,
        )

    async def _connect(self) -> NoReturn:
        """Live from one connection's beginning to its end. Raises BrokerAway."""
        connection = await self._broker.open(self._commands.take)
        try:
            await self._subscribe(connection)
            self._say_here(connection)
            await self._serve(connection)
        except asyncio.CancelledError:
            await self._leave(connection)
            raise
        finally:
            self._connection = None
            connection.abort("it is of no more use")
            await self._commands.finished(LEAVE_SECONDS)
            self._commands.abandon()

    async def _subscribe(self, connection: Connection) -> None:
        """Ask for what clients publish, unless the broker has kept that. Raises BrokerRefuses."""
        if not (connection.session_present and self._subscribed):
            self._subscribed = False
            await connection.subscribe(self._topics.everything)
            self._subscribed = True

    async def _serve(self, connection: Connection) -> NoReturn:
        """Keep a connection busy until it ends. Raises BrokerAway."""
        works = (
            self._views.show(connection),
            self._presence.show(connection),
            *self._outcomes.works(connection),
        )
        try:
            async with asyncio.TaskGroup() as group:
                for work in works:
                    group.create_task(work)
                raise await connection.ended()
        except ExceptionGroup as failures:
            _, defects = failures.split(BrokerAway)
            if defects is not None:
                raise defects from None
            raise await connection.ended() from None

    async def _leave(self, connection: Connection) -> None:
        """Say goodbye, as far as that goes within some seconds."""
        await self._commands.finished(LEAVE_SECONDS)
        with suppress(TimeoutError, BrokerAway):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._presence.leave(connection)
                await connection.close()

    def _say_here(self, connection: Connection) -> None:
        self._connection = connection
        self._let_in = True
        self._first_try.set()
        if self._said:
            logger.warning("%s: connected again", self._broker.url)
            self._said = ""
        self._notices.connected(broker=self._broker.url, session_present=connection.session_present)

    def _say_away(self, error: BrokerAway) -> None:
        """Say it once, and again only where somebody has to do something else."""
        if not self._said or (isinstance(error, BrokerRefuses) and str(error) != self._said):
            logger.warning("%s: %s; trying on", self._broker.url, error)
            self._notices.disconnected(broker=self._broker.url, reason=str(error))
            self._said = str(error)
