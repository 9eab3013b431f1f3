"""Operations: everything that a caller may ask of a mesh, the same by every door.

    view = await Operations(mesh, caller).cancel(task_id)

Roles, visibility, limits, records in the audit trail and the redaction of contents stand here and in `rules`
alone: a door reads its wire, calls an operation, and writes its wire.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal

from msgspec.structs import replace
from pydantic import Field, FiniteFloat

from meshwright.agents.run.files import referred_in
from meshwright.agents.run.transcript import Transcript
from meshwright.core.access import Role
from meshwright.core.errors import Conflict, Forbidden, HostError, MeshError, Unauthenticated
from meshwright.core.events import parse_trace_id
from meshwright.core.files import File, parse_task_file
from meshwright.core.ids import Identifier
from meshwright.core.limits import MAX_DEADLINE_SECONDS
from meshwright.core.messages import Caller, Outcome, Receipt, TaskRequest, TaskVariant
from meshwright.core.operations import Input, Rule, has_role, is_own, operation
from meshwright.core.payloads import redacted
from meshwright.core.task_events import QuestionReleased, TaskScored
from meshwright.engine.events.answers import RevealedQuestion, check_claim, parse_reply
from meshwright.engine.events.audit import Audit
from meshwright.engine.events.inbox import Inbox, question_key
from meshwright.engine.events.task_lists import TaskOrder
from meshwright.engine.events.tasks import TaskPage
from meshwright.engine.work.people import NEEDED
from meshwright.engine.work.record import TaskView, read_task, unknown_task
from meshwright.mesh.identity.filters import TaskPageQuery, read_filter, require_known
from meshwright.mesh.identity.rules import (
    ANSWER_TASK,
    CANCEL_TASK,
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
    check_answer,
    named,
    sees_contents,
    shown,
)
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.reruns import ForkResult, RetryResult
from meshwright.mesh.orchestration.tasks import Leaving, Tasks
from meshwright.mesh.orchestration.tenants import Tenants

NO_TASK = {404: "There is no such task."}
NO_VALUE = {404: "A value of the filter never was: `detail` says which there are."}
_NO_ROOM = (
    "The mesh, the tenant or the thread has as many tasks as it may: `Retry-After` says when to try again."
)


class QuestionKey(Input):
    """A question that a task waits for: `key` is its `wait_id`."""

    key: str = Field(min_length=1, max_length=512)


class AnswerRequest(QuestionKey):
    """A person's answer to what a task waits for; `key` is the `wait_id` of the question.

    `digest` is that of the question as it was shown: the answer is refused with 409 if it is another by now.
    With `anyway` it is answered although another caller has claimed it.
    """

    value: Any
    digest: str = Field(default="", max_length=64)
    anyway: bool = False


class ScoreRequest(Input):
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


class RetryRequest(Input):
    """How a task is worked on again.

    `begin` is `journal` (finished steps stay, and cost nothing again) or `start`; without it the fault says
    which: the start where the agent was at fault, else the journal. `deadline` is in seconds from now, by
    default as long as before. With `dry_run` nothing is changed.
    """

    begin: Literal["journal", "start"] | None = None
    deadline: float | None = Field(default=None, gt=0, le=MAX_DEADLINE_SECONDS)
    dry_run: bool = False


class ForkRequest(Input):
    """The finished step to go on from, by its `path` or `number`; of the last attempt, or another `attempt`.

    `deadline` is in seconds from now, by default as long as that of the other task. With `dry_run` nothing is
    changed.
    """

    step: str = Field(pattern=r"^[A-Za-z0-9.]{1,256}$")
    attempt: int | None = Field(default=None, ge=1)
    deadline: float | None = Field(default=None, gt=0, le=MAX_DEADLINE_SECONDS)
    dry_run: bool = False


WaitSeconds = Annotated[
    float, Field(ge=0, le=300, description="Seconds to wait for the end of the task, or for its question.")
]


class Acting:
    """A caller of a mesh."""

    def __init__(self, mesh: Mesh, caller: Caller) -> None:
        self.mesh = mesh
        self.caller = caller

    async def task_seen(self, rule: Rule, task_id: str) -> TaskView:
        """A task as the caller may see it. It is recorded that it sees the contents of another's."""
        view = await self.mesh.get(Tasks).task(task_id, self.caller.tenant_id)
        rule.check_task(self.caller, view.requested_by)
        if not sees_contents(view, self.caller):
            return shown(view, self.caller)
        if view.requested_by != self.caller.requested_by:
            await self.mesh.get(Audit).record_read(self.caller, task_id=task_id)
        return view


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
            request, self.caller, idempotency_key=idempotency_key, traceparent=traceparent, variants=variants
        )

    @operation(SEE_TASK, "GET /tasks/{task_id}", "Show a task", name="show_task", tag="tasks", errors=NO_TASK)
    async def see(
        self, task_id: Identifier, *, wait: WaitSeconds = 0.0, leaving: Leaving | None = None
    ) -> TaskView:
        """Show a task: its request, its attempts with the score of each choice, and its outcome.

        With `wait` it answers once the task has ended or begins to wait for a person, at the latest after so
        many seconds.
        """
        if wait and leaving is not None:
            await self._check_task(SEE_TASK, task_id)
            await self.mesh.get(Tasks).wait(task_id, self.caller.tenant_id, wait, leaving)
        return await self.task_seen(SEE_TASK, task_id)

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
        page = await self._list_tasks(**fields)
        return page if has_role(self.caller, Role.CONTENTS) else redacted(page)

    async def _list_tasks(self, **fields: Any) -> TaskPage:
        fields, tenant_id = read_filter(self.mesh, self.caller, fields), self.caller.tenant_id
        page = await self.mesh.log.tasks(tenant_id=tenant_id, **fields)
        if not page.items:
            await require_known(self.mesh, fields, tenant_id)
        return page

    @operation(READ_STEPS)
    async def transcripts(self, task_id: str, *, contents: bool = True) -> list[Transcript]:
        """The steps of a task, attempt by attempt; without `contents` the door shows none."""
        await self._check_task(READ_STEPS, task_id)
        transcripts = await self.mesh.get(Tasks).transcripts(task_id, self.caller.tenant_id)
        if contents:
            await self.mesh.get(Audit).record_read(self.caller, task_id=task_id)
        return transcripts

    @operation(READ_FILE)
    async def file(self, task_id: str, number: int) -> File:
        """A file of a task's outcome with its bytes, counted from 1."""
        await self._check_task(READ_FILE, task_id)
        file = await self.mesh.get(Tasks).file(task_id, number, self.caller.tenant_id)
        await self.mesh.get(Audit).record_read(self.caller, task_id=task_id)
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
            trace_id=parse_trace_id(task.traceparent),
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
            409: "That was answered, has expired, is claimed by another caller (its `field` is `anyway`), "
            "or is not the question of `digest`: `detail` says which.",
            422: "The value does not fit the question's `answer_schema`.",
        },
        request=AnswerRequest,
    )
    async def answer(
        self,
        task_id: Identifier,
        key: str,
        value: Any,
        *,
        digest: str = "",
        anyway: bool = False,
        idempotency_key: str | None = None,
    ) -> TaskView:
        """Give a task the answer of a person; `key` is the `wait_id` of a question of `GET /inbox`.

        The value has to fit the question's `answer_schema`, and is what the step that waits gets as its result.
        """  # noqa: E501
        view = await self.mesh.get(Tasks).task(task_id, self.caller.tenant_id)
        check_answer(self.caller, view, key)
        subject = next((wait.subject for wait in view.waits if wait.wait_id == key), dict[str, Any]())
        question = await self.mesh.get(Inbox).find(self.caller.tenant_id, question_key(key, subject))
        check_claim(question, self.caller, self.mesh.runtime.clock.now(), anyway=anyway)
        await self.mesh.get(Tasks).answer(
            task_id, key, value, self.caller, digest=digest, idempotency_key=idempotency_key
        )
        if question is not None and question.claimed_by == self.caller.requested_by and NEEDED in subject:
            release = QuestionReleased(key=question.key, by=self.caller.requested_by)  # others approve it too
            self.mesh.tell(release, tenant_id=self.caller.tenant_id, task_id=task_id)
        with suppress(HostError):  # a caller that tries again would find its question answered
            view = await self.mesh.get(Tasks).task(task_id, self.caller.tenant_id)
        return shown(view, self.caller)

    @operation(ANSWER_TASK)
    async def reply(self, task_id: str, text: str, *, key: str = "", anyway: bool = False) -> TaskView:
        """Give a task that waits an answer as text: to the question of that key, else to the oldest.

        The text is the answer, or JSON where the question's `answer_schema` is of other values. With `anyway`
        it counts although another caller has claimed the question. Raises what `answer` raises, and Conflict
        for a task that waits for nobody.
        """
        view = await self.task_seen(SEE_TASK, task_id)
        waits = [wait for wait in view.waits if wait.kind == "person" and key in ("", wait.wait_id)]
        if not waits and not key:
            raise Conflict(f"Task {task_id} waits for no answer", field="key")
        wait = min(waits, key=lambda wait: wait.since or view.created_at, default=None)
        value = parse_reply(wait.answer_schema if wait else None, text)
        return await self.answer(task_id, wait.wait_id if wait else key, value, anyway=anyway)

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

    async def _check_task(self, rule: Rule, task_id: str) -> None:
        """Raises Forbidden for a task of another that takes a role which the caller does not have."""
        if rule.others is None or not has_role(self.caller, rule.others):
            _, task = await read_task(self.mesh.runtime, task_id, self.caller.tenant_id)
            rule.check_task(self.caller, task.requested_by)

    async def _check_may_read(self, url: str) -> None:
        """Raises NotFound for a file of a task that the caller may not see."""
        task_id, _ = parse_task_file(url) or ("", 0)
        _, task = await read_task(self.mesh.runtime, task_id, self.caller.tenant_id)
        if not (is_own(self.caller, task.requested_by) or has_role(self.caller, Role.CONTENTS)):
            raise unknown_task(task_id)


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
