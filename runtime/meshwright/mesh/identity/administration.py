"""Operations on models, and of operators and administrators."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, model_validator

from meshwright.agents.context.plan import CompressRequest, CompressResponse
from meshwright.agents.context.service import ContextClient
from meshwright.agents.run.erasure import Eraser
from meshwright.core.access import Role
from meshwright.core.capability import AgentInfo
from meshwright.core.errors import NotFound
from meshwright.core.ids import Identifier
from meshwright.core.messages import ScoreCard
from meshwright.core.operations import Input, Rule, has_role, operation, visible_tenant
from meshwright.core.payloads import redacted
from meshwright.engine.events.audit import Audit
from meshwright.engine.events.status import MeshStatus
from meshwright.engine.events.task_lists import TaskSubject
from meshwright.engine.events.verify import verify
from meshwright.engine.sql.encryption import Secrets
from meshwright.mesh.identity.operations import Acting
from meshwright.mesh.identity.rules import ADMIN, OPERATOR, SUBMITTER, VIEWER, call_context
from meshwright.mesh.orchestration.registry import Registry
from meshwright.mesh.orchestration.status import StatusReader
from meshwright.mesh.orchestration.tenants import Tenants
from meshwright.models.overview import Deployments
from meshwright.models.port import CallContext

_NOT_ADMIN = {401: "The admin token is missing or wrong.", 403: "The caller is no administrator."}
_NOT_OPERATOR = {403: "The caller is no operator of all tenants."}
_NO_GROUP = {400: "There is no such group, or nothing of it can be called."}
_Group = Annotated[str, Field(min_length=1, max_length=128)]


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


class EraseRequest(Input):
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


class DeploymentTests(BaseModel):
    """A result for each deployment: whether it answers (`ok`), its model and cost, or its error."""

    items: list[dict[str, Any]]


class AgentList(BaseModel):
    """Agents by name."""

    items: list[AgentInfo]


class ScoreList(BaseModel):
    """Score cards, the best first."""

    items: list[ScoreCard]


class ModelOperations(Acting):
    """The operations on models and contexts. Each raises what the operations of `Operations` raise."""

    @operation(Rule("compresses contexts", SUBMITTER), "POST /compress", "Compress a context", tag="context")
    async def compress(self, request: CompressRequest, *, traceparent: str | None = None) -> CompressResponse:
        """Make the context that the receiver needs: by rules, and by a model where those are not enough."""
        caller = self.caller
        return await self.mesh.get(ContextClient).compress(
            request,
            tenant_id=caller.tenant_id,
            traceparent=traceparent,
            context=lambda: CallContext(
                tenant_id=caller.tenant_id, budgets=caller.budgets, traceparent=traceparent
            ),
        )

    @operation(Rule("lists models", SUBMITTER))
    def models(self) -> tuple[str, ...] | None:
        """The models that may be named; None where only their server knows."""
        return self.mesh.get(Deployments).groups

    @operation(Rule("calls models", SUBMITTER, limit="calls_per_minute"))
    async def call_model(
        self, *, tenant_id: str | None = None, user: str | None = None, traceparent: str | None = None
    ) -> CallContext:
        """Says who pays for a call of a model, which counts from now on, and which trace it joins.

        Only a caller of all tenants may name another tenant. Raises Overloaded, StorageExceeded.
        """
        context = call_context(self.caller, tenant_id=tenant_id, user=user)
        await self.mesh.get(Tenants).take(context.tenant_id, "calls_per_minute")
        return context.model_copy(update={"traceparent": traceparent})

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
        """Call each usable deployment as agents do, for at most 900 tokens of output each; say what was seen.

        One that answers gets calls again, and tasks that wait for it go on.
        """
        async with self.mesh.get(Audit).change(
            self.caller, "deployments.tested", "deployments", {"model": model}
        ):
            return DeploymentTests(items=await self.mesh.get(Deployments).test(model))


class Administration(Acting):
    """The operations of operators and administrators. Each raises what the operations of `Operations` raise.

    A change is recorded in the audit trail before it is made, and refused where it cannot be recorded.
    """

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

    @operation(Rule("lists agents", VIEWER), "GET /agents", "List agents", name="list_agents", tag="agents")
    def agents(self) -> AgentList:
        """Show every agent that is registered, and how it is doing."""
        return AgentList(items=self.mesh.get(Registry).agents())

    @operation(
        Rule("sees scores", VIEWER),
        "GET /agents/score/{capability}",
        "Score agents for a capability",
        name="score_agents",
        tag="agents",
        errors={404: "No agent has that capability."},
    )
    def scores(self, capability: Identifier) -> ScoreList:
        """Show how the agents that are not offline score for a capability, factor by factor, best first."""
        capabilities = self.mesh.get(Registry).capabilities()
        if capability not in capabilities:
            raise NotFound(
                f"No agent has the capability {capability!r}",
                remedy=f"Known are {', '.join(capabilities) or 'none: no agent is registered'}",
                field="capability",
            )
        return ScoreList(items=self.mesh.get(Registry).scores(capability))

    @operation(
        Rule("sees the status", VIEWER),
        "GET /status",
        "Show the state of the mesh",
        name="show_status",
        tag="tasks",
    )
    async def status(self) -> MeshStatus:
        """Count open tasks by status and by what they wait for, and show which deployments are left alone.

        The holder of a key sees the tasks of the key's tenant, the administrator all of it.
        """
        status = await self.mesh.get(StatusReader).status(visible_tenant(self.caller))
        return status if has_role(self.caller, Role.CONTENTS) else redacted(status)
