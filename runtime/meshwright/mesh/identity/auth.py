"""Authentication: every edge turns what a request shows of its sender into a Caller, by one port.

Components bring authenticators: ours for keys, ours for an issuer's tokens, and those of other packages.
"""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from meshwright.core.access import ALL_ROLES, Role
from meshwright.core.errors import Forbidden, HostError, MeshError, Unauthenticated
from meshwright.core.messages import Caller
from meshwright.core.operations import ADMIN_REMEDY
from meshwright.core.settings import Settings
from meshwright.edges.http.settings import HttpSettings
from meshwright.edges.mqtt.settings import MqttSettings
from meshwright.mesh.identity.settings import ADMIN_PREFIX, KeysSettings, OidcSettings
from meshwright.money.keys import EVERY_TENANT, PREFIX, RUN_PREFIX, Keys, keys_required, requires_keys

__all__ = [
    "Authenticator",
    "Authenticators",
    "Credentials",
    "Forbidden",
    "KeyAuthenticator",
    "Role",
    "Unauthenticated",
]

_logger = logging.getLogger("meshwright.identity")

ADMINISTRATOR = "admin"
"""The requester of the administrator's tasks."""
_LOCAL = Caller(roles=ALL_ROLES, all_tenants=True)
_ADMIN = replace(_LOCAL, requested_by=ADMINISTRATOR)
_KEY_REMEDY = "mesh keys create makes one"
_REMEDY = "Send Authorization: Bearer with a key that `mesh keys create` has made"
_OF_A_RUN = "An agent calls models by the client of its run, run.openai() or run.anthropic()"
_TOKEN_REMEDY = f"{_REMEDY}, or with a token of the issuer that [oidc] of mesh.toml names"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of a request."""

    token: str = field(default="", repr=False)
    """A key or the admin token. "" without one."""
    is_local: bool = False
    """Whether the request began on the mesh's machine, as far as the address tells. That is no credential."""
    client: str | None = None
    """The sender's name at a broker that has authenticated it. A token counts in its place."""
    peer_uid: int | None = None
    """The user at the other end of a Unix socket, as the system says. None on other connections."""
    tenant: str | None = None
    """The tenant that a caller of all tenants acts for. None: its own."""
    tenant_header: str = "Mesh-Tenant"
    """The header that names that tenant, for errors."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Headers of an HTTP request that an authenticator of the mesh names, each once."""

    def header(self, name: str) -> str:
        """Returns the text of a header, by its name in lower case; empty where the request has none."""
        return dict(self.headers).get(name, "")

    def cookie(self, name: str) -> str:
        """Returns the value of a cookie; empty where the request has none."""
        pairs = (pair.strip().partition("=") for pair in self.header("cookie").split(";"))
        return next((value for key, _, value in pairs if key == name), "")


class Authenticator(Protocol):
    """Says who a caller is: tenant, requester, budgets and roles come from credentials alone.

    It is asked at each request, and once a second for each open stream.
    """

    headers: Collection[str]
    """The HTTP headers that it reads beside Authorization, in lower case, like `cookie`."""

    async def authenticate(self, credentials: Credentials) -> Caller | None:
        """Returns the caller, or None where the request shows no credentials of its kind.

        Raises Unauthenticated for wrong ones of its kind, HostError where the store cannot be asked.
        """
        ...


class KeyAuthenticator:
    """Accepts keys and the admin token."""

    headers: Collection[str] = ()

    def __init__(self, keys: Keys, settings: Settings) -> None:
        self._keys = keys
        self._settings = settings

    async def authenticate(self, credentials: Credentials) -> Caller | None:
        """Returns the holder of a key, or the administrator. Raises Unauthenticated for a wrong key."""
        token = credentials.token
        if token.startswith(PREFIX):
            return await self._holder(token)
        if token and self._is_admin(token):
            return _ADMIN
        if token.startswith(RUN_PREFIX):
            raise Unauthenticated("The key of a run is for that run alone", remedy=_OF_A_RUN)
        if token.startswith(ADMIN_PREFIX):
            raise Unauthenticated("The admin token is not this mesh's", remedy=ADMIN_REMEDY)
        return None

    async def _holder(self, token: str) -> Caller:
        key = await self._keys.check(token)
        all_tenants = key.tenant_id == EVERY_TENANT
        return Caller(
            tenant_id=Caller().tenant_id if all_tenants else key.tenant_id,
            all_tenants=all_tenants,
            requested_by=key.agent_id,
            budgets=() if key.budget is None else (key.budget,),
            key_id=key.key_id,
            roles=frozenset(key.roles),
            expires_at=key.expires_at,
        )

    def _is_admin(self, token: str) -> bool:
        expected = self._settings[KeysSettings].admin_token
        return expected is not None and hmac.compare_digest(
            token.encode(), expected.get_secret_value().encode()
        )


