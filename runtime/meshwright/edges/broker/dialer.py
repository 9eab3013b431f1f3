"""Opens connections to the broker of the settings, with its user, its password and its certificates."""

from __future__ import annotations

import asyncio
import ssl
import threading
from urllib.parse import urlsplit

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from meshwright.edges.broker.connection import (
    BrokerAway,
    BrokerConnection,
    BrokerRefuses,
    LenientClient,
    Publication,
    Take,
)
from meshwright.edges.mqtt.settings import MqttSettings
from meshwright.edges.tls import BrokerTls

PORTS = {"mqtt": 1883, "mqtts": 8883}
"""The port of a broker whose URL names none."""
_KEEPALIVE_SECONDS = 30
_DIAL_SECONDS = 5.0  # for TCP and TLS
_WILL_SECONDS = 1  # Artemis sends a will without a delay no sooner than the session expires, a day later

# That the broker is asked to send at a time; some send more. This is mochi's largest window: behind a full
# one it delivers out of order, and stops for good once it has sent as many again.
_MAX_UNACKNOWLEDGED = 1024
_HEADROOM = 4  # a message up to so many times its limit is read, so that its sender gets an error


class BrokerDialer:
    """Opens connections to one broker."""

    def __init__(self, config: MqttSettings, tls: BrokerTls | None, max_payload_bytes: int) -> None:
        """`tls` is for a broker at mqtts://."""
        assert config.url is not None
        self.url = config.url
        self._config, self._tls, self._max_payload_bytes = config, tls, max_payload_bytes

    async def open(
        self,
        client_id: str,
        take: Take,
        session_seconds: int,
        *,
        clean_start: bool = False,
        will: Publication | None = None,
    ) -> BrokerConnection:
        """Connect; the session of the last time goes on unless it is a `clean_start`.

        Raises BrokerAway, or BrokerRefuses.
        """
        client = self._client(client_id)
        if will is not None:
            properties = Properties(PacketTypes.WILLMESSAGE)
            properties.WillDelayInterval = _WILL_SECONDS
            client.will_set(will.topic, will.payload, will.qos, will.retain, properties)
        try:
            await self._dial(client, session_seconds, clean_start=clean_start)
            connection = BrokerConnection(client, take, session_seconds)
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

    def _client(self, client_id: str) -> LenientClient:
        client = LenientClient(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _DIAL_SECONDS
        client.max_inflight_messages = 0  # no limit of paho's: the connection has its own
        password = self._config.password
        client.username_pw_set(self._config.username, password.get_secret_value() if password else None)
        if self._tls is not None:
            self._tls.reload()
            client.tls_set_context(self._tls.context)
        return client

    async def _dial(self, client: Client, session_seconds: int, *, clean_start: bool) -> None:
        """Connect in a thread of its own, so that a stop does not wait for a name that is not found."""
        address = urlsplit(self.url)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = session_seconds
        properties.ReceiveMaximum = _MAX_UNACKNOWLEDGED
        properties.MaximumPacketSize = _HEADROOM * self._max_payload_bytes
        loop = asyncio.get_running_loop()
        dialled: asyncio.Future[None] = loop.create_future()

        def settle(error: Exception | None) -> None:
            if dialled.done():  # the caller has left: the broker sends our will
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
                    address.port or PORTS[address.scheme],
                    _KEEPALIVE_SECONDS,
                    clean_start=clean_start,
                    properties=properties,
                )
            except Exception as error:  # noqa: BLE001 whatever it was, it is raised where it is waited for
                failure = error
            try:
                loop.call_soon_threadsafe(settle, failure)
            except RuntimeError:  # the loop is closed: no caller is left
                if sock := client.socket():
                    sock.close()

        threading.Thread(target=dial, name="mqtt-dial", daemon=True).start()
        await dialled
