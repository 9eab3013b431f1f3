"""Administration: encryption and erasure, keys of callers, budgets and allowances, deployments of models."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Self

from fastapi import Path, Query, Response
from pydantic import BaseModel, Field, model_validator

from meshwright.core.access import KEY_ROLES, Role
from meshwright.core.ids import ID_PATTERN, Identifier
from meshwright.core.money import Budget, Dollars, OnEmpty
from meshwright.edges.bodies import Strict
from meshwright.edges.http.routing import make_router, may, problems
from meshwright.events.tasks import TaskSubject
from meshwright.identity.administration import Administration
from meshwright.ledger.budgets import BudgetView
from meshwright.ledger.keys import Key, Keys, KeyTenant, NewKey, keys_required
from meshwright.ledger.task_costs import TaskEstimate

router = make_router("administration")
keys = make_router("keys")
budgets = make_router("costs")
deployments = make_router("models")
by = partial(may, kind=Administration)
_NOT_ADMIN = {401: "The admin token is missing or wrong.", 403: "The caller is no administrator."}


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


@router.post(
    "/erase",
    summary="Erase contents",
    responses=problems({404: "There is no such task.", 409: "A task is still open.", **_NOT_ADMIN}),
)
async def _erase(acting: Annotated[Administration, by("erase")], wanted: EraseRequest) -> Erasure:
    """Erase what was asked, said and answered in tasks of the caller's tenant.

    So it is for their forks, and for all that they delegated.

    This cannot be undone. That the tasks ran, when, for whom and at what cost stays, and the event log
    still verifies.
    """
    erased = await acting.erase(TaskSubject(**wanted.model_dump()))
    return Erasure(tasks=erased.tasks, events=erased.events)


@router.get("/audit/verify", summary="Verify the event log", responses=problems(_NOT_ADMIN))
async def _verify_log(acting: Annotated[Administration, by("verify")]) -> Verification:
    """Walk the hash chain of the event log, and check the signed heads: seconds for a million rows."""
    return Verification(**asdict(await acting.verify()))


@router.post("/secrets/rotate", summary="Encrypt with a new key", responses=problems(_NOT_ADMIN))
async def _rotate_secrets(acting: Annotated[Administration, by("rotate_secrets")]) -> Rotation:
    """Make a new key, where the data folder has the keys, and encrypt all stored secrets with it."""
    return Rotation(renewed=await acting.rotate_secrets())


_NO_OPERATOR = {403: "The caller is no operator, or no operator of all tenants."}


# Keys


class KeyRequest(Strict):
    """The holder and the rights of a new key. `budget` limits its holder, like `5.00/day`.

    `name` is a person or a program, `agent_id` an agent of the mesh: one of the two. `tenant_id` is that of
    the caller where it is not named; `*` is all tenants. `expires` is a time from now like `30d`.
    """

    name: Identifier | None = None
    agent_id: Identifier | None = None
    tenant_id: KeyTenant | None = None
    roles: tuple[Role, ...] = Field(default=KEY_ROLES, min_length=1, max_length=len(Role))
    expires: str | None = Field(default=None, max_length=16)
    budget: str | None = Field(default=None, max_length=64)


class RotateRequest(Strict):
    """How long both keys are good, and after how long the new one expires, like `1h` and `30d`.

    Without `expires` the new key lives as long as the other was to.
    """

    grace: str = Field(default="1h", max_length=16)
    expires: str | None = Field(default=None, max_length=16)


class KeyList(BaseModel):
    """Keys, the oldest first; `required` says whether callers need one."""

    items: list[Key]
    required: bool


class Opened(BaseModel):
    """The mesh requires no key any more; `revoked` keys were revoked for that."""

    revoked: int


@keys.post(
    "/keys",
    status_code=201,
    summary="Create a key",
    response_description="`key` is shown this once.",
    responses=problems(_NOT_ADMIN),
)
async def _create_key(
    acting: Annotated[Administration, by("create_key")], wanted: KeyRequest, response: Response
) -> NewKey:
    """Create a key for a person, a program or an agent. From the first one on, every caller needs a key.

    An administrator of one tenant creates keys of that tenant alone.
    """
    response.headers["Cache-Control"] = "no-store"
    return await acting.create_key(**dict(wanted))


@keys.get("/keys", summary="List keys", responses=problems(_NOT_ADMIN))
async def _list_keys(acting: Annotated[Administration, by("list_keys")]) -> KeyList:
    """List the keys of the caller's tenant, and whose each is; never the key itself.

    The administrator of the mesh sees those of all tenants.
    """
    mesh = acting.mesh
    required = await keys_required(mesh.get(Keys), mesh.settings)
    return KeyList(items=await acting.list_keys(), required=required)


@keys.post("/keys/open", summary="Revoke every key", responses=problems(_NOT_ADMIN))
async def _open_mesh(acting: Annotated[Administration, by("open_keys")]) -> Opened:
    """Revoke every key, and require none until another is created. `keys.required = true` still holds."""
    return Opened(revoked=await acting.open_keys())


@keys.delete(
    "/keys/{key_id}",
    summary="Revoke a key",
    responses=problems({404: "There is no such key.", **_NOT_ADMIN}),
)
async def _revoke_key(
    acting: Annotated[Administration, by("revoke_key")], key_id: Annotated[str, Path(pattern=ID_PATTERN)]
) -> Key:
    """Revoke a key immediately. This cannot be undone, and callers still need a key."""
    return await acting.revoke_key(key_id)


@keys.post(
    "/keys/{key_id}/rotate",
    status_code=201,
    summary="Rotate a key",
    response_description="`key` is shown this once.",
    responses=problems({404: "There is no such key.", 409: "It was revoked or rotated.", **_NOT_ADMIN}),
)
async def _rotate_key(
    acting: Annotated[Administration, by("rotate_key")],
    key_id: Annotated[str, Path(pattern=ID_PATTERN)],
    wanted: RotateRequest,
    response: Response,
) -> NewKey:
    """Create a key in another's place: of the same agent, tenant, roles and budget. Both work for `grace`."""
    response.headers["Cache-Control"] = "no-store"
    return await acting.rotate_key(key_id, grace=wanted.grace, expires=wanted.expires)


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


