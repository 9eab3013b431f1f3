"""Operations on many tasks and questions at once: all that a filter finds, each told for itself."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from msgspec.structs import replace
from pydantic import Field, model_validator

from meshwright.core.access import Role
from meshwright.core.display import Document
from meshwright.core.errors import Conflict, MeshError
from meshwright.core.ids import Identifier
from meshwright.core.messages import ENDED, Fault
from meshwright.core.operations import Rule, has_role, operation
from meshwright.engine.events.tasks import DeadLetterPage, TaskSummary
from meshwright.engine.work.protocol import Begin
from meshwright.engine.work.record import unknown_task
from meshwright.mesh.identity.export import export_task
from meshwright.mesh.identity.filters import TaskPageQuery, TaskQuery, read_filter, require_known
from meshwright.mesh.identity.operations import NO_TASK, NO_VALUE, Operations, RetryRequest
from meshwright.mesh.identity.rules import (
    CANCEL_TASK,
    EXPORT_TASK,
    OPERATOR,
    RETRY_TASK,
    SEE_TASK,
    VIEWER,
    named,
)
from meshwright.mesh.orchestration.cancel_plan import CancelPlan
from meshwright.mesh.orchestration.cancel_plan import without_names as without_step_names
from meshwright.mesh.orchestration.reruns import CancelPage, CancelResult, RetryPage, RetryResult
from meshwright.mesh.orchestration.retry_plan import RetryPlan, without_names
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.task_costs import TaskTree, task_tree


class ManyRequest(TaskPageQuery):
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
        return any(getattr(self, name) is not None for name in TaskQuery.model_fields if name != "limit")


class RetryManyRequest(ManyRequest, RetryRequest):
    """The tasks to work on again, and how: those of a filter, or `all`; see `RetryRequest`.

    Without a `status` those are meant that failed or timed out.
    """


class CancelManyRequest(ManyRequest):
    """The open tasks to cancel: those of a filter, or `all`. With `dry_run` nothing is changed."""


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
        page = await self._list_tasks(
            **{**fields, "dead": fields.get("dead") or fields.get("status") is None}
        )
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
                refused=error_fault(error),
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
        page = await self._list_tasks(open=True, **fields)
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
            return replace(cancelled, refused=error_fault(error))
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

    @operation(EXPORT_TASK)
    async def export(self, task_id: str, *, contents: bool = True) -> Document:
        """A task with its steps and its tree as plain data, with secrets redacted; see `export_task`."""
        await self._check_task(EXPORT_TASK, task_id)
        view, tree = await self.see(task_id), await self.tree(task_id)
        transcripts = await self.transcripts(task_id, contents=contents)
        return await asyncio.to_thread(export_task, view, transcripts, tree, contents=contents)

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

        The first 500 are listed, each before its own; the costs are those of all.
        """  # noqa: E501
        await self._check_task(SEE_TASK, task_id)
        tree = await self.mesh.log.view_apart(task_tree, self.caller.tenant_id, task_id)
        if tree is None:
            raise unknown_task(task_id)
        return tree

    @operation(
        RETRY_TASK,
        "GET /tasks/{task_id}/retry",
        "Show how a task can be retried",
        name="plan_retry",
        tag="tasks",
        errors={**NO_TASK, 409: "It is open, or has succeeded, or its contents were erased."},
    )
    async def retry_plan(self, task_id: Identifier) -> RetryPlan:
        """Show which steps a retry keeps and which it repeats, their effects, and what these cost before.

        The first of the `ways` is the one without `begin`. Nothing is changed.
        """
        await self._check_task(RETRY_TASK, task_id)
        plan = await self.mesh.get(Tasks).retry_plan(task_id, self.caller.tenant_id)
        if has_role(self.caller, Role.CONTENTS):
            return plan
        return replace(plan, ways=tuple(map(without_names, plan.ways)), error=named(plan.error))

    @operation(
        CANCEL_TASK,
        "GET /tasks/{task_id}/cancel",
        "Show what a cancel ends",
        name="plan_cancel",
        tag="tasks",
        errors={**NO_TASK, 409: "It has ended."},
    )
    async def cancel_plan(self, task_id: Identifier) -> CancelPlan:
        """Show what ends with an open task, what stays as it is, and what it has cost. Nothing is changed."""
        await self._check_task(CANCEL_TASK, task_id)
        plan = await self.mesh.get(Tasks).cancel_plan(task_id, self.caller.tenant_id)
        return plan if has_role(self.caller, Role.CONTENTS) else without_step_names(plan)


def error_fault(error: MeshError) -> Fault:
    """An error as the reason why one of many was refused."""
    return Fault(type=error.code, message=str(error))
