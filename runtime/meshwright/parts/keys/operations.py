"""Operations on the keys of callers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from meshwright.component import KEY_ROLES, Audit, Caller
from meshwright.core.operations import NO_STORE
from meshwright.kit import (
    LLM_SERVICE,
    Acting,
    Identifier,
    InvalidInput,
    Registry,
    Role,
    Rule,
    new_id,
    operation,
    require_all_tenants,
    visible_tenant,
)
from meshwright.mesh.identity.auth import ADMINISTRATOR
from meshwright.mesh.identity.rules import ADMIN
from meshwright.money.keys import Key, Keys, KeyTenant, NewKey, keys_required, unknown_key

_NOT_ADMIN = {401: "The admin token is missing or wrong.", 403: "The caller is no administrator."}
_NO_KEY = {404: "There is no such key."}
_KEY_ONCE = "`key` is shown this once."
_NEW_KEY = """\
The holder and the rights of a new key. `budget` limits its holder, like `5.00/day`.

`name` is a person or a program, `agent_id` an agent of the mesh: one of the two. `tenant_id` is that of
the caller where it is not named; `*` is all tenants. `expires` is a time from now like `30d`.
"""
_Time = Annotated[str, Field(max_length=16)]


class KeyList(BaseModel):
    """Keys, the oldest first; `required` says whether callers need one."""

    items: list[Key]
    required: bool


class Opened(BaseModel):
    """The mesh requires no key any more; `revoked` keys were revoked for that."""

    revoked: int


class KeyOperations(Acting):
    """The operations of administrators on keys. Each raises what the operations of `Operations` raise.

    A change is recorded in the audit trail before it is made, and refused where it cannot be recorded.
    """

    @operation(
        Rule("creates keys", ADMIN),
        "POST /keys",
        "Create a key",
        tag="keys",
        status=201,
        response=_KEY_ONCE,
        errors=_NOT_ADMIN,
        headers=NO_STORE,
        request="KeyRequest",
        about=_NEW_KEY,
    )
    async def create_key(
        self,
        *,
        name: Identifier | None = None,
        agent_id: Identifier | None = None,
        tenant_id: KeyTenant | None = None,
        roles: Annotated[tuple[Role, ...], Field(min_length=1, max_length=len(Role))] = KEY_ROLES,
        expires: _Time | None = None,
        budget: Annotated[str, Field(max_length=64)] | None = None,
    ) -> NewKey:
        """Create a key for a person, a program or an agent. From the first one on, every caller needs a key.

        An administrator of one tenant creates keys of that tenant alone.
        """
        tenant_id = tenant_id or self.caller.tenant_id
        if tenant_id != self.caller.tenant_id:
            require_all_tenants(self.caller, "creates keys of another tenant")
        holder, key_id = self._holder(name, agent_id), new_id()
        fields: dict[str, Any] = {
            "tenant_id": tenant_id,
            "roles": roles,
            "expires": expires,
            "budget": budget,
        }
        details = {"holder": holder, **fields}
        async with self.mesh.get(Audit).change(self.caller, "key.created", f"keys/{key_id}", details):
            return await self.mesh.get(Keys).create(holder, key_id=key_id, **fields)

    @operation(Rule("lists keys", ADMIN), "GET /keys", "List keys", tag="keys", errors=_NOT_ADMIN)
    async def list_keys(self) -> KeyList:
        """List the keys of the caller's tenant, and whose each is; never the key itself.

        The administrator of the mesh sees those of all tenants.
        """
        tenant_id, keys = visible_tenant(self.caller), self.mesh.get(Keys)
        items = [key for key in await keys.list() if tenant_id in (None, key.tenant_id)]
        return KeyList(items=items, required=await keys_required(keys, self.mesh.settings))

    @operation(
        Rule("opens the mesh", ADMIN, all_tenants=True),
        "POST /keys/open",
        "Revoke every key",
        name="open_mesh",
        tag="keys",
        errors=_NOT_ADMIN,
    )
    async def open_keys(self) -> Opened:
        """Revoke every key, and require none until another is created. `keys.required = true` still holds."""
        async with self.mesh.get(Audit).change(self.caller, "keys.opened", "keys"):
            return Opened(revoked=await self.mesh.get(Keys).open())

    @operation(
        Rule("revokes keys", ADMIN),
        "DELETE /keys/{key_id}",
        "Revoke a key",
        tag="keys",
        errors=_NO_KEY | _NOT_ADMIN,
    )
    async def revoke_key(self, key_id: Identifier) -> Key:
        """Revoke a key immediately. This cannot be undone, and callers still need a key."""
        await self._check_key(key_id)
        async with self.mesh.get(Audit).change(self.caller, "key.revoked", f"keys/{key_id}"):
            return await self.mesh.get(Keys).revoke(key_id)

    @operation(
        Rule("rotates keys", ADMIN),
        "POST /keys/{key_id}/rotate",
        "Rotate a key",
        tag="keys",
        status=201,
        response=_KEY_ONCE,
        errors=_NO_KEY | {409: "It was revoked or rotated."} | _NOT_ADMIN,
        headers=NO_STORE,
        request="RotateRequest",
        about="""How long both keys are good, and after how long the new one expires, like `1h` and `30d`.

        Without `expires` the new key lives as long as the other was to.
        """,
    )
    async def rotate_key(
        self, key_id: Identifier, *, grace: _Time = "1h", expires: _Time | None = None
    ) -> NewKey:
        """Create a key in another's place: of the same agent, tenant, roles and budget. Both work for `grace`."""  # noqa: E501
        await self._check_key(key_id)
        details = {"grace": grace, "expires": expires}
        async with self.mesh.get(Audit).change(self.caller, "key.rotated", f"keys/{key_id}", details):
            return await self.mesh.get(Keys).rotate(key_id, grace=grace, expires=expires)

    def _holder(self, name: str | None, agent_id: str | None) -> str:
        """Raises InvalidInput for an unknown agent, and for a name that means another."""
        registry = self.mesh.get(Registry)
        if (name is None) == (agent_id is None):
            remedy = "Name a person or a program by name, or an agent of the mesh by agent_id"
            raise InvalidInput("A key is of one name or of one agent", remedy=remedy, field="name")
        if agent_id is not None:
            remedy = "For a person or a program use name (mesh keys create --name)"
            registry.check_agent(agent_id, remedy=remedy)
            return agent_id
        assert name is not None
        if name in (ADMINISTRATOR, Caller().requested_by):
            raise InvalidInput(
                f"The name {name!r} is the mesh's own", remedy="Choose another name", field="name"
            )
        if name in (LLM_SERVICE, *(info.agent_id for info in registry.agents())):
            remedy = "For its key use agent_id (mesh keys create --agent), else choose another name"
            raise InvalidInput(f"{name!r} is an agent of this mesh", remedy=remedy, field="name")
        return name

    async def _check_key(self, key_id: str) -> None:
        """Raises NotFound for a key that the caller does not see."""
        if visible_tenant(self.caller) not in (None, (await self.mesh.get(Keys).find(key_id)).tenant_id):
            raise unknown_key(key_id)
