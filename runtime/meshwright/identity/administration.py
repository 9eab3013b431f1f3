"""Operations on what a mesh may spend, who may use it, and what it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from meshwright.core.access import KEY_ROLES
from meshwright.core.capability import LLM_SERVICE
from meshwright.core.errors import InvalidInput
from meshwright.core.ids import new_id
from meshwright.core.messages import Caller
from meshwright.core.money import ZERO, Budget, OnEmpty
from meshwright.events.audit import Audit
from meshwright.events.tasks import TaskSubject
from meshwright.events.verify import ChainReport, verify
from meshwright.identity.auth import ADMINISTRATOR
from meshwright.identity.operations import Acting
from meshwright.identity.rules import require_all_tenants, tenant_of, visible_tenant
from meshwright.ledger.allowances import Allowances
from meshwright.ledger.budgets import BudgetView
from meshwright.ledger.keys import Key, Keys, NewKey, unknown_key
from meshwright.ledger.spending import Spending
from meshwright.ledger.task_costs import TaskEstimate
from meshwright.models.overview import Deployments
from meshwright.orchestration.registry import Registry
from meshwright.run.erasure import Erased, Eraser
from meshwright.sql.encrypted import Secrets


class Administration(Acting):
    """The operations of operators and administrators. Each raises what the operations of `Operations` raise.

    A change is recorded in the audit trail before it is made, and refused where it cannot be recorded.
    """

    # Money

    async def budgets(self) -> list[BudgetView]:
        """The budgets that the caller sees, with what each has spent and holds."""
        self.check("budgets")
        return await self.mesh.get(Spending).budget_views(visible_tenant(self.caller))

    async def estimate(self, *, agent_id: str | None = None, capability: str | None = None) -> TaskEstimate:
        """The cost of the last such tasks: median and 90 %. Raises InvalidInput."""
        self.check("estimate")
        tenant_id = visible_tenant(self.caller)
        return await self.mesh.get(Spending).estimate(
            agent_id=agent_id, capability=capability, tenant_id=tenant_id
        )

    async def raise_budget(
        self,
        amount_usd: Decimal | None = None,
        *,
        cheaper: bool = False,
        budget: str | None = None,
        key: str | None = None,
        task_id: str | None = None,
        tenant_id: str | None = None,
    ) -> BudgetView:
        """Add dollars to a budget, or to a task's own; tasks that wait for money go on.

        With `cheaper` calls without room go on with cheaper models. Any but a task's own takes a caller of
        all tenants. Raises NotFound, InvalidInput.
        """
        self.check("raise_budget")
        if task_id is None:
            require_all_tenants(self.caller, "raises a budget that is not a task's own")
        subject = f"budgets/{budget}" if task_id is None else f"tasks/{task_id}"
        details = {"of": key, "amount_usd": amount_usd, "cheaper": cheaper, "tenant_id": tenant_id}
        async with self.mesh.get(Audit).change(self.caller, "budget.raised", subject, details):
            return await self.mesh.get(Spending).raise_budget(
                amount_usd or ZERO,
                cheaper=cheaper,
                budget=budget,
                key=key,
                task_id=task_id,
                tenant_id=tenant_of(self.caller, tenant_id) or self.caller.tenant_id,
            )

    async def allowances(self) -> list[Budget]:
        """The budgets that were set while the mesh runs."""
        self.check("allowances")
        tenant_id = visible_tenant(self.caller)
        items = await self.mesh.get(Allowances).items()
        return [item for item in items if tenant_id in (None, item.tenant_id)]

    async def allow(
        self, whose: str, allowance: str, *, tenant_id: str | None = None, on_empty: OnEmpty = "fail"
    ) -> Budget:
        """Allow somebody an amount in a window, like `5/day`. Raises InvalidInput."""
        self.check("allow")
        tenant_id = tenant_of(self.caller, tenant_id)
        details = {"allowance": allowance, "tenant_id": tenant_id, "on_empty": on_empty}
        async with self.mesh.get(Audit).change(self.caller, "allowance.set", f"allowances/{whose}", details):
            return await self.mesh.get(Spending).allow(
                whose, allowance, tenant_id=tenant_id, on_empty=on_empty
            )

    async def disallow(self, whose: str, *, tenant_id: str | None = None) -> list[Budget]:
        """Remove somebody's allowances, of every window, and return them. Raises NotFound."""
        self.check("disallow")
        tenant_id = tenant_of(self.caller, tenant_id)
        subject, details = f"allowances/{whose}", {"tenant_id": tenant_id}
        async with self.mesh.get(Audit).change(self.caller, "allowance.removed", subject, details):
            return await self.mesh.get(Spending).disallow(whose, tenant_id=tenant_id)

    # Deployments of models

    async def deployments(self) -> dict[str, Any]:
        """The groups of models with their deployments, prices, fallbacks, and missing variables."""
        self.check("deployments")
        return {**await self.mesh.get(Deployments).overview(), "warnings": list(self.mesh.warnings)}

    def explain_route(self, model: str, tags: Sequence[str]) -> dict[str, Any]:
        """Which deployments a call of a group with tags would reach, what follows, and why."""
        self.check("explain_route")
        return self.mesh.get(Deployments).route(model, tags)

    async def test_deployments(self, model: str | None = None) -> list[dict[str, Any]]:
        """Call each usable deployment of a group, or of all. One that answers gets calls again."""
        self.check("test_deployments")
        async with self.mesh.get(Audit).change(
            self.caller, "deployments.tested", "deployments", {"model": model}
        ):
            return await self.mesh.get(Deployments).test(model)

    # Keys

    async def create_key(
        self,
        *,
        name: str | None = None,
        agent_id: str | None = None,
        tenant_id: str | None = None,
        roles: Sequence[str] = KEY_ROLES,
        expires: str | None = None,
        budget: str | None = None,
    ) -> NewKey:
        """Create a key of a person or a program (`name`), or of an agent. Raises InvalidInput.

        A caller of one tenant creates keys of that tenant alone.
        """
        self.check("create_key")
        tenant_id = tenant_id or self.caller.tenant_id
        if tenant_id != self.caller.tenant_id:
            require_all_tenants(self.caller, "creates keys of another tenant")
        holder, key_id = self._holder(name, agent_id), new_id()
        known = {"tenant_id": tenant_id, "roles": roles, "expires": expires, "budget": budget}
        recorded = {"holder": holder, **known}
        async with self.mesh.get(Audit).change(self.caller, "key.created", f"keys/{key_id}", recorded):
            return await self.mesh.get(Keys).create(
                holder, key_id=key_id, tenant_id=tenant_id, roles=roles, expires=expires, budget=budget
            )

    async def list_keys(self) -> list[Key]:
        """The keys of the caller's tenant, or of all where it sees those; never a key itself."""
        self.check("list_keys")
        tenant_id = visible_tenant(self.caller)
        return [key for key in await self.mesh.get(Keys).list() if tenant_id in (None, key.tenant_id)]

    async def open_keys(self) -> int:
        """Revoke every key, and require none until another is created; returns how many were revoked."""
        self.check("open_keys")
        async with self.mesh.get(Audit).change(self.caller, "keys.opened", "keys"):
            return await self.mesh.get(Keys).open()

    async def revoke_key(self, key_id: str) -> Key:
        """Revoke a key immediately, for good. Raises NotFound."""
        self.check("revoke_key")
        await self._check_key(key_id)
        async with self.mesh.get(Audit).change(self.caller, "key.revoked", f"keys/{key_id}"):
            return await self.mesh.get(Keys).revoke(key_id)

    async def rotate_key(self, key_id: str, *, grace: str, expires: str | None = None) -> NewKey:
        """Create a key in another's place; both work for `grace`. Raises NotFound, Conflict."""
        self.check("rotate_key")
        await self._check_key(key_id)
        details = {"grace": grace, "expires": expires}
        async with self.mesh.get(Audit).change(self.caller, "key.rotated", f"keys/{key_id}", details):
            return await self.mesh.get(Keys).rotate(key_id, grace=grace, expires=expires)

    # Contents

    async def erase(self, subject: TaskSubject) -> Erased:
        """Erase the contents of tasks of the caller's tenant, with all that they delegated, for good.

        Raises NotFound, and Conflict where one is still open.
        """
        self.check("erase")
        return await self.mesh.get(Eraser).erase(self.caller, subject)

    async def verify(self) -> ChainReport:
        """Walk the hash chain of the event log, and check its signed heads."""
        self.check("verify")
        return await asyncio.to_thread(verify, self.mesh.database)

    async def rotate_secrets(self) -> int:
        """Encrypt all stored secrets with a new key, where the data folder has the keys; returns how many."""
        self.check("rotate_secrets")
        async with self.mesh.get(Audit).change(self.caller, "secrets.rotated", "secrets"):
            return await self.mesh.get(Secrets).rotate()

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
