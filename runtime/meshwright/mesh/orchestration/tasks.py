"""The operations on tasks, inside a process that runs the mesh: they ask no roles.

receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="simple-agent", payload={"text": "Hello"}))
outcome = await mesh.get(Tasks).outcome(receipt.task_id)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from msgspec.structs import replace

from meshwright.agents.agent import AgentTypes
from meshwright.agents.run.files import read_file
from meshwright.agents.run.limits import step_timeout, task_limits
from meshwright.agents.run.transcript import Transcript, transcripts
from meshwright.agents.settings import AgentsSettings
from meshwright.core import topics
from meshwright.core.errors import Conflict, HostError, MeshError, NotFound
from meshwright.core.events import Event
from meshwright.core.files import File
from meshwright.core.messages import Caller, Fault, Outcome, Receipt, Task, TaskRequest, TaskVariant
from meshwright.core.model_events import ModelCalled
from meshwright.core.money import ZERO
from meshwright.core.step_events import RunStateChanged, RunTitled
from meshwright.core.tracing import ReservedSpan
from meshwright.engine.events.answers import (
    RevealedQuestion,
    check_digest,
    check_reader,
    checked_answer,
    decided,
    denied_money,
    not_waiting,
)
from meshwright.engine.events.audit import Audit, hashed
from meshwright.engine.events.inbox import Inbox
from meshwright.engine.work import Answer
from meshwright.engine.work.people import HIDDEN, asks_person
from meshwright.engine.work.protocol import Accept, Begin, HoldReminder, Retry, TaskKey, Wait
from meshwright.engine.work.record import (
    RUN_STATE,
    RUN_TITLE,
    TaskRecord,
    TaskView,
    journal_names,
    read_entry,
    read_task,
    thread_ref,
)
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.acceptance import (
    FINAL,
    WAITING,
    Admission,
    OutcomeWaiters,
    PayloadLimits,
    check_repository,
    hash_request,
    make_task,
)
from meshwright.mesh.orchestration.cancel_plan import CancelPlan, make_plan
from meshwright.mesh.orchestration.reruns import (
    ForkResult,
    RetryResult,
    asks_to_start_over,
    check_again,
    choose_begin,
    make_fork,
    plan_again,
    plan_fork,
    steps_kept,
)
from meshwright.mesh.orchestration.retry_plan import RetryPlan, RetryWay, child_costs, last_steps, retry_way
from meshwright.mesh.orchestration.status import MissingAgents
from meshwright.mesh.orchestration.task_spans import TaskSpans
from meshwright.money.keys import Keys, keys_required
from meshwright.money.spending import Spending
from meshwright.money.task_costs import task_tree

Leaving = Callable[[], AbstractContextManager[Collection[asyncio.Future[Any]]]]
"""Begins the wait of a caller, with futures of which one is done once it need not go on."""
_CALLED = ModelCalled.event_type
_SHOWN = {*TaskView.__struct_fields__} & {*Task.__struct_fields__} - {"limits", "timeout"}
"""The fields of a task that its view shows as they are."""


class Tasks:
    """The tasks of a mesh: takes, shows, cancels and answers them, and waits for their outcomes."""

    def __init__(self, mesh: Mesh) -> None:
        settings = mesh.settings
        self.payload_limits = PayloadLimits(settings.max_payload_bytes, settings.max_payload_depth)
        self._settings = settings
        self._limits = settings[AgentsSettings].limits
        self._runtime = mesh.runtime
        self._log = mesh.log
        self._tracing = mesh.tracing
        self._spans = TaskSpans(mesh.tracing)
        self._admission = mesh.get(Admission)
        self._audit = mesh.get(Audit)
        self._inbox = mesh.get(Inbox)
        self._keys = mesh.get(Keys)
        self._spending = mesh.get(Spending)
        self._agents = mesh.get(AgentTypes)
        self._missing = mesh.get(MissingAgents)
        self._cipher = mesh.cipher
        self.choosers: list[Callable[[Task], Iterable[TaskVariant]]] = []
        """Of components: which variants are tried with a new task."""
        self._waiters = OutcomeWaiters(mesh.runtime)
        mesh.on_end.append(self._waiters.end)
        mesh.runtime.listen(topics.TASK_PROGRESS, self._waiters.notify, {*FINAL, WAITING}, sealed=True)

    async def submit(
        self,
        request: TaskRequest,
        caller: Caller | None = None,
        *,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        variants: tuple[TaskVariant, ...] | None = None,
    ) -> Receipt:
        """Take a task: durable, with its first dispatch, when this returns.

        `variants` are tried with it; by default components choose them.
        Raises InvalidInput, NoAgentAvailable, NotFound (an unknown agent, or task that it comes after),
        IdempotencyConflict, Overloaded where the mesh, tenant or thread has what it may, and StorageExceeded.
        """
        caller = caller or Caller()
        if request.after is not None:
            try:
                await read_task(self._runtime, request.after, caller.tenant_id)
            except NotFound as error:
                raise NotFound(error.message, remedy=error.remedy, field="after") from None
        if request.repository is not None:
            check_repository(request.repository, self._settings.table("trees"))
        now, key = self._runtime.clock.now(), idempotency_key
        day = self._settings[AgentsSettings].deadline_seconds
        task = make_task(
            request,
            caller,
            now=now,
            limits=self.payload_limits,
            deadline_seconds=day,
            idempotency_key=key,
            variants=variants or (),
        )
        if variants is None and self.choosers:
            variants = tuple(variant for choose in self.choosers for variant in choose(task))
        has_deadline = request.deadline is not None
        hashed_request = hash_request(request, caller, key)
        accept = partial(self._accept, task, variants or (), hashed_request, has_deadline, traceparent)
        return await self._admission.admit(task, accept)

    async def _accept(
        self,
        task: Task,
        variants: tuple[TaskVariant, ...],
        request_hash: str,
        has_deadline: bool,
        traceparent: str | None,
    ) -> Receipt:
        traceparent, above = self._tracing.reserve(traceparent)
        traced = replace(task, traceparent=traceparent, span_above=above, variants=variants)
        accept = Accept.wrap(traced, request_hash=request_hash, has_deadline=has_deadline)
        ref = TaskKey(task.tenant_id, task.task_id).ref
        try:
            return await self._runtime.call(ref, "accept", accept, traceparent=traceparent)
        except MeshError as error:
            if not isinstance(error, HostError):  # after which it may be accepted all the same
                self._spans.refused(traced, error, self._runtime.clock.now())
            raise

    async def task(self, task_id: str, tenant_id: str = "default") -> TaskView:
        """A task as it is now. Raises NotFound."""
        record, task = await read_task(self._runtime, task_id, tenant_id)
        entry = await read_entry(self._runtime, record, task)
        agent_id = record.attempts[-1].agent_id if record.attempts else task.agent_id
        agent = next((agent for agent in self._agents if agent.agent_id == agent_id), None)
        usual = self._settings[AgentsSettings]
        limits = task_limits(self._limits, agent, task.limits)
        outcome, kinds = record.outcome, (RUN_STATE, RUN_TITLE)
        if outcome is None or outcome.cost_usd is not None:
            changes = await self._log.newest_of_task(task_id, tenant_id, kinds)
        else:
            changes = await self._log.newest_of_task(task_id, tenant_id, (*kinds, _CALLED))
            outcome = await self._with_cost(outcome, tenant_id, changes.get(_CALLED))
        state, title = changes.get(RUN_STATE), changes.get(RUN_TITLE)
        return TaskView(
            **{name: getattr(task, name) for name in _SHOWN},
            timeout=step_timeout(usual.timeout_seconds, agent, task.timeout).seconds,
            limits=tuple(limit.fields for limit in limits),
            status=entry.status if entry is not None and entry.status != "queued" else record.status,
            state=None if state is None else RunStateChanged.from_payload(state.payload).state,
            title=None if title is None else RunTitled.from_payload(title.payload).title,
            attempts=tuple(record.attempts),
            waits=tuple(replace(wait, sealed=()) for wait in entry.waits) if entry is not None else (),
            missing_agent=self._missing_agent(record),
            code=entry.code if entry is not None else None,
            outcome=outcome,
            parent_task_id=task.parent.task_id if task.parent else None,
            trace_id=task.traceparent.split("-")[1] if task.traceparent else None,
        )

    def _missing_agent(self, record: TaskRecord) -> str | None:
        attempt = record.open_attempt
        return attempt.agent_id if attempt and self._missing.is_missing(attempt.agent_id) else None

    async def transcripts(self, task_id: str, tenant_id: str = "default") -> list[Transcript]:
        """The steps of a task, attempt by attempt. Raises NotFound."""
        record, task = await read_task(self._runtime, task_id, tenant_id)
        entry = await read_entry(self._runtime, record, task)
        waits = tuple(entry.waits) if entry is not None else ()
        return await transcripts(self._runtime, self._log, record, task, waits)

    async def cancel(
        self, task_id: str, tenant_id: str = "default", *, caller: Caller | None = None
    ) -> TaskView:
        """Ask for a task to end; its outcome follows when its agent has let go. Raises NotFound.

        It ends at once if its agent is known to be missing.
        """
        await read_task(self._runtime, task_id, tenant_id)
        caller = caller or Caller(tenant_id=tenant_id)
        async with self._audit.change(caller, "task.cancelled", f"tasks/{task_id}"):
            await self._missing.cancel(task_id, tenant_id)
        return await self.task(task_id, tenant_id)

    async def cancel_plan(self, task_id: str, tenant_id: str = "default") -> CancelPlan:
        """Plan the cancel of an open task, with what stays. Raises NotFound, Conflict if it ended."""
        record, _ = await read_task(self._runtime, task_id, tenant_id)
        if record.outcome is not None:
            raise Conflict(f"Task {task_id} has already ended: {record.status}", remedy="It stays so")
        steps = last_steps(record, await self.transcripts(task_id, tenant_id))
        tree = await self._log.view(task_tree, tenant_id, task_id)
        return make_plan(task_id, record.status, steps, tree)

    async def retry(
        self,
        task_id: str,
        caller: Caller | None = None,
        *,
        begin: Begin | None = None,
        deadline: float | None = None,
        dry_run: bool = False,
    ) -> RetryResult:
        """Work again on a task that failed, timed out or was cancelled: durable when this returns.

        From its journal finished steps stay, and cost nothing again; without `begin` its fault says whether
        it begins there or at the start. `deadline` is in seconds from now, by default as long as before.
        Raises NotFound, Conflict where it can't be worked on again, and what `submit` raises.
        """
        caller = caller or Caller()
        record, task = await read_task(self._runtime, task_id, caller.tenant_id)
        plan = await plan_again(self._runtime, task_id, record, begin, self._keep_steps)
        if dry_run:
            return replace(plan, is_dry=True)
        ends_at = None if deadline is None else self._runtime.clock.now() + timedelta(seconds=deadline)
        retry = Retry(begin=begin, deadline_at=ends_at)
        if task.span_above is not None:
            traceparent, above = self._tracing.reserve_beside(ReservedSpan(task.traceparent, task.span_above))
            retry = replace(retry, traceparent=traceparent, span_above=above)
        details = {"begin": plan.begin, "generation": plan.generation}
        async with self._audit.change(caller, "task.retried", f"tasks/{task_id}", details):
            ref = TaskKey(task.tenant_id, task_id).ref
            await self._admission.admit(
                task, partial(self._runtime.call, ref, "retry", retry, traceparent=retry.traceparent)
            )
        return plan

    async def retry_plan(self, task_id: str, tenant_id: str = "default") -> RetryPlan:
        """The ways to work on a task again, with the steps that each repeats and what these cost before.

        Raises NotFound, Conflict where it can't be worked on again.
        """
        record, task = await read_task(self._runtime, task_id, tenant_id)
        outcome = check_again(task_id, record)
        usual = choose_begin(outcome, None, record.attempts)
        steps = last_steps(record, await self.transcripts(task_id, tenant_id))
        costs = child_costs(await self._log.view(task_tree, tenant_id, task_id))
        must_ask = usual == "start" and await asks_to_start_over(self._runtime, record, task)
        ways = [retry_way("start", steps, set(), costs, asks=must_ask)]
        if (thread := thread_ref(record, task)) is not None:
            try:
                await plan_again(self._runtime, task_id, record, "journal", self._keep_steps)
                journals = journal_names(task_id, record.attempts, record.attempts[-1].attempt)
                paths, doubtful = await steps_kept(self._runtime, thread, journals)
                ways.append(retry_way("journal", steps, paths, costs, asks=bool(doubtful)))
            except Conflict as error:
                refused = Fault(type=error.code, message=str(error))
                ways.append(RetryWay(begin="journal", text=str(error), refused=refused))
        ways.sort(key=lambda way: way.begin != usual)
        return RetryPlan(task_id=task_id, ways=tuple(ways), error=outcome.error)

    @property
    def _keep_steps(self) -> timedelta | None:
        days = self._settings.keep_contents_days
        return None if days is None else timedelta(days=days)

    async def fork(
        self,
        task_id: str,
        step: str,
        caller: Caller | None = None,
        *,
        attempt: int | None = None,
        deadline: float | None = None,
        dry_run: bool = False,
    ) -> ForkResult:
        """Make a task that goes on from a finished step of another's attempt, by default of the last.

        The other stays as it is, and the steps up to there cost nothing again. `deadline` is in seconds from
        now, by default as long as the other task had. Durable when this returns. Raises NotFound for a
        missing step, Conflict for a failed step or an open task, and what `submit` raises.
        """
        caller = caller or Caller()
        record, task = await read_task(self._runtime, task_id, caller.tenant_id)
        plan = await plan_fork(self._runtime, task_id, record, step, attempt)
        if dry_run:
            return plan
        fork = make_fork(task, plan, caller, self._runtime.clock.now(), deadline)
        details = {"step": step, "attempt": plan.forked_from.attempt, "fork": fork.task_id}
        async with self._audit.change(caller, "task.forked", f"tasks/{task_id}", details):
            await self._admission.admit(fork, partial(self._accept, fork, fork.variants, "", True, None))
        return replace(plan, task_id=fork.task_id, is_dry=False)

    async def answer(
        self,
        task_id: str,
        key: str,
        value: Any,
        caller: Caller | None = None,
        *,
        digest: str = "",
        idempotency_key: str | None = None,
    ) -> None:
        """Answer what a task waits for; `key` is the `wait_id` of a question of the inbox.

        `digest` is that of the question as its giver saw it: Conflict is raised if it is another now.

        Durable when this returns; an `idempotency_key` is then in the log, on the event `wait.ended`. Raises
        NotFound where the task does not wait for that, Conflict where that was answered or has expired,
        InvalidInput for an answer that does not fit, Forbidden for a caller who may not give it.
        """
        caller = caller or Caller()
        record, task = await read_task(self._runtime, task_id, caller.tenant_id)
        thread, entry = thread_ref(record, task), await read_entry(self._runtime, record, task)
        wait = next((wait for wait in entry.waits if wait.wait_id == key), None) if entry else None
        if thread is not None and wait is not None:
            if record.cancelling:  # its thread lacks the cancel while its agent is not loaded
                raise Conflict(f"Task {task_id} is being cancelled", field="key")
            check_digest(digest, wait.digest)
            self._missing.reach(thread)
            agents = (*task.chain, thread.type)
            now = self._runtime.clock.now()
            if (reason := denied_money(wait, value, caller, agents)) is not None:
                account_id, details = wait.subject["account"], {"wait_id": key, "reason": reason}
                async with self._audit.change(caller, "budget.denied", f"budgets/{account_id}", details):
                    await self._spending.deny(account_id, reason, caller)
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
            async with self._audit.change(caller, decided(wait, value), f"tasks/{task_id}", details):
                if await self._runtime.call(thread, "resume", answer):
                    return
                raise not_waiting(task_id, key, await self._inbox.find(caller.tenant_id, key))
        raise not_waiting(task_id, key, await self._inbox.find(caller.tenant_id, key))

    async def reveal(self, task_id: str, key: str, caller: Caller) -> RevealedQuestion:
        """The hidden parts of a question, for a caller who may answer it; recorded in the audit trail first.

        Raises NotFound where the task does not wait for that, Forbidden for a caller who may not answer.
        """
        wait = await self.answerable_wait(task_id, key, caller)
        details = {"wait_id": key, **wait.subject.get(HIDDEN, {})}
        await self._audit.record(caller, "question.revealed", f"tasks/{task_id}", details)
        return RevealedQuestion.decrypt(wait, self._cipher)

    async def hold_reminder(self, task_id: str, key: str, tenant_id: str, until: datetime | None) -> None:
        """Remind of a question not before then, or as before if that is None."""
        record, task = await read_task(self._runtime, task_id, tenant_id)
        thread, entry = thread_ref(record, task), await read_entry(self._runtime, record, task)
        wait = entry.wait(key) if entry is not None else None
        if thread is not None and wait is not None and wait.remind_at is not None:
            await self._runtime.call(
                thread, "hold_reminder", HoldReminder(task_id=task_id, key=key, until=until)
            )

    async def answerable_wait(self, task_id: str, key: str, caller: Caller) -> Wait:
        """The wait of a task, which the caller may answer. Raises NotFound, Conflict, Forbidden."""
        record, task = await read_task(self._runtime, task_id, caller.tenant_id)
        thread, entry = thread_ref(record, task), await read_entry(self._runtime, record, task)
        wait = entry.wait(key) if entry is not None else None
        if thread is None or wait is None:
            raise not_waiting(task_id, key, await self._inbox.find(caller.tenant_id, key))
        check_reader(wait, caller, (*task.chain, thread.type), await self._requesters(task, caller))
        return wait

    async def _requesters(self, task: Task, caller: Caller) -> set[str]:
        """The requesters of a task and of the tasks above it; none if everybody is the local user."""
        by_broker = caller.source == "mqtt" and caller.requested_by != Caller().requested_by
        if not by_broker and not await keys_required(self._keys, self._settings):
            return set()
        names = {task.requested_by}
        while task.parent is not None:
            _, task = await read_task(self._runtime, task.parent.task_id, task.tenant_id)
            names.add(task.requested_by)
        return names

    async def resume(self, tenant_id: str, task_id: str, key: str, value: Any) -> None:
        """Give a task what it waits for, where no person answers. Raises NotFound for an unknown task."""
        record, task = await read_task(self._runtime, task_id, tenant_id)
        if (thread := thread_ref(record, task)) is not None:
            await self._runtime.call(thread, "resume", Answer(task_id=task_id, key=key, value=value))

    async def outcome(self, task_id: str, tenant_id: str = "default") -> Outcome:
        """Wait for the outcome of a task.

        Raises NotFound, and where the mesh ends by then StoreFailed or Draining.
        """
        outcome = await self._waiters.wait(task_id, tenant_id)
        if outcome.cost_usd is not None:
            return outcome
        calls = await self._log.newest_of_task(task_id, tenant_id, (_CALLED,))
        return await self._with_cost(outcome, tenant_id, calls.get(_CALLED))

    async def _with_cost(self, outcome: Outcome, tenant_id: str, last_call: Event | None) -> Outcome:
        """An outcome without a cost, with what the ledger knows if an attempt did not say.

        An attempt that broke off, or ran when its deadline passed, does not, nor does one of a task below. A
        call of unknown price leaves the cost unknown: if the last call has none, the ledger is not asked,
        which would have to fold the log first.
        """
        if last_call is not None and last_call.payload.get("cost_usd", ZERO) is None:
            return outcome
        tree = await self._log.view(task_tree, tenant_id, outcome.task_id)
        if tree is None or not tree.is_whole or tree.items[0].tree_unpriced:
            return outcome
        return outcome.model_copy(update={"cost_usd": tree.items[0].tree_cost_usd})

    async def wait(
        self, task_id: str, tenant_id: str, seconds: float, leaving: Leaving, *, is_new: bool = False
    ) -> None:
        """Return once a task has ended or begins to wait for a person, the time is up, or its caller leaves.

        One that `is_new` may wait for a person already. Raises NotFound, what `leaving` raises, and where the
        mesh ends by then StoreFailed or Draining.
        """
        with leaving() as left, self._waiters.watch(task_id, tenant_id, questions=True) as waiter:
            if is_new:
                record, task = await read_task(self._runtime, task_id, tenant_id)
                entry = await read_entry(self._runtime, record, task)
                is_over = record.outcome or (entry is not None and any(map(asks_person, entry.waits)))
            else:
                is_over = await self._waiters.outcome(task_id, tenant_id)
            if not is_over:
                await asyncio.wait({waiter, *left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if waiter.done():
                waiter.result()

    async def file(self, task_id: str, number: int, tenant_id: str = "default") -> File:
        """A file of a task's outcome with its bytes, counted from 1. Raises NotFound."""
        return await read_file(self._runtime, task_id, number, tenant_id)

    async def ask(
        self, agent_id: str, text: str, *, thread_id: str | None = None, timeout: float | None = None
    ) -> Outcome:
        """Give an agent a task as text and wait for its outcome. `timeout` in seconds, of one step."""
        request = TaskRequest(agent_id=agent_id, payload={"text": text}, thread_id=thread_id, timeout=timeout)
        receipt = await self.submit(request)
        return await self.outcome(receipt.task_id)
