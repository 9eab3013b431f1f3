"""Operations on many tasks and questions at once: all that a filter finds, each told for itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

from msgspec.structs import replace
from pydantic import Field, model_validator

from meshwright.core.access import Role
from meshwright.core.display import Document
from meshwright.core.errors import Conflict, InvalidInput, MeshError, NotFound
from meshwright.core.ids import Identifier
from meshwright.core.messages import ENDED, Fault
from meshwright.core.operations import Rule, has_role, operation
from meshwright.events.answers import check_alone
from meshwright.events.audit import Audit
from meshwright.events.filter import TaskFilter
from meshwright.events.inbox import InboxPage, Question
from meshwright.events.inbox_sources import WholeInbox
from meshwright.events.tasks import DeadLetterPage, TaskSummary
from meshwright.identity.export import export_of
from meshwright.identity.filters import (
    InboxCursor,
    TaskCriteria,
    TaskPageQuery,
    TaskQuery,
    read_filter,
    require_known,
)
from meshwright.identity.operations import NO_TASK, NO_VALUE, Operations, RetryRequest
from meshwright.identity.rules import EXPORT_TASK, OPERATOR, SEE_TASK, VIEWER
from meshwright.ledger.task_costs import TaskTree, task_tree
from meshwright.orchestration.again import RetryPage, RetryResult
from meshwright.orchestration.batches import AnswerPage, AnswerResult, CancelPage, CancelResult
from meshwright.work.people import APPROVAL
from meshwright.work.protocol import Begin
from meshwright.work.record import unknown_task

_SHOWN_KINDS = 5
_KINDS_AT_ONCE = 500


class _ManyRequest(TaskPageQuery):
    """Some tasks: those of a filter, or `all`. With `dry_run` nothing is changed."""

    all: bool = Field(default=False, exclude=True)
    dry_run: bool = False

    @model_validator(mode="after")
    def _names_some(self) -> Self:
        if self._has_filter == self.all:
            raise ValueError("name a filter, such as agent_id, or all: true, and not both")
        return self

    @property
    def _has_filter(self) -> bool:
        fields = {*TaskCriteria.model_fields, "agent_id", "task_id", "since", "until"}
        return any(getattr(self, name) is not None for name in fields)


class RetryManyRequest(_ManyRequest, RetryRequest):
    """The tasks to work on again, and how: those of a filter, or `all`; see `RetryRequest`.

    Without a `status` those are meant that failed or timed out.
    """


class CancelManyRequest(_ManyRequest):
    """The open tasks to cancel: those of a filter, or `all`. With `dry_run` nothing is changed."""


class AnswerManyRequest(_ManyRequest):
    """The answer to the open questions of the tasks of a filter, or of `all`.

    They are of one `kind`, as the answer to a dry run shows it; where they are not, name it. `id` is the
    beginning or the end of their ids, or of those of their tasks. With `dry_run` nothing is answered.
    """

    value: Any = Field(description="The answer; it fits the `answer_schema` of each question.")
    id: str | None = Field(default=None, min_length=1, max_length=128)
    cursor: InboxCursor | None = None
    kind: str | None = Field(default=None, min_length=1, max_length=256)

    @property
    def _has_filter(self) -> bool:
        return super()._has_filter or self.id is not None or (self.kind is not None and not self.all)


class Batches(Operations):
    """The operations on all that agree with a filter, a page at a time.

    One that is refused is in the page with the reason, and the others are done.
    """

    @operation(
        Rule("retries tasks", OPERATOR),
        "POST /retry",
        "Retry many tasks",
        name="retry_tasks",
        tag="tasks",
        errors=NO_VALUE,
        request=RetryManyRequest,
    )
    async def retry_all(
        self,
        *,
        begin: Begin | None = None,
        deadline: float | None = None,
        dry_run: bool = False,
        **fields: Any,
    ) -> RetryPage:
        """Work again on each task of a page that agrees with every field given.

        Those that can't be worked on again are listed with the reason. The `cursor` asks for the next page.
        """
        page = await self._tasks_of(dead=fields.get("status") is None, **fields)
        how: dict[str, Any] = {"begin": begin, "deadline": deadline, "dry_run": dry_run}
        items = [await self._retry_one(task, how) for task in page.items]
        return RetryPage(items=tuple(items), cursor=page.cursor)

    async def _retry_one(self, task: TaskSummary, how: dict[str, Any]) -> RetryResult:
        try:
            return await self.retry(task.task_id, **how)
        except MeshError as error:
            return RetryResult(
                task_id=task.task_id,
                begin="journal",
                generation=task.generation,
                refused=_fault(error),
                is_dry=how["dry_run"],
            )

    @operation(
        Rule("cancels tasks", OPERATOR),
        "POST /cancel",
        "Cancel many tasks",
        name="cancel_tasks",
        tag="tasks",
        errors=NO_VALUE,
        request=CancelManyRequest,
    )
    async def cancel_all(self, *, dry_run: bool = False, **fields: Any) -> CancelPage:
        """Ask for the end of each open task of a page that agrees with every field given.

        One that ended meanwhile is listed with that reason. The `cursor` asks for the next page.
        """
        page = await self._tasks_of(open=True, **fields)
        items = [await self._cancel_one(task, dry_run=dry_run) for task in page.items]
        return CancelPage(items=tuple(items), cursor=page.cursor)

    async def _cancel_one(self, task: TaskSummary, *, dry_run: bool) -> CancelResult:
        cancelled = CancelResult(
            task_id=task.task_id, status=task.status, agent_id=task.agent_id, is_dry=dry_run
        )
        if dry_run:
            return cancelled
        try:
            view = await self.cancel(task.task_id)
        except MeshError as error:
            return replace(cancelled, refused=_fault(error))
        if view.status in ENDED and view.status != "cancelled":  # meanwhile
            fault = Fault(type=Conflict.__name__, message=f"It had already ended: {view.status}")
            return replace(cancelled, status=view.status, refused=fault)
        return replace(cancelled, status=view.status)

    @operation(
        Rule("lists dead letters", VIEWER),
        "GET /dead-letters",
        "List what failed, by cause",
        name="list_dead_letters",
        tag="tasks",
        errors=NO_VALUE,
        request=TaskQuery,
    )
    async def dead_letters(self, **fields: Any) -> DeadLetterPage:
        """List the tasks that failed or timed out, by agent and type of error, the largest group first."""
        fields = read_filter(self.mesh, self.caller, fields)
        tenant_id = self.caller.tenant_id
        page = await self.mesh.log.dead_letters(tenant_id=tenant_id, **fields)
        if not page.items:
            await require_known(self.mesh, fields, tenant_id)
        if has_role(self.caller, Role.CONTENTS):
            return page
        items = tuple(letters.model_copy(update={"reason": None}) for letters in page.items)
        return page.model_copy(update={"items": items})

    @operation(
        Rule("answers questions", (Role.APPROVER,)),
        "POST /inbox/answer",
        "Answer many questions",
        name="answer_questions",
        tag="tasks",
        errors={
            404: "A value of the filter never was, or no question is of the kind: `detail` says which are.",
            409: "The questions are of several kinds, and none is named.",
        },
        request=AnswerManyRequest,
    )
    async def answer_all(
        self,
        value: Any,
        *,
        id: str | None = None,
        kind: str | None = None,
        dry_run: bool = False,
        limit: int = 50,
        cursor: str | None = None,
        **fields: Any,
    ) -> AnswerPage:
        """Give one answer to all open questions of a kind that a page of a filter finds.

        One that somebody else has answered, that has expired, or that the answer does not fit is listed with that
        reason, and the others are answered. The `cursor` asks for the next page.
        """  # noqa: E501
        fields = read_filter(self.mesh, self.caller, fields)
        tenant_id = self.caller.tenant_id
        await self.mesh.get(Audit).record_read(self.caller, "inbox")
        inbox = self.mesh.get(WholeInbox)
        of_task = TaskFilter(**fields) if any(fields.values()) else None
        if cursor is None:  # of all pages, before anything is answered
            kinds = await self._kinds(id, of_task)
            if not kinds:
                await require_known(self.mesh, fields, tenant_id)
            _check_kinds(kinds, kind)
        page = await inbox.page(tenant_id, id=id, limit=limit, cursor=cursor, of_task=of_task)
        if id is not None and not (page.items or dry_run):  # it may be one that has ended: that is said
            page = await inbox.page(tenant_id, id=id, with_ended=True, limit=1, of_task=of_task)
            page = InboxPage(items=tuple(item for item in page.items if item.id == id))
        own = [question for question in page.items if question.takes_answer]
        questions = [question for question in own if kind in (None, question.kind)]
        _check_arguments(questions, value)
        items = [await self._answer_one(question, value, dry_run=dry_run) for question in questions]
        return AnswerPage(items=tuple(items), cursor=page.cursor)

    async def _kinds(self, id: str | None, of_task: TaskFilter | None) -> Counter[str]:
        """How many open questions there are of each kind."""
        kinds = Counter[str]()
        cursor: str | None = None
        while True:
            page = await self.mesh.get(WholeInbox).page(
                self.caller.tenant_id, id=id, limit=_KINDS_AT_ONCE, cursor=cursor, of_task=of_task
            )
            kinds.update(question.kind for question in page.items if question.takes_answer)
            if (cursor := page.cursor) is None:
                return kinds

    async def _answer_one(self, question: Question, value: Any, *, dry_run: bool) -> AnswerResult:
        answered = AnswerResult(
            id=question.id,
            task_id=question.task_id,
            wait_id=question.wait_id,
            kind=question.kind,
            question=question.question,
            is_dry=dry_run,
        )
        try:
            check_alone(question, value)
            if dry_run:
                return answered
            if question.source:
                await self.mesh.get(WholeInbox).answer(question, value, self.caller)
            else:
                await self.answer(question.task_id, question.wait_id, value)
        except MeshError as error:
            return replace(answered, refused=_fault(error))
        return answered

    @operation(EXPORT_TASK)
    async def export(self, task_id: str, *, contents: bool = True) -> Document:
        """A task with its steps and its tree as plain data, with secrets redacted; see `export_of`."""
        await self._check_task(EXPORT_TASK, task_id)
        view, tree = await self.see(task_id), await self.tree(task_id)
        transcripts = await self.transcripts(task_id, contents=contents)
        return await asyncio.to_thread(export_of, view, transcripts, tree, contents=contents)

    @operation(
        SEE_TASK,
        "GET /tasks/{task_id}/tree",
        "Show what a task delegated, with costs",
        name="show_tree",
        tag="tasks",
        errors=NO_TASK,
    )
    async def tree(self, task_id: Identifier) -> TaskTree:
        """Show a task and those below it, each with the cost of its own calls of models and of its whole tree.

        The first 500 are listed, each before its own; the costs are those of up to 10,000.
        """  # noqa: E501
        await self._check_task(SEE_TASK, task_id)
        tree = await self.mesh.log.view_apart(task_tree, self.caller.tenant_id, task_id)
        if tree is None:
            raise unknown_task(task_id)
        return tree


def _check_kinds(kinds: Counter[str], kind: str | None) -> None:
    listed = ", ".join(f"{name!r} ({count})" for name, count in kinds.most_common(_SHOWN_KINDS))
    if kind is not None and kinds and kind not in kinds:
        raise NotFound(f"No question is of the kind {kind!r}", remedy=f"There are {listed}", field="kind")
    if kind is None and len(kinds) > 1:
        raise Conflict(
            f"The questions are of {len(kinds)} kinds, and one answer is for one kind",
            remedy=f"Name one of {listed}",
            field="kind",
        )


def _check_arguments(questions: Sequence[Question], value: Any) -> None:
    are_calls = any(question.subject.get("kind") == APPROVAL for question in questions)
    if are_calls and isinstance(value, dict) and "arguments" in value:
        raise InvalidInput(
            "Changed arguments are for one call alone, not for all of a kind",
            remedy="Answer that question by itself: POST /tasks/{task_id}/answer, or mesh approve ID",
            field="value.arguments",
        )


def _fault(error: MeshError) -> Fault:
    return Fault(type=error.code, message=str(error))
