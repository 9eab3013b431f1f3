"""Operations: everything that a caller may ask of a mesh, the same by every door.

    view = await Operations(mesh, caller).cancel(task_id)

Roles, visibility, limits, records in the audit trail and the redaction of contents stand here and in `rules`
alone: a door reads its wire, calls an operation, and writes its wire.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any, Literal, NamedTuple

from msgspec.structs import replace
from pydantic import BaseModel, Field, FiniteFloat

from meshwright.context.plan import CompressRequest, CompressResponse
from meshwright.context.service import ContextClient
from meshwright.core.access import Role
from meshwright.core.capability import AgentInfo
from meshwright.core.errors import Forbidden, HostError, MeshError, NotFound, Unauthenticated
from meshwright.core.files import File, task_file_of
from meshwright.core.ids import Identifier, derived_id, new_id
from meshwright.core.limits import MAX_DEADLINE_SECONDS
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
from meshwright.core.operations import Rule, Strict, has_role, is_own, operation, visible_tenant
from meshwright.core.payloads import redacted
from meshwright.core.task_events import TaskEnded, TaskScored
from meshwright.events.answers import RevealedQuestion
from meshwright.events.audit import Audit
from meshwright.events.filter import EventFilter, TaskFilter
from meshwright.events.inbox import InboxPage
from meshwright.events.inbox_sources import WholeInbox
from meshwright.events.log import Page
from meshwright.events.status import MeshStatus
from meshwright.events.task_lists import TaskOrder
from meshwright.events.tasks import TaskPage
from meshwright.identity.filters import InboxCursor, TaskCriteria, TaskPageQuery, read_filter, require_known
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
    sees_contents,
    shown,
)
from meshwright.ledger.costs import BY_PATTERN, Bucket, CostQuery, Costs
from meshwright.ledger.spending import Spending
from meshwright.mesh import Mesh
from meshwright.models.overview import Deployments
from meshwright.models.port import CallContext
from meshwright.orchestration.acceptance import FINAL
from meshwright.orchestration.again import ForkResult, RetryResult
from meshwright.orchestration.registry import Registry
from meshwright.orchestration.status import StatusReader
from meshwright.orchestration.tasks import Tasks
from meshwright.orchestration.tenants import Tenants
from meshwright.run.files import referred_in
from meshwright.run.transcript import Transcript
from meshwright.work.record import TaskView, read_task, unknown_task

NO_TASK = {404: "There is no such task."}
NO_VALUE = {404: "A value of the filter never was: `detail` says which there are."}
_NO_ROOM = (
    "The mesh, the tenant or the thread has as many tasks as it may: `Retry-After` says when to try again."
)


class QuestionKey(Strict):
    """A question that a task waits for: `key` is its `wait_id`."""

    key: str = Field(min_length=1, max_length=512)


class AnswerRequest(QuestionKey):
    """A person's answer to what a task waits for; `key` is the `wait_id` of the question."""

    value: Any


class ScoreRequest(Strict):
    """A score of a task by its name, such as `thumbs`; the comment says why."""

    name: Identifier
    value: FiniteFloat
    comment: str = Field(default="", max_length=1_000)


class TaskScore(ScoreRequest):
    """A score that a task was given."""

    task_id: str
    by: str


class _TaskListQuery(TaskPageQuery):
    """Which tasks to list. `order` is by when they were accepted (`created`) or by their last change."""

    order: TaskOrder = "created"


class _InboxQuery(TaskPageQuery):
    """Which questions to list. `id` is the beginning or the end of their ids, or of those of their tasks.

    `ended` adds those that were answered, have expired, or whose task no longer waits. All other fields are
    those of the tasks that ask. `cursor` is the `cursor` of the page before.
    """

    id: str | None = Field(default=None, min_length=1, max_length=128)
    ended: bool = False
    cursor: InboxCursor | None = None


