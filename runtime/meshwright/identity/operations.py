"""Operations: everything that a caller may ask of a mesh, the same by every door.

    view = await Operations(mesh, caller).cancel(task_id)

Roles, visibility, limits, records in the audit trail and the redaction of contents stand here and in `rules`
alone: a door reads its wire, calls an operation, and writes its wire.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

from msgspec.structs import replace

from meshwright.context.plan import CompressRequest, CompressResponse
from meshwright.context.service import ContextClient
from meshwright.core.access import Role
from meshwright.core.capability import AgentInfo
from meshwright.core.errors import Forbidden, HostError, MeshError, NotFound, Unauthenticated
from meshwright.core.files import File, task_file_of
from meshwright.core.ids import derived_id, new_id
from meshwright.core.messages import (
    ENDED,
    Caller,
    Event,
    Outcome,
    Receipt,
    ScoreCard,
    TaskRequest,
    TaskVariant,
    trace_id_of,
)
from meshwright.core.operations import Rule, has_role, is_own, operation, visible_tenant
from meshwright.core.topics import TASK_PROGRESS
from meshwright.events.answers import RevealedQuestion
from meshwright.events.audit import Audit
from meshwright.events.filter import EventFilter, TaskFilter
from meshwright.events.inbox import InboxPage
from meshwright.events.inbox_sources import WholeInbox
from meshwright.events.log import Page
from meshwright.events.status import MeshStatus
from meshwright.events.tasks import TaskPage
from meshwright.identity.filters import read_filter, require_known
from meshwright.identity.rules import (
    ANSWER_TASK,
    CANCEL_TASK,
    FOLLOW_TASK,
    FORK_TASK,
    GET_OUTCOME,
    READ_FILE,
    READ_STEPS,
    RETRY_TASK,
    REVEAL_QUESTION,
    SCORE_TASK,
    SEE_TASK,
    SUBMITTER,
    VIEWER,
    call_context,
    check_answer,
    event_facts,
    named,
    page_facts,
    sees_contents,
    shown,
    status_facts,
)
from meshwright.ledger.costs import Bucket, CostQuery, Costs
from meshwright.ledger.spending import Spending
from meshwright.mesh import Mesh
from meshwright.models.overview import Deployments
from meshwright.models.port import CallContext
from meshwright.orchestration.acceptance import FINAL
from meshwright.orchestration.again import Again, Forked
from meshwright.orchestration.event_words import SCORED
from meshwright.orchestration.registry import Registry
from meshwright.orchestration.status import StatusReader
from meshwright.orchestration.tasks import Tasks
from meshwright.orchestration.tenants import Tenants
from meshwright.run.files import referred_in
from meshwright.run.transcript import Transcript
from meshwright.work.record import TaskView, read_task, unknown_task


class Common(NamedTuple):
    """Events that all readers with the same `key` see alike, begun behind `position` by one of them.

    `newest` is the end of the log then, `after(seq)` reads them behind any event.
    """

    key: str
    position: int
    newest: int
    after: Callable[[int], AsyncGenerator[list[Event]]]


class Feed(NamedTuple):
    """Events as they come, as their reader may see them; `is_whole` where that is with all contents.

    Those of a task end with the outcome of its `generation`: what was worked on again has earlier ones. Those
    of the log may be read in `common` with others.
    """

    batches: AsyncGenerator[list[Event]]
    is_whole: bool
    generation: int | None = None
    common: Common | None = None

    def is_last(self, event: Event) -> bool:
        """Whether an event ends the task that is followed."""
        if self.generation is None or event.event_type not in FINAL:
            return False
        return event.fields.get("generation", 1) >= self.generation


class Acting:
    """A caller of a mesh."""

    def __init__(self, mesh: Mesh, caller: Caller) -> None:
        self.mesh = mesh
        self.caller = caller


async def check_early(mesh: Mesh, caller: Caller, rule: Rule, does: str) -> None:
    """Raises what an operation is sure to raise, for an edge that has not read all of the request yet.

    Among that are Overloaded and StorageExceeded, so that a flood is not read. `does` ends the sentence
    `Only a caller with the role ... ` in the words of the edge.
    """
    rule.check(caller, does)
    names_tenant = caller.all_tenants and rule.limit == "calls_per_minute"  # in what is not read yet
    if rule.limit is not None and not names_tenant:
        await mesh.get(Tenants).check(caller.tenant_id, rule.limit)


class Operations(Acting):
    """The operations on tasks, events, agents and models.

    Each raises Unauthenticated for an anonymous caller without the role that its rule names, Forbidden for
    any other, NotFound for a task that the caller's tenant does not have, and HostError where the store
    cannot be asked.
    """

    # Tasks

    @operation(Rule("makes tasks", SUBMITTER, limit="tasks_per_minute"))
    async def submit(
        self,
        request: TaskRequest,
        *,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        variants: tuple[TaskVariant, ...] | None = None,
    ) -> Receipt:
        """Take a task: durable when this returns. Raises what `Tasks.submit` raises."""
        for url in referred_in(request.payload):
            await self._check_may_read(url)
        return await self.mesh.get(Tasks).submit(
            request,
            self.caller,
            idempotency_key=idempotency_key,
            traceparent=traceparent,
            variants=variants,
        )

    @operation(SEE_TASK)
    async def see(self, task_id: str) -> TaskView:
        """A task as it is now, as the caller may see it."""
        return await self._shown(SEE_TASK, task_id)

    @operation(Rule("lists tasks", VIEWER))
    async def tasks(self, **wanted: Any) -> TaskPage:
        """A page of the tenant's tasks, the newest first. Takes what `EventLog.tasks` takes.

        Raises NotFound for a value of the filter that there never was.
        """
        page = await self._tasks_of(**wanted)
        return page if has_role(self.caller, Role.CONTENTS) else page_facts(page)

    async def _tasks_of(self, **wanted: Any) -> TaskPage:
        wanted, tenant_id = read_filter(self.mesh, self.caller, wanted), self.caller.tenant_id
        page = await self.mesh.log.tasks(tenant_id=tenant_id, **wanted)
        if not page.items:
            await require_known(self.mesh, wanted, tenant_id)
        return page

    @operation(FOLLOW_TASK)
    async def task_events(self, task_id: str, wanted: EventFilter) -> Page:
        """A page of a task's events."""
        view = await self._shown(FOLLOW_TASK, task_id)
        return await self._page(self._own(wanted, task_id), is_whole=sees_contents(view, self.caller))

    @operation(FOLLOW_TASK)
    async def follow(self, task_id: str, *, after_seq: int = 0) -> Feed | None:
        """The events of a task behind `after_seq`, as they come; None where it has ended and all were seen.

        The last event ends the task. Close the batches to stop earlier.
        """
        view = await self._shown(FOLLOW_TASK, task_id)
        if view.status in ENDED and await self._has_seen_the_end(view, after_seq):
            return None
        wanted = self._own(EventFilter(after_seq=after_seq), task_id)
        feed = self._feed(wanted, is_whole=sees_contents(view, self.caller))
        return feed._replace(generation=view.generation)

    @operation(READ_STEPS)
    async def transcripts(self, task_id: str, *, contents: bool = True) -> list[Transcript]:
        """The steps of a task, attempt by attempt; without `contents` the door shows none."""
        await self._check_task(READ_STEPS, task_id)
        found = await self.mesh.get(Tasks).transcripts(task_id, self.caller.tenant_id)
        if contents:
            await self.mesh.get(Audit).record_read(self.caller, f"tasks/{task_id}")
        return found

    @operation(READ_FILE)
    async def file(self, task_id: str, number: int) -> File:
        """A file of a task's outcome with its bytes, counted from 1."""
        await self._check_task(READ_FILE, task_id)
        file = await self.mesh.get(Tasks).file(task_id, number, self.caller.tenant_id)
        await self.mesh.get(Audit).record_read(self.caller, f"tasks/{task_id}")
        return file

    @operation(GET_OUTCOME)
    async def outcome(self, task_id: str) -> Outcome | None:
        """The outcome of a task with its contents, or None so far: for a door that is to send it."""
        await self._check_task(GET_OUTCOME, task_id)
        return (await self.mesh.get(Tasks).task(task_id, self.caller.tenant_id)).outcome

    @operation(CANCEL_TASK)
    async def cancel(self, task_id: str) -> TaskView:
        """Ask for the end of a task; its outcome follows when its agent has let go."""
        await self._check_task(CANCEL_TASK, task_id)
        view = await self.mesh.get(Tasks).cancel(task_id, self.caller.tenant_id, caller=self.caller)
        return shown(view, self.caller)

    @operation(RETRY_TASK)
    async def retry(self, task_id: str, **wanted: Any) -> Again:
        """Work again on a task that failed, timed out or was cancelled. Takes what `Tasks.retry` takes."""
        await self._check_task(RETRY_TASK, task_id)
        again = await self.mesh.get(Tasks).retry(task_id, self.caller, **wanted)
        if has_role(self.caller, Role.CONTENTS):
            return again
        return replace(again, error=named(again.error), refused=named(again.refused))

    @operation(FORK_TASK)
    async def fork(self, task_id: str, step: str, **wanted: Any) -> Forked:
        """Make a task of the caller that goes on from a step of another. Takes what `Tasks.fork` takes."""
        await self._check_task(FORK_TASK, task_id)
        return await self.mesh.get(Tasks).fork(task_id, step, self.caller, **wanted)

    @operation(SCORE_TASK)
    async def score(self, task_id: str, name: str, value: float, *, comment: str = "") -> Event:
        """Give a task a score, as the event `task.scored`, which is in the log when this returns.

        Raises StorageExceeded.
        """
        caller = self.caller
        record, task = await read_task(self.mesh.runtime, task_id, caller.tenant_id)
        SCORE_TASK.check_task(caller, task.requested_by)
        await self.mesh.get(Tenants).require_storage(caller.tenant_id)
        event = self.mesh.event(
            SCORED,
            {"name": name, "value": value, "comment": comment, "by": caller.requested_by},
            topic=TASK_PROGRESS,
            tenant_id=caller.tenant_id,
            task_id=task_id,
            agent_id=record.attempts[-1].agent_id if record.attempts else task.agent_id,
            trace_id=trace_id_of(task.traceparent),
        )
        await self.mesh.runtime.emit([event])
        return event

    @operation(ANSWER_TASK)
    async def answer(
        self, task_id: str, key: str, value: Any, *, idempotency_key: str | None = None
    ) -> TaskView:
        """Give a task the answer of a person; `key` is the `wait_id` of a question of the inbox.

        Durable when this returns. Raises what `Tasks.answer` raises.
        """
        view = await self.mesh.get(Tasks).task(task_id, self.caller.tenant_id)
        check_answer(self.caller, view, key)
        await self.mesh.get(Tasks).answer(task_id, key, value, self.caller, idempotency_key=idempotency_key)
        with suppress(HostError):  # a caller that tries again would find its question answered
            view = await self.mesh.get(Tasks).task(task_id, self.caller.tenant_id)
        return shown(view, self.caller)

    @operation(REVEAL_QUESTION)
    async def reveal(self, task_id: str, key: str) -> RevealedQuestion:
        """The hidden parts of a question, for a caller who may answer it; recorded in the audit trail.

        Raises what `Tasks.reveal` raises.
        """
        view = await self.mesh.get(Tasks).task(task_id, self.caller.tenant_id)
        check_answer(self.caller, view, key)
        return await self.mesh.get(Tasks).reveal(task_id, key, self.caller)

    @operation(Rule("lists questions", (Role.CONTENTS,)))
    async def inbox(
        self,
        *,
        id: str | None = None,
        ended: bool = False,
        limit: int = 50,
        cursor: str | None = None,
        **of_task: Any,
    ) -> InboxPage:
        """A page of what waits for people of the tenant. Takes what `WholeInbox.page` takes.

        `of_task` are fields of `TaskFilter`. Raises NotFound for a value that there never was.
        """
        wanted, tenant_id = read_filter(self.mesh, self.caller, of_task), self.caller.tenant_id
        await self.mesh.get(Audit).record_read(self.caller, "inbox")
        page = await self.mesh.get(WholeInbox).page(
            tenant_id,
            id=id,
            ended=ended,
            limit=limit,
            cursor=cursor,
            of_task=TaskFilter(**wanted) if any(wanted.values()) else None,
        )
        if not page.items:
            await require_known(self.mesh, wanted, tenant_id)
        return page

    # Events

    @operation(Rule("sees events", VIEWER))
    async def events(self, wanted: EventFilter) -> Page:
        """A page of the tenant's events.

        Raises NotFound where there are none, and agent or a field of their tasks has a value that never was.
        """
        wanted = self._own(self._of_task(wanted))
        page = await self._page(wanted, is_whole=await self._reads_events())
        if not page.events:
            of_task = {} if wanted.of_task is None else wanted.of_task.model_dump(exclude_none=True)
            if wanted.agent_id is not None and not await self._has_events_of(wanted.agent_id):
                of_task["agent_id"] = wanted.agent_id
            await require_known(self.mesh, of_task, self.caller.tenant_id)
        return page

    @operation(Rule("follows events", VIEWER))
    async def tail(self, wanted: EventFilter) -> Feed:
        """The tenant's events as they are committed, behind `after_seq` or from now on."""
        wanted, newest = self._own(self._of_task(wanted)), await self.mesh.log.last_seq()
        is_whole, position = (
            await self._reads_events(),
            newest if wanted.after_seq is None else wanted.after_seq,
        )

        def after(seq: int) -> AsyncGenerator[list[Event]]:
            return self._feed(wanted.model_copy(update={"after_seq": seq}), is_whole=is_whole).batches

        key = f"{is_whole} {wanted.model_copy(update={'after_seq': None}).model_dump_json()}"
        is_known = position <= newest  # else it is of a log that has started again
        common = Common(key, position, newest, after) if is_known else None
        return Feed(after(position), is_whole, common=common)

    @operation(Rule("publishes events", SUBMITTER))
    async def publish(
        self, topic: str, event_type: str, payload: dict[str, Any], *, idempotency_key: str | None = None
    ) -> str:
        """Publish an event to a topic of the application, and return its id: it is in the log then.

        One with an idempotency key that was used before is not published again. Raises StorageExceeded.
        """
        caller = self.caller
        name = new_id() if idempotency_key is None else derived_id(caller.requested_by, idempotency_key)
        event_id = f"app/{caller.tenant_id}/{name}"
        if idempotency_key is None or not await self.mesh.log.knows(event_id):
            await self.mesh.get(Tenants).require_storage(caller.tenant_id)
            event = Event(
                id=event_id,
                event_type=event_type,
                topic=topic,
                time=self.mesh.runtime.clock.now(),
                tenant_id=caller.tenant_id,
                aggregate_id=f"app/{caller.requested_by}",
                idempotency_key=idempotency_key,
                payload=payload,
            )
            await self.mesh.runtime.emit([event])
        return event_id

    # Agents, models, costs

    @operation(Rule("lists agents", VIEWER))
    def agents(self) -> list[AgentInfo]:
        """Every agent that is registered, and how it is doing."""
        return self.mesh.get(Registry).agents()

    @operation(Rule("sees scores", VIEWER))
    def scores(self, capability: str) -> list[ScoreCard]:
        """How the agents that are not offline score for a capability, the best first. Raises NotFound."""
        known = self.mesh.get(Registry).capabilities()
        if capability not in known:
            raise NotFound(
                f"No agent has the capability {capability!r}",
                remedy=f"Known are {', '.join(known) or 'none: no agent is registered'}",
                field="capability",
            )
        return self.mesh.get(Registry).scores(capability)

    @operation(Rule("sees costs", VIEWER))
    async def costs(
        self,
        by: str = "agent",
        *,
        since: str | None = None,
        until: str | None = None,
        bucket: Bucket | None = None,
        **of: str | None,
    ) -> Costs:
        """The costs of calls of models by one key or two, the most expensive first, or as a series.

        Times are like `24h` ago or RFC 3339. `of` are fields of `TaskFilter`: agent, thread, model and prompt
        are those of the call, all others those of its task. Raises InvalidInput, and NotFound for a value
        that there never was.
        """
        known = read_filter(self.mesh, self.caller, {"since": since, "until": until, **of})
        start, end = known.pop("since"), known.pop("until")
        of_task = TaskFilter(**known) if any(known.values()) else None
        tenant_id = visible_tenant(self.caller)
        wanted = CostQuery(tenant_id, by, start, end, bucket, of_task)
        costs = await self.mesh.get(Spending).costs(wanted)
        if not costs.total.calls:
            await require_known(self.mesh, known, tenant_id, of_calls=True)
        return costs

    @operation(Rule("sees the status", VIEWER))
    async def status(self) -> MeshStatus:
        """How the open tasks are doing."""
        status = await self.mesh.get(StatusReader).status(visible_tenant(self.caller))
        return status if has_role(self.caller, Role.CONTENTS) else status_facts(status)

    @operation(Rule("compresses contexts", SUBMITTER))
    async def compress(self, wanted: CompressRequest, *, traceparent: str | None = None) -> CompressResponse:
        """Make the context that a receiver needs: by rules, and by a model where those are not enough."""
        caller = self.caller
        return await self.mesh.get(ContextClient).compress(
            wanted,
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

    async def _shown(self, rule: Rule, task_id: str) -> TaskView:
        """A task as the caller may see it. It is recorded that it sees the contents of another's."""
        view = await self.mesh.get(Tasks).task(task_id, self.caller.tenant_id)
        rule.check_task(self.caller, view.requested_by)
        if not sees_contents(view, self.caller):
            return shown(view, self.caller)
        if view.requested_by != self.caller.requested_by:
            await self.mesh.get(Audit).record_read(self.caller, f"tasks/{task_id}")
        return view

    async def _check_task(self, rule: Rule, task_id: str) -> None:
        """Raises Forbidden for a task of another that takes a role which the caller does not have."""
        if rule.others is None or not has_role(self.caller, rule.others):
            _, task = await read_task(self.mesh.runtime, task_id, self.caller.tenant_id)
            rule.check_task(self.caller, task.requested_by)

    async def _check_may_read(self, url: str) -> None:
        """Raises NotFound for a file of a task that the caller may not see."""
        task_id, _ = task_file_of(url) or ("", 0)
        _, task = await read_task(self.mesh.runtime, task_id, self.caller.tenant_id)
        if not (is_own(self.caller, task.requested_by) or has_role(self.caller, Role.CONTENTS)):
            raise unknown_task(task_id)

    async def _has_seen_the_end(self, view: TaskView, after_seq: int) -> bool:
        """False also while the log lacks the last event: on Dapr it may arrive after the outcome."""
        ended = EventFilter(event_type=f"task.{view.status}", limit=1, order="desc")
        found = await self.mesh.log.query(self._own(ended, view.task_id))
        return bool(found) and found[0].seq is not None and found[0].seq <= after_seq

    async def _reads_events(self) -> bool:
        """Whether the caller sees the contents of events, which is recorded then."""
        if is_whole := has_role(self.caller, Role.CONTENTS):
            await self.mesh.get(Audit).record_read(self.caller, "events")
        return is_whole

    def _of_task(self, wanted: EventFilter) -> EventFilter:
        """The filter of events. Raises Forbidden for texts of tasks that the caller may not read."""
        if wanted.of_task is not None:
            read_filter(self.mesh, self.caller, wanted.of_task.model_dump(exclude_none=True))
        return wanted

    def _own(self, wanted: EventFilter, task_id: str | None = None) -> EventFilter:
        """Limits a filter to the caller's tenant."""
        of_task = {} if task_id is None else {"task_id": task_id}
        return wanted.model_copy(update={"tenant_id": self.caller.tenant_id, **of_task})

    async def _has_events_of(self, agent_id: str) -> bool:
        return bool(await self.mesh.log.query(self._own(EventFilter(agent_id=agent_id, limit=1))))

    async def _page(self, wanted: EventFilter, *, is_whole: bool) -> Page:
        page = await self.mesh.log.page(wanted)
        return page if is_whole else page._replace(events=self._facts_of(page.events))

    def _feed(self, wanted: EventFilter, *, is_whole: bool) -> Feed:
        batches = self.mesh.log.follow(wanted, live=True)
        return Feed(batches if is_whole else self._without_contents(batches), is_whole)

    async def _without_contents(self, batches: AsyncGenerator[list[Event]]) -> AsyncGenerator[list[Event]]:
        async with aclosing(batches):
            async for batch in batches:
                yield self._facts_of(batch)

    def _facts_of(self, events: list[Event]) -> list[Event]:
        found = (event_facts(event, self.mesh.facts) for event in events)
        return [facts for facts in found if facts is not None]


def record_refusal(
    mesh: Mesh,
    error: MeshError,
    *,
    caller: Caller | None,
    request: str = "",
    address: str = "",
    edge: str = "api",
) -> None:
    """Record refused credentials, or that a known caller asked for what it may not do; other errors are none.

    `request` names what was asked for, without contents, and `address` where from. Before the caller is known
    it has to name nothing of a tenant.
    """
    if isinstance(error, Forbidden) or (isinstance(error, Unauthenticated) and caller is None):
        mesh.get(Audit).record_misuse(
            error.message, request=request, address=address, edge=edge, caller=caller
        )
