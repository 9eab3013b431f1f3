"""The edge as a part of the mesh: it keeps a connection to the broker, and all that lives on it."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from contextlib import suppress
from typing import NoReturn
from urllib.parse import urlsplit

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from meshwright.core.clock import Backoff
from meshwright.core.errors import ConfigError
from meshwright.core.messages import Event
from meshwright.edges.auth import Authenticator, KeyAuthenticator
from meshwright.edges.mqtt.commands import Commands
from meshwright.edges.mqtt.connection import (
    ELSEWHERE,
    BrokerAway,
    BrokerConnection,
    BrokerOverrun,
    BrokerRefuses,
)
from meshwright.edges.mqtt.outgoing import (
    Notices,
    OutcomeSender,
    RetainedInbox,
    RetainedPresence,
    Topics,
    Views,
    will,
)
from meshwright.edges.replies import Courier
from meshwright.mesh import Mesh

_logger = logging.getLogger("meshwright.edges.mqtt")
_FIRST_TRY_SECONDS = 2.0  # that a start waits, so that a ready mesh is at its broker where there is one
_CUT_OFF_TIMES = 3  # in a row, soon after the broker let us in: that is no accident
_STEADY_SECONDS = 5.0  # that a connection has to stand to count as a success
_LEAVE_SECONDS = 2.0  # that each step of a stop may take
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_KEEPALIVE_SECONDS = 30
_DIAL_SECONDS = 5.0  # for TCP and TLS
_SESSION_SECONDS = 86_400  # that the broker keeps our subscription, and what is sent to it, while we are away
_MAX_UNACKNOWLEDGED = 64  # that the broker is asked to send at a time; some send more
_HEADROOM = 4  # a message up to so many times its limit is read, so that its sender is told of it


class MqttEdge:
    """Makes any MQTT client of a broker a caller of the mesh. Make it after the courier, before the start."""

    def __init__(self, mesh: Mesh, authenticator: Authenticator | None = None) -> None:
        settings = mesh.settings
        assert settings.mqtt.url is not None
        topics = self._topics = Topics(settings.mqtt.prefix, settings.mqtt.reply_prefix)
        self._settings = settings
        self._url = settings.mqtt.url
        self._tls = _tls(mesh) if self._url.startswith("mqtts:") else None
        self._client_id = f"{settings.mqtt.prefix}-edge"  # always the same, so that our session goes on
        self._tell = mesh.tell
        self._notices = Notices(mesh.tell)
        self._views = Views(topics, self._notices)
        self._outcomes = OutcomeSender(topics, self._notices)
        mesh.component(Courier).register(self._outcomes)
        authenticator = authenticator or KeyAuthenticator(mesh.keys, settings)
        self._commands = Commands(mesh, topics, self._notices, self._client_id, authenticator)
        self._presence = RetainedPresence(mesh, topics, self._notices)
        self._inbox = RetainedInbox(mesh, topics, self._notices)
        self._away = Backoff(0.25, 30.0)
        self._refused = Backoff(4.0, 60.0)  # of a broker that has to be set up otherwise first
        self._subscribed = False
        self._reported = ""
        self._let_in = False
        self._cut_off = 0
        self._first_try = asyncio.Event()
        self._is_connected = False
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
        if self._is_connected:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._views.idle.wait(), _LEAVE_SECONDS)
        running.cancel()
        await asyncio.wait([running])
        self._notices.close()

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
        connection = await self._open()
        try:
            # What clients publish, unless the broker still has that.
            if not (connection.session_present and self._subscribed):
                self._subscribed = False
                await connection.subscribe(self._topics.everything)
                self._subscribed = True
            self._report_connected(connection)
            await self._serve(connection)
        except asyncio.CancelledError:
            await self._leave(connection)
            raise
        finally:
            self._is_connected = False
            connection.abort("it is of no more use")
            await self._commands.finished(_LEAVE_SECONDS)
            self._commands.abandon()

    async def _serve(self, connection: BrokerConnection) -> NoReturn:
        """Keep a connection busy until it ends. Raises BrokerAway."""
        self._outcomes.use(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._views.show(connection))
                group.create_task(self._presence.show(connection))
                group.create_task(self._inbox.show(connection))
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
        self._is_connected = self._let_in = True
        self._first_try.set()
        if self._reported:
            _logger.warning("%s: connected again", self._url)
            self._reported = ""
        known = {"broker": self._url, "session_present": connection.session_present}
        self._tell("edge.connected", known)

    def _report_away(self, error: BrokerAway) -> None:
        """Report it once, and again only where the remedy is another."""
        if not self._reported or (isinstance(error, BrokerRefuses) and str(error) != self._reported):
            _logger.warning("%s: %s; trying on", self._url, error)
            self._tell("edge.disconnected", {"broker": self._url, "reason": str(error)})
            self._reported = str(error)

    # Connections

    async def _open(self) -> BrokerConnection:
        """Connect; the session of the last time goes on. Raises BrokerAway, or BrokerRefuses."""
        client = self._client()
        try:
            await self._dial(client)
            connection = BrokerConnection(client, self._commands.take)
            await connection.start()
        except ssl.SSLCertVerificationError as error:
            remedy = "Set mqtt.ca_file to the authority that signed it, and name the broker as it does"
            raise BrokerRefuses(
                f"its certificate is not trusted: {error.verify_message}", remedy=remedy
            ) from error
        except (OSError, ValueError) as error:  # paho makes a ValueError of some broken answers
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise BrokerAway(f"cannot be reached: {reason}") from error
        return connection

    def _client(self) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _DIAL_SECONDS
        client.max_inflight_messages = 0  # no limit of paho's: the connection has its own
        password = self._settings.mqtt.password
        client.username_pw_set(
            self._settings.mqtt.username, password.get_secret_value() if password else None
        )
        if self._tls is not None:
            client.tls_set_context(self._tls)
        last = will(self._topics)
        client.will_set(last.topic, last.payload, last.qos, last.retain)
        return client

    async def _dial(self, client: Client) -> None:
        """Connect in a thread of its own: nobody has to wait at the end for a name that is not found."""
        address = urlsplit(self._url)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = _SESSION_SECONDS
        properties.ReceiveMaximum = _MAX_UNACKNOWLEDGED
        properties.MaximumPacketSize = _HEADROOM * self._settings.max_payload_bytes
        loop = asyncio.get_running_loop()
        dialled: asyncio.Future[None] = loop.create_future()

        def settle(error: Exception | None) -> None:
            if dialled.done():  # nobody waits any more: the broker sends our will
                if sock := client.socket():
                    sock.close()
            elif error is not None:
                dialled.set_exception(error)
            else:
                dialled.set_result(None)

        def dial() -> None:
            failure: Exception | None = None
            try:
                client.connect(
                    address.hostname or "",
                    address.port or _PORTS[address.scheme],
                    _KEEPALIVE_SECONDS,
                    clean_start=False,
                    properties=properties,
                )
            except Exception as error:  # noqa: BLE001 whatever it was, it is raised where it is waited for
                failure = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, failure)

        threading.Thread(target=dial, name="mqtt-dial", daemon=True).start()
        await dialled


class _TlsSocket(ssl.SSLSocket):
    """A socket that is closed where its handshake fails; paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _tls(mesh: Mesh) -> ssl.SSLContext:
    ca_file = mesh.settings.mqtt.ca_file
    path = mesh.project / ca_file if ca_file else None
    try:
        context = ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ConfigError(
            f"mqtt.ca_file cannot be used: {error.strerror or error}",
            path=str(path),
            remedy="Name a PEM file that holds the authority's certificate",
            field="mqtt_ca_file",
        ) from error
    context.sslsocket_class = _TlsSocket
    return context
