"""The broker: where it is, who we are there, and how a connection to it is opened."""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from meshwright.edges.mqtt.connection import BrokerConnection, Take
from meshwright.edges.mqtt.packets import BrokerAway, BrokerRefuses, Publication
from meshwright.errors import ConfigError
from meshwright.settings import Settings

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_KEEPALIVE_SECONDS = 30
_DIAL_SECONDS = 5.0  # for TCP and TLS
_SESSION_SECONDS = 86_400  # that the broker keeps our subscription, and what is sent to it, while we are away
_MAX_UNACKNOWLEDGED = 64  # that the broker is asked to send at a time; some send more
_HEADROOM = 4  # a message up to so many times its limit is read, so that its sender is told of it


@dataclass(frozen=True, slots=True)
class MqttBroker:
    """An address, and who we are there. `client_id` is always the same, so that our session goes on."""

    url: str
    client_id: str
    will: Publication
    max_payload_bytes: int
    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, settings: Settings, project: Path, will: Publication) -> MqttBroker:
        """The broker that the settings name. Raises ConfigError where the authority's file cannot be used."""
        assert settings.mqtt.url is not None
        password = settings.mqtt.password
        return cls(
            url=settings.mqtt.url,
            client_id=f"{settings.mqtt.prefix}-edge",
            will=will,
            max_payload_bytes=_HEADROOM * settings.max_payload_bytes,
            username=settings.mqtt.username,
            password=password.get_secret_value() if password else None,
            tls=_tls(settings, project) if settings.mqtt.url.startswith("mqtts:") else None,
        )

    async def open(self, take: Take) -> BrokerConnection:
        """Connect; the session of the last time goes on. Raises BrokerAway, or BrokerRefuses."""
        client = self._client()
        try:
            await self._dial(client)
            connection = BrokerConnection(client, take)
            await connection.start()
        except ssl.SSLCertVerificationError as error:
            remedy = "set mqtt.ca_file to the authority that signed it, and name the broker as it does"
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
            client_id=self.client_id,
            protocol=MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _DIAL_SECONDS
        client.max_inflight_messages = 0  # no limit of paho's: the connection has its own
        client.username_pw_set(self.username, self.password)
        if self.tls is not None:
            client.tls_set_context(self.tls)
        will = self.will
        client.will_set(will.topic, will.payload, will.qos, will.retain)
        return client

    async def _dial(self, client: Client) -> None:
        """Connect in a thread of its own: nobody has to wait at the end for a name that is not found."""
        address = urlsplit(self.url)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = _SESSION_SECONDS
        properties.ReceiveMaximum = _MAX_UNACKNOWLEDGED
        properties.MaximumPacketSize = self.max_payload_bytes
        loop = asyncio.get_running_loop()
        dialled: asyncio.Future[None] = loop.create_future()

        def settle(error: Exception | None) -> None:
            if dialled.done():
                _hang_up(client)
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
        """Agree on keys and certificates. Raises ssl.SSLError."""
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _hang_up(client: Client) -> None:
    """Close a client's socket without a word; the broker sends our will."""
    sock = client.socket()
    if sock is not None:
        sock.close()


def _tls(settings: Settings, project: Path) -> ssl.SSLContext:
    path = project / settings.mqtt.ca_file if settings.mqtt.ca_file else None
    try:
        context = ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ConfigError(
            f"mqtt.ca_file cannot be used: {error.strerror or error}",
            path=str(path),
            remedy="name a PEM file that holds the authority's certificate",
            field="mqtt_ca_file",
        ) from error
    context.sslsocket_class = _TlsSocket
    return context
