"""TLS of the API and of the broker: certificates are read again when their files change."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from meshwright.core.errors import ConfigError
from meshwright.core.settings import Settings
from meshwright.edges.mqtt.settings import MqttSettings
from meshwright.engine.events.event_types import CertificateRejected, CertificateReloaded

CHECK_SECONDS = 2.0
"""The pause between two looks at files."""
_Result = CertificateReloaded | CertificateRejected
_Tell = Callable[[_Result], object]


class _Files:
    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self._seen = self._stamps()

    def have_changed(self) -> bool:
        before, self._seen = self._seen, self._stamps()
        return before != self._seen

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [*map(_stamp, self.paths)]


class Certificate:
    """A certificate and its key, and the `context` of a server that has them. Raises ConfigError.

    Each new connection gets the newest pair that could be read, and never half of one.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._files = _Files(cert, key)
        try:
            self.context = self._newest = self._loaded()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(
                f"{cert} and {key} cannot be used for TLS: {_reason(error)}",
                remedy="name PEM files of a certificate and of its key without a password",
                field="tls_cert",
            ) from None
        self.context.sni_callback = self._use_newest

    def reload(self) -> _Result | None:
        """Read the files again if they have changed; returns the event that says the result.

        Files that cannot be used, as when one of the two is still old, change nothing.
        """
        if not self._files.have_changed():
            return None
        try:
            self._newest = self._loaded()
        except (OSError, ValueError) as error:
            return CertificateRejected(path=str(self._files.paths[0]), error=_reason(error))
        return CertificateReloaded(path=str(self._files.paths[0]))

    @asynccontextmanager
    async def reloading(self, tell: _Tell, pause: float = CHECK_SECONDS) -> AsyncIterator[None]:
        """Look at the files now and then within a block, and report the result of a change."""

        async def look() -> None:
            while True:
                await asyncio.sleep(pause)
                result = await asyncio.to_thread(self.reload)
                if result is not None:
                    tell(result)

        task = asyncio.create_task(look(), name="tls certificate")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _loaded(self) -> ssl.SSLContext:
        cert, key = self._files.paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # TLS 1.2 or newer
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(cert, key, password="")  # with a password it would ask at the terminal
        return context

    def _use_newest(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called by ssl for each handshake, whether its client names a server or not."""
        connection.context = self._newest


class BrokerTls:
    """The context for connections to a broker. Raises ConfigError for files that cannot be used."""

    def __init__(self, settings: Settings, project: Path, tell: _Tell) -> None:
        mqtt = settings[MqttSettings]
        paths = {"ca_file": mqtt.ca_file, "cert_file": mqtt.cert_file, "key_file": mqtt.key_file}
        self._named = {name: project / path for name, path in paths.items() if path is not None}
        self._files = _Files(*self._named.values())
        self._tell = tell
        self.context = self._made()

    def reload(self) -> bool:
        """Read the files if they have changed, and return whether `context` is another.

        Files that cannot be used, as when one of two is still old, change nothing and are reported.
        """
        if not self._files.have_changed():
            return False
        path = ", ".join(map(str, self._files.paths))
        try:
            self.context = self._made()
        except ConfigError as error:
            self._tell(CertificateRejected(path=path, error=str(error)))
            return False
        self._tell(CertificateReloaded(path=path))
        return True

    def _made(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._named.get("ca_file"))
        except (OSError, ValueError) as error:
            raise self._unusable("ca_file", error, "the authority's certificate") from error
        context.sslsocket_class = _TlsSocket
        if "cert_file" in self._named:
            try:  # with a password it would ask at the terminal
                context.load_cert_chain(self._named["cert_file"], self._named["key_file"], password="")
            except (OSError, ValueError) as error:
                holds = "the mesh's certificate, and one of its key without a password as key_file"
                raise self._unusable("cert_file", error, holds) from error
        return context

    def _unusable(self, name: str, error: Exception, holds: str) -> ConfigError:
        return ConfigError(
            f"mqtt.{name} cannot be used: {_reason(error)}",
            path=str(self._named[name]),
            remedy=f"Name a PEM file that holds {holds}",
            field=f"mqtt_{name}",
        )


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
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
