"""[http], [keys], [oidc], [secrets] and [audit]: who may call the mesh, and what it keeps of that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from meshwright.core.access import Role
from meshwright.core.messages import ID_PATTERN
from meshwright.settings.forms import HostName, Table
from meshwright.settings.references import Secret

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _is_issuer(url: str | None) -> str | None:
    parts = urlsplit(url or "https:")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError("expected an https URL, like https://login.example.com/realms/mesh")
    return url


class HttpSettings(Table):
    """[http]: where the API listens, and for whom."""

    host: str = "127.0.0.1"
    """Address that the HTTP API listens on. Off loopback keys must be required, or `insecure` be set."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """Port of the HTTP API; 0 takes any free one."""
    allowed_hosts: tuple[HostName, ...] = ()
    """Host names under which clients may call the API, such as that of a proxy in front of it. Off loopback
    IP addresses and this machine's own name are allowed too."""
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
    def _both_or_none(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both, or none")
        return self


class KeysSettings(Table):
    """[keys]: who may call."""

    required: bool | None = None
    """Whether each request needs a virtual key or the admin token. Unset: as soon as a key was created.
    `true` does not depend on stored data; `false` never."""
    admin_token: Secret | None = Field(default=None, min_length=32)
    """Secret of the mesh's administrator. Where unset `mesh up` makes one, in `admin.token` of data_dir."""


class OidcSettings(Table):
    """[oidc]: the issuer whose bearer tokens callers may show. Needs the extra `oidc`."""

    issuer: Annotated[str | None, AfterValidator(_is_issuer)] = None
    """URL of the issuer, as its tokens have it in `iss`: https, or http on this machine. Unset: no tokens."""
    audience: str = Field(default="", max_length=512)
    """What the tokens must have in `aud`: the id of this mesh at the issuer."""
    name_claim: str = Field(default="sub", min_length=1, max_length=256)
    """The claim that names the caller. Take one that users cannot choose themselves."""
    tenant_claim: str | None = Field(default=None, min_length=1, max_length=256)
    """The claim that names the tenant, like `org` or `resource.tenant`. Unset: all are of `tenant`."""
    tenant: str = Field(default="default", pattern=ID_PATTERN)
    """The tenant of all callers, where no claim names it."""
    roles_claim: str = Field(default="roles", min_length=1, max_length=256)
    """The claim that lists what maps to roles: a list or words, like `groups` or `realm_access.roles`."""
    roles: Mapping[str, tuple[Role, ...]] = {}
    """The roles that each value of that claim gives, like { "mesh-ops" = ["operator", "approver"] }."""
    default_roles: tuple[Role, ...] = ()
    """The roles of a caller whose token gives none. By default it may do nothing."""
    keys_seconds: float = Field(default=3_600.0, ge=60, le=86_400)
    """How long the issuer's keys are used before they are fetched again. One that is not known is looked for
    at once, at most once a minute."""

    @model_validator(mode="after")
    def _has_audience(self) -> Self:
        if self.issuer and not self.audience:
            raise ValueError("audience is missing: what the issuer's tokens for this mesh have in `aud`")
        return self


class SecretsSettings(Table):
    """[secrets]: what encrypts the secrets that the mesh stores."""

    keys: tuple[Secret, ...] = ()
    """Keys, newest first: the first encrypts, all decrypt. Unset: those of `secret.key` in data_dir, which is
    made at first use. Workers that share a database need the same ones."""
    file: Path | None = None
    """Another file in place of that `secret.key`, which several workers on one machine share."""


class AuditSettings(Table):
    """[audit]: how often the mesh signs how far its event log has come."""

    head_rows: int = Field(default=10_000, ge=1)
    """After how many events a head is signed."""
    head_seconds: float = Field(default=60.0, gt=0)
    """After how many seconds, where there are new events."""
