"""The mesh: what clients and fronts talk to, whatever host runs the actors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from msgspec.structs import replace

from meshwright.agent import Agent
from meshwright.agents.binding import BoundAgent
from meshwright.context.memory import Memory
from meshwright.context.service import ContextClient
from meshwright.core import topics
from meshwright.core.capability import Registration
from meshwright.core.encoding import Json
from meshwright.core.errors import Draining, HostError, InvalidInput, NotFound, StoreFailed, TooLarge, nearest
from meshwright.core.messages import (
    Caller,
    Event,
    Outcome,
    Receipt,
    Task,
    TaskBudget,
    TaskRequest,
    new_id,
)
from meshwright.core.money import Budget, OnEmpty
from meshwright.core.tracing import NoTracing, Tracing
from meshwright.events.answers import checked_answer, not_waiting
from meshwright.events.filter import EventFilter
from meshwright.events.inbox import Inbox
from meshwright.events.log import EventLog
from meshwright.events.status import DeploymentStatus, MeshStatus, status_of, waits_for_money
from meshwright.kernel.runtime import Runtime
from meshwright.ledger.account import OPENED, Account
from meshwright.ledger.allowances import Allowances
from meshwright.ledger.budgets import Budgets, BudgetView
from meshwright.ledger.charging import only_account, task_account
from meshwright.ledger.costs import By, Costs, costs_of, with_reserved
from meshwright.ledger.estimate import TaskEstimate, estimate_of
from meshwright.ledger.keys import LLM_SERVICE, Keys
from meshwright.models.port import Model, PriceList
from meshwright.orchestration.acceptance import FINAL, Admission, PayloadLimits, hash_of, make_task
from meshwright.orchestration.outcomes import OutcomeWaiters
from meshwright.orchestration.registry import Registry
from meshwright.prompts import Prompts
from meshwright.roles import Part, Role
from meshwright.run.transcript import Transcript, transcripts
from meshwright.settings import Settings
from meshwright.sql.database import Database
from meshwright.work import Answer, Cancel, Worker
from meshwright.work.protocol import Accept, TaskKey
from meshwright.work.reading import read_entry, read_task, thread_ref
from meshwright.work.record import TaskView

_logger = logging.getLogger("meshwright.mesh")
_PartT = TypeVar("_PartT")
_MAX_OPENED = 1_000  # accounts of budgets that are listed
_SHOWN = {*TaskView.__struct_fields__} & {*Task.__struct_fields__}
"""The fields of a task that its view shows as they are."""


@dataclass(eq=False, repr=False)
class Mesh:
    """A running mesh: `async with mesh:` starts and stops it.

    Built by `meshwright.app`. Its components set what it offers: they join in order, and each may use what
    those before it have set. Several meshes can run in one process.
    """

    settings: Settings
    _: KW_ONLY
    project: Path
    role: Role
    host: Runtime
    database: Database
    log: EventLog
    tracing: Tracing | NoTracing
    agent_types: Sequence[type[Agent]] = ()
    given_model: Model | None = None

    registry: Registry = field(init=False)
    admission: Admission = field(init=False)
    model: Model = field(init=False)
    prices: PriceList = field(init=False)
    deployments_left_alone: Callable[[], Sequence[DeploymentStatus]] = field(init=False)
    """Which deployments of models get no call now, and why."""
    groups: tuple[str, ...] | None = field(init=False)
    """The models that callers may name; None where only a server knows."""
    budgets: Budgets = field(init=False)
    allowances: Allowances = field(init=False)
    inbox: Inbox = field(init=False)
    prompts: Prompts = field(init=False)
    context: ContextClient = field(init=False)
    memory: Memory = field(init=False)
    keys: Keys = field(init=False)
    worker: Worker = field(init=False)
    agents: Mapping[str, BoundAgent] = field(init=False)

    def __post_init__(self) -> None:
        self.apps: tuple[str, ...] = ()
        self.components: list[Part] = []
        self.warnings: tuple[str, ...] = ()
        self.ready = False
        self._limits = PayloadLimits(self.settings.max_payload_bytes, self.settings.max_payload_depth)
        self._failed = asyncio.Event()
        self._failure: StoreFailed | None = None
        self._waiters = OutcomeWaiters(self.host)
        self.host.on_failure = self._fail
        self.host.listen(topics.TASK_PROGRESS, self._waiters.tell, FINAL, sealed=True)
        self.host.listen(topics.TASK_PROGRESS, self.log.show, (topics.MODEL_DELTA,))

    def component(self, kind: type[_PartT]) -> _PartT:
        """The component of a class. Raises LookupError where the mesh has none."""
        found = next((part for part in self.components if isinstance(part, kind)), None)
        if found is None:
            raise LookupError(f"the mesh has no component {kind.__name__}")
        return found

    def registrations(self) -> list[Registration]:
        """How the agents and apps of this process make themselves known; the latter take no tasks."""
        agents = [bound.agent.registration() for bound in self.agents.values()]
        own = [app for app in self.apps if self.role.runs(app)]
        return [*agents, *(Registration(agent_id=app, name=app, kind="system") for app in own)]

    async def start(self) -> None:
        """Open the host and begin to work. Raises what the host raises; nothing is left running then."""
        await self.host.start()
        try:
            for component in self.components:
                await component.start()
        except BaseException:  # a cancelled start too must leave nothing running
            await self.stop()
            raise
        self.ready = True

    async def stop(self, *, drain_seconds: float = 10.0) -> None:
        """Take nothing new, let running work end, and close. What is unfinished goes on at the next start."""
        self.ready = False
        await self.worker.drain(drain_seconds)
        async with AsyncExitStack() as stack:  # where one fails to stop, the others stop all the same
            stack.push_async_callback(self.host.stop)
            for component in self.components:
                stack.push_async_callback(component.stop)
        remedy = "What was accepted goes on at the next start"
        self._waiters.end(Draining("The mesh has stopped", remedy=remedy))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def aggregate_id(self) -> str:
        """What the events of this process are known by."""
        return f"mesh/{self.host.incarnation}"

    def tell(
        self, event_type: str, payload: Mapping[str, Any] | Json, *, topic: str = topics.MESH, **known: Any
    ) -> None:
        """Put an event of this process into the log; `known` are further fields of it.

        Called where nobody could handle an error: an event that cannot be recorded becomes a warning.
        """
        event = Event(
            id=f"{self.aggregate_id}/{new_id()}",
            event_type=event_type,
            topic=topic,
            time=self.host.clock.now(),
            aggregate_id=self.aggregate_id,
            payload=payload if isinstance(payload, Json) else dict(payload),
            **known,
        )
        try:
            self.host.emit([event])
        except (HostError, TooLarge) as error:
            _logger.warning("%s is not recorded: %s", event_type, error)

    async def failure(self) -> StoreFailed:
        """Wait until the store fails, and return why: what was accepted goes on at the next start."""
        await self._failed.wait()
        assert self._failure is not None
        return self._failure

    async def submit(
        self,
        request: TaskRequest,
        caller: Caller | None = None,
        *,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> Receipt:
        """Take a task: durable, with its first dispatch, when this returns.

        Raises InvalidInput, NoAgentAvailable, NotFound (an unknown agent), IdempotencyConflict, and
        Overloaded where the mesh or the thread has as many open tasks as it may.
        """
        caller = caller or Caller()
        now, key = self.host.clock.now(), idempotency_key
        task = make_task(request, caller, now=now, limits=self._limits, idempotency_key=key)
        accept = partial(self._accept, task, hash_of(request, caller, key), traceparent)
        return await self.admission.admit(task, accept)

    async def _accept(self, task: Task, request_hash: str, traceparent: str | None) -> Receipt:
        with self.tracing.span("submit task", parent=traceparent, kind="producer") as span:
            traced = replace(task, traceparent=span.traceparent)
            accept = Accept.of(traced, request_hash=request_hash)
            ref = TaskKey(task.tenant_id, task.task_id).ref
            return await self.host.call(ref, "accept", accept, traceparent=span.traceparent)

    async def task(self, task_id: str, tenant_id: str = "default") -> TaskView:
        """A task as it is now. Raises NotFound."""
        record, task = await read_task(self.host, task_id, tenant_id)
        entry = await read_entry(self.host, record, task)
        return TaskView(
            **{name: getattr(task, name) for name in _SHOWN},
            status=entry.status if entry is not None and entry.status != "queued" else record.status,
            attempts=tuple(record.attempts),
            waits=tuple(entry.waits) if entry is not None else (),
            outcome=record.outcome,
            parent_task_id=task.parent.task_id if task.parent else None,
            trace_id=task.traceparent.split("-")[1] if task.traceparent else None,
        )

    async def transcripts(self, task_id: str, tenant_id: str = "default") -> list[Transcript]:
        """The steps of a task, attempt by attempt. Raises NotFound."""
        record, task = await read_task(self.host, task_id, tenant_id)
        entry = await read_entry(self.host, record, task)
        waits = tuple(entry.waits) if entry is not None else ()
        return await transcripts(self.host, self.log, record, task, waits)

    async def status(self, tenant_id: str | None = "default") -> MeshStatus:
        """How a tenant's open tasks are doing; None: those of all tenants, and the deployments of models."""
        found = await self.log.view(status_of, tenant_id)
        if tenant_id is not None:
            return found
        return found.model_copy(update={"deployments": tuple(self.deployments_left_alone())})

    async def cancel(self, task_id: str, tenant_id: str = "default") -> TaskView:
        """Ask for a task to end; its outcome follows when its agent has let go. Raises NotFound."""
        await read_task(self.host, task_id, tenant_id)
        await self.host.call(TaskKey(tenant_id, task_id).ref, "cancel", Cancel(task_id=task_id))
        return await self.task(task_id, tenant_id)

    async def answer(self, task_id: str, key: str, value: Any, caller: Caller | None = None) -> None:
        """Answer what a task waits for; `key` is the `wait_id` of a question of the inbox.

        Durable when this returns. Raises NotFound where the task does not wait for that, Conflict where that
        was answered or has expired, InvalidInput for an answer that does not fit, Forbidden for a caller who
        may not give it.
        """
        caller = caller or Caller()
        record, task = await read_task(self.host, task_id, caller.tenant_id)
        thread, entry = thread_ref(record, task), await read_entry(self.host, record, task)
        wait = next((wait for wait in entry.waits if wait.wait_id == key), None) if entry else None
        if thread is not None and wait is not None:
            agents, now = (*task.chain, thread.type), self.host.clock.now()
            checked = checked_answer(wait, value, caller, agents, now)
            answer = Answer(task_id=task_id, key=key, value=checked, answered_by=caller.requested_by)
            if await self.host.call(thread, "resume", answer):
                return
        raise not_waiting(task_id, key, await self.inbox.find(caller.tenant_id, key))

    async def resume(self, tenant_id: str, task_id: str, key: str, value: Any) -> None:
        """Give a task what it waits for, where no person answers. Raises NotFound for an unknown task."""
        record, task = await read_task(self.host, task_id, tenant_id)
        if (thread := thread_ref(record, task)) is not None:
            await self.host.call(thread, "resume", Answer(task_id=task_id, key=key, value=value))

    async def outcome(self, task_id: str, tenant_id: str = "default") -> Outcome:
        """Wait for the outcome of a task.

        Raises NotFound, and where the mesh ends by then StoreFailed or Draining.
        """
        return await self._waiters.wait(task_id, tenant_id)

    async def costs(
        self, by: By = "agent", *, since: datetime | None = None, tenant_id: str | None = "default"
    ) -> Costs:
        """What a tenant's calls of models have cost since then, most expensive first; None: all tenants'."""
        costs = await costs_of(self.log, tenant_id=tenant_id, by=by, since=since)
        reserved = await self.budgets.reserved(await self._accounts_opened(), tenant_id)
        return with_reserved(costs, reserved) if reserved else costs

    async def budget_views(self, tenant_id: str | None = "default") -> list[BudgetView]:
        """What a tenant's budgets may spend, have spent and hold; None: all tenants'.

        A budget that each of a scope has for itself is there for the last 1,000 of whom a call was made.
        """
        return await self.budgets.views(await self._accounts_opened(), tenant_id)

    async def _accounts(self, tenant_id: str | None) -> list[Account]:
        return await self.budgets.accounts(await self._accounts_opened(), tenant_id)

    async def _accounts_opened(self) -> list[Account]:
        page = EventFilter(event_type=OPENED, order="desc", limit=_MAX_OPENED)
        return [Account.model_validate(event.payload) for event in await self.log.query(page)]

    async def raise_budget(
        self,
        amount: Decimal,
        *,
        budget: str | None = None,
        key: str | None = None,
        task_id: str | None = None,
        tenant_id: str = "default",
    ) -> BudgetView:
        """Add dollars to a budget, or to that which a task brought; tasks that wait for money go on.

        They count for the rest of the budget's window, for good where that has no end. Durable when this
        returns. Raises NotFound, and InvalidInput where more than one budget is meant, or none named.
        """
        if task_id is not None:
            _, task = await read_task(self.host, task_id, tenant_id)
            if task.budget_usd is None:
                raise InvalidInput(
                    f"Task {task_id} has no budget of its own",
                    remedy="Raise that of the task which delegated it, or name a budget",
                    field="task_id",
                )
            own = TaskBudget(task_id=task_id, limit_usd=task.budget_usd, on_empty=task.on_empty)
            account = task_account(tenant_id, own)
        else:
            account = only_account(await self._accounts(None), budget, key)
        view = await self.budgets.add(account, amount)
        await self.wake_for_money()
        return view

    async def allow(
        self, whose: str, allowance: str, *, tenant_id: str | None = None, on_empty: OnEmpty = "fail"
    ) -> Budget:
        """Allow an agent, a tenant or a tag an amount in a window, like `5/day`, while the mesh runs.

        Durable when this returns, and known on every worker within a second. Raises InvalidInput, also
        for an agent that neither the mesh nor a key has.
        """
        scope, _, agent_id = whose.rpartition(":")
        is_known = any(info.kind != "system" for info in self.registry.agents())  # which agents there are
        if is_known and scope in ("", "agent") and agent_id not in ("", "*", "mesh"):
            of_keys = {key.agent_id for key in await self.keys.list()}
            self.check_agent(agent_id, of_keys, field="whose", remedy="Name an agent, or that of a key")
        budget = await self.allowances.set(whose, allowance, tenant_id=tenant_id, on_empty=on_empty)
        await self.wake_for_money()
        return budget

    async def disallow(self, whose: str, *, tenant_id: str | None = None) -> list[Budget]:
        """Remove somebody's allowances. Raises NotFound."""
        removed = await self.allowances.remove(whose, tenant_id=tenant_id)
        await self.wake_for_money()
        return removed

    async def wake_for_money(self) -> None:
        """Have each task that waits for money try again: the most urgent first, then the longest waiting."""
        for tenant_id, task_id, key in await self.log.view(waits_for_money):
            with suppress(NotFound):  # a task of long ago
                record, task = await read_task(self.host, task_id, tenant_id)
                if (thread := thread_ref(record, task)) is not None:
                    await self.host.call(thread, "resume", Answer(task_id=task_id, key=key, value=None))

    async def estimate(
        self, *, agent_id: str | None = None, capability: str | None = None, tenant_id: str | None = "default"
    ) -> TaskEstimate:
        """What a tenant's last such tasks have cost; None: those of all. Raises InvalidInput."""
        return await estimate_of(self.log, agent_id=agent_id, capability=capability, tenant_id=tenant_id)

    def check_agent(
        self, agent_id: str, others: Collection[str] = (), *, field: str = "agent_id", remedy: str
    ) -> None:
        """Raise InvalidInput for an agent that is not registered, the llm-service or one of `others`."""
        known = [info.agent_id for info in self.registry.agents() if info.kind != "system"]
        if agent_id not in (*known, *others, LLM_SERVICE):
            likely = nearest(agent_id, [*known, *others])
            raise InvalidInput(
                f"The mesh has no agent {agent_id!r}; it has {', '.join(known) or 'none'}",
                remedy=f"Did you mean {likely!r}? {remedy}" if likely else remedy,
                field=field,
            )

    async def ask(
        self, agent_id: str, text: str, *, thread_id: str | None = None, timeout: float = 120.0
    ) -> Outcome:
        """Give an agent a task in words and wait for its outcome. `timeout` in seconds, of one attempt."""
        request = TaskRequest(agent_id=agent_id, payload={"text": text}, thread_id=thread_id, timeout=timeout)
        receipt = await self.submit(request)
        return await self.outcome(receipt.task_id)

    def _fail(self, error: StoreFailed) -> None:
        self.ready = False
        self._failure = error
        self._failed.set()
        self._waiters.end(error)
