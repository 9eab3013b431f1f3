"""Who calls a model over HTTP: the holder of a key, or somebody on this machine while nobody has keys."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, NamedTuple

from fastapi import Request

from meshwright.ledger.keys import LLM_SERVICE, PREFIX, Forbidden, Key, Unauthenticated
from meshwright.mesh import Mesh
from meshwright.messages import Caller

FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
REMEDY = "send Authorization: Bearer and a key that `mesh keys create` has made"


class ModelCaller(NamedTuple):
    """On whose account a model is called."""

    tenant_id: str
    user: str
    key: Key | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """What the call says of its caller to budgets, ledger and cache."""
        told: dict[str, Any] = {
            "purpose": LLM_SERVICE,
            "tenant_id": self.tenant_id,
            "agent_id": self.user,
        }
        if self.key is not None:
            told["key_id"] = self.key.key_id
            told["budgets"] = [self.key.budget.model_dump(mode="json")] if self.key.budget else []
        return told


class Callers:
    """Finds out who calls. Without a key somebody on this machine may, until the first key is made."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def check(self, request: Request) -> Key | None:
        """The key of a request, None where it needs none. Raises Unauthenticated."""
        shown = bearer(request)
        if shown.startswith(PREFIX):
            return await self._mesh.keys.check(shown)
        if await self._mesh.keys.exist():
            raise Unauthenticated("this mesh has keys, and the request shows none of them", remedy=REMEDY)
        if not is_local(request):
            raise Unauthenticated("only callers on this machine need no key", remedy=REMEDY)
        return None


def account(key: Key | None, *, tenant_id: str | None, user: str | None) -> ModelCaller:
    """On whose account a call goes that names a tenant and a user, or neither.

    Who has a key is whom the key names, and raises Forbidden for another tenant.
    """
    if key is None:
        return ModelCaller(tenant_id or Caller().tenant_id, user or LLM_SERVICE)
    if tenant_id not in (None, key.tenant_id):
        raise Forbidden(
            f"the key is of tenant {key.tenant_id!r}, and no other may be named",
            remedy="leave tenant_id out",
            field="tenant_id",
        )
    return ModelCaller(key.tenant_id, key.agent_id, key)


def bearer(request: Request) -> str:
    """The key that a request shows, or nothing."""
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    return shown.strip() if scheme.lower() == "bearer" else ""


def is_local(request: Request) -> bool:
    """Whether a request began on this machine: over loopback, and handed on by no proxy that says so."""
    server = request.scope.get("server")
    ends = (request.client.host if request.client else "", server[0] if server else "")
    return all(map(is_loopback, ends)) and not any(name in request.headers for name in FORWARDED)


def is_loopback(address: str) -> bool:
    """Whether that is an address of this machine alone."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
