"""The mesh: what clients and fronts talk to, whatever host runs the actors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
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
from meshwright.core.cipher import Cipher, new_key
from meshwright.core.encoding import Json
from meshwright.core.errors import Draining, HostError, NotFound, StoreFailed, TooLarge
from meshwright.core.files import File
from meshwright.core.messages import (
    Caller,
    Event,
    Outcome,
    Receipt,
    Task,
    TaskRequest,
    new_id,
)
from meshwright.core.tracing import TENANT, NoTracing, Tracing
from meshwright.events.answers import checked_answer, decided, denied_money, not_waiting
from meshwright.events.audit import Audit, hashed
from meshwright.events.inbox import Inbox
from meshwright.events.log import EventLog
from meshwright.events.status import DeploymentStatus, MeshStatus, status_of
from meshwright.events.tasks import TaskSubject
from meshwright.kernel.runtime import Runtime
from meshwright.ledger.allowances import Allowances
from meshwright.ledger.budgets import Budgets, BudgetView
from meshwright.ledger.costs import By, Costs
from meshwright.ledger.keys import Keys, keys_required
from meshwright.ledger.spending import Spending
from meshwright.models.overview import Deployments
from meshwright.models.port import Model, ModelWindow, PriceList
from meshwright.orchestration.acceptance import (
    FINAL,
    Admission,
    OutcomeWaiters,
    PayloadLimits,
    hash_of,
    make_task,
)
from meshwright.orchestration.registry import Registry
from meshwright.orchestration.tenants import Tenants
from meshwright.prompts import Prompts
from meshwright.roles import Part, ProcessRole
from meshwright.run.erasure import Erased, Eraser
from meshwright.run.files import read_file
from meshwright.run.limits import limits_of, step_timeout
from meshwright.run.transcript import Transcript, transcripts
from meshwright.settings import Settings
from meshwright.sql.database import Database
from meshwright.sql.encrypted import EncryptedColumn, renew_all
from meshwright.sql.folder import SECRET_KEY, KeyFile
from meshwright.work import Answer, Cancel, Worker
from meshwright.work.protocol import Accept, TaskKey
from meshwright.work.record import TaskView, read_entry, read_task, thread_ref

_logger = logging.getLogger("meshwright.mesh")
_PartT = TypeVar("_PartT")
_SHOWN = {*TaskView.__struct_fields__} & {*Task.__struct_fields__} - {"limits", "timeout"}
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
    role: ProcessRole
    host: Runtime
    database: Database
    log: EventLog
    tracing: Tracing | NoTracing
    agent_types: Sequence[type[Agent]] = ()
    given_model: Model | None = None

    registry: Registry = field(init=False)
    tenants: Tenants = field(init=False)
    admission: Admission = field(init=False)
    model: Model = field(init=False)
    prices: PriceList = field(init=False)
    window_of: Callable[[str, tuple[str, ...], str, str], ModelWindow] = field(init=False)
    """The window of a model with some tags for a tenant's agent, which may be configured."""
    deployments_left_alone: Callable[[], Sequence[DeploymentStatus]] = field(init=False)
    """Which deployments of models get no call now, and why."""
    deployments: Deployments = field(init=False)
    groups: tuple[str, ...] | None = field(init=False)
    """The models that callers may name; None where only a server knows."""
    budgets: Budgets = field(init=False)
    allowances: Allowances = field(init=False)
    spending: Spending = field(init=False)
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
        self.encrypted: tuple[EncryptedColumn, ...] = ()
        self.facts: Mapping[str, frozenset[str]] = {}
        self.audit = Audit(self.host, self.log)
        self.eraser = Eraser(self.host, self.log, self.database, self.audit, self.tracing)
        self._secret_keys = KeyFile(self.settings.secrets.file or self.database.folder / SECRET_KEY, new_key)
        self.cipher = self._cipher()
        self.ready = False
        self.payload_limits = PayloadLimits(self.settings.max_payload_bytes, self.settings.max_payload_depth)
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

    @property
    def has_log(self) -> bool:
        """Whether this process reads the event log: on Dapr without a shared database only the front can."""
        return self.role.is_front or self.settings.database is not None

    @property
    def takes_tasks(self) -> bool:
        """Whether a task is accepted now: not while it starts or stops, or its store is away."""
        return self.ready and self.host.is_ready

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
        """Take nothing new, let running work end, and close. Unfinished work goes on at the next start."""
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
        """The aggregate of the events of this process."""
        return f"mesh/{self.host.incarnation}"

    def tell(
        self, event_type: str, payload: Mapping[str, Any] | Json, *, topic: str = topics.MESH, **known: Any
    ) -> None:
        """Put an event of this process into the log; `known` are further fields of it.

        Called where no caller could handle an error: an event that cannot be recorded becomes a warning.
        """
        aggregate_id = self.aggregate_id
        event = Event(
            id=f"{aggregate_id}/{new_id()}",
            event_type=event_type,
            topic=topic,
            time=self.host.clock.now(),
            aggregate_id=aggregate_id,
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

        Raises InvalidInput, NoAgentAvailable, NotFound (an unknown agent, or task that it comes after),
        IdempotencyConflict, Overloaded where the mesh, tenant or thread has what it may, and StorageExceeded.
        """
        caller = caller or Caller()
        if request.after is not None:
            try:
                await read_task(self.host, request.after, caller.tenant_id)
            except NotFound as error:
                raise NotFound(error.message, remedy=error.remedy, field="after") from None
        now, key = self.host.clock.now(), idempotency_key
        day = self.settings.agents.deadline_seconds
        task = make_task(
            request, caller, now=now, limits=self.payload_limits, deadline_seconds=day, idempotency_key=key
        )
        has_deadline = request.deadline is not None
        accept = partial(self._accept, task, hash_of(request, caller, key), has_deadline, traceparent)
        return await self.admission.admit(task, accept)

    async def _accept(
        self, task: Task, request_hash: str, has_deadline: bool, traceparent: str | None
    ) -> Receipt:
        of = {TENANT: task.tenant_id}
        with self.tracing.span("submit task", parent=traceparent, attributes=of, kind="producer") as span:
            traced = replace(task, traceparent=span.traceparent)
            accept = Accept.of(traced, request_hash=request_hash, has_deadline=has_deadline)
            ref = TaskKey(task.tenant_id, task.task_id).ref
            return await self.host.call(ref, "accept", accept, traceparent=span.traceparent)

    async def task(self, task_id: str, tenant_id: str = "default") -> TaskView:
        """A task as it is now. Raises NotFound."""
        record, task = await read_task(self.host, task_id, tenant_id)
        entry = await read_entry(self.host, record, task)
        agent_id = record.attempts[-1].agent_id if record.attempts else task.agent_id
        agent = next((agent for agent in self.agent_types if agent.agent_id == agent_id), None)
        limits = limits_of(self.settings.agents.limits, agent, task.limits)
        return TaskView(
            **{name: getattr(task, name) for name in _SHOWN},
            timeout=step_timeout(self.settings.agents.timeout_seconds, agent, task.timeout).seconds,
            limits=tuple(limit.fields for limit in limits),
            status=entry.status if entry is not None and entry.status != "queued" else record.status,
            attempts=tuple(record.attempts),
            waits=tuple(entry.waits) if entry is not None else (),
            code=entry.code if entry is not None else None,
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
        uses = tuple(await self.tenants.uses(tenant_id, self.admission.open_of_tenants))
        found = found.model_copy(update={"tenants": uses})
        if tenant_id is not None:
            return found
        left_alone = tuple(self.deployments_left_alone())
        seen = {"deployments": left_alone, "projections": tuple(self.log.stalled())}
        return found.model_copy(update={"model": self.model.name, **seen})

    async def cancel(
        self, task_id: str, tenant_id: str = "default", *, caller: Caller | None = None
    ) -> TaskView:
        """Ask for a task to end; its outcome follows when its agent has let go. Raises NotFound."""
        await read_task(self.host, task_id, tenant_id)
        caller = caller or Caller(tenant_id=tenant_id)
        async with self.audit.change(caller, "task.cancelled", f"tasks/{task_id}"):
            await self.host.call(TaskKey(tenant_id, task_id).ref, "cancel", Cancel(task_id=task_id))
        return await self.task(task_id, tenant_id)

    async def answer(
        self,
        task_id: str,
        key: str,
        value: Any,
        caller: Caller | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> None:
        """Answer what a task waits for; `key` is the `wait_id` of a question of the inbox.

        Durable when this returns; an `idempotency_key` is then in the log, on the event `wait.ended`. Raises
        NotFound where the task does not wait for that, Conflict where that was answered or has expired,
        InvalidInput for an answer that does not fit, Forbidden for a caller who may not give it.
        """
        caller = caller or Caller()
        record, task = await read_task(self.host, task_id, caller.tenant_id)
        thread, entry = thread_ref(record, task), await read_entry(self.host, record, task)
        wait = next((wait for wait in entry.waits if wait.wait_id == key), None) if entry else None
        if thread is not None and wait is not None:
            agents, now = (*task.chain, thread.type), self.host.clock.now()
            if (reason := denied_money(wait, value, caller, agents)) is not None:
                account_id, details = wait.subject["account"], {"wait_id": key, "reason": reason}
                async with self.audit.change(caller, "budget.denied", f"budgets/{account_id}", details):
                    await self.spending.deny(account_id, reason, caller)
                return
            requesters = await self._requesters(task, caller)
            checked = checked_answer(wait, value, caller, agents, now, requesters)
            answer = Answer(
                task_id=task_id,
                key=key,
                value=checked,
                answered_by=caller.requested_by,
                idempotency_key=idempotency_key,
            )
            details = {"wait_id": key, "answer": hashed(value)}
            async with self.audit.change(caller, decided(wait, value), f"tasks/{task_id}", details):
                if await self.host.call(thread, "resume", answer):
                    return
                raise not_waiting(task_id, key, await self.inbox.find(caller.tenant_id, key))
        raise not_waiting(task_id, key, await self.inbox.find(caller.tenant_id, key))

    async def _requesters(self, task: Task, caller: Caller) -> set[str]:
        """Those who requested a task and the tasks above it; none where everybody is the local user."""
        by_broker = caller.source == "mqtt" and caller.requested_by != Caller().requested_by
        if not by_broker and not await keys_required(self.keys, self.settings):
            return set()
        names = {task.requested_by}
        while task.parent is not None:
            _, task = await read_task(self.host, task.parent.task_id, task.tenant_id)
            names.add(task.requested_by)
        return names

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

    async def file(self, task_id: str, number: int, tenant_id: str = "default") -> File:
        """A file of a task's outcome with its bytes, counted from 1. Raises NotFound."""
        return await read_file(self.host, task_id, number, tenant_id)

    async def costs(
        self, by: By = "agent", *, since: datetime | None = None, tenant_id: str | None = "default"
    ) -> Costs:
        """The costs of a tenant's calls of models since then, most expensive first; None: all tenants'."""
        return await self.spending.costs(by, since=since, tenant_id=tenant_id)

    async def budget_views(self, tenant_id: str | None = "default") -> list[BudgetView]:
        """A tenant's budgets with their limits, spending and holds; None: all tenants'."""
        return await self.spending.budget_views(tenant_id)

    async def ask(
        self, agent_id: str, text: str, *, thread_id: str | None = None, timeout: float | None = None
    ) -> Outcome:
        """Give an agent a task as text and wait for its outcome. `timeout` in seconds, of one step."""
        request = TaskRequest(agent_id=agent_id, payload={"text": text}, thread_id=thread_id, timeout=timeout)
        receipt = await self.submit(request)
        return await self.outcome(receipt.task_id)

    async def erase(self, caller: Caller, subject: TaskSubject) -> Erased:
        """Erase the contents of tasks of the caller's tenant, with all that they delegated, for good.

        Raises NotFound where there is none, Conflict where one is still open.
        """
        return await self.eraser.erase(caller, subject)

    async def rotate_secrets(self) -> int:
        """Encrypt all stored secrets with the newest key, and return how many there are.

        If the data folder has the keys, a new one is made for that. The older ones stay, for copies of the
        data. Raises ConfigError for a secret that no key fits.
        """
        if not self.settings.secrets.keys:
            self._secret_keys.add()
        return await renew_all(self.database, self.cipher, self.encrypted)

    def _cipher(self) -> Cipher:
        keys = [key.get_secret_value() for key in self.settings.secrets.keys]
        if keys:
            cipher = Cipher(lambda: keys, "the setting secrets.keys")
            cipher.encrypt("")  # so that an unusable key stops the start
            return cipher
        return Cipher(self._secret_keys.keys, str(self._secret_keys.path))

    def _fail(self, error: StoreFailed) -> None:
        self.ready = False
        self._failure = error
        self._failed.set()
        self._waiters.end(error)
