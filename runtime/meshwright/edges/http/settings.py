"""[http] and [watchdog]: the API, and the process that serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from meshwright.core.settings.forms import HostAndPort, Table


class HttpSettings(Table):
    """[http]: where the API listens, and for whom."""

    host: str = "127.0.0.1"
    """Off loopback it needs keys, and TLS or `behind_tls`; or `insecure`."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """Port; 0 takes any free one."""
    allowed_hosts: tuple[HostAndPort, ...] = ()
    """Further names under which clients may call the API; with the port, unless it is 443 or 80."""
    behind_tls: bool = False
    """TLS ends at a proxy: the API may listen off loopback, and requires keys."""
    insecure: bool = False
    """Listen off loopback without TLS or keys: everybody may use it."""
    tls_cert: Path | None = None
    """PEM file of the certificate chain; read again when it changes."""
    tls_key: Path | None = None
    """PEM file of its key, without a password."""
    plain_port: int | None = Field(default=None, ge=1, le=65_535)
    """Port of 127.0.0.1 without TLS, for a sidecar or a probe."""
    max_streams: int = Field(default=20, ge=1, le=100_000)
    """Event streams and WebSockets of one caller, at each front."""

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both, or none")
        if self.behind_tls and self.insecure:
            raise ValueError(
                "behind_tls (--behind-tls) requires keys and insecure (--insecure) does not: set one of them"
            )
        return self

    def check_others(self, settings: Any) -> None:
        """Behind a proxy everybody looks local, so that keys cannot be left out."""
        if self.behind_tls and settings.table("keys").required is False:
            raise ValueError("keys.required = false does not go with http.behind_tls, which requires keys")


class WatchdogSettings(Table):
    """[watchdog]: what happens when code holds the event loop, or the API is silent."""

    held_seconds: float = Field(default=5.0, ge=0.1)
    """Seconds that code may hold the event loop until a warning says where."""
    restart_seconds: float = Field(default=30.0, ge=0)
    """Seconds of a held loop or a silent API until the process starts again; 0: never."""
