"""The kick: makes daprd's MQTT component take what was queued while it was away.

It connects with its session before it subscribes, so what the broker sends at once meets no route, is
dropped, and holds its place. A second connection under the same client id ends the first one's, and when
daprd comes back its routes are there. Found in stock pubsub.mqtt3 of Dapr 1.18; harmless elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import time
from urllib.parse import unquote, urlsplit

from meshwright.errors import StoreUnavailable

logger = logging.getLogger("meshwright.dapr")

KICK_SECONDS = 0.2
CONNECT_SECONDS = 5.0
LOOP_SECONDS = 0.05


async def kick(broker_url: str, client_id: str) -> None:
    """Connect under a client id for a moment, its session kept. Raises StoreUnavailable."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS + KICK_SECONDS):
            await asyncio.to_thread(_connect_for_a_moment, broker_url, client_id)
    except (OSError, TimeoutError, ValueError) as error:
        raise StoreUnavailable(f"the MQTT broker does not let {client_id} in: {error}") from error


def _connect_for_a_moment(broker_url: str, client_id: str) -> None:
    from paho.mqtt.client import Client, MQTTv311
    from paho.mqtt.enums import CallbackAPIVersion

    url = urlsplit(broker_url)
    client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=False, protocol=MQTTv311)
    if url.username:
        client.username_pw_set(unquote(url.username), unquote(url.password or ""))
    if url.scheme in ("mqtts", "ssl", "tls"):
        client.tls_set()
    client.connect(url.hostname or "127.0.0.1", url.port or 1883, keepalive=5)
    try:
        until = time.monotonic() + CONNECT_SECONDS
        while not client.is_connected():
            client.loop(LOOP_SECONDS)
            if time.monotonic() > until:
                raise TimeoutError("no answer")
        time.sleep(KICK_SECONDS)
    finally:
        client.disconnect()