class RetryRequest(Strict):
    """How a task is worked on again.

    `begin` is `journal` (finished steps stay, and cost nothing again) or `start`; without it the fault says
    which: the start where the agent was at fault, else the journal. `deadline` is in seconds from now, by
    default as long as before. With `dry_run` nothing is changed.
    """

    begin: Literal["journal", "start"] | None = None
    deadline: float | None = Field(default=None, gt=0, le=MAX_DEADLINE_SECONDS)
    dry_run: bool = False


class ForkRequest(Strict):
    """The finished step to go on from, by its `path`, and of which attempt, by default of the last.

    `deadline` is in seconds from now, by default as long as that of the other task. With `dry_run` nothing is
    changed.
    """

    step: str = Field(pattern=r"^[A-Za-z0-9.]{1,256}$")
    attempt: int | None = Field(default=None, ge=1)
    deadline: float | None = Field(default=None, gt=0, le=MAX_DEADLINE_SECONDS)
    dry_run: bool = False


class AgentList(BaseModel):
    """Agents by name."""

    items: list[AgentInfo]


class ScoreList(BaseModel):
    """Score cards, the best first."""

    items: list[ScoreCard]


class _CostQuery(Strict, TaskCriteria):
    """One key to sum by or two (`agent,model`); times like `24h` ago (s, m, h, d or w), or RFC 3339.

    With a `bucket` the costs are a series. Agent, thread, model and prompt are those of the call, all other
    fields those of its task.
    """

    by: str = Field(default="agent", json_schema_extra={"pattern": BY_PATTERN})
    since: str | None = Field(default=None, min_length=1, max_length=40)
    until: str | None = Field(default=None, min_length=1, max_length=40)
    bucket: Bucket | None = None
    agent_id: Identifier | None = None


class Common(NamedTuple):
    """Events that all readers with the same `key` see alike, begun behind `position` by one of them.

    `newest` is the end of the log then, `after(seq)` reads them behind any event.
    """

    key: str
    position: int
    newest: int
    after: Callable[[int], AsyncGenerator[list[Event]]]


