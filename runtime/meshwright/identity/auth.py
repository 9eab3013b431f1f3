"""Authentication: every edge turns what a request shows of its sender into a Caller, by one port."""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from meshwright.core.access import ALL_ROLES, Role
from meshwright.core.errors import Forbidden
from meshwright.core.messages import Caller
from meshwright.identity.oidc import OidcTokens
from meshwright.identity.rules import ADMIN_REMEDY
from meshwright.identity.settings import ADMIN_PREFIX
from meshwright.ledger.keys import PREFIX, Keys, Unauthenticated, keys_required
from meshwright.ledger.virtual_keys import EVERY_TENANT
from meshwright.settings import Settings

__all__ = ["Authenticator", "Credentials", "Forbidden", "KeyAuthenticator", "Role", "Unauthenticated"]

ADMINISTRATOR = "admin"
"""The requester of the administrator's tasks."""
_KEY_REMEDY = "mesh keys create makes one"
_REMEDY = "Send Authorization: Bearer with a key that `mesh keys create` has made"
_TOKEN_REMEDY = f"{_REMEDY}, or with a token of the issuer that [oidc] of mesh.toml names"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of a request.

    `token` is a key or the admin token. `is_local` says that the request began on the mesh's machine, as far
    as the address tells, which is no credential. `client` is the sender's name at a broker, which has
    authenticated it; a token counts in its place. `peer_uid` is the user at the other end of a Unix socket,
    as the system says. `tenant` is the tenant that a caller of all tenants acts for.
    """

    token: str = field(default="", repr=False)
    is_local: bool = False
    client: str | None = None
    peer_uid: int | None = None
    tenant: str | None = None


class Authenticator(Protocol):
    """Says who a caller is: tenant, requester, budgets and roles come from credentials alone."""

    async def authenticate(self, credentials: Credentials) -> Caller:
        """Returns the caller. Raises Unauthenticated, or HostError where the store cannot be asked."""
        ...


class KeyAuthenticator:
    """Accepts keys, the admin token, an issuer's tokens, this machine's own user, and a broker's word.

    While no credentials are required, local callers need none.
    """

    def __init__(self, keys: Keys, settings: Settings) -> None:
        self._keys = keys
        self._settings = settings
        self._tokens = OidcTokens(settings.oidc.issuer, settings.oidc) if settings.oidc.issuer else None
        self._credentials = "a key" if self._tokens is None else "a key or a token of its issuer"
        self._remedy = _REMEDY if self._tokens is None else _TOKEN_REMEDY
        self._local = Caller(roles=ALL_ROLES, all_tenants=True)
        self._admin = replace(self._local, requested_by=ADMINISTRATOR)

    async def authenticate(self, credentials: Credentials) -> Caller:
        """Returns the caller. Raises Unauthenticated for a wrong key, and for a missing one if required."""
        caller = await self._identify(credentials)
        return caller if credentials.tenant is None else _acting_for(caller, credentials.tenant)

    async def _identify(self, credentials: Credentials) -> Caller:
        token = credentials.token
        if credentials.client is not None and not token:
            return await self._user(credentials.client)
        if token.startswith(PREFIX):
            return await self._holder(token)
        if self._is_admin(token):
            return self._admin
        if token.startswith(ADMIN_PREFIX):
            raise Unauthenticated("The admin token is not this mesh's", remedy=ADMIN_REMEDY)
        if self._tokens is not None and token.count(".") == 2:
            return await self._tokens.authenticate(token)
        if credentials.client is not None:
            raise Unauthenticated(
                "The user property authorization has no key or token of this mesh",
                remedy=f"Send it as Bearer and a key: {_KEY_REMEDY}",
                field="authorization",
            )
        if credentials.peer_uid in (os.geteuid(), 0):
            return self._admin
        if await keys_required(self._keys, self._settings):
            raise Unauthenticated(
                f"This mesh requires {self._credentials}, and the request has none", remedy=self._remedy
            )
        if not (
            self._settings.http.insecure or self._settings.keys.required is False or credentials.is_local
        ):
            raise Unauthenticated(
                f"Callers that are not on the mesh's machine need {self._credentials}", remedy=self._remedy
            )
        return self._local

    async def _user(self, name: str) -> Caller:
        """The user of a broker, which is none of ours where `mqtt.clients` has others alone."""
        clients = self._settings.mqtt.clients
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
        expected = self._settings.keys.admin_token
        return expected is not None and hmac.compare_digest(
            token.encode(), expected.get_secret_value().encode()
        )


def bearer_of(authorization: str) -> str:
    """Returns the token of `Bearer TOKEN`; empty for anything else."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _acting_for(caller: Caller, tenant_id: str) -> Caller:
    """The caller as one of a single tenant. Raises Forbidden where it is of another."""
    if caller.all_tenants:
        return replace(caller, tenant_id=tenant_id, all_tenants=False, is_proxy=True)
    if caller.tenant_id != tenant_id:
        raise Forbidden(
            f"The credentials are of tenant {caller.tenant_id!r}, and no other may be named",
            remedy="Leave the header Mesh-Tenant out",
            field="Mesh-Tenant",
        )
    return caller