class AllowanceRequest(Strict):
    """A spender with its allowance: an agent, or `agent:ID`, `tenant:ID`, `tag:NAME` or `mesh`; like `5/day`.

    Without `on_empty` an allowance that is replaced keeps its own; a new one has `fail`.
    """

    whose: str = Field(min_length=1, max_length=128)
    allowance: str = Field(min_length=1, max_length=64)
    tenant_id: Identifier | None = None
    on_empty: OnEmpty | None = None


class _AllowanceQuery(Strict):
    whose: str = Field(min_length=1, max_length=128)
    tenant_id: Identifier | None = None


class AllowanceItems(BaseModel):
    """Allowances by name."""

    items: list[Budget]


class _EstimateQuery(Strict):
    agent_id: Identifier | None = None
    capability: Identifier | None = None


@budgets.get("/budgets", summary="List budgets")
async def _list_budgets(acting: Annotated[Administration, by("budgets")]) -> BudgetList:
    """Show what each budget may spend, has spent and holds for calls under way, and when it renews.

    `estimated_usd` is the part of what is spent that no provider counted.
    A budget that each of a scope has for itself is shown for the last 1,000 of whom a call was made.
    """
    return BudgetList(items=await acting.budgets())


@budgets.post(
    "/budgets/raise",
    summary="Raise a budget",
    responses=problems({404: "There is no such budget.", **_NO_OPERATOR}),
)
async def _raise_budget(
    acting: Annotated[Administration, by("raise_budget")], wanted: RaiseRequest
) -> BudgetView:
    """Add dollars to a budget, or let its calls be cheaper, for the rest of its window or for good.

    Tasks that wait for money go on. A call without room has its tags `expensive` and `medium` replaced by the
    budget's `cheaper_tag`, else `cheap`; where that has no room either, the task does what `on_empty` says.
    """
    return await acting.raise_budget(**dict(wanted))