class EventFeed(NamedTuple):
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
        return TaskEnded.from_payload(event.payload).generation >= self.generation


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

    @operation(SEE_TASK, "GET /tasks/{task_id}", "Show a task", name="show_task", tag="tasks", errors=NO_TASK)
    async def see(self, task_id: Identifier) -> TaskView:
        """Show a task: its request, its attempts with the score of each choice, and its outcome."""
        return await self._shown(SEE_TASK, task_id)

    @operation(
        Rule("lists tasks", VIEWER),
        "GET /tasks",
        "List tasks",
        name="list_tasks",
        tag="tasks",
        errors=NO_VALUE,
        request=_TaskListQuery,
    )
    async def tasks(self, **fields: Any) -> TaskPage:
        """List tasks, the newest first, or those that changed last: the `cursor` asks for the next page."""
        page = await self._tasks_of(**fields)
        return page if has_role(self.caller, Role.CONTENTS) else redacted(page)

    async def _tasks_of(self, **fields: Any) -> TaskPage:
        fields, tenant_id = read_filter(self.mesh, self.caller, fields), self.caller.tenant_id
        page = await self.mesh.log.tasks(tenant_id=tenant_id, **fields)
        if not page.items:
            await require_known(self.mesh, fields, tenant_id)
        return page

    @operation(FOLLOW_TASK)
    async def task_events(self, task_id: str, filter: EventFilter) -> Page:
        """A page of a task's events."""
        view = await self._shown(FOLLOW_TASK, task_id)
        return await self._page(self._own(filter, task_id), is_whole=sees_contents(view, self.caller))

    @operation(FOLLOW_TASK)
    async def follow(self, task_id: str, *, after_seq: int = 0) -> EventFeed | None:
        """The events of a task behind `after_seq`, as they come; None where it has ended and all were seen.

        The last event ends the task. Close the batches to stop earlier.
        """
        view = await self._shown(FOLLOW_TASK, task_id)
        if view.status in ENDED and await self._has_seen_the_end(view, after_seq):
            return None
        filter = self._own(EventFilter(after_seq=after_seq), task_id)
        feed = self._feed(filter, is_whole=sees_contents(view, self.caller))
        return feed._replace(generation=view.generation)

    @operation(READ_STEPS)
    async def transcripts(self, task_id: str, *, contents: bool = True) -> list[Transcript]:
        """The steps of a task, attempt by attempt; without `contents` the door shows none."""
        await self._check_task(READ_STEPS, task_id)
        transcripts = await self.mesh.get(Tasks).transcripts(task_id, self.caller.tenant_id)
        if contents:
            await self.mesh.get(Audit).record_read(self.caller, f"tasks/{task_id}")
        return transcripts

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

    @operation(
        RETRY_TASK,
        "POST /tasks/{task_id}/retry",
        "Retry a failed task",
        name="retry_task",
        tag="tasks",
        status=202,
        response="It is worked on again, durably; or it would be, by a dry run.",
        errors={
            404: "There is no such task.",
            409: "It is open, or has succeeded; or its steps or contents were deleted.",
            429: _NO_ROOM,
            503: "No agent has the capability, or those that have it are offline; or the mesh is stopping.",
        },
        request=RetryRequest,
    )
    async def retry(self, task_id: Identifier, **fields: Any) -> RetryResult:
        """Work again on a task that failed, timed out or was cancelled, under the same id.

        It gets another outcome, of its next generation. Of what it delegated that failed as well, each is worked
        on again as its own fault says.
        """  # noqa: E501
        await self._check_task(RETRY_TASK, task_id)
        again = await self.mesh.get(Tasks).retry(task_id, self.caller, **fields)
        if has_role(self.caller, Role.CONTENTS):
            return again
        return replace(again, error=named(again.error), refused=named(again.refused))

    @operation(
        FORK_TASK,
        "POST /tasks/{task_id}/fork",
        "Fork a task behind a step",
        name="fork_task",
        tag="tasks",
        status=202,
        response="The new task is durable; or it would be made, by a dry run.",
        errors={
            404: "There is no such task, attempt or finished step.",
            409: "The task is open, its contents were erased, or the step failed.",
            429: _NO_ROOM,
            503: "Its agent is offline, or the mesh is stopping.",
        },
        request=ForkRequest,
    )
    async def fork(self, task_id: Identifier, step: str, **fields: Any) -> ForkResult:
        """Make a task that goes on from a finished step of another, which stays as it is.

        Its agent, request and limits are those of the other, its id and thread are its own. The steps up to there
        are replies that were given before, and cost nothing again.
        """  # noqa: E501
        await self._check_task(FORK_TASK, task_id)
        return await self.mesh.get(Tasks).fork(task_id, step, self.caller, **fields)

    @operation(
        SCORE_TASK,
        "POST /v1/tasks/{task_id}/scores",
        "Score a task",
        name="score_task",
        tag="tasks",
        status=201,
        errors={**NO_TASK, 507: "The tenant stores as much as it may."},
        request=ScoreRequest,
    )
    async def score(self, task_id: Identifier, name: str, value: float, *, comment: str = "") -> TaskScore:
        """Say how good a task was. Each score is an event, `task.scored`, which is durable then, and stays."""  # noqa: E501
        caller = self.caller
        record, task = await read_task(self.mesh.runtime, task_id, caller.tenant_id)
        SCORE_TASK.check_task(caller, task.requested_by)
        await self.mesh.get(Tenants).require_storage(caller.tenant_id)
        event = self.mesh.event(
            TaskScored(name=name, value=value, comment=comment, by=caller.requested_by),
            tenant_id=caller.tenant_id,
            task_id=task_id,
            agent_id=record.attempts[-1].agent_id if record.attempts else task.agent_id,
            trace_id=trace_id_of(task.traceparent),
        )
        await self.mesh.runtime.emit([event])
        return TaskScore(name=name, value=value, comment=comment, task_id=task_id, by=caller.requested_by)

    @operation(
        ANSWER_TASK,
        "POST /tasks/{task_id}/answer",
        "Answer a question",
        name="answer_task",
        tag="tasks",
        status=202,
        response="It goes on.",
        errors={
            403: "The caller may not answer that.",
            404: "There is no such task, or it does not wait for that key.",
            409: "That was answered, or has expired: `detail` says by whom and when.",
            422: "The value does not fit the question's `answer_schema`.",
        },
        request=AnswerRequest,
    )
    async def answer(
        self, task_id: Identifier, key: str, value: Any, *, idempotency_key: str | None = None
    ) -> TaskView:
        """Give a task the answer of a person; `key` is the `wait_id` of a question of `GET /inbox`.

        The value has to fit the question's `answer_schema`, and is what the step that waits gets as its result.
        """  # noqa: E501
        view = await self.mesh.get(Tasks).task(task_id, self.caller.tenant_id)
        check_answer(self.caller, view, key)
        await self.mesh.get(Tasks).answer(task_id, key, value, self.caller, idempotency_key=idempotency_key)
        with suppress(HostError):  # a caller that tries again would find its question answered
            view = await self.mesh.get(Tasks).task(task_id, self.caller.tenant_id)
        return shown(view, self.caller)

    @operation(
        REVEAL_QUESTION,
        "POST /tasks/{task_id}/reveal",
        "Read what a question hides",
        name="reveal_question",
        tag="tasks",
        errors={
            403: "The caller may not answer that question.",
            404: "There is no such task, or it does not wait for that key.",
            409: "That was answered, or has expired.",
        },
        request=QuestionKey,
    )
    async def reveal(self, task_id: Identifier, key: str) -> RevealedQuestion:
        """Read the parts of a question in which `[hidden: 24 characters]` stands for what looks like a secret.

        `subject.hidden_parts` of the question counts them. For callers who may answer it, each time recorded in
        the audit trail. Secrets of the mesh, and masks such as `[secret:1]`, stay hidden.
        """  # noqa: E501
        view = await self.mesh.get(Tasks).task(task_id, self.caller.tenant_id)
        check_answer(self.caller, view, key)
        return await self.mesh.get(Tasks).reveal(task_id, key, self.caller)

    @operation(
        Rule("lists questions", (Role.CONTENTS,)),
        "GET /inbox",
        "List what waits for people",
        name="list_inbox",
        tag="tasks",
        request=_InboxQuery,
    )
    async def inbox(
        self,
        *,
        id: str | None = None,
        ended: bool = False,
        limit: int = 50,
        cursor: str | None = None,
        **of_task: Any,
    ) -> InboxPage:
        """List the questions that tasks have for people, the oldest first.

        To answer one, send its `wait_id` as the `key`, and a value that fits its `answer_schema`, to
        `POST /tasks/{task_id}/answer`; for one with a `source`, send its `id` to `POST /inbox/answer`.
        """
        fields, tenant_id = read_filter(self.mesh, self.caller, of_task), self.caller.tenant_id
        await self.mesh.get(Audit).record_read(self.caller, "inbox")
        page = await self.mesh.get(WholeInbox).page(
            tenant_id,
            id=id,
            with_ended=ended,
            limit=limit,
            cursor=cursor,
            of_task=TaskFilter(**fields) if any(fields.values()) else None,
        )
        if not page.items:
            await require_known(self.mesh, fields, tenant_id)
        return page

    # Events

    @operation(Rule("sees events", VIEWER))
    async def events(self, filter: EventFilter) -> Page:
        """A page of the tenant's events.

        Raises NotFound where there are none, and agent or a field of their tasks has a value that never was.
        """
        filter = self._own(self._of_task(filter))
        page = await self._page(filter, is_whole=await self._reads_events())
        if not page.events:
            of_task = {} if filter.of_task is None else filter.of_task.model_dump(exclude_none=True)
            if filter.agent_id is not None and not await self._has_events_of(filter.agent_id):
                of_task["agent_id"] = filter.agent_id
            await require_known(self.mesh, of_task, self.caller.tenant_id)
        return page

    @operation(Rule("follows events", VIEWER))
    async def tail(self, filter: EventFilter) -> EventFeed:
        """The tenant's events as they are committed, behind `after_seq` or from now on."""
        filter, newest = self._own(self._of_task(filter)), await self.mesh.log.last_seq()
        is_whole, position = (
            await self._reads_events(),
            newest if filter.after_seq is None else filter.after_seq,
        )

        def after(seq: int) -> AsyncGenerator[list[Event]]:
            return self._feed(filter.model_copy(update={"after_seq": seq}), is_whole=is_whole).batches

        key = f"{is_whole} {filter.model_copy(update={'after_seq': None}).model_dump_json()}"
        is_known = position <= newest  # else it is of a log that has started again
        common = Common(key, position, newest, after) if is_known else None
        return EventFeed(after(position), is_whole, common=common)

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
        Rule("sees costs", VIEWER),
        "GET /costs",
        "Sum up costs",
        name="sum_costs",
        tag="costs",
        errors={**NO_VALUE, 422: "`since` or `until` is not a time, or `by` nothing."},
        request=_CostQuery,
    )
    async def costs(
        self,
        by: str = "agent",
        *,
        since: str | None = None,
        until: str | None = None,
        bucket: Bucket | None = None,
        **of: str | None,
    ) -> Costs:
        """Sum up what calls of models have cost, most expensive first, and all of them together.

        With `bucket` there is an item for each hour or day of UTC in which calls ended, the earliest first.
        `cost_usd` is what is known of it, `estimated_usd` how much of that is of tokens that were estimated;
        `unpriced` counts the calls with an unknown cost.
        The holder of a key sees the calls of the key's tenant, the administrator those of all.
        """
        fields = read_filter(self.mesh, self.caller, {"since": since, "until": until, **of})
        start, end = fields.pop("since"), fields.pop("until")
        of_task = TaskFilter(**fields) if any(fields.values()) else None
        tenant_id = visible_tenant(self.caller)
        costs = await self.mesh.get(Spending).costs(CostQuery(tenant_id, by, start, end, bucket, of_task))
        if not costs.total.calls:
            await require_known(self.mesh, fields, tenant_id, of_calls=True)
        return costs

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
        last_event = EventFilter(event_type=f"task.{view.status}", limit=1, order="desc")
        events = await self.mesh.log.query(self._own(last_event, view.task_id))
        return bool(events) and events[0].seq is not None and events[0].seq <= after_seq

    async def _reads_events(self) -> bool:
        """Whether the caller sees the contents of events, which is recorded then."""
        if is_whole := has_role(self.caller, Role.CONTENTS):
            await self.mesh.get(Audit).record_read(self.caller, "events")
        return is_whole

    def _of_task(self, filter: EventFilter) -> EventFilter:
        """The filter of events. Raises Forbidden for texts of tasks that the caller may not read."""
        if filter.of_task is not None:
            read_filter(self.mesh, self.caller, filter.of_task.model_dump(exclude_none=True))
        return filter

    def _own(self, filter: EventFilter, task_id: str | None = None) -> EventFilter:
        """Limits a filter to the caller's tenant."""
        of_task = {} if task_id is None else {"task_id": task_id}
        return filter.model_copy(update={"tenant_id": self.caller.tenant_id, **of_task})

    async def _has_events_of(self, agent_id: str) -> bool:
        return bool(await self.mesh.log.query(self._own(EventFilter(agent_id=agent_id, limit=1))))

    async def _page(self, filter: EventFilter, *, is_whole: bool) -> Page:
        page = await self.mesh.log.page(filter)
        return page if is_whole else page._replace(events=self._facts_of(page.events))

    def _feed(self, filter: EventFilter, *, is_whole: bool) -> EventFeed:
        batches = self.mesh.log.follow(filter, live=True)
        return EventFeed(batches if is_whole else self._without_contents(batches), is_whole)

    async def _without_contents(self, batches: AsyncGenerator[list[Event]]) -> AsyncGenerator[list[Event]]:
        async with aclosing(batches):
            async for batch in batches:
                yield self._facts_of(batch)

    def _facts_of(self, events: list[Event]) -> list[Event]:
        visible = (event_facts(event, self.mesh.events) for event in events)
        return [facts for facts in visible if facts is not None]


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
