"""TLS of the API: its certificate is read again when the files change, and connections go on meanwhile."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from meshwright.core.errors import ConfigError

RELOADED, REJECTED = "certificate.reloaded", "certificate.rejected"
_CHECK_SECONDS = 2.0
_Tell = Callable[[str, dict[str, Any]], object]


class Certificate:
    """A certificate and its key, and the `context` of a server that has them. Raises ConfigError.

    Each new connection gets the newest pair that could be read, and never half of one.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._files = cert, key
        self._seen = self._stamps()
        try:
            self.context = self._newest = self._loaded()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(
                f"{cert} and {key} cannot be used for TLS: {_reason(error)}",
                remedy="name PEM files of a certificate and of its key without a password",
                field="tls_cert",
            ) from None
        self.context.sni_callback = self._use_newest

    def reload(self) -> str | None:
        """Read the files again if they have changed; returns the event that says the result.

        Files that cannot be used, as when one of the two is still old, change nothing.
        """
        stamps = self._stamps()
        if stamps == self._seen:
            return None
        self._seen = stamps
        try:
            self._newest = self._loaded()
        except (OSError, ValueError) as error:
            self.problem = _reason(error)
            return REJECTED
        return RELOADED

    @asynccontextmanager
    async def reloading(self, tell: _Tell, pause: float = _CHECK_SECONDS) -> AsyncIterator[None]:
        """Look at the files now and then within a block, and report the result of a change."""

        async def look() -> None:
            while True:
                await asyncio.sleep(pause)
                event = await asyncio.to_thread(self.reload)
                if event is not None:
                    known = {"error": self.problem} if event == REJECTED else {}
                    tell(event, {"path": str(self._files[0]), **known})

        task = asyncio.create_task(look(), name="tls certificate")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _loaded(self) -> ssl.SSLContext:
        cert, key = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # TLS 1.2 or newer
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(cert, key, password="")  # with a password it would ask at the terminal
        return context

    def _use_newest(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called by ssl for each handshake, whether its client names a server or not."""
        connection.context = self._newest

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stamp, self._files))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
