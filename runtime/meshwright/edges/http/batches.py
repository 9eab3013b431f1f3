"""Many tasks and questions at once: work again, cancel, answer. Dead letters, trees with costs, exports."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from fastapi import Path, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import Field, model_validator

from meshwright.core.ids import ID_PATTERN
from meshwright.core.limits import MAX_DEADLINE_SECONDS
from meshwright.edges.bodies import Strict
from meshwright.edges.http.errors import JsonLine
from meshwright.edges.http.filters import InboxCursor, OfTask, TaskPageQuery, TaskQuery
from meshwright.edges.http.routing import make_router, may, problems
from meshwright.events.tasks import DeadLetterPage
from meshwright.identity.batches import Batches
from meshwright.identity.export import page_of
from meshwright.ledger.task_costs import TaskTree
from meshwright.orchestration.again import Again, AgainPage, Forked
from meshwright.orchestration.batches import AnswerPage, CancelPage

router = make_router("tasks")
_TaskId = Annotated[str, Path(pattern=ID_PATTERN)]
_NO_ROOM = (
    "The mesh, the tenant or the thread has as many tasks as it may: `Retry-After` says when to try again."
)
_NO_VALUE = problems({404: "A value of the filter never was: `detail` says which there are."})


class RetryRequest(Strict):
    """How a task is worked on again.

    `begin` is `journal` (finished steps stay, and cost nothing again) or `start`; without it the fault says
    which: the start where the agent was at fault, else the journal. `deadline` is in seconds from now, by
    default as long as before. With `dry_run` nothing is changed.
    """

    begin: Literal["journal", "start"] | None = None
    deadline: float | None = Field(default=None, gt=0, le=MAX_DEADLINE_SECONDS)
    dry_run: bool = False


@router.post(
    "/tasks/{task_id}/retry",
    status_code=202,
    summary="Retry a failed task",
    response_description="It is worked on again, durably; or it would be, by a dry run.",
    responses=problems(
        {
            404: "There is no such task.",
            409: "It is open, or has succeeded; or its steps or contents were deleted.",
            429: _NO_ROOM,
            503: "No agent has the capability, or those that have it are offline; or the mesh is stopping.",
        }
    ),
)
async def _retry_task(
    operations: Annotated[Batches, may(Batches.retry, Batches)], task_id: _TaskId, wanted: RetryRequest
) -> Again:
    """Work again on a task that failed, timed out or was cancelled, under the same id.

    It gets another outcome, of its next generation. Of what it delegated that failed as well, each is worked
    on again as its own fault says.
    """
    return await operations.retry(task_id, **dict(wanted))


class ForkRequest(Strict):
    """The finished step to go on from, by its `path`, and of which attempt, by default of the last.

    `deadline` is in seconds from now, by default as long as that of the other task. With `dry_run` nothing is
    changed.
    """

    step: str = Field(pattern=r"^[A-Za-z0-9.]{1,256}$")
    attempt: int | None = Field(default=None, ge=1)
    deadline: float | None = Field(default=None, gt=0, le=MAX_DEADLINE_SECONDS)
    dry_run: bool = False


@router.post(
    "/tasks/{task_id}/fork",
    status_code=202,
    summary="Fork a task behind a step",
    response_description="The new task is durable; or it would be made, by a dry run.",
    responses=problems(
        {
            404: "There is no such task, attempt or finished step.",
            409: "The task is open, its contents were erased, or the step failed.",
            429: _NO_ROOM,
            503: "Its agent is offline, or the mesh is stopping.",
        }
    ),
)
async def _fork_task(
    operations: Annotated[Batches, may(Batches.fork, Batches)], task_id: _TaskId, wanted: ForkRequest
) -> Forked:
    """Make a task that goes on from a finished step of another, which stays as it is.

    Its agent, request and limits are those of the other, its id and thread are its own. The steps up to there
    are replies that were given before, and cost nothing again.
    """
    return await operations.fork(task_id, **dict(wanted))


class _ManyRequest(TaskPageQuery):
    """Some tasks: those of a filter, or `all`. With `dry_run` nothing is changed."""

    all: bool = False
    dry_run: bool = False

    @model_validator(mode="after")
    def _names_some(self) -> Self:
        if self._has_filter == self.all:
            raise ValueError("name a filter, such as agent_id, or all: true, and not both")
        return self

    @property
    def _has_filter(self) -> bool:
        fields = {*OfTask.model_fields, "agent_id", "task_id", "since", "until"}
        return any(getattr(self, name) is not None for name in fields)

    def fields(self) -> dict[str, Any]:
        """The fields that the operation takes."""
        return {name: value for name, value in self if name != "all"}


class RetryManyRequest(_ManyRequest, RetryRequest):
    """The tasks to work on again, and how: those of a filter, or `all`; see `RetryRequest`.

    Without a `status` those are meant that failed or timed out.
    """


@router.post("/retry", summary="Retry many tasks", response_model=AgainPage, responses=_NO_VALUE)
async def _retry_tasks(
    operations: Annotated[Batches, may(Batches.retry_all, Batches)], wanted: RetryManyRequest
) -> Response:
    """Work again on each task of a page that agrees with every field given.

    Those that can't be worked on again are listed with the reason. The `cursor` asks for the next page.
    """
    return JsonLine(await operations.retry_all(**wanted.fields()))


class CancelManyRequest(_ManyRequest):
    """The open tasks to cancel: those of a filter, or `all`. With `dry_run` nothing is changed."""


@router.post("/cancel", summary="Cancel many tasks", response_model=CancelPage, responses=_NO_VALUE)
async def _cancel_tasks(
    operations: Annotated[Batches, may(Batches.cancel_all, Batches)], wanted: CancelManyRequest
) -> Response:
    """Ask for the end of each open task of a page that agrees with every field given.

    One that ended meanwhile is listed with that reason. The `cursor` asks for the next page.
    """
    return JsonLine(await operations.cancel_all(**wanted.fields()))


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


@router.post(
    "/inbox/answer",
    summary="Answer many questions",
    response_model=AnswerPage,
    responses=problems(
        {
            404: "A value of the filter never was, or no question is of the kind: `detail` says which are.",
            409: "The questions are of several kinds, and none is named.",
        }
    ),
)
async def _answer_questions(
    operations: Annotated[Batches, may(Batches.answer_all, Batches)], wanted: AnswerManyRequest
) -> Response:
    """Give one answer to all open questions of a kind that a page of a filter finds.

    One that somebody else has answered, that has expired, or that the answer does not fit is listed with that
    reason, and the others are answered. The `cursor` asks for the next page.
    """
    return JsonLine(await operations.answer_all(**wanted.fields()))


@router.get(
    "/dead-letters",
    summary="List what failed, by cause",
    response_model=DeadLetterPage,
    responses=_NO_VALUE,
)
async def _list_dead_letters(
    operations: Annotated[Batches, may(Batches.dead_letters, Batches)], query: Annotated[TaskQuery, Query()]
) -> Response:
    """List the tasks that failed or timed out, by agent and type of error, the largest group first."""
    return JsonLine(await operations.dead_letters(**dict(query)))


@router.get(
    "/tasks/{task_id}/export",
    summary="Save a task as one file",
    response_description="A page of HTML.",
    response_class=Response,
    responses={
        **problems({404: "There is no such task."}),
        200: {"content": {"text/html": {}, "application/json": {}}},
    },
)
async def _export_task(
    request: Request,
    operations: Annotated[Batches, may(Batches.export, Batches)],
    task_id: _TaskId,
    contents: Annotated[bool, Query(description="With what was asked, said and answered.")] = True,
) -> Response:
    """Save a task with its steps and all that it delegated as a page without scripts, or with
    `Accept: application/json` as `{task, steps, tree}`. Secrets are redacted.
    """
    export = await operations.export(task_id, contents=contents)
    if request.headers.get("accept") == "application/json":
        return JsonLine(export)
    return HTMLResponse(
        page_of(export), headers={"Content-Disposition": f'attachment; filename="task-{task_id}.html"'}
    )


@router.get(
    "/tasks/{task_id}/tree",
    summary="Show what a task delegated, with costs",
    responses=problems({404: "There is no such task."}),
)
async def _show_tree(
    operations: Annotated[Batches, may(Batches.tree, Batches)], task_id: _TaskId
) -> TaskTree:
    """Show a task and those below it, each with the cost of its own calls of models and of its whole tree.

    The first 500 are listed, each before its own; the costs are those of up to 10,000.
    """
    return await operations.tree(task_id)
