"""The calls of a client that manage a mesh: what it spends, what its parts keep, keys, and audits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from meshwright.core.display import Document, Resource
from meshwright.core.errors import InvalidInput
from meshwright.core.parts import resource
from meshwright.edges.client.transports import RequestSender

if TYPE_CHECKING:
    from meshwright.core.money import Budget, OnEmpty
    from meshwright.engine.events.verify import ChainReport
    from meshwright.money.budgets import BudgetView
    from meshwright.money.costs import Bucket, Costs
    from meshwright.money.keys import Key, NewKey
    from meshwright.money.task_costs import TaskEstimate


class ResourceCalls:
    """The things of one kind: `await mesh.resource("schedules").get("digest")`.

    Answers are the JSON of the HTTP API. All raise what the mesh refuses: NotFound, InvalidInput, Forbidden.
    """

    def __init__(self, resource: Resource, connection: RequestSender) -> None:
        self._resource = resource
        self._connection = connection

    async def list(self, **params: Any) -> list[Document]:
        """All of them, page by page."""
        return [item async for item in self._connection.items(self._resource.path, params)]

    async def get(self, name: str) -> Document:
        """One of them."""
        return await self._connection.call("GET", self._resource.item_path(name))

    async def create(self, **fields: Any) -> Document:
        """Make one. Raises Conflict where there is one with that id."""
        return await self._connection.call("POST", self._resource.path, body=fields)

    async def put(self, name: str, **fields: Any) -> Document:
        """Change one."""
        return await self._connection.call("PUT", self._resource.item_path(name), body=fields)

    async def delete(self, name: str) -> Document | None:
        """Delete one; returns it where the mesh shows it."""
        return await self._connection.call("DELETE", self._resource.item_path(name))

    async def do(self, verb: str, name: str) -> Document | None:
        """Do with one what a verb of its commands does, such as `pause`. Raises InvalidInput."""
        verbs = {item.name: item for item in self._resource.verbs}
        if verb not in verbs:
            remedy = f"There are {', '.join(verbs) or 'none'}"
            raise InvalidInput(f"{self._resource.name} have no verb {verb!r}", remedy=remedy, field="verb")
        path = f"{self._resource.item_path(name)}{verbs[verb].path}"
        return await self._connection.call(verbs[verb].method, path)


_TEST_SECONDS = 600.0
_ANSWER_SECONDS = 30.0  # for an answer, once the mesh has waited


class AdministrationCalls:
    """The part of `Client` that manages a mesh. Most calls need the admin token, or a role."""

    def __init__(self, connection: RequestSender) -> None:
        self._connection = connection

    def resource(self, name: str) -> ResourceCalls:
        """The things of a name that a part of the mesh keeps, such as `schedules`. Raises NotFound."""
        return ResourceCalls(resource(name), self._connection)

    async def deployments(self) -> dict[str, Any]:
        """The groups of models with their deployments, prices and fallbacks. Needs the admin token."""
        return dict(await self._connection.call("GET", "/deployments"))

    async def deployment_route(self, model: str = "default", tags: Sequence[str] = ()) -> dict[str, Any]:
        """The deployments that a call of a group with tags reaches, and why. Needs the admin token."""
        params = {"model": model, "tags": ",".join(tags)}
        return dict(await self._connection.call("GET", "/deployments/route", params=params))

    async def test_deployments(self, model: str | None = None) -> list[dict[str, Any]]:
        """Call each deployment of a group, or of all; tasks that wait for one that answers go on.

        Needs the admin token.
        """
        options = {"body": {"model": model}, "timeout": _TEST_SECONDS}
        return await self._connection.field("items", "POST", "/deployments/test", **options)

    async def budgets(self) -> list[BudgetView]:
        """The budgets, with the dollars that are spent and reserved of each."""
        from meshwright.money.budgets import BudgetView

        return await self._connection.get_list(BudgetView, "/budgets")

    async def raise_budget(
        self,
        amount_usd: Decimal | str | None = None,
        *,
        cheaper: bool = False,
        budget: str | None = None,
        key: str | None = None,
        task_id: str | None = None,
    ) -> BudgetView:
        """Add dollars to a budget, or to a task's own; tasks that wait for money go on.

        With `cheaper` calls without room go on with cheaper models. `key` says whose, where each of a scope
        has one. Needs the admin token. Raises NotFound.
        """
        from meshwright.money.budgets import BudgetView

        body = _present(budget=budget, key=key, task_id=task_id, cheaper=cheaper, amount_usd=amount_usd)
        return await self._connection.get(BudgetView, "/budgets/raise", "POST", body=body)

    async def allowances(self) -> list[Budget]:
        """The budgets that were set while the mesh runs. Needs the admin token."""
        from meshwright.core.money import Budget

        return await self._connection.get_list(Budget, "/allowances")

    async def allow(
        self, whose: str, allowance: str, *, tenant_id: str | None = None, on_empty: OnEmpty | None = None
    ) -> Budget:
        """Allow an agent's id, `agent:ID`, `tenant:ID`, `tag:NAME` or `mesh` an amount like `5/day`.

        Without a window it is for a day; without `on_empty` one that is replaced keeps its own. Needs the
        admin token.
        """
        from meshwright.core.money import Budget

        body = _present(whose=whose, allowance=allowance, tenant_id=tenant_id, on_empty=on_empty)
        return await self._connection.get(Budget, "/allowances", "PUT", body=body, repeats=True)

    async def disallow(self, whose: str, *, tenant_id: str | None = None) -> list[Budget]:
        """Remove somebody's allowances, and return them. Needs the admin token. Raises NotFound."""
        from meshwright.core.money import Budget

        params = {"whose": whose, "tenant_id": tenant_id}
        removed = await self._connection.field("items", "DELETE", "/allowances", params=params)
        return list(map(Budget.model_validate, removed))

    async def estimate(self, *, agent_id: str | None = None, capability: str | None = None) -> TaskEstimate:
        """The cost of the last tasks of an agent or a capability: median, 90 % and the most."""
        from meshwright.money.task_costs import TaskEstimate

        params = {"agent_id": agent_id, "capability": capability}
        return await self._connection.get(TaskEstimate, "/costs/estimate", params=params)

    async def costs(
        self,
        by: str = "agent",
        *,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        bucket: Bucket | None = None,
        **of: str | None,
    ) -> Costs:
        """The cost of model calls by one key or two (`agent,model`), most expensive first.

        Times are times, or durations such as `24h`. With a `bucket` (`hour`, `day`) the costs are a series.
        `of` are the fields by which `tasks` are found: the agent, the thread, the model and the prompt are
        those of the call, and all others those of its task.
        """
        from meshwright.money.costs import Costs

        params = {"by": by, "since": since, "until": until, "bucket": bucket, **of}
        return await self._connection.get(Costs, "/costs", params=params)

    async def keys(self) -> list[Key]:
        """Keys, oldest first, without their secrets. Managing keys needs the admin token."""
        from meshwright.money.keys import Key

        return await self._connection.get_list(Key, "/keys")

    async def keys_required(self) -> bool:
        """Whether callers need a key."""
        return await self._connection.field("required", "GET", "/keys")

    async def create_key(
        self,
        agent_id: str | None = None,
        *,
        name: str | None = None,
        tenant_id: str | None = None,
        roles: Sequence[str] | None = None,
        expires: str | None = None,
        budget: str | None = None,
    ) -> NewKey:
        """Create a key of an agent, or of a person or a program by `name`; its secret is shown this once.

        `tenant_id` is by default that of the caller, and `*` is all tenants; `roles` are by default
        submitter, viewer and contents. `expires` is a time from now like `30d`, `budget` like `5.00/day`.
        Creating the first key makes keys mandatory.
        """
        from meshwright.money.keys import NewKey

        rights = _present(tenant_id=tenant_id, roles=roles, expires=expires, budget=budget)
        body = {**_present(name=name, agent_id=agent_id), **rights}
        return await self._connection.get(NewKey, "/keys", "POST", body=body)

    async def rotate_key(self, key_id: str, *, grace: str = "1h", expires: str | None = None) -> NewKey:
        """Create a key in another's place. Both work for `grace`, a time like `1h`.

        Raises NotFound, and Conflict where the other was revoked or rotated.
        """
        from meshwright.money.keys import NewKey

        path = f"/keys/{quote(key_id, safe='')}/rotate"
        return await self._connection.get(NewKey, path, "POST", body={"grace": grace, "expires": expires})

    async def revoke_key(self, key_id: str) -> Key:
        """Revoke a key. Raises NotFound."""
        from meshwright.money.keys import Key

        return await self._connection.get(Key, f"/keys/{quote(key_id, safe='')}", "DELETE", repeats=True)

    async def open_keys(self) -> int:
        """Revoke all keys, and require none until another is created. Returns how many were revoked."""
        return await self._connection.field("revoked", "POST", "/keys/open")

    async def erase(
        self, *, requested_by: str | None = None, thread_id: str | None = None, task_id: str | None = None
    ) -> tuple[int, int]:
        """Erase the contents of tasks for good; returns of how many tasks and events. Needs the role admin.

        Raises NotFound, and Conflict where a task is still open.
        """
        body = _present(requested_by=requested_by, thread_id=thread_id, task_id=task_id)
        erasure = await self._connection.call("POST", "/erase", body=body, timeout=None)
        return erasure["tasks"], erasure["events"]

    async def verify_audit(self) -> ChainReport:
        """Walk the hash chain of the event log, and check its signed heads. Needs the admin token."""
        from meshwright.engine.events.verify import ChainReport

        answer = await self._connection.call("GET", "/audit/verify", timeout=None)
        return self._connection.read(lambda fields: ChainReport(**fields), "/audit/verify", answer)

    async def drain(self, *, wait_seconds: float = 0.0) -> Document:
        """Let the process that answers begin no more work; returns its `state`, and how many tasks it runs.

        It waits up to that time until nothing runs any more. Needs the role operator of all tenants.
        """
        wait, timeout = {"wait": wait_seconds}, wait_seconds + _ANSWER_SECONDS
        return await self._connection.call("POST", "/drain", params=wait, timeout=timeout)

    async def hold(self) -> Document:
        """Let no process of the mesh begin work before `release`; returns what `drain` returns.

        Needs the role operator of all tenants.
        """
        return await self._connection.call("POST", "/hold")

    async def release(self) -> Document:
        """Begin the work of a mesh that is held, or of a process that drains; returns what `drain` returns.

        Needs the role operator of all tenants.
        """
        return await self._connection.call("POST", "/release")

    async def prune(self, *, dry_run: bool = False) -> Document:
        """Prune the tasks that `[retention]` says are old enough, or count them. Returns `tasks` by status.

        `has_more` says that there are others. Needs the admin token. Raises InvalidInput without an age.
        """
        params = {"dry_run": str(dry_run).lower()}
        return await self._connection.call("POST", "/prune", params=params, timeout=None)

    async def verify_store(self) -> Document:
        """Compare the lists with the events, and the tasks with what is promised of them.

        `faults` has each deviation in a line. Needs the admin token.
        """
        return await self._connection.call("GET", "/store/verify", timeout=None)

    async def rotate_secrets(self) -> int:
        """Encrypt all stored secrets with a new key. Returns how many there are. Needs the admin token."""
        return await self._connection.field("renewed", "POST", "/secrets/rotate")


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
