"""The spending of a mesh: costs, budgets and allowances, the tasks that wait for money; and its activity."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Protocol

from msgspec import field

from meshwright.core.capability import AgentInfo
from meshwright.core.encoding import Struct
from meshwright.core.errors import Forbidden, HostError, InvalidInput, NotFound, nearest
from meshwright.core.messages import Caller, TaskBudget
from meshwright.core.money import Budget, OnEmpty
from meshwright.engine.events.filter import EventFilter, seconds
from meshwright.engine.events.inbox import Inbox, InboxPage
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.status import count_open
from meshwright.engine.events.tasks import TaskSummary
from meshwright.engine.events.waits import wake_waiting
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.sql.database import Session
from meshwright.engine.work.protocol import DEFAULT_TENANT
from meshwright.engine.work.record import read_task
from meshwright.money.account import Account
from meshwright.money.allowances import Allowances
from meshwright.money.balance import OPENED
from meshwright.money.budgets import Budgets, BudgetView
from meshwright.money.charging import only_account, task_account
from meshwright.money.costs import CostQuery, Costs, sum_costs, with_reserved
from meshwright.money.forecast import with_pace
from meshwright.money.keys import Keys
from meshwright.money.task_costs import TaskEstimate, estimate_task

_logger = logging.getLogger("meshwright.money")
_PARKED_SECONDS = 5.0  # within which the log has the wait of a call that was refused
_MAX_ESTIMATED = 20  # items whose agents are estimated
_MAX_OPENED = 1_000  # accounts of budgets that are listed


class AgentRegistry(Protocol):
    """The agents of a mesh, as `orchestration.registry` has them."""

    def agents(self) -> list[AgentInfo]:
        """Every registered agent."""
        ...

    def capabilities(self) -> list[str]:
        """The names of all that some agent can do."""
        ...

    def check_agent(
        self, agent_id: str, others: Collection[str] = (), *, field: str = "agent_id", remedy: str
    ) -> None:
        """Raise InvalidInput for an agent that is neither registered nor one of `others`."""
        ...


class Spending:
    """Shows what tenants have spent, and changes what they may spend while the mesh runs."""

    def __init__(
        self,
        runtime: Runtime,
        log: EventLog,
        *,
        budgets: Budgets,
        allowances: Allowances,
        registry: AgentRegistry,
        keys: Keys,
    ) -> None:
        self._runtime = runtime
        self._log = log
        self._budgets = budgets
        self._allowances = allowances
        self._registry = registry
        self._keys = keys
        self._waking = set[asyncio.Task[None]]()

    async def start(self) -> None:
        """Wake what waits for money: settings may have other budgets than before."""
        self._wake_later(None, 0.0, set())

    async def stop(self) -> None:
        """Wake nothing more; the next start does."""
        for waking in self._waking:
            waking.cancel()
        await asyncio.gather(*self._waking, return_exceptions=True)

    async def _wake(self, account: str | None = None) -> None:
        """Wake what waits for an account, or for any; soon after also calls that were just being refused."""
        woken = await wake_waiting(self._runtime, self._log, "money", account)
        self._wake_later(account, _PARKED_SECONDS, {*woken})

    def _wake_later(self, account: str | None, seconds: float, but: Collection[tuple[str, str, str]]) -> None:
        async def wake() -> None:
            await asyncio.sleep(seconds)
            try:
                await wake_waiting(self._runtime, self._log, "money", account, but)
            except HostError as error:  # they look again by themselves
                _logger.warning("Cannot wake the tasks that wait for money: %s", error)

        waking = asyncio.create_task(wake(), name="wake what waits for money")
        self._waking.add(waking)
        waking.add_done_callback(self._waking.discard)

    async def costs(self, query: CostQuery) -> Costs:
        """The costs of calls of models, most expensive first, with what budgets hold. Raises InvalidInput."""
        costs = await self._with_estimates(await sum_costs(self._log, query), query)
        if query.of is not None:  # budgets hold for scopes, not for what a filter finds
            return costs
        reserved = await self._budgets.reserved(await self._opened(), query.tenant_id)
        return with_reserved(costs, reserved) if reserved else costs

    async def _with_estimates(self, costs: Costs, query: CostQuery) -> Costs:
        """The costs of tasks by agent with the estimate of each, for the agents of the first 20 items."""
        if {*query.keys} != {"task", "agent"} or query.bucket is not None:
            return costs
        field = "key" if query.keys[0] == "agent" else "key2"
        medians: dict[str | None, Decimal | None] = {}
        for agent_id in {getattr(item, field) for item in costs.items[:_MAX_ESTIMATED]} - {None}:
            estimate = await estimate_task(
                self._log, agent_id=agent_id, capability=None, tenant_id=query.tenant_id
            )
            medians[agent_id] = estimate.median_usd
        items = [
            item.model_copy(update={"estimate_usd": medians.get(getattr(item, field))})
            for item in costs.items
        ]
        return costs.model_copy(update={"items": tuple(items)})

    async def budget_views(self, tenant_id: str | None = "default") -> list[BudgetView]:
        """The limits, sums, reservations and the pace of a tenant's budgets; None: all tenants'.

        A budget that each of a scope has for itself is there for the last 1,000 of whom a call was made.
        """
        views = await self._budgets.views(await self._opened(), tenant_id)
        return await with_pace(self._log, views, self._runtime.clock.now())

    async def raise_budget(
        self,
        amount: Decimal,
        *,
        cheaper: bool = False,
        budget: str | None = None,
        key: str | None = None,
        task_id: str | None = None,
        tenant_id: str = "default",
    ) -> BudgetView:
        """Add dollars to a budget, or to that which a task brought; tasks that wait for money go on.

        With `cheaper` those of its calls that have no room go on with cheaper models. Both count for the rest
        of the budget's window, for good where that has no end. Durable when this returns. Raises NotFound,
        and InvalidInput where more than one budget is meant, or none named.
        """
        if (budget is None) == (task_id is None):
            problem = "neither a budget nor a task is named" if budget is None else "both are named"
            raise InvalidInput(problem, remedy="Name a budget, or a task for its own", field="budget")
        if task_id is not None:
            _, task = await read_task(self._runtime, task_id, tenant_id)
            if task.budget_usd is None:
                remedy = "Raise that of the task which delegated it, or name a budget"
                raise InvalidInput(f"Task {task_id} has no budget of its own", remedy=remedy, field="task_id")
            own = TaskBudget(task_id=task_id, limit_usd=task.budget_usd, on_empty=task.on_empty)
            account = task_account(tenant_id, own)
        else:
            account = only_account(await self._budgets.accounts(await self._opened(), None), budget, key)
        view = await self._budgets.add(account, amount, cheaper=cheaper)
        await self._wake(account.id)  # after the change is durable: they ask at once
        [paced] = await with_pace(self._log, [view], self._runtime.clock.now())
        return paced

    async def deny(self, account_id: str, reason: str, caller: Caller) -> None:
        """Deny an account more money, for a person: all tasks that wait for it fail with that reason.

        It holds until the budget is raised, or renews. Durable when this returns. Raises NotFound, and
        Forbidden for a budget of all tenants where the caller is of one.
        """
        accounts = await self._budgets.accounts(await self._opened(), caller.tenant_id)
        account = next((account for account in accounts if account.id == account_id), None)
        if account is None:
            raise NotFound(
                f"There is no budget {account_id!r}", remedy="mesh budgets lists them", field="key"
            )
        owner = account.key if account.scope == "tenant" else account.tenant_id
        if caller.tenant_id not in (owner, DEFAULT_TENANT):
            problem = f"Budget {account.budget} is of all tenants, and {caller.requested_by} is of one"
            raise Forbidden(problem, remedy="An operator of the default tenant may deny it", field="key")
        await self._budgets.deny(account, reason, caller.requested_by)
        await self._wake(account.id)

    async def allow(
        self, whose: str, allowance: str, *, tenant_id: str | None = None, on_empty: OnEmpty | None = None
    ) -> Budget:
        """Allow an agent, a tenant or a tag an amount in a window, like `5/day`, while the mesh runs.

        Durable when this returns, and known on every worker within a second. Raises InvalidInput, also
        for an agent that neither the mesh nor a key has.
        """
        scope, _, agent_id = whose.rpartition(":")
        is_known = any(info.kind != "system" for info in self._registry.agents())  # which agents there are
        if is_known and scope in ("", "agent") and agent_id not in ("", "*", "mesh"):
            keys = await self._keys.list()
            of_keys = {key.agent_id for key in keys if tenant_id in (None, key.tenant_id)}
            remedy = "Name an agent, or that of a key"
            self._registry.check_agent(agent_id, of_keys, field="whose", remedy=remedy)
        budget = await self._allowances.set(whose, allowance, tenant_id=tenant_id, on_empty=on_empty)
        await self._wake()
        return budget

    async def disallow(self, whose: str, *, tenant_id: str | None = None) -> list[Budget]:
        """Remove somebody's allowances. Raises NotFound."""
        removed = await self._allowances.remove(whose, tenant_id=tenant_id)
        await self._wake()
        return removed

    async def estimate(
        self, *, agent_id: str | None = None, capability: str | None = None, tenant_id: str | None = "default"
    ) -> TaskEstimate:
        """The costs of a tenant's last such tasks; None: those of all.

        Raises InvalidInput, also for an agent or a capability that the mesh neither has nor had.
        """
        whose = {"agent_id": agent_id, "capability": capability}
        estimate = await estimate_task(self._log, **whose, tenant_id=tenant_id)
        agents = [info for info in self._registry.agents() if info.kind != "system"]
        if agents and not (estimate.tasks or estimate.unknown):
            if agent_id is not None:
                self._registry.check_agent(agent_id, remedy="mesh agents lists them")
            capabilities = self._registry.capabilities()
            if capability is not None and capability not in capabilities:
                likely = nearest(capability, capabilities)
                remedy = f"Did you mean {likely!r}?" if likely else "mesh agents lists what they can do"
                raise InvalidInput(f"No agent can do {capability!r}", remedy=remedy, field="capability")
        return estimate

    async def _opened(self) -> list[Account]:
        page = EventFilter(event_type=OPENED, order="desc", limit=_MAX_OPENED)
        accounts = []
        for event in await self._log.query(page):
            with suppress(ValueError, ArithmeticError):  # it is none; lists of events show it as it is
                accounts.append(Account.model_validate(event.payload))
        return accounts


