"""A paho client's socket on the event loop: read and written when it is ready, and not read when told so."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client

logger = logging.getLogger("meshwright.edge.mqtt")
TICK_SECONDS = 1.0  # between looks at whether it is time to ping


class LoopSocket:
    """Lets paho do its work when there is some. What paho cannot do is told to `on_broken`, once at most."""

    def __init__(self, client: Client, on_broken: Callable[[str], None]) -> None:
        sock = client.socket()
        assert isinstance(sock, socket.socket)
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._sock = sock
        self._on_broken = on_broken
        self._tick: asyncio.TimerHandle | None = None
        self._written = asyncio.Event()
        self._written.set()
        self.is_reading = False

    def open(self) -> None:
        """Take the connected socket over, and begin to read."""
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client.on_socket_close = self._on_close
        self._client.on_socket_register_write = self._on_more_to_write
        self._client.on_socket_unregister_write = self._on_written
        self._look()
        self.read()
        self.flush()

    def close(self) -> None:
        """Close it. Idempotent."""
        if self._tick is not None:
            self._tick.cancel()
        self._forget()
        self._sock.close()
        self._written.set()

    def read(self) -> None:
        """Begin to read, or go on."""
        self.is_reading = True
        self._loop.add_reader(self._sock, self._read)
        self._read_what_is_here()

    def pause(self) -> None:
        """Read no more: what comes stays with the system, and then with the broker."""
        self._loop.remove_reader(self._sock)
        self.is_reading = False

    def flush(self) -> None:
        """Write what can be written now."""
        self._guarded(self._client.loop_write)

    async def written(self) -> None:
        """Wait until all has been written, or it is closed."""
        await self._written.wait()

    def _read(self) -> None:
        if self.is_reading:
            self._guarded(self._client.loop_read)
            self._read_what_is_here()

    def _read_what_is_here(self) -> None:
        """See to what TLS has read already: for that the system will not call."""
        if self.is_reading and isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            self._loop.call_soon(self._read)

    def _look(self) -> None:
        self._tick = self._loop.call_later(TICK_SECONDS, self._look)
        self._guarded(self._client.loop_misc)

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:  # paho meets a broken packet with any kind of error, and then is broken
            logger.exception("an MQTT connection is broken off")
            self._on_broken(f"it sent what cannot be read: {error}")

    def _forget(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
        self.is_reading = False

    # What paho calls, with itself and what we gave it first

    def _on_close(self, *known: Any) -> None:
        self._forget()

    def _on_more_to_write(self, *known: Any) -> None:
        self._written.clear()
        self._loop.add_writer(self._sock, self.flush)

    def _on_written(self, *known: Any) -> None:
        self._written.set()
        if self._sock.fileno() >= 0:
            self._loop.remove_writer(self._sock)