class Authenticators:
    """The authenticators of a mesh, asked in order; the first that knows a caller decides.

    If none does, it goes by what an edge knows itself: the user of a broker, the user at a Unix socket,
    and this machine. While no credentials are required, local callers need none.
    """

    def __init__(self, authenticators: Sequence[Authenticator], keys: Keys, settings: Settings) -> None:
        self.headers = tuple(
            sorted({name for authenticator in authenticators for name in authenticator.headers})
        )
        self._authenticators = tuple(authenticators)
        self._keys = keys
        self._settings = settings
        self._requires_keys = requires_keys(settings)
        self._lets_others_in = settings[HttpSettings].insecure or settings[KeysSettings].required is False
        has_issuer = settings[OidcSettings].issuer is not None
        self._credentials = "a key or a token of its issuer" if has_issuer else "a key"
        self._remedy = _TOKEN_REMEDY if has_issuer else _REMEDY

    async def authenticate(self, credentials: Credentials) -> Caller:
        """Returns the caller.

        Raises Unauthenticated for wrong credentials, and for missing ones if they are required, Forbidden for
        a tenant that is not the caller's, HostError where the store cannot be asked.
        """
        caller = await self._identify(credentials)
        tenant_id = credentials.tenant
        return caller if tenant_id is None else _acting_for(caller, tenant_id, credentials.tenant_header)

    async def _identify(self, credentials: Credentials) -> Caller:
        for authenticator in self._authenticators:
            try:
                caller = await authenticator.authenticate(credentials)
            except MeshError:
                raise
            except Exception as error:  # other code's mistake lets nobody in, and ends no check of streams
                name = type(authenticator).__name__
                _logger.exception("%s cannot say who a caller is", name)
                raise HostError(f"{name} cannot say who the caller is: {type(error).__name__}") from error
            if caller is not None:
                return caller
        if credentials.client is not None:
            return await self._user(credentials.client, credentials.token)
        if credentials.peer_uid in (os.geteuid(), 0):
            return _ADMIN
        is_required = self._requires_keys
        if is_required is None:
            is_required = await self._keys.required()
        if is_required:
            reason = " that it knows" if credentials.token else ""
            raise Unauthenticated(
                f"This mesh requires {self._credentials}, and the request has none{reason}",
                remedy=self._remedy,
            )
        if not (self._lets_others_in or credentials.is_local):
            raise Unauthenticated(
                f"Callers that are not on the mesh's machine need {self._credentials}", remedy=self._remedy
            )
        return _LOCAL

    async def _user(self, name: str, token: str) -> Caller:
        """Returns the caller for a user whom the broker authenticated.

        If `mqtt.clients` is set, raises Unauthenticated for users that it does not list.
        """
        if token:
            raise Unauthenticated(
                "The user property authorization has no key or token of this mesh",
                remedy=f"Send it as Bearer and a key: {_KEY_REMEDY}",
                field="authorization",
            )
        clients = self._settings[MqttSettings].clients
        for client in clients:
            if client.user == name and client.tokens:
                raise Unauthenticated(
                    f"Messages of the broker's user {name} have to show whose they are",
                    remedy="Send the user property authorization: Bearer and a key or token",
                    field="authorization",
                )
            if client.user == name:
                return Caller(tenant_id=client.tenant, requested_by=name, roles=frozenset(client.roles))
        if clients:
            raise Unauthenticated(
                f"The broker's user {name} is no client of this mesh",
                remedy="List it in mqtt.clients, and publish below mesh/TENANT/clients/USER/",
                field="topic",
            )
        if name != Caller().requested_by:
            return Caller(requested_by=name, roles=frozenset({Role.SUBMITTER}))
        if await keys_required(self._keys, self._settings):
            raise Unauthenticated(
                "This mesh requires credentials, and the topic names no client",
                remedy="Publish below mesh/TENANT/clients/USER/, as the user that the broker knows, or send "
                "the user property authorization: Bearer and a key or token",
                field="topic",
            )
        return Caller(roles=ALL_ROLES)


def parse_bearer(authorization: str) -> str:
    """Returns the token of `Bearer TOKEN`; empty for anything else."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _acting_for(caller: Caller, tenant_id: str, header: str) -> Caller:
    """The caller as one of a single tenant. Raises Forbidden where it is of another."""
    if caller.all_tenants:
        return replace(caller, tenant_id=tenant_id, all_tenants=False, is_proxy=True)
    if caller.tenant_id != tenant_id:
        raise Forbidden(
            f"The credentials are of tenant {caller.tenant_id!r}, and no other may be named",
            remedy=f"Leave the header {header} out",
            field=header,
        )
    return caller
