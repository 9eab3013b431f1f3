"""Operations on what a mesh may spend, who may use it, and what it keeps."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, model_validator

from meshwright.core.access import KEY_ROLES, Role
from meshwright.core.capability import LLM_SERVICE
from meshwright.core.errors import InvalidInput
from meshwright.core.ids import Identifier, new_id
from meshwright.core.messages import Caller
from meshwright.core.money import ZERO, Budget, Dollars, OnEmpty
from meshwright.core.operations import (
    NO_STORE,
    Rule,
    Strict,
    operation,
    require_all_tenants,
    tenant_of,
    visible_tenant,
)
from meshwright.events.audit import Audit
from meshwright.events.tasks import TaskSubject
from meshwright.events.verify import verify
from meshwright.identity.auth import ADMINISTRATOR
from meshwright.identity.operations import Acting
from meshwright.identity.rules import ADMIN, OPERATOR, VIEWER
from meshwright.ledger.allowances import Allowances
from meshwright.ledger.budgets import BudgetView
from meshwright.ledger.keys import Key, Keys, KeyTenant, NewKey, keys_required, unknown_key
from meshwright.ledger.spending import Spending
from meshwright.ledger.task_costs import TaskEstimate
from meshwright.models.overview import Deployments
from meshwright.orchestration.registry import Registry
from meshwright.run.erasure import Eraser
from meshwright.sql.encrypted import Secrets

_NOT_ADMIN = {401: "The admin token is missing or wrong.", 403: "The caller is no administrator."}
_NO_KEY = {404: "There is no such key."}
_NO_OPERATOR = {403: "The caller is no operator, or no operator of all tenants."}
_NOT_OPERATOR = {403: "The caller is no operator of all tenants."}
_NO_GROUP = {400: "There is no such group, or nothing of it can be called."}
_KEY_ONCE = "`key` is shown this once."
_NEW_KEY = """\
The holder and the rights of a new key. `budget` limits its holder, like `5.00/day`.

`name` is a person or a program, `agent_id` an agent of the mesh: one of the two. `tenant_id` is that of
the caller where it is not named; `*` is all tenants. `expires` is a time from now like `30d`.
"""
_ALLOWANCE = """\
A spender with its allowance: an agent, or `agent:ID`, `tenant:ID`, `tag:NAME` or `mesh`; like `5/day`.

