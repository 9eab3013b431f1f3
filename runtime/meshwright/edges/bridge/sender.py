"""Publishes the events of the hook, in order, until none is left; one process for each folder at a time.

    python -m meshwright.edges.bridge.sender FOLDER

It reads `bridge.json` of the folder. While the broker is away it tries again with growing pauses, for a day.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from meshwright.edges.bridge.hook import LOCK, TABLE, UNPUBLISHED

STORE, SETTINGS = "events.db", "bridge.json"
_PREFIX = "claude/progress"
_MAX_PAUSE_SECONDS = 60.0
_LOOK_SECONDS = 0.5
_PATIENCE_SECONDS = 24 * 3600.0
_ANSWER_SECONDS = 10.0
_PAGE = 100
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_KEEP_SECONDS = 30 * 24 * 3600.0  # published events
_FORBIDDEN = re.compile(r"[+#/\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""The characters that no level of a topic may have; a broker ends the connection that sends them."""


class BrokerUnreachable(Exception):
    """The broker cannot be reached, or does not take an event."""


class BridgeSettings(NamedTuple):
    """The broker that events go to: `password` may be a reference, like env:NAME or file:/path."""

    url: str = ""
    username: str = ""
    password: str = ""
    ca_file: str = ""
    prefix: str = _PREFIX


def read_settings(folder: Path) -> BridgeSettings:
    """The settings of a folder; without a file there is no broker. Raises ValueError, OSError."""
    try:
        fields = json.loads((folder / SETTINGS).read_text())
    except FileNotFoundError:
        return BridgeSettings()
    return BridgeSettings(**{name: fields[name] for name in BridgeSettings._fields if name in fields})


def open_store(folder: Path) -> sqlite3.Connection:
    """The events of a folder. Raises sqlite3.Error."""
    connection = sqlite3.connect(folder / STORE, timeout=_ANSWER_SECONDS, isolation_level=None)
    connection.execute(TABLE)
    connection.execute(UNPUBLISHED)
    return connection


def send_all(folder: Path, *, patience: float = 0.0) -> tuple[int, int]:
    """Publish what is not published yet; returns how many events that were, and how many are left.

    Leaves them to another process that is at it, and publishes nothing where no broker is set. Waits up to
    `patience` seconds for a broker that is away, then raises BrokerUnreachable.
    """
    settings, ends, sent = read_settings(folder), time.monotonic() + patience, 0
    with (folder / LOCK).open("a") as lock, closing(open_store(folder)) as store:
        _prune(store)
        while settings.url and _waiting(store):  # also what came as another process let go of the lock
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                break
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            sent += _send_on(folder, store, settings, ends)
            fcntl.flock(lock, fcntl.LOCK_UN)
        return sent, len(_waiting(store))


def hurry(folder: Path, seconds: float) -> int:
    """Have the process that waits for the broker try now; returns how many events are left after that."""
    ends = time.monotonic() + seconds
    with closing(open_store(folder)) as store:
        while (waiting := len(_waiting(store))) and time.monotonic() < ends:
            os.utime(folder / LOCK)
            time.sleep(_LOOK_SECONDS)
    return waiting


def _pause(folder: Path, seconds: float) -> None:
    """Wait, but no longer than until another process is in a hurry."""
    ends, before = time.monotonic() + seconds, (folder / LOCK).stat().st_mtime_ns
    while (remaining := ends - time.monotonic()) > 0 and (folder / LOCK).stat().st_mtime_ns == before:
        time.sleep(min(_LOOK_SECONDS, remaining))


def _send_on(folder: Path, store: sqlite3.Connection, settings: BridgeSettings, ends: float) -> int:
    """Publish until nothing is left. Raises BrokerUnreachable where the broker is away until then."""
    sent, pause = 0, 1.0
    while rows := _waiting(store):
        try:
            sent += _publish(store, settings, rows)
            pause = 1.0
        except BrokerUnreachable:
            if time.monotonic() + pause > ends:
                raise
            _pause(folder, pause)
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)
    return sent


def _waiting(store: sqlite3.Connection) -> list[tuple[int, str]]:
    query = "SELECT seq, document FROM claude_events WHERE published_at IS NULL ORDER BY time, seq LIMIT ?"
    return store.execute(query, (_PAGE,)).fetchall()


def _publish(store: sqlite3.Connection, settings: BridgeSettings, rows: Sequence[tuple[int, str]]) -> int:
    """Publish events at QoS 1; each is done once the broker has it. Raises BrokerUnreachable."""
    from paho.mqtt.client import Client, MQTTv5
    from paho.mqtt.enums import CallbackAPIVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    address = urlsplit(settings.url)
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    if address.scheme == "mqtts":
        client.tls_set_context(ssl.create_default_context(cafile=settings.ca_file or None))
    if settings.username:
        client.username_pw_set(settings.username, _password(settings.password))
    refused: list[str] = []
    client.on_connect = lambda _client, _data, _flags, reason, _properties: (
        refused.append(str(reason)) if reason.is_failure else None
    )
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "application/json"
    sent = 0
    try:
        client.connect(address.hostname or "127.0.0.1", address.port or _PORTS[address.scheme])
        client.loop_start()
        for seq, document in rows:
            topic = bridge_topic(settings.prefix, json.loads(document))
            message = client.publish(topic, document, qos=1, properties=properties)
            message.wait_for_publish(_ANSWER_SECONDS)
            if refused or not message.is_published():
                raise BrokerUnreachable(refused[0] if refused else f"{settings.url} does not answer")
            store.execute("UPDATE claude_events SET published_at = ? WHERE seq = ?", (time.time(), seq))
            sent += 1
    except (OSError, ValueError, RuntimeError) as error:
        raise BrokerUnreachable(f"{settings.url}: {error}") from None
    finally:
        client.disconnect()
        client.loop_stop()
    return sent


def bridge_topic(prefix: str, document: Mapping[str, Any]) -> str:
    """The topic of an event: `claude/progress/{job_id}/{event}`."""
    parts = (_FORBIDDEN.sub("_", str(document.get(name) or "unknown")[:128]) for name in ("job_id", "event"))
    return "/".join((prefix, *parts))


def _password(text: str) -> str:
    from meshwright.core.settings.forms import resolve

    return str(resolve(text))


def _prune(store: sqlite3.Connection) -> None:
    store.execute("DELETE FROM claude_events WHERE published_at < ?", (time.time() - _KEEP_SECONDS,))


def main() -> None:
    """Send what waits in the folder that is named."""
    os.umask(0o077)
    try:
        send_all(Path(sys.argv[1]), patience=_PATIENCE_SECONDS)
    except (BrokerUnreachable, OSError, ValueError, sqlite3.Error) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
