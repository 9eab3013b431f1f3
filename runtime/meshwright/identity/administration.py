"""Operations on what a mesh may spend, who may use it, and what it keeps."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, model_validator

from meshwright.core.ids import Identifier
from meshwright.core.money import ZERO, Budget, Dollars, OnEmpty
from meshwright.core.operations import (
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
from meshwright.identity.operations import Acting
from meshwright.identity.rules import ADMIN, OPERATOR, VIEWER
from meshwright.ledger.allowances import Allowances
from meshwright.ledger.budgets import BudgetView
from meshwright.ledger.spending import Spending
from meshwright.ledger.task_costs import TaskEstimate
from meshwright.models.overview import Deployments
from meshwright.run.erasure import Eraser
from meshwright.sql.encrypted import Secrets

_NOT_ADMIN = {401: "The admin token is missing or wrong.", 403: "The caller is no administrator."}
_NO_OPERATOR = {403: "The caller is no operator, or no operator of all tenants."}
_NOT_OPERATOR = {403: "The caller is no operator of all tenants."}
_NO_GROUP = {400: "There is no such group, or nothing of it can be called."}
_ALLOWANCE = """\
A spender with its allowance: an agent, or `agent:ID`, `tenant:ID`, `tag:NAME` or `mesh`; like `5/day`.

Without `on_empty` an allowance that is replaced keeps its own; a new one has `fail`.
"""
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
