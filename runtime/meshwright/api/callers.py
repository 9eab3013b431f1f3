"""Resolves who sent a request: the administrator, a key's holder, or anybody where no key is required."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from ipaddress import ip_address

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from meshwright.api.problems import problem_response
from meshwright.api.refusals import refused
from meshwright.errors import MeshError
from meshwright.ledger.keys import LLM_SERVICE, PREFIX, Forbidden, Key, Unauthenticated
from meshwright.mesh import Mesh
from meshwright.messages import Caller
from meshwright.models.port import CallContext
from meshwright.settings import ADMIN_PREFIX

ADMIN = "admin"
"""Who has requested a task that came with the admin token."""
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/health", "/docs", "/openapi.json"})
OPEN_FOLDER = "/docs/"
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
IDENTITY = "meshwright.identity"
REMEDY = "Send Authorization: Bearer with a key that `mesh keys create` has made"
ADMIN_REMEDY = (
    "Use `mesh keys` on the mesh's machine, or send Authorization: Bearer with the text of admin.token "
    "in its data folder"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sent a request. Without a key and the admin token it is anybody, of tenant `default`."""

    key: Key | None = None
    is_admin: bool = False

    @property
    def caller(self) -> Caller:
        """As whom tasks are submitted and looked up."""
        if self.key is None:
            return Caller(requested_by=ADMIN) if self.is_admin else Caller()
        return Caller(
            tenant_id=self.key.tenant_id,
            requested_by=self.key.agent_id,
            budgets=() if self.key.budget is None else (self.key.budget,),
        )

    @property
    def tenant_id(self) -> str:
        """Whose tasks and events the caller sees."""
        return self.caller.tenant_id

    @property
    def spender(self) -> str | None:
        """Whose costs and budgets the caller sees; None is every tenant's."""
        return None if self.is_admin else self.tenant_id

    def require_admin(self) -> None:
        """Raise Unauthenticated for anybody, Forbidden for the holder of a key."""
        if self.is_admin:
            return
        error = Unauthenticated if self.key is None else Forbidden
        raise error("Only the administrator of the mesh manages keys", remedy=ADMIN_REMEDY)


class Callers:
    """Resolves the caller of every request before its route runs, and refuses whoever may not call.

    Only health, readiness and the documentation are open. Routes ask `identity_of`.
    """

    def __init__(self, app: ASGIApp, mesh: Mesh) -> None:
        self._app = app
        self._mesh = mesh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its identity, or answer it with the reason why not."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path not in OPEN_PATHS and not path.startswith(OPEN_FOLDER):
            try:
                scope[IDENTITY] = await self._identify(Request(scope))
            except MeshError as error:
                response = refused(error) if path.startswith("/v1/") else problem_response(error)
                return await response(scope, receive, send)
        await self._app(scope, receive, send)

    async def _identify(self, request: Request) -> Identity:
        shown = bearer(request)
        if shown.startswith(PREFIX):
            return Identity(key=await self._mesh.keys.check(shown))
        if self._is_admin(shown):
            return Identity(is_admin=True)
        if shown.startswith(ADMIN_PREFIX):
            raise Unauthenticated("The admin token is not this mesh's", remedy=ADMIN_REMEDY)
        if await keys_required(self._mesh):
            raise Unauthenticated("This mesh requires a key, and the request has none", remedy=REMEDY)
        settings = self._mesh.settings
        if not (settings.insecure or settings.require_keys is False or is_local(request)):
            raise Unauthenticated("Callers that are not on the mesh's machine need a key", remedy=REMEDY)
        return Identity()

    def _is_admin(self, shown: str) -> bool:
        token = self._mesh.settings.admin_token
        return token is not None and hmac.compare_digest(shown.encode(), token.get_secret_value().encode())


def identity_of(request: Request) -> Identity:
    """Who sent a request, as `Callers` has resolved it."""
    identity = request.scope[IDENTITY]
    assert isinstance(identity, Identity)
    return identity


async def keys_required(mesh: Mesh) -> bool:
    """Whether requests need a key or the admin token: what the settings say, else whether keys were made."""
    required = mesh.settings.require_keys
    return await mesh.keys.required() if required is None else required


@dataclass(frozen=True, slots=True)
class ModelCaller:
    """On whose account a model is called."""

    tenant_id: str
    user: str
    key: Key | None = None

    @property
    def context(self) -> CallContext:
        """What the call says of its caller to budgets, ledger and cache."""
        context = CallContext(purpose=LLM_SERVICE, tenant_id=self.tenant_id, agent_id=self.user)
        if self.key is None:
            return context
        budgets = () if self.key.budget is None else (self.key.budget,)
        return context.model_copy(update={"key_id": self.key.key_id, "budgets": budgets})


def account(identity: Identity, *, tenant_id: str | None, user: str | None) -> ModelCaller:
    """On whose account a call goes that names a tenant and a user, or neither.

    The holder of a key acts as the key says; naming another tenant raises Forbidden.
    """
    key = identity.key
    if key is None:
        return ModelCaller(tenant_id or identity.tenant_id, user or LLM_SERVICE)
    if tenant_id not in (None, key.tenant_id):
        raise Forbidden(
            f"The key is of tenant {key.tenant_id!r}, and no other may be named",
            remedy="Leave tenant_id out",
            field="tenant_id",
        )
    return ModelCaller(key.tenant_id, key.agent_id, key)


def bearer(request: Request) -> str:
    """The key or token that a request shows, or nothing."""
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    return shown.strip() if scheme.lower() == "bearer" else ""


def is_local(request: Request) -> bool:
    """Whether a request began on this machine: over loopback, and handed on by no proxy that says so.

    It grants nothing that keys protect: a proxy that says nothing is local too.
    """
    server = request.scope.get("server")
    ends = (request.client.host if request.client else "", server[0] if server else "")
    return all(map(is_loopback, ends)) and not any(name in request.headers for name in FORWARDED)


def is_loopback(address: str) -> bool:
    """Whether that is an address of this machine alone."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
