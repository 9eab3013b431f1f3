"""The edge as a part of the mesh: it keeps a connection to the broker, and all that lives on it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import NoReturn

from meshwright.backoff import Backoff
from meshwright.edges.auth import Authenticator, KeyAuthenticator
from meshwright.edges.mqtt.broker import MqttBroker
from meshwright.edges.mqtt.commands import Commands
from meshwright.edges.mqtt.connection import BrokerConnection
from meshwright.edges.mqtt.outgoing import Notices, OutcomeSender, RetainedPresence, Views, will
from meshwright.edges.mqtt.packets import ELSEWHERE, BrokerAway, BrokerOverrun, BrokerRefuses
from meshwright.edges.mqtt.topics import Topics
from meshwright.edges.replies import Courier
from meshwright.mesh import Mesh
from meshwright.messages import Event

_logger = logging.getLogger("meshwright.edges.mqtt")
_FIRST_TRY_SECONDS = (
    2.0  # that a start waits, so that a mesh which is ready is at its broker where there is one
)
_CUT_OFF_TIMES = 3  # in a row, soon after the broker let us in: that is no accident
_STEADY_SECONDS = 5.0  # that a connection has to stand to count as a success
_LEAVE_SECONDS = 2.0  # that each step of a stop may take


class MqttEdge:
    """Makes any MQTT client of a broker a caller of the mesh. Make it after the courier, before the start."""

    def __init__(self, mesh: Mesh, authenticator: Authenticator | None = None) -> None:
        settings = mesh.settings
        topics = Topics(settings.mqtt.prefix, settings.mqtt.reply_prefix)
        self._topics = topics
        self._broker = MqttBroker.of(settings, mesh.project, will(topics))
        self._notices = Notices(mesh.tell)
        self._views = Views(topics, self._notices)
        self._outcomes = OutcomeSender(topics, self._notices)
        mesh.component(Courier).register(self._outcomes)
        authenticator = authenticator or KeyAuthenticator(mesh.keys, settings)
        self._commands = Commands(mesh, topics, self._notices, self._broker.client_id, authenticator)
        self._presence = RetainedPresence(
            topics,
            mesh.registry,
            mesh.host.clock,
            self._notices,
            [registration.agent_id for registration in mesh.registrations()],
            offline_after_seconds=settings.presence.offline_after_seconds,
        )
        self._away = Backoff(0.25, 30.0)
        self._refused = Backoff(4.0, 60.0)  # of a broker that has to be set up otherwise first
        self._subscribed = False
        self._reported = ""
        self._let_in = False
        self._cut_off = 0
        self._first_try = asyncio.Event()
        self._connection: BrokerConnection | None = None
        self._running: asyncio.Task[None] | None = None
        mesh.host.listen("#", self._note)

    async def start(self) -> None:
        """Begin to connect. A broker that is away is reported, and tried again while the mesh runs."""
        self._running = asyncio.create_task(self._run(), name="mqtt-edge")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._first_try.wait(), _FIRST_TRY_SECONDS)

    async def stop(self) -> None:
        """Take nothing new, end what is under way, and disconnect. Idempotent."""
        running, self._running = self._running, None
        if running is None:
            return
        self._commands.close()
        if self._connection is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._views.shown(), _LEAVE_SECONDS)
        running.cancel()
        await asyncio.wait([running])
        self._notices.close()

    def _note(self, event: Event) -> None:
        self._views.add(event)
        self._presence.note(event)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._connect()
            except BrokerAway as error:
                away = self._diagnosed(error, loop.time() - began)
                self._report_away(away)
                failure: Exception = away
            except Exception as error:  # a defect of one part must not take the mesh off its broker for good
                _logger.exception("The MQTT edge failed, and starts again")
                failure = error
            self._first_try.set()
            if loop.time() - began >= _STEADY_SECONDS:
                self._away.reset()
                self._refused.reset()
            backoff = self._refused if isinstance(failure, BrokerRefuses) else self._away
            await asyncio.sleep(backoff.next())

    def _diagnosed(self, error: BrokerAway, lived_seconds: float) -> BrokerAway:
        """Name the usual reason for repeated disconnects; not every broker does."""
        was_let_in, self._let_in = self._let_in, False
        ours = isinstance(error, BrokerOverrun) or not was_let_in
        self._cut_off = 0 if ours or lived_seconds >= _STEADY_SECONDS else self._cut_off + 1
        if self._cut_off < _CUT_OFF_TIMES:
            return error
        return BrokerRefuses(
            "the broker keeps disconnecting us; another mesh may use the same client id",
            remedy=ELSEWHERE,
        )

    async def _connect(self) -> NoReturn:
        """Serve one connection from its beginning to its end. Raises BrokerAway."""
        connection = await self._broker.open(self._commands.take)
        try:
            await self._subscribe(connection)
            self._report_connected(connection)
            await self._serve(connection)
        except asyncio.CancelledError:
            await self._leave(connection)
            raise
        finally:
            self._connection = None
            connection.abort("it is of no more use")
            await self._commands.finished(_LEAVE_SECONDS)
            self._commands.abandon()

    async def _subscribe(self, connection: BrokerConnection) -> None:
        """Subscribe to what clients publish, unless the broker still has that. Raises BrokerRefuses."""
        if not (connection.session_present and self._subscribed):
            self._subscribed = False
            await connection.subscribe(self._topics.everything)
            self._subscribed = True

    async def _serve(self, connection: BrokerConnection) -> NoReturn:
        """Keep a connection busy until it ends. Raises BrokerAway."""
        self._outcomes.use(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._views.show(connection))
                group.create_task(self._presence.show(connection))
                raise await connection.ended()
        except ExceptionGroup as failures:
            _, defects = failures.split(BrokerAway)
            if defects is not None:
                raise defects from None
            raise await connection.ended() from None

    async def _leave(self, connection: BrokerConnection) -> None:
        """Announce the end and disconnect, within some seconds."""
        await self._commands.finished(_LEAVE_SECONDS)
        with suppress(TimeoutError, BrokerAway):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._presence.leave(connection)
                await connection.close()

    def _report_connected(self, connection: BrokerConnection) -> None:
        self._connection = connection
        self._let_in = True
        self._first_try.set()
        if self._reported:
            _logger.warning("%s: connected again", self._broker.url)
            self._reported = ""
        self._notices.connected(broker=self._broker.url, session_present=connection.session_present)

    def _report_away(self, error: BrokerAway) -> None:
        """Report it once, and again only where the remedy is another."""
        if not self._reported or (isinstance(error, BrokerRefuses) and str(error) != self._reported):
            _logger.warning("%s: %s; trying on", self._broker.url, error)
            self._notices.disconnected(broker=self._broker.url, reason=str(error))
            self._reported = str(error)