Without `on_empty` an allowance that is replaced keeps its own; a new one has `fail`.
"""
_Time = Annotated[str, Field(max_length=16)]
_Group = Annotated[str, Field(min_length=1, max_length=128)]
_Spender = Annotated[str, Field(min_length=1, max_length=128)]


class Rotation(BaseModel):
    """How many stored secrets are encrypted with the newest key now."""

    renewed: int


class Verification(BaseModel):
    """The result of a verification: rows `first` to `last` are unaltered, where there are no `faults`.

    `heads` counts the signed heads that vouch for rows, the last one for `signed_seq`; `key` has signed them.
    Of the rows the payloads of `erased` were erased, on record. Those up to
    `pruned_seq` were deleted by age.
    """

    rows: int
    first: int
    last: int
    heads: int
    signed_seq: int
    erased: int
    pruned_seq: int
    key: str
    faults: list[str]
    notes: list[str]


class EraseRequest(Strict):
    """The contents to erase: of the tasks that somebody asked for, of a thread, or of one task."""

    requested_by: str | None = Field(default=None, min_length=1, max_length=256)
    thread_id: Identifier | None = None
    task_id: Identifier | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(value is not None for value in self.__dict__.values()) != 1:
            raise ValueError("name one of requested_by, thread_id and task_id")
        return self


class Erasure(BaseModel):
    """Of how many tasks the contents were erased, and of how many of their events."""

    tasks: int
    events: int


class KeyList(BaseModel):
    """Keys, the oldest first; `required` says whether callers need one."""

    items: list[Key]
    required: bool


class Opened(BaseModel):
    """The mesh requires no key any more; `revoked` keys were revoked for that."""

    revoked: int


class BudgetList(BaseModel):
    """Budgets, each with whose it is."""

    items: list[BudgetView]


class RaiseRequest(Strict):
    """Which budget to raise: its name, and whose (`key`) where each has one; or a task, for its own.

    With `cheaper` those of its calls that have no room go on with cheaper models, before they do what the
    budget says. It is raised, made cheaper, or both.
    """

    budget: str | None = Field(default=None, min_length=1, max_length=64)
    key: str | None = Field(default=None, min_length=1, max_length=512)
    task_id: Identifier | None = None
    tenant_id: Identifier | None = None
    amount_usd: Dollars | None = None
    cheaper: bool = False

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.amount_usd and not self.cheaper:
            raise ValueError("give an amount_usd that is greater than 0, or cheaper")
        return self


class AllowanceItems(BaseModel):
    """Allowances by name."""

    items: list[Budget]


class DeploymentTests(BaseModel):
    """A result for each deployment: whether it answers (`ok`), its model and cost, or its error."""

    items: list[dict[str, Any]]


class Administration(Acting):
    """The operations of operators and administrators. Each raises what the operations of `Operations` raise.

    A change is recorded in the audit trail before it is made, and refused where it cannot be recorded.
    """

    @operation(
        Rule("lists budgets", VIEWER), "GET /budgets", "List budgets", name="list_budgets", tag="costs"
    )
    async def budgets(self) -> BudgetList:
        """Show what each budget may spend, has spent and holds for calls under way, and when it renews.

        `estimated_usd` is the part of what is spent that no provider counted.
        A budget that each of a scope has for itself is shown for the last 1,000 of whom a call was made.
        """
        views = await self.mesh.get(Spending).budget_views(visible_tenant(self.caller))
        return BudgetList(items=views)

    @operation(
        Rule("raises budgets", OPERATOR),
        "POST /budgets/raise",
        "Raise a budget",
        tag="costs",
        errors={404: "There is no such budget.", **_NO_OPERATOR},
        request=RaiseRequest,
    )
    async def raise_budget(
        self,
        amount_usd: Dollars | None = None,
        *,
        cheaper: bool = False,
        budget: str | None = None,
        key: str | None = None,
        task_id: str | None = None,
        tenant_id: str | None = None,
    ) -> BudgetView:
        """Add dollars to a budget, or let its calls be cheaper, for the rest of its window or for good.

        Tasks that wait for money go on. A call without room has its tags `expensive` and `medium` replaced by the
        budget's `cheaper_tag`, else `cheap`; where that has no room either, the task does what `on_empty` says.
        """  # noqa: E501
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

    @operation(
        Rule("lists allowances", OPERATOR),
        "GET /allowances",
        "List allowances",
        name="list_allowances",
        tag="costs",
        errors=_NO_OPERATOR,
    )
    async def allowances(self) -> AllowanceItems:
        """Show the budgets that were set while the mesh runs."""
        tenant_id = visible_tenant(self.caller)
        items = await self.mesh.get(Allowances).items()
        return AllowanceItems(items=[item for item in items if tenant_id in (None, item.tenant_id)])

    @operation(
        Rule("sets allowances", OPERATOR),
        "PUT /allowances",
        "Set an allowance",
        name="set_allowance",
        tag="costs",
        errors=_NO_OPERATOR,
        request="AllowanceRequest",
        about=_ALLOWANCE,
    )
    async def allow(
        self,
        whose: _Spender,
        allowance: Annotated[str, Field(min_length=1, max_length=64)],
        *,
        tenant_id: Identifier | None = None,
        on_empty: OnEmpty | None = None,
    ) -> Budget:
        """Allow somebody an amount in a window, in place of what was allowed in such a window before.

        It counts with the next call of a model, on every worker within a second.
        """
        tenant_id = tenant_of(self.caller, tenant_id)
        details = {"allowance": allowance, "tenant_id": tenant_id, "on_empty": on_empty}
        async with self.mesh.get(Audit).change(self.caller, "allowance.set", f"allowances/{whose}", details):
            return await self.mesh.get(Spending).allow(
                whose, allowance, tenant_id=tenant_id, on_empty=on_empty
            )

    @operation(
        Rule("removes allowances", OPERATOR),
        "DELETE /allowances",
        "Remove allowances",
        name="remove_allowances",
        tag="costs",
        errors={404: "There are none.", **_NO_OPERATOR},
    )
    async def disallow(self, whose: _Spender, *, tenant_id: Identifier | None = None) -> AllowanceItems:
        """End the allowances of somebody, of every window, and show them."""
        tenant_id = tenant_of(self.caller, tenant_id)
        subject, details = f"allowances/{whose}", {"tenant_id": tenant_id}
        async with self.mesh.get(Audit).change(self.caller, "allowance.removed", subject, details):
            return AllowanceItems(items=await self.mesh.get(Spending).disallow(whose, tenant_id=tenant_id))

    @operation(
        Rule("estimates tasks", VIEWER),
        "GET /costs/estimate",
        "Estimate a task",
        name="estimate_task",
        tag="costs",
        errors={422: "Neither an agent nor a capability is named."},
    )
    async def estimate(
        self, *, agent_id: Identifier | None = None, capability: Identifier | None = None
    ) -> TaskEstimate:
        """Show what the last such tasks have cost, with all that they delegated: median and 90 %."""
        tenant_id = visible_tenant(self.caller)
        return await self.mesh.get(Spending).estimate(
            agent_id=agent_id, capability=capability, tenant_id=tenant_id
        )

    @operation(
        Rule("lists deployments", OPERATOR, all_tenants=True),
        "GET /deployments",
        "List deployments of models",
        name="list_deployments",
        tag="models",
        errors=_NOT_OPERATOR,
    )
    async def deployments(self) -> dict[str, Any]:
        """List the groups of models with their deployments, prices, fallbacks, and missing variables."""
        return {**await self.mesh.get(Deployments).overview(), "warnings": list(self.mesh.warnings)}

    @operation(
        Rule("explains routes of models", OPERATOR, all_tenants=True),
        "GET /deployments/route",
        "Explain where a call goes",
        tag="models",
        errors=_NOT_OPERATOR | _NO_GROUP,
    )
    def explain_route(
        self, model: _Group = "default", tags: Annotated[str, Field(max_length=1024)] = ""
    ) -> dict[str, Any]:
        """Say which deployments a call of a group with tags would reach, what follows, and why."""
        return self.mesh.get(Deployments).route(model, [tag for tag in tags.split(",") if tag])

    @operation(
        Rule("tests deployments", OPERATOR, all_tenants=True),
        "POST /deployments/test",
        "Test deployments",
        tag="models",
        errors=_NOT_OPERATOR | _NO_GROUP,
        request="TestRequest",
        about="Which group to test; none: all.",
    )
    async def test_deployments(self, model: _Group | None = None) -> DeploymentTests:
        """Call each usable deployment plainly, streamed and with a tool, for a few tokens each.

        One that answers gets calls again, and tasks that wait for it go on.
        """
        async with self.mesh.get(Audit).change(
            self.caller, "deployments.tested", "deployments", {"model": model}
        ):
            return DeploymentTests(items=await self.mesh.get(Deployments).test(model))

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

    @operation(
        Rule("erases contents", ADMIN),
        "POST /erase",
        "Erase contents",
        tag="administration",
        errors={404: "There is no such task.", 409: "A task is still open.", **_NOT_ADMIN},
        request=EraseRequest,
    )
    async def erase(
        self, *, requested_by: str | None = None, thread_id: str | None = None, task_id: str | None = None
    ) -> Erasure:
        """Erase what was asked, said and answered in tasks of the caller's tenant.

        So it is for their forks, and for all that they delegated.

        This cannot be undone. That the tasks ran, when, for whom and at what cost stays, and the event log
        still verifies.
        """
        subject = TaskSubject(requested_by, thread_id, task_id)
        erased = await self.mesh.get(Eraser).erase(self.caller, subject)
        return Erasure(tasks=erased.tasks, events=erased.events)

    @operation(
        Rule("verifies the event log", ADMIN, all_tenants=True),
        "GET /audit/verify",
        "Verify the event log",
        name="verify_log",
        tag="administration",
        errors=_NOT_ADMIN,
    )
    async def verify(self) -> Verification:
        """Walk the hash chain of the event log, and check the signed heads: seconds for a million rows."""
        return Verification(**asdict(await asyncio.to_thread(verify, self.mesh.database)))

    @operation(
        Rule("rotates keys", ADMIN, all_tenants=True),
        "POST /secrets/rotate",
        "Encrypt with a new key",
        tag="administration",
        errors=_NOT_ADMIN,
    )
    async def rotate_secrets(self) -> Rotation:
        """Make a new key, where the data folder has the keys, and encrypt all stored secrets with it."""
        async with self.mesh.get(Audit).change(self.caller, "secrets.rotated", "secrets"):
            return Rotation(renewed=await self.mesh.get(Secrets).rotate())

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