@budgets.get("/allowances", summary="List allowances", responses=problems(_NO_OPERATOR))
async def _list_allowances(acting: Annotated[Administration, by("allowances")]) -> AllowanceItems:
    """Show the budgets that were set while the mesh runs."""
    return AllowanceItems(items=await acting.allowances())


@budgets.put("/allowances", summary="Set an allowance", responses=problems(_NO_OPERATOR))
async def _set_allowance(acting: Annotated[Administration, by("allow")], wanted: AllowanceRequest) -> Budget:
    """Allow somebody an amount in a window, in place of what was allowed in such a window before.

    It counts with the next call of a model, on every worker within a second.
    """
    return await acting.allow(**dict(wanted))


@budgets.delete(
    "/allowances", summary="Remove allowances", responses=problems({404: "There are none.", **_NO_OPERATOR})
)
async def _remove_allowances(
    acting: Annotated[Administration, by("disallow")], query: Annotated[_AllowanceQuery, Query()]
) -> AllowanceItems:
    """End the allowances of somebody, of every window, and show them."""
    return AllowanceItems(items=await acting.disallow(query.whose, tenant_id=query.tenant_id))


@budgets.get(
    "/costs/estimate",
    summary="Estimate a task",
    responses=problems({422: "Neither an agent nor a capability is named."}),
)
async def _estimate_task(
    acting: Annotated[Administration, by("estimate")], query: Annotated[_EstimateQuery, Query()]
) -> TaskEstimate:
    """Show what the last such tasks have cost, with all that they delegated: median and 90 %."""
    return await acting.estimate(agent_id=query.agent_id, capability=query.capability)


_NOT_OPERATOR = {403: "The caller is no operator of all tenants."}
_NO_GROUP = {400: "There is no such group, or nothing of it can be called."}


class _RouteQuery(Strict):
    """Which call: its group, and its tags, with commas between them."""

    model: str = Field(default="default", min_length=1, max_length=128)
    tags: str = Field(default="", max_length=1024)


class TestRequest(Strict):
    """Which group to test; none: all."""

    model: str | None = Field(default=None, min_length=1, max_length=128)


class DeploymentTests(BaseModel):
    """A result for each deployment: whether it answers (`ok`), its model and cost, or its error."""

    items: list[dict[str, Any]]


@deployments.get("/deployments", summary="List deployments of models", responses=problems(_NOT_OPERATOR))
async def _list_deployments(acting: Annotated[Administration, by("deployments")]) -> dict[str, Any]:
    """List the groups of models with their deployments, prices, fallbacks, and missing variables."""
    return await acting.deployments()


@deployments.get(
    "/deployments/route", summary="Explain where a call goes", responses=problems(_NOT_OPERATOR | _NO_GROUP)
)
async def _explain_route(
    acting: Annotated[Administration, by("explain_route")], query: Annotated[_RouteQuery, Query()]
) -> dict[str, Any]:
    """Say which deployments a call of a group with tags would reach, what follows, and why."""
    return acting.explain_route(query.model, [tag for tag in query.tags.split(",") if tag])


@deployments.post(
    "/deployments/test", summary="Test deployments", responses=problems(_NOT_OPERATOR | _NO_GROUP)
)
async def _test_deployments(
    acting: Annotated[Administration, by("test_deployments")], wanted: TestRequest
) -> DeploymentTests:
    """Call each usable deployment plainly, streamed and with a tool, for a few tokens each.

    One that answers gets calls again, and tasks that wait for it go on.
    """
    return DeploymentTests(items=await acting.test_deployments(wanted.model))
