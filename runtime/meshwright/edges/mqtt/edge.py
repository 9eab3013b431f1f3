"""The edge that serves a mesh over MQTT: its connection, subscriptions and messages."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import NoReturn

from meshwright.core.clock import Backoff
from meshwright.core.events import Event
from meshwright.edges.broker.connection import (
    ELSEWHERE,
    BrokerAway,
    BrokerConnection,
    BrokerOverrun,
    BrokerRefuses,
)
from meshwright.edges.broker.dialer import BrokerDialer
from meshwright.edges.broker.limits import broker_limits
from meshwright.edges.broker.probe import SESSION_SECONDS, make_trial, probe_broker
from meshwright.edges.broker.topics import Topics
from meshwright.edges.broker.trial import TrialFailed
from meshwright.edges.event_types import BrokerSessionLost, EdgeConnected, EdgeDisconnected, EdgeLimited
from meshwright.edges.mqtt.commands import Commands
from meshwright.edges.mqtt.outgoing_messages import (
    Notices,
    OutcomeSender,
    RetainedInbox,
    RetainedPresence,
    Views,
    will,
)
from meshwright.edges.mqtt.redeliveries import Redeliveries
from meshwright.edges.mqtt.settings import MqttSettings
from meshwright.edges.replies.courier import Courier
from meshwright.edges.tls import CHECK_SECONDS, BrokerTls
from meshwright.mesh.mesh import Mesh

_logger = logging.getLogger("meshwright.edges.mqtt")

_FIRST_TRY_SECONDS = 2.0  # that a start waits, so that a ready mesh is at its broker where there is one

_CUT_OFF_TIMES = 3  # in a row, soon after the broker let us in: that is no accident

_STEADY_SECONDS = 5.0  # that a connection has to stand to count as a success

_LEAVE_SECONDS = 2.0  # that each step of a stop may take

_TRY_AGAIN_SECONDS = 15.0  # after a trial of the broker that failed, at first


class _CertificatesChanged(BrokerAway):
    """The connection was made with certificates that others have replaced."""


class MqttEdge:
    """Makes any MQTT client of a broker a caller of the mesh. Make it after the courier, before the start."""

    def __init__(self, mesh: Mesh) -> None:
        settings, config = mesh.settings, mesh.settings[MqttSettings]
        assert config.url is not None
        topics = self._topics = Topics(config.prefix, config.reply_prefix)
        self._url = config.url
        is_tls = self._url.startswith("mqtts:")
        self._tls = BrokerTls(settings, mesh.project, mesh.tell) if is_tls else None
        self._dialer = BrokerDialer(config, self._tls, settings.max_payload_bytes)
        self._client_id = topics.client_id("edge")  # always the same, so that our session goes on
        self._tell = mesh.tell
        self._notices = Notices(mesh.tell)
        self._views = Views(topics, self._notices, mesh.events if settings[MqttSettings].clients else None)
        self._outcomes = OutcomeSender(topics, self._notices)
        mesh.get(Courier).register(self._outcomes, everywhere=True)
        self._redeliveries = Redeliveries(mesh, self._client_id, self._url)
        self._commands = Commands(mesh, topics, self._notices, self._redeliveries)
        self._presence = RetainedPresence(mesh, topics, self._notices)
        self._inbox = RetainedInbox(mesh, topics, self._notices)
        self._away = Backoff(0.25, 30.0)
        self._refused = Backoff(4.0, 60.0)  # of a broker that has to be set up otherwise first
        self._subscribed = False
        self._granted_qos = 1
        self._was_away = False
        self._unresumed = 0  # connections in a row that were cut off before the broker answered anything
        self._is_tried = False
        self._limits: list[str] = []
        self._reported = ""
        self._let_in = False
        self._cut_off = 0
        self._first_try = asyncio.Event()
        self._is_connected = False
        self._running: asyncio.Task[None] | None = None
        mesh.runtime.listen("#", self._note)

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
        if self._is_connected:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._views.idle.wait(), _LEAVE_SECONDS)
        running.cancel()
        await asyncio.wait([running])
        self._notices.close()

    async def check(self) -> str:
        """Log in beside a mesh that may run, try the broker, and leave. Raises BrokerAway or TrialFailed."""
        return (await probe_broker(self._dialer, self._client_id, self._topics)).sentence

    def _note(self, event: Event) -> None:
        self._views.add(event)
        self._presence.note(event)
        self._inbox.note(event)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._connect()
            except _CertificatesChanged:
                continue
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
        ours = isinstance(error, BrokerOverrun) or not was_let_in or self._unresumed > 0
        self._cut_off = 0 if ours or lived_seconds >= _STEADY_SECONDS else self._cut_off + 1
        if self._cut_off < _CUT_OFF_TIMES:
            return error
        return BrokerRefuses(
            "the broker keeps disconnecting us; another mesh may use the same client id", remedy=ELSEWHERE
        )

    async def _connect(self) -> NoReturn:
        """Serve one connection from its beginning to its end. Raises BrokerAway."""
        is_new = self._unresumed >= _CUT_OFF_TIMES
        began = asyncio.get_running_loop().time()
        try:
            connection = await self._dialer.open(
                self._client_id,
                self._commands.take,
                SESSION_SECONDS,
                clean_start=is_new,
                will=will(self._topics),
            )
        except BrokerAway:
            self._was_away = True
            raise
        self._let_in = True
        try:
            is_lost = await self._redeliveries.resume(connection, was_away=self._was_away)
            self._was_away = False
            connection.receive()
            await connection.answered()
            if is_lost:
                self._report_lost(is_new=is_new)
            await self._subscribe(connection)
            self._report_connected(connection)
            await self._serve(connection)
        except BrokerAway as error:
            self._count_unresumed(connection, error, asyncio.get_running_loop().time() - began)
            raise
        except asyncio.CancelledError:
            await self._leave(connection)
            raise
        except _CertificatesChanged:  # the session at the broker goes on, with what is sent to it meanwhile
            await self._commands.finished(_LEAVE_SECONDS)
            await connection.close()
            raise
        finally:
            self._is_connected = False
            connection.abort("it is of no more use")
            self._redeliveries.end()
            await self._commands.finished(_LEAVE_SECONDS)
            self._commands.abandon()

    async def _subscribe(self, connection: BrokerConnection) -> None:
        """Ask for the topics of clients, unless the broker still has our subscriptions."""
        if connection.session_present and self._subscribed:
            return
        self._subscribed = False
        if self._redeliveries.is_older_session:  # it listens to what the mesh itself publishes too
            await connection.unsubscribe(self._topics.everything)
        self._granted_qos = await connection.subscribe(self._topics.commands)
        self._subscribed = True

    def _count_unresumed(self, connection: BrokerConnection, error: BrokerAway, lived_seconds: float) -> None:
        """Count the connections on which the broker did nothing but close the session that it has."""
        is_unresumed = connection.session_present and not connection.is_answered
        is_ours = isinstance(error, BrokerRefuses) or lived_seconds >= _STEADY_SECONDS
        self._unresumed = self._unresumed + 1 if is_unresumed and not is_ours else 0

    async def _serve(self, connection: BrokerConnection) -> NoReturn:
        """Keep a connection busy until it ends. Raises BrokerAway."""
        self._outcomes.use(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._views.show(connection))
                group.create_task(self._presence.show(connection))
                group.create_task(self._inbox.show(connection))
                group.create_task(self._try_broker(connection))
                if self._tls is not None:
                    group.create_task(self._watch_certificates(self._tls, connection))
                raise await connection.ended()
        except ExceptionGroup as failures:
            _, defects = failures.split(BrokerAway)
            if defects is not None:
                raise defects from None
            if not connection.is_over:
                raise _CertificatesChanged("its certificates are others now") from None
            raise await connection.ended() from None

    async def _watch_certificates(self, tls: BrokerTls, connection: BrokerConnection) -> NoReturn:
        """Look at the files while a connection stands. Raises _CertificatesChanged, or BrokerAway."""
        while True:
            await connection.sleep(CHECK_SECONDS)
            if tls.reload():
                raise _CertificatesChanged("its certificates are others now")

    async def _leave(self, connection: BrokerConnection) -> None:
        await self._commands.finished(_LEAVE_SECONDS)
        with suppress(TimeoutError, BrokerAway):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._presence.leave(connection)
                await connection.close()

    async def _try_broker(self, connection: BrokerConnection) -> None:
        """Find out how the broker delivers again, once in a process. Raises BrokerAway at the end."""
        self._report_limits(connection)
        backoff = Backoff(_TRY_AGAIN_SECONDS, SESSION_SECONDS)
        while not self._is_tried:
            try:
                traits = await make_trial(self._dialer, self._client_id, self._topics).run()
            except (BrokerAway, TrialFailed) as error:
                if backoff.failures:  # the first may be an accident
                    self._report_limits(connection, error.message)
                await connection.sleep(backoff.next())
            else:
                self._is_tried = True
                await self._redeliveries.learn(traits)
                self._report_limits(connection)

    def _report_limits(self, connection: BrokerConnection, problem: str = "") -> None:
        """Report what the broker lacks, where that has changed."""
        traits, prefix = self._redeliveries.traits, self._topics.prefix
        limits = broker_limits(connection, self._granted_qos, traits, SESSION_SECONDS, prefix, problem)
        if limits != self._limits:
            for limit in limits:
                _logger.warning("%s: %s", self._url, limit)
            self._limits = limits
            self._tell(EdgeLimited(broker=self._url, limits=limits))

    def _report_lost(self, *, is_new: bool) -> None:
        """Report that the messages are gone that the broker had acknowledged and not yet delivered."""
        reason = (
            f"it cut our session off {_CUT_OFF_TIMES} times without a word, so the mesh has begun a new one"
            if is_new
            else "it has our session no more"
        )
        reason += "; messages that it had acknowledged and not yet delivered to the mesh are lost"
        _logger.warning("%s: %s", self._url, reason)
        self._tell(BrokerSessionLost(broker=self._url, reason=reason))

    def _report_connected(self, connection: BrokerConnection) -> None:
        self._is_connected = True
        self._first_try.set()
        if self._reported:
            _logger.warning("%s: connected again", self._url)
            self._reported = ""
        self._tell(EdgeConnected(broker=self._url, session_present=connection.session_present))

    def _report_away(self, error: BrokerAway) -> None:
        """Report it once, and again only where the remedy is another."""
        if not self._reported or (isinstance(error, BrokerRefuses) and str(error) != self._reported):
            _logger.warning("%s: %s; trying on", self._url, error)
            self._tell(EdgeDisconnected(broker=self._url, reason=str(error)))
            self._reported = str(error)
