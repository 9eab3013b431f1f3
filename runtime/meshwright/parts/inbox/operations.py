"""Operations on what waits for people: list it, and answer all of a kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace
from pydantic import Field

from meshwright import MeshError
from meshwright.component import Audit, Operations
from meshwright.core.access import granted
from meshwright.core.ids import Identifier
from meshwright.core.operations import require
from meshwright.core.task_events import QuestionClaimed, QuestionReached, QuestionReleased
from meshwright.engine.events.answers import check_alone, check_claim, check_digest, not_waiting
from meshwright.engine.events.filter import TaskFilter
from meshwright.engine.events.inbox import Inbox, InboxPage, QuestionClaim
from meshwright.engine.work.people import APPROVAL
from meshwright.kit import (
    Acting,
    Conflict,
    InvalidInput,
    NotFound,
    Question,
    Role,
    Rule,
    WholeInbox,
    operation,
)
from meshwright.mesh.identity.batches import ManyRequest, error_fault
from meshwright.mesh.identity.filters import InboxCursor, TaskPageQuery, read_filter, require_known
from meshwright.mesh.identity.rules import ANSWER_TASK, check_answer
from meshwright.mesh.orchestration.reruns import AnswerPage, AnswerResult
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.parts.inbox.settings import InboxSettings

_SHOWN_KINDS = 5
_CLAIM_ERRORS = {
    403: "The caller may not answer that question.",
    404: "There is no such question, or its task does not wait for it.",
    409: "Another caller has claimed it, or it has ended: `detail` says which.",
}
_KINDS_AT_ONCE = 500


class _InboxQuery(TaskPageQuery):
    """Which questions to list. `id` is the beginning or the end of their ids, or of those of their tasks.

    `ended` adds those that were answered, have expired, or whose task no longer waits. All other fields are
    those of the tasks that ask. `cursor` is the `cursor` of the page before.
    """

    id: str | None = Field(default=None, min_length=1, max_length=128)
    ended: bool = False
    cursor: InboxCursor | None = None


class AnswerManyRequest(ManyRequest):
    """The answer to the open questions of the tasks of a filter, or of `all`.

    They are of one `kind`, as the answer to a dry run shows it; where they are not, name it. `id` is the
    beginning or the end of their ids, or of those of their tasks. With `dry_run` nothing is answered, with
    `anyway` also those that other callers have claimed.
    """

    value: Any = Field(description="The answer; it fits the `answer_schema` of each question.")
    id: str | None = Field(default=None, min_length=1, max_length=128)
    cursor: InboxCursor | None = None
    kind: str | None = Field(default=None, min_length=1, max_length=256)
    digest: str = Field(default="", max_length=64, description="That of the one question of `id`, as shown.")
    anyway: bool = False

    @property
    def _has_filter(self) -> bool:
        return super()._has_filter or self.id is not None or (self.kind is not None and not self.all)


class InboxOperations(Acting):
    """The operations on the inbox. Each raises what the operations of `Operations` raise."""

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
        """List the questions that tasks have for people: tools in doubt first, then the oldest.

        With `ended` they are all from the oldest on.

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
        now = self.mesh.runtime.clock.now()
        page = replace(page, items=tuple(question.at(now) for question in page.items))
        for question in page.items:
            if question.reached_at is None and self._may_answer(question):
                payload = QuestionReached(key=question.key, by=self.caller.requested_by)
                self.mesh.tell(payload, tenant_id=tenant_id, task_id=question.task_id)
        return page

    def _may_answer(self, question: Question) -> bool:
        """Whether a question is an open one of a task, and the caller decides on such."""
        is_asked = question.status == "open" and bool(question.task_id) and not question.source
        is_named = not question.may_answer or self.caller.requested_by in question.may_answer
        return is_asked and is_named and Role.APPROVER in granted(self.caller.roles)

    @operation(
        ANSWER_TASK,
        "POST /inbox/{question_id}/claim",
        "Claim a question",
        name="claim_question",
        tag="tasks",
        errors=_CLAIM_ERRORS,
    )
    async def claim(self, question_id: Identifier) -> QuestionClaim:
        """Say that you are looking at a question: the answers of others are refused, unless sent with `anyway`.

        The claim ends with the answer, by itself after `[inbox] claim_seconds`, and as you release it; claim the
        question again to renew it. Of two callers who claim it at once one does. For callers who may answer it.
        """  # noqa: E501
        question, now = await self._claimable(question_id), self.mesh.runtime.clock.now()
        check_claim(question, self.caller, now)
        until = now + timedelta(seconds=self.mesh.settings[InboxSettings].claim_seconds)
        await self._hold_reminder(question, until)  # before the claim: a crash between puts it off in vain
        claim = QuestionClaimed(key=question.key, by=self.caller.requested_by, until=until)
        return await self._record(question, claim)

    @operation(
        ANSWER_TASK,
        "POST /inbox/{question_id}/release",
        "Release a question",
        name="release_question",
        tag="tasks",
        errors=_CLAIM_ERRORS,
    )
    async def release_claim(self, question_id: Identifier) -> QuestionClaim:
        """End your claim of a question."""
        question = await self._claimable(question_id)
        check_claim(question, self.caller, self.mesh.runtime.clock.now())
        release = QuestionReleased(key=question.key, by=self.caller.requested_by)
        claim = await self._record(question, release)
        await self._hold_reminder(question, None)
        return claim

    async def _hold_reminder(self, question: Question, until: datetime | None) -> None:
        if question.task_id:
            tasks, tenant_id = self.mesh.get(Tasks), self.caller.tenant_id
            await tasks.hold_reminder(question.task_id, question.wait_id, tenant_id, until)

    async def _claimable(self, question_id: str) -> Question:
        """The open question of an id, which the caller may answer."""
        question = await self._open_question(question_id)
        if question.task_id:
            view = await self.mesh.get(Tasks).task(question.task_id, self.caller.tenant_id)
            check_answer(self.caller, view, question.wait_id)
            await self.mesh.get(Tasks).answerable_wait(question.task_id, question.wait_id, self.caller)
        else:
            require(self.caller, Role.APPROVER, "claims questions of no task")
        return question

    async def _open_question(self, question_id: str) -> Question:
        question = await self.mesh.get(Inbox).get(self.caller.tenant_id, question_id)
        if question is None:
            raise NotFound(
                f"There is no question {question_id} of a task or a model",
                remedy="GET /inbox, or mesh inbox, lists those there are; give the whole id",
                field="question_id",
            )
        if question.status != "open":
            raise not_waiting(question.task_id, question.wait_id, question)
        return question

    async def _record(self, question: Question, change: QuestionClaimed | QuestionReleased) -> QuestionClaim:
        """Record a claim or its release. Raises Conflict if another caller was faster."""
        runtime, task_id = self.mesh.runtime, question.task_id or None
        event = self.mesh.event(change, tenant_id=self.caller.tenant_id, task_id=task_id)
        subject = f"tasks/{question.task_id}" if question.task_id else f"inbox/{question.id}"
        details = {"wait_id": question.wait_id}
        async with self.mesh.get(Audit).change(self.caller, change.event_type, subject, details):
            await runtime.emit([event])
            question = await self._open_question(question.id)
            check_claim(question, self.caller, runtime.clock.now())
        return QuestionClaim(
            id=question.id, claimed_by=question.claimed_by, claimed_until=question.claimed_until
        )

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
        digest: str = "",
        anyway: bool = False,
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
        items = [
            await self._answer_one(question, value, digest, anyway=anyway, dry_run=dry_run)
            for question in questions
        ]
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

    async def _answer_one(
        self, question: Question, value: Any, digest: str, *, anyway: bool, dry_run: bool
    ) -> AnswerResult:
        answered = AnswerResult(
            id=question.id,
            task_id=question.task_id,
            wait_id=question.wait_id,
            kind=question.kind,
            question=question.question,
            is_dry=dry_run,
        )
        try:
            check_digest(digest, question.digest)
            check_alone(question, value)
            check_claim(question, self.caller, self.mesh.runtime.clock.now(), anyway=anyway)
            if dry_run:
                return answered
            if question.source:
                await self.mesh.get(WholeInbox).answer(question, value, self.caller)
            else:
                await Operations(self.mesh, self.caller).answer(
                    question.task_id, question.wait_id, value, digest=question.digest or "", anyway=anyway
                )
        except MeshError as error:
            return replace(answered, refused=error_fault(error))
        return answered


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
