"""Authentication: every edge turns what a request shows of its sender into a Caller, by one port."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Protocol

from meshwright.core.errors import MeshError
from meshwright.core.messages import Caller
from meshwright.ledger.keys import LLM_SERVICE, PREFIX, Forbidden, Keys, Unauthenticated
from meshwright.models.port import CallContext
from meshwright.settings import ADMIN_PREFIX, Settings

ADMIN = "admin"
"""The role that manages keys and sees the costs of every tenant; and who requests its tasks."""
DELEGATE = "delegate"
"""The role that may name the tenant and the user of a model call."""
_REMEDY = "Send Authorization: Bearer with a key that `mesh keys create` has made"
_ADMIN_REMEDY = (
    "Use `mesh keys` on the mesh's machine, or send Authorization: Bearer with the text of admin.token "
    "in its data folder"
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request shows of its sender.

    `token` is a key or the admin token. `is_local` says that the request began on the mesh's machine, as far
    as anybody can tell. `client` is the sender's name at a broker, which has authenticated it.
    """

    token: str = ""
    is_local: bool = False
    client: str | None = None


class Authenticator(Protocol):
    """Says who a caller is: tenant, requester, budgets and roles come from credentials alone."""

    async def authenticate(self, credentials: Credentials) -> Caller:
        """Returns the caller. Raises Unauthenticated, or HostError where the store cannot be asked."""
        ...


class KeyAuthenticator:
    """Accepts keys, the admin token, a broker's word, and local callers while no key is required."""

    def __init__(self, keys: Keys, settings: Settings) -> None:
        self._keys = keys
        self._settings = settings
        self._local = Caller(roles=frozenset({DELEGATE}))

    async def authenticate(self, credentials: Credentials) -> Caller:
        """Returns the caller. Raises Unauthenticated for a wrong key, and for a missing one if required."""
        if credentials.client is not None:
            return Caller(requested_by=credentials.client)
        token = credentials.token
        if token.startswith(PREFIX):
            return await self._holder(token)
        if self._is_admin(token):
            return Caller(requested_by=ADMIN, roles=frozenset({ADMIN, DELEGATE}))
        if token.startswith(ADMIN_PREFIX):
            raise Unauthenticated("The admin token is not this mesh's", remedy=_ADMIN_REMEDY)
        if await keys_required(self._keys, self._settings):
            raise Unauthenticated("This mesh requires a key, and the request has none", remedy=_REMEDY)
        if not (
            self._settings.http.insecure or self._settings.keys.required is False or credentials.is_local
        ):
            raise Unauthenticated("Callers that are not on the mesh's machine need a key", remedy=_REMEDY)
        return self._local

    async def _holder(self, token: str) -> Caller:
        key = await self._keys.check(token)
        return Caller(
            tenant_id=key.tenant_id,
            requested_by=key.agent_id,
            budgets=() if key.budget is None else (key.budget,),
            key_id=key.key_id,
        )

    def _is_admin(self, token: str) -> bool:
        expected = self._settings.keys.admin_token
        return expected is not None and hmac.compare_digest(
            token.encode(), expected.get_secret_value().encode()
        )


async def keys_required(keys: Keys, settings: Settings) -> bool:
    """Whether requests need a key or the admin token: what the settings say, else whether there are keys."""
    return await keys.required() if settings.keys.required is None else settings.keys.required


def require_admin(caller: Caller, what: str = "manages keys") -> None:
    """Raises Unauthenticated for an anonymous caller, Forbidden for another that is no administrator."""
    if ADMIN not in caller.roles:
        is_anonymous = caller.key_id is None and caller.requested_by == Caller().requested_by
        error: type[MeshError] = Unauthenticated if is_anonymous else Forbidden
        raise error(f"Only the administrator of the mesh {what}", remedy=_ADMIN_REMEDY)


def visible_spender(caller: Caller) -> str | None:
    """Returns the tenant whose costs and budgets a caller sees; None is every tenant."""
    return None if ADMIN in caller.roles else caller.tenant_id


def call_context(caller: Caller, *, tenant_id: str | None = None, user: str | None = None) -> CallContext:
    """Returns who pays for a call of a model that may name a tenant and a user.

    Both count for a delegate alone: the holder of a key pays as the key says, and may name no other tenant
    (Forbidden).
    """
    if DELEGATE in caller.roles:
        tenant_id, user = tenant_id or caller.tenant_id, user or LLM_SERVICE
        return CallContext(purpose=LLM_SERVICE, tenant_id=tenant_id, agent_id=user)
    if tenant_id not in (None, caller.tenant_id):
        raise Forbidden(
            f"The key is of tenant {caller.tenant_id!r}, and no other may be named",
            remedy="Leave tenant_id out",
            field="tenant_id",
        )
    return CallContext(
        purpose=LLM_SERVICE,
        tenant_id=caller.tenant_id,
        agent_id=caller.requested_by,
        key_id=caller.key_id,
        budgets=caller.budgets,
    )
