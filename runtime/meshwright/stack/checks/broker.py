"""Whether an MQTT broker keeps what it was given."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from meshwright.errors import ServiceFailed

CHECK_SECONDS = 5.0
KEEPS = {"persistence": "true", "autosave_interval": "1"}
"""What a Mosquitto needs to lose no more than a second's messages when it is killed."""


class Connected(NamedTuple):
    """What a broker said to a client. `refusal` is empty where it let the client in."""

    refusal: str
    session_kept: bool


def check_mosquitto(configuration: Path) -> Sequence[str]:
    """What of the file that our Mosquitto is run with breaks a promise, a line each."""
    lines = [line.split(None, 1) for line in configuration.read_text("utf-8").splitlines()]
    found = {words[0]: words[1].strip() for words in lines if len(words) == 2 and words[0] != "#"}
    return [
        f"{configuration}: {name} is {found.get(name, 'not set')}: messages that wait in the broker are lost "
        f"when it is killed, and their tasks wait until they are asked for again; set {name} {wanted}"
        for name, wanted in KEEPS.items()
        if found.get(name) != wanted
    ]


async def check_broker(url: str, *, client_id: str) -> Sequence[str]:
    """What of a broker that runs already may break a promise, a line each.

    Raises ServiceFailed where it does not answer, or refuses the user or a client id like ours.
    """
    where = urlsplit(url)
    address = f"{where.hostname}:{where.port or 1883}"
    await _connect(url, address, client_id, clean=False)
    kept = await _connect(url, address, client_id, clean=False)
    await _connect(url, address, client_id, clean=True)  # nothing of us stays behind
    if not kept.session_kept:
        return [
            f"the MQTT broker at {address} keeps no session: what is sent to a worker that is away is lost, "
            "and its task waits for the next look at it; let clients have sessions that are kept"
        ]
    return [
        f"whether the MQTT broker at {address} has its sessions on disk cannot be asked: see to it that they "
        "outlive its end (Mosquitto: persistence true, autosave_interval 1), or tasks wait when it is killed"
    ]


async def _connect(url: str, address: str, client_id: str, *, clean: bool) -> Connected:
    try:
        said = await asyncio.to_thread(_connect_once, url, client_id, clean)
    except (OSError, ValueError) as error:
        raise ServiceFailed(
            f"the MQTT broker at {address} does not answer: {error}",
            remedy="start it, or unset MESH_BROKER_URL: mesh up starts one then",
        ) from None
    if said.refusal:
        raise ServiceFailed(
            f"the MQTT broker at {address} refuses client {client_id}: {said.refusal}",
            remedy="give MESH_BROKER_URL a user, password and client ids that it allows",
        )
    return said


def _connect_once(url: str, client_id: str, clean: bool) -> Connected:
    """Connect and leave again. Raises OSError."""
    from paho.mqtt.client import Client, MQTTv311
    from paho.mqtt.enums import CallbackAPIVersion

    where = urlsplit(url)
    client = Client(CallbackAPIVersion.VERSION2, client_id, clean_session=clean, protocol=MQTTv311)
    if where.username:
        client.username_pw_set(unquote(where.username), unquote(where.password or ""))
    if where.scheme == "mqtts":
        client.tls_set()
    answered = threading.Event()
    said: list[Connected] = []

    def on_connect(client: Any, userdata: Any, flags: Any, code: Any, properties: Any) -> None:
        said.append(Connected(str(code) if code.is_failure else "", flags.session_present))
        answered.set()

    client.on_connect = on_connect
    client.connect(where.hostname or "", where.port or (8883 if where.scheme == "mqtts" else 1883))
    client.loop_start()
    try:
        if not answered.wait(CHECK_SECONDS):
            raise TimeoutError("no reply within 5 s")
    finally:
        client.disconnect()
        client.loop_stop()
    return said[0]
