"""[keys], [oidc] and [secrets]: who may call the mesh, and the keys of stored secrets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from meshwright.core.access import Role
from meshwright.core.ids import ID_PATTERN
from meshwright.core.settings.forms import Secret, Table, min_chars

ADMIN_PREFIX = "mesh-admin-"
"""How an admin token begins that `mesh up` has made."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _is_secure(url: str | None, example: str) -> str | None:
    parts = urlsplit(url or "https:")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError(f"expected an https URL, like {example}")
    return url


def _is_issuer(url: str | None) -> str | None:
    return _is_secure(url, "https://login.example.com/realms/mesh")


def _is_origin(url: str | None) -> str | None:
    parts = urlsplit(_is_secure(url, "https://mesh.example.com") or "")
    if url is not None and (not parts.netloc or parts.username or parts.path.strip("/") or parts.query):
        raise ValueError("expected an https URL without a path, like https://mesh.example.com")
    return None if url is None else url.rstrip("/")


class KeysSettings(Table):
    """[keys]: who may call."""

    variables: ClassVar = {"MESH_ADMIN_TOKEN": "admin_token"}
    required: bool | None = None
    """Require a key or the admin token. Unset: from the first key on."""
    admin_token: Annotated[Secret | None, min_chars(32)] = None
    """At least 32 characters. Unset: `mesh up` makes one, in `admin.token`."""


class OidcSettings(Table):
    """[oidc]: the issuer whose bearer tokens callers may show, and where people log in to the page.

    Needs the extra `oidc`.
    """

    issuer: Annotated[str | None, AfterValidator(_is_issuer)] = None
    """URL of the issuer whose tokens are accepted."""
    audience: str = Field(default="", max_length=512)
    """The id of this mesh in `aud`."""
    name_claim: str = Field(default="sub", min_length=1, max_length=256)
    """The claim that names the caller; users must not choose it."""
    tenant_claim: str | None = Field(default=None, min_length=1, max_length=256)
    """The claim that names the tenant. Unset: all are of `tenant`."""
    tenant: str = Field(default="default", pattern=ID_PATTERN)
    """The tenant of callers without that claim."""
    roles_claim: str = Field(default="roles", min_length=1, max_length=256)
    """The claim that gives roles, such as `realm_access.roles`."""
    roles: Mapping[str, tuple[Role, ...]] = {}
    """Roles by its values: { mesh-ops = ["operator"] }."""
    default_roles: tuple[Role, ...] = ()
    """Roles of callers without any."""
    keys_seconds: float = Field(default=3_600.0, ge=60, le=86_400)
    """Seconds that the issuer's keys are used."""

    login: bool = False
    """Offer a login on the page, as the issuer's client `audience`."""
    client_secret: Secret | None = None
    """The client's secret; a public one has none."""
    url: Annotated[str | None, AfterValidator(_is_origin)] = None
    """The mesh's address for browsers, to whose `/session/callback` the issuer redirects."""
    scopes: tuple[str, ...] = ("profile",)
    """Scopes beside `openid`."""

    @model_validator(mode="after")
    def _has_audience(self) -> Self:
        if self.issuer and not self.audience:
            raise ValueError("audience is missing: what the issuer's tokens for this mesh have in `aud`")
        if self.login and not self.issuer:
            raise ValueError("login is set and no issuer: name the one at which people log in")
        return self

    def check_others(self, settings: Any) -> None:
        """The issuer can send nobody back to an address that browsers do not have."""
        http = settings.table("http")
        if self.login and self.url is None and (http.behind_tls or http.host not in _LOOPBACK):
            raise ValueError("oidc.url is missing: where browsers find the mesh, for people who log in")


class SecretsSettings(Table):
    """[secrets]: what encrypts the secrets that the mesh stores."""

    keys: tuple[Secret, ...] = ()
    """Keys that encrypt stored secrets, newest first, the same on all workers. Unset: `secret.key`."""
    file: Path | None = None
    """A file in place of `secret.key`."""
