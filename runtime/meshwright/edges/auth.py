"""Authentication: every edge turns what a request shows of its sender into a Caller, by one port."""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from meshwright.core.access import ALL_ROLES, Role, granted, in_order
from meshwright.core.errors import MeshError
from meshwright.core.messages import Caller
from meshwright.edges.oidc import OidcTokens
from meshwright.ledger.keys import LLM_SERVICE, PREFIX, Forbidden, Keys, Unauthenticated
from meshwright.ledger.virtual_keys import EVERY_TENANT
from meshwright.models.port import CallContext
from meshwright.settings import ADMIN_PREFIX, Settings
from meshwright.work.people import is_decision
from meshwright.work.record import TaskView

__all__ = ["Authenticator", "Credentials", "Forbidden", "KeyAuthenticator", "Role", "Unauthenticated"]

ADMINISTRATOR = "admin"
"""Who requests the tasks of the mesh's administrator."""
_KEY_REMEDY = "mesh keys create makes one"
_REMEDY = "Send Authorization: Bearer with a key that `mesh keys create` has made"
_TOKEN_REMEDY = f"{_REMEDY}, or with a token of the issuer that [oidc] of mesh.toml names"
_ADMIN_REMEDY = (
    "Use `mesh keys` on the mesh's machine, or send Authorization: Bearer with the text of admin.token "
    "in its data folder"
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request shows of its sender.

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
            raise Unauthenticated("The admin token is not this mesh's", remedy=_ADMIN_REMEDY)
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


async def keys_required(keys: Keys, settings: Settings) -> bool:
    """Whether requests need credentials: what the settings say, else where there are keys or an issuer."""
    if settings.keys.required is not None:
        return settings.keys.required
    return settings.oidc.issuer is not None or await keys.required()


# What a caller may do


def has_role(caller: Caller, role: Role) -> bool:
    """Whether a caller has a role, or one that implies it."""
    return role in granted(caller.roles)


def require(caller: Caller, role: Role, what: str) -> None:
    """Raises Unauthenticated for an anonymous caller without the role, Forbidden for any other without it.

    `what` ends the sentence `Only a caller with the role ... `, like `pauses schedules`.
    """
    require_any(caller, (role,), what)


def require_any(caller: Caller, roles: Sequence[Role], what: str) -> None:
    """Raises what `require` raises where a caller has none of some roles."""
    held = granted(caller.roles)
    if held.isdisjoint(roles):
        wanted = " or ".join(roles)
        error: type[MeshError] = Unauthenticated if is_anonymous(caller) else Forbidden
        key = f"Use a key that has it: mesh keys create --role {roles[0]}"
        raise error(
            f"Only a caller with the role {wanted} {what}; {caller.requested_by} has {in_order(held)}",
            remedy="Add the role to the client in mqtt.clients" if caller.source == "mqtt" else key,
        )


def require_for(caller: Caller, requested_by: str, role: Role, what: str) -> None:
    """Raises what `require` raises, but for a submitter and what it has requested itself."""
    if not is_own(caller, requested_by):
        require(caller, role, what)


def require_asked(caller: Caller, view: TaskView, key: str) -> None:
    """Raises Forbidden for a submitter who is no approver, but where a task's question is for it.

    It is if it names the caller, or where the caller made the task and no approval is asked for.
    """
    wait = next((wait for wait in view.waits if wait.wait_id == key), None)
    if wait is not None and caller.requested_by in wait.may_answer:
        return
    if wait is not None and is_decision(wait):
        require(caller, Role.APPROVER, "decides on approvals")
    require_for(caller, view.requested_by, Role.APPROVER, "answers the tasks of others")


def require_administrator(caller: Caller) -> None:
    """Raises Unauthenticated for a caller who shows no credentials: an address is none, wherever it is."""
    if is_anonymous(caller):
        raise Unauthenticated(
            "This request takes an administrator's credentials, also on the mesh's machine",
            remedy=_ADMIN_REMEDY,
        )


def require_all_tenants(caller: Caller, what: str) -> None:
    """Raises Forbidden for a caller of one tenant alone."""
    if not caller.all_tenants:
        raise Forbidden(
            f"Only a caller of all tenants {what}; {caller.requested_by} is of tenant {caller.tenant_id}",
            remedy="Use the admin token, or `mesh` on the mesh's machine",
        )


def is_anonymous(caller: Caller) -> bool:
    """Whether a caller has shown nothing that says who it is."""
    return caller.key_id is None and caller.requested_by == Caller().requested_by


def is_own(caller: Caller, requested_by: str) -> bool:
    """Whether a submitter has requested something of its tenant itself."""
    return has_role(caller, Role.SUBMITTER) and caller.requested_by == requested_by


def visible_tenant(caller: Caller) -> str | None:
    """Returns the tenant whose costs, budgets and status a caller sees; None is every tenant."""
    return None if caller.all_tenants else caller.tenant_id


def call_context(caller: Caller, *, tenant_id: str | None = None, user: str | None = None) -> CallContext:
    """Returns who pays for a call of a model that may name a tenant and a user.

    Both count for a caller of all tenants alone: any other pays as its credentials say, and may name no other
    tenant (Forbidden).
    """
    if caller.all_tenants:
        tenant_id, user = tenant_id or caller.tenant_id, user or LLM_SERVICE
    elif tenant_id in (None, caller.tenant_id):
        tenant_id, user = caller.tenant_id, caller.requested_by
    else:
        raise Forbidden(
            f"The key is of tenant {caller.tenant_id!r}, and no other may be named",
            remedy="Leave tenant_id out",
            field="tenant_id",
        )
    return CallContext(
        purpose=LLM_SERVICE,
        tenant_id=tenant_id,
        agent_id=user,
        key_id=caller.key_id,
        budgets=caller.budgets,
    )
