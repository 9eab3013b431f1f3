"""TLS to the broker: authority and own certificate, read again when their files change."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshwright.core.errors import ConfigError
from meshwright.edges.mqtt.connection import BrokerAway, BrokerConnection
from meshwright.settings import Settings

_CHECK_SECONDS = 2.0
_RELOADED, _REJECTED = "certificate.reloaded", "certificate.rejected"
_Tell = Callable[[str, dict[str, Any]], object]


class CertificatesChanged(BrokerAway):
    """The connection was made with certificates that others have replaced."""


class BrokerTls:
    """The context for connections to a broker. Raises ConfigError for files that cannot be used."""

    def __init__(self, settings: Settings, project: Path, tell: _Tell) -> None:
        mqtt = settings.mqtt
        named = {"ca_file": mqtt.ca_file, "cert_file": mqtt.cert_file, "key_file": mqtt.key_file}
        self._files = {name: project / path for name, path in named.items() if path is not None}
        self._tell = tell
        self._stamps = self._now()
        self.context = self._made()

    def reload(self) -> bool:
        """Read the files if they have changed, and return whether `context` is another.

        Files that cannot be used, as when one of two is still old, change nothing and are reported.
        """
        stamps = self._now()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        path = ", ".join(map(str, self._files.values()))
        try:
            self.context = self._made()
        except ConfigError as error:
            self._tell(_REJECTED, {"path": path, "error": str(error)})
            return False
        self._tell(_RELOADED, {"path": path})
        return True

    async def watch(self, connection: BrokerConnection) -> None:
        """Look at the files while a connection stands. Raises CertificatesChanged, or BrokerAway."""
        while True:
            await connection.sleep(_CHECK_SECONDS)
            if self.reload():
                raise CertificatesChanged("its certificates are others now")

    def _made(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._files.get("ca_file"))
        except (OSError, ValueError) as error:
            raise self._unusable("ca_file", error, "the authority's certificate") from error
        context.sslsocket_class = _TlsSocket
        if "cert_file" in self._files:
            try:  # with a password it would ask at the terminal
                context.load_cert_chain(self._files["cert_file"], self._files["key_file"], password="")
            except (OSError, ValueError) as error:
                holds = "the mesh's certificate, and one of its key without a password as key_file"
                raise self._unusable("cert_file", error, holds) from error
        return context

    def _unusable(self, name: str, error: Exception, holds: str) -> ConfigError:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
        return ConfigError(
            f"mqtt.{name} cannot be used: {reason}",
            path=str(self._files[name]),
            remedy=f"Name a PEM file that holds {holds}",
            field=f"mqtt_{name}",
        )

    def _now(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stamp, self._files.values()))


class _TlsSocket(ssl.SSLSocket):
    """A socket that is closed where its handshake fails; paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