_MAX_LISTED = 20
_MAX_COUNTED = 1_000
_ENDED = (
    "SELECT coalesce(agent_id, 'none'), status, count(*) FROM {} WHERE tenant_id = ? AND completed_at > ? "
    "GROUP BY 1, 2 ORDER BY 1, 2"
)


class Activity(Struct, kw_only=True):
    """The activity in a tenant since a time. Of each list there are 20 entries at most, the last ones.

    `ended` counts tasks by agent and outcome; `failed` has those that failed or timed out; `open` counts
    those without an outcome, `dead_letters` those that no agent could do, up to 1,000. `waiting` is what
    tasks wait for people to say; `decisions` counts what else people decide, by the part that brings it,
    whose words may be a stranger's.
    """

    since: datetime
    until: datetime
    ended: dict[str, dict[str, int]]
    failed: tuple[TaskSummary, ...]
    open: int
    dead_letters: int
    waiting: InboxPage
    decisions: dict[str, int] = field(default_factory=dict)
    costs: Costs


async def read_activity(log: EventLog, tenant_id: str, since: datetime, until: datetime) -> Activity:
    """The activity in a tenant from one time to another, which is now."""
    ended_counts, count = await log.view_apart(_counts, tenant_id, seconds(since))
    pages = [
        await log.tasks(tenant_id=tenant_id, status=status, limit=_MAX_LISTED)
        for status in ("failed", "timed_out")
    ]
    failed = [
        task for page in pages for task in page.items if task.completed_at and task.completed_at > since
    ]
    dead = EventFilter(event_type="task.dead_lettered", tenant_id=tenant_id, since=since, limit=_MAX_COUNTED)
    return Activity(
        since=since,
        until=until,
        ended=ended_counts,
        failed=tuple(sorted(failed, key=lambda task: task.updated_at, reverse=True)[:_MAX_LISTED]),
        open=count,
        dead_letters=len(await log.query(dead)),
        waiting=await Inbox(log).page(tenant_id, limit=_MAX_LISTED),
        costs=await sum_costs(log, CostQuery(tenant_id, since=since), limit=_MAX_LISTED),
    )


def _counts(session: Session, tenant_id: str, since: float) -> tuple[dict[str, dict[str, int]], int]:
    tenant_id = session.bindable(tenant_id)
    ended = _ENDED.format(session.by_index("tasks", "tasks_by_end"))
    rows = session.execute(ended, (tenant_id, since)).fetchall()
    ended_counts = {
        agent_id: {status: count for _, status, count in of_agent}
        for agent_id, of_agent in groupby(rows, key=itemgetter(0))
    }
    return ended_counts, sum(count_open(session, tenant_id).values())
