"""Tasks: give one, look at it, list them, end one, answer one, follow its events."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from meshwright.core.access import Role
from meshwright.core.messages import (
    ENDED,
    ID_PATTERN,
    Caller,
    Event,
    Identifier,
    Receipt,
    TaskStatus,
)
from meshwright.edges.bodies import AnswerRequest, read_model
from meshwright.edges.http.events import EventPage, Range, event_page, make_filter, resume_after, streams_of
from meshwright.edges.http.routing import (
    CALLER,
    EVENTS,
    JsonLine,
    MeshDep,
    SubmitterDep,
    ViewerDep,
    make_router,
    needs,
    problems,
    read_body,
    valid_trace,
)
from meshwright.edges.webhooks.push import NotifyingRequest, check_notify, notify_of
from meshwright.events.tasks import TaskPage
from meshwright.identity.auth import has_role, require, require_asked, require_for
from meshwright.identity.facts import page_facts, sees_contents, shown
from meshwright.mesh import FINAL, Mesh, TaskView

router = make_router("tasks")
_TaskId = Annotated[str, Path(pattern=ID_PATTERN)]
_NO_TASK = problems({404: "There is no such task."})
_ReaderDep = Annotated[Caller, needs(Role.VIEWER, Role.SUBMITTER)]
_CancellerDep = Annotated[Caller, needs(Role.OPERATOR, Role.SUBMITTER)]
_AnswererDep = Annotated[Caller, needs(Role.APPROVER, Role.SUBMITTER)]


class TaskQuery(BaseModel):
    """Which tasks to list. `task_id` is the beginning or the end of their ids.

    `cursor` is the `cursor` of the page before.
    """

    model_config = ConfigDict(extra="forbid")

    status: TaskStatus | None = None
    capability: Identifier | None = None
    task_id: str | None = Field(default=None, min_length=1, max_length=128)
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = Field(default=None, pattern=r"^[0-9]{1,18}$")


@router.post(
    "/tasks",
    status_code=202,
    summary="Give the mesh a task",
    response_description="Durable.",
    responses=problems(
        {
            404: "There is no such agent, or no such task to come after.",
            409: "The Idempotency-Key was used before, with another body.",
            429: "The mesh, the tenant or the thread has as many tasks as it may: "
            "`Retry-After` says when to try again.",
            507: "The tenant stores as much as it may.",
            503: "No agent has the capability, or those that have it are offline; or the mesh is stopping.",
        }
    ),
)
async def submit(
    mesh: MeshDep,
    caller: SubmitterDep,
    task: NotifyingRequest,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="The same key with the same body is the same task, however often it is sent.",
        ),
    ] = None,
    traceparent: Annotated[
        str | None, Header(description="The W3C trace that the task becomes a part of.")
    ] = None,
) -> Receipt:
    """Give a task to the best agent for a capability, or to one agent by name.

    It is durable when this answers. `payload.text` is the request.
    """
    trace = valid_trace(traceparent)
    if task.notify is not None:
        check_notify(mesh.settings.webhooks, task.notify)
    receipt = await mesh.submit(task, caller, idempotency_key=idempotency_key, traceparent=trace)
    if task.notify is not None:
        owner = (await mesh.task(receipt.task_id, caller.tenant_id)).requested_by
        require_for(caller, owner, Role.CONTENTS, "has the outcome of another's task sent")
        await notify_of(mesh, caller, receipt.task_id, task.notify)
    return receipt


async def answer_submit(mesh: Mesh, request: Request) -> Response:
    """Answers `POST /tasks` without the framework, which the document alone describes."""
    caller: Caller = request.scope[CALLER]
    require(caller, Role.SUBMITTER, "makes tasks")
    mesh.tenants.check(caller.tenant_id, "tasks_per_minute")  # a flood is not read
    await mesh.tenants.require_storage(caller.tenant_id)
    task = read_model(await read_body(request, mesh.settings), NotifyingRequest, mesh.settings)
    key, traceparent = request.headers.get("idempotency-key"), request.headers.get("traceparent")
    receipt = await submit(mesh, caller, task, key, traceparent)
    return JsonLine(receipt, 202, {"Location": f"/tasks/{receipt.task_id}"})


@router.get("/tasks", summary="List tasks", response_model=TaskPage)
async def list_tasks(mesh: MeshDep, caller: ViewerDep, query: Annotated[TaskQuery, Query()]) -> Response:
    """List tasks, the newest first."""
    page = await mesh.log.tasks(tenant_id=caller.tenant_id, **dict(query))
    return JsonLine(page if has_role(caller, Role.CONTENTS) else page_facts(page))


@router.get("/tasks/{task_id}", summary="Look at a task", responses=_NO_TASK)
async def show_task(mesh: MeshDep, caller: _ReaderDep, task_id: _TaskId) -> TaskView:
    """Show a task: its request, its attempts with the score of each choice, and its outcome."""
    view = await mesh.task(task_id, caller.tenant_id)
    require_for(caller, view.requested_by, Role.VIEWER, "sees the tasks of others")
    await _record_read(mesh, caller, view)
    return shown(view, caller)


@router.post(
    "/tasks/{task_id}/cancel",
    summary="End a task before its time",
    response_description="It has ended.",
    responses={**_NO_TASK, 202: {"model": TaskView, "description": "It is going to end."}},
)
async def cancel_task(mesh: MeshDep, caller: _CancellerDep, task_id: _TaskId, response: Response) -> TaskView:
    """Ask for the end of a task. Its outcome follows when its agent has let go; an ended one stays so."""
    view = await mesh.task(task_id, caller.tenant_id)
    require_for(caller, view.requested_by, Role.OPERATOR, "cancels the tasks of others")
    view = await mesh.cancel(task_id, caller.tenant_id, caller=caller)
    response.status_code = 200 if view.status in ENDED else 202
    return shown(view, caller)


@router.post(
    "/tasks/{task_id}/answer",
    status_code=202,
    summary="Answer what a task waits for",
    response_description="It goes on.",
    responses=problems(
        {
            403: "The caller may not answer that.",
            404: "There is no such task, or it does not wait for that key.",
            409: "That was answered, or has expired: `detail` says by whom and when.",
            422: "The value does not fit the question's `answer_schema`.",
        }
    ),
)
async def answer_task(
    mesh: MeshDep, caller: _AnswererDep, task_id: _TaskId, answer: AnswerRequest
) -> TaskView:
    """Give a task the answer of a person; `key` is the `wait_id` of a question of `GET /inbox`.

    The value has to fit the question's `answer_schema`, and is what the step that waits gets as its result.
    """
    if not has_role(caller, Role.APPROVER):
        require_asked(caller, await mesh.task(task_id, caller.tenant_id), answer.key)
    await mesh.answer(task_id, answer.key, answer.value, caller)
    return shown(await mesh.task(task_id, caller.tenant_id), caller)


@router.get(
    "/tasks/{task_id}/events",
    summary="Follow a task",
    tags=["events"],
    response_model=EventPage,
    responses={**EVENTS, **_NO_TASK, 204: {"description": "All seen."}},
)
async def follow_task(
    request: Request, mesh: MeshDep, caller: _ReaderDep, task_id: _TaskId, query: Annotated[Range, Query()]
) -> Response:
    """Follow a task to its end (`Accept: text/event-stream`), or look up a page of its events.

    A stream begins with the task's first event, or behind `Last-Event-ID`. The pieces of answers
    (`model.delta`), as models write them, have no id, and are sent to live followers.
    """
    view = await mesh.task(task_id, caller.tenant_id)
    require_for(caller, view.requested_by, Role.VIEWER, "follows the tasks of others")
    await _record_read(mesh, caller, view)
    whole = sees_contents(view, caller)
    if "text/event-stream" not in request.headers.get("accept", ""):
        return JsonLine(await event_page(mesh.log, query, view.tenant_id, whole=whole, task_id=task_id))
    after_seq = resume_after(request, query) or 0
    if view.status in ENDED and await _has_seen_the_end(mesh, view, after_seq):
        return Response(status_code=204)  # tells a browser not to come back
    wanted = make_filter(Range(), view.tenant_id, task_id=task_id, after_seq=after_seq)
    return streams_of(request).respond(mesh.log.follow(wanted, live=True), _is_final, whole=whole)


async def _record_read(mesh: Mesh, caller: Caller, view: TaskView) -> None:
    """Record that a caller sees the contents of another's task."""
    if sees_contents(view, caller) and view.requested_by != caller.requested_by:
        await mesh.audit.record_read(caller, f"tasks/{view.task_id}")


async def _has_seen_the_end(mesh: Mesh, view: TaskView, after_seq: int) -> bool:
    """False also while the log lacks the last event: on Dapr it may arrive after the outcome."""
    newest, ended = Range(limit=1, order="desc"), f"task.{view.status}"
    last = make_filter(newest, view.tenant_id, task_id=view.task_id, event_type=ended)
    found = await mesh.log.query(last)
    return bool(found) and found[0].seq is not None and found[0].seq <= after_seq


def _is_final(event: Event) -> bool:
    return event.event_type in FINAL
