"""[http] and [watchdog]: the API, and the process that serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from meshwright.settings.forms import HostName, Table


class HttpSettings(Table):
    """[http]: where the API listens, and for whom."""

    host: str = "127.0.0.1"
    """Address that the HTTP API listens on. Off loopback it needs keys, and TLS of its own or
    `behind_tls`; or `insecure`."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """Port of the HTTP API; 0 takes any free one."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Host names under which clients may call the API, such as that of a proxy in front of it. Off loopback
    IP addresses and this machine's own name are allowed too."""
    behind_tls: bool = False
    """Whether TLS ends before the mesh, at an ingress or a proxy. The API may then listen off loopback
    without TLS of its own, and keys are required, whether one was created or not."""
    insecure: bool = False
    """Whether the API may listen off loopback without TLS, or although it requires no keys: everybody may
    use it then."""
    tls_cert: Path | None = None
    """PEM file of the API's certificate, with those between it and the authority. With `tls_key` the API
    speaks HTTPS. Both are read again within seconds when they change."""
    tls_key: Path | None = None
    """PEM file of its private key, without a password."""
    plain_port: int | None = Field(default=None, ge=1, le=65_535)
    """Port of 127.0.0.1 that answers without TLS, for a sidecar or a probe on this machine, where the API has
    TLS."""
    max_streams: int = Field(default=20, ge=1, le=100_000)
    """Event streams and WebSockets that one caller may have open at a time; `max_streams` of [tenants] is for
    all callers of a tenant. Callers of all tenants have no limit."""

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
        if self.behind_tls and settings.keys.required is False:
            raise ValueError("keys.required = false does not go with http.behind_tls, which requires keys")


class WatchdogSettings(Table):
    """[watchdog]: what happens when code holds the event loop."""

    held_seconds: float = Field(default=5.0, ge=0.1)
    """How long code may hold the event loop of a process, until a warning says where."""
    restart_seconds: float = Field(default=30.0, ge=0)
    """How long until the process is started again; 0 never does, as for a debugger."""
