"""Tasks, where an operation is not the whole route: submit, follow, cancel one; steps, files, export."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import Annotated
from urllib.parse import quote

from fastapi import Header, Path, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import Field, ValidationError

from meshwright.agents.run.transcript import select_attempt
from meshwright.core.errors import HostError, Overloaded
from meshwright.core.ids import ID_PATTERN
from meshwright.core.messages import ENDED, Receipt
from meshwright.core.operations import Input, get_operation
from meshwright.core.tracing import valid_trace
from meshwright.edges.bodies import InvalidFields, read_model
from meshwright.edges.http.errors import CALLER, JsonLine
from meshwright.edges.http.events import (
    EventPage,
    Range,
    leaving,
    make_filter,
    open_streams,
    page_response,
    resume_after,
)
from meshwright.edges.http.routing import EVENTS, make_router, may, problems, read_body
from meshwright.edges.outgoing_requests import NotifyingRequest, get_notifier
from meshwright.engine.work.record import StepContentsPage, StepPage, StepView, TaskView
from meshwright.mesh.identity.batches import Batches
from meshwright.mesh.identity.events import EventOperations
from meshwright.mesh.identity.export import render_page
from meshwright.mesh.identity.operations import Operations, WaitSeconds, check_early
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks

router = make_router("tasks")
_SUBMIT = get_operation(Operations.submit).rule
_TaskId = Annotated[str, Path(pattern=ID_PATTERN)]
_NO_TASK = problems({404: "There is no such task."})


class _SubmitQuery(Input):
    """How long to wait for the end of the task."""

    wait: WaitSeconds = 0.0


@router.post(
    "/tasks",
    status_code=202,
    summary="Submit a task",
    response_model=Receipt | TaskView,
    response_description="Durable. With `wait` the task as it is then, which has not ended.",
    responses={
        200: {"model": TaskView, "description": "With `wait`: it has ended."},
        **problems(
            {
                404: "There is no such agent, or no such task to come after.",
                409: "The Idempotency-Key was used before, with another body or by another caller.",
                429: "The mesh, the tenant or the thread has as many tasks as it may: "
                "`Retry-After` says when to try again.",
                507: "The tenant stores as much as it may.",
                503: "No agent has the capability, or those that have it are offline; "
                "or the mesh is stopping.",
            }
        ),
    },
)
async def _submit(
    operations: Annotated[Operations, may(Operations.submit)],
    task: NotifyingRequest,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            description="The same key with the same body is the same task, however often a caller sends it.",
        ),
    ] = None,
    traceparent: Annotated[
        str | None, Header(description="The W3C trace that the task becomes a part of.")
    ] = None,
    wait: WaitSeconds = 0.0,
) -> Receipt:
    """Give a task to the best agent for a capability, or to one agent by name.

    It is durable when this answers. `payload.text` is the request. With `wait` this answers with the task once
    it has ended or waits for a person, at the latest after so many seconds; with a receipt where the mesh
    cannot wait now. The task goes on.
    """  # noqa: E501
    trace = valid_trace(traceparent)
    if task.notify is not None:
        get_notifier(operations.mesh).check_notify(task.notify)
    receipt = await operations.submit(task, idempotency_key=idempotency_key, traceparent=trace)
    if task.notify is not None:
        await operations.outcome(receipt.task_id)  # raises where the caller may not have it sent
        await get_notifier(operations.mesh).notify(operations.caller, receipt.task_id, task.notify)
    return receipt


async def answer_submit(mesh: Mesh, request: Request) -> Response:
    """Answers `POST /tasks` without the framework, which the document alone describes."""
    caller = request.scope[CALLER]
    operations = Operations(mesh, caller)
    await check_early(mesh, caller, _SUBMIT, _SUBMIT.does)
    task = read_model(await read_body(request, mesh.settings), NotifyingRequest, mesh.settings)
    key, traceparent = request.headers.get("idempotency-key"), request.headers.get("traceparent")
    wait = _wait_seconds(request)
    receipt = await _submit(operations, task, key, traceparent)
    answer: Receipt | TaskView = receipt
    if wait:
        with suppress(HostError, Overloaded):  # it is accepted, whatever follows
            tasks = mesh.get(Tasks)
            await tasks.wait(receipt.task_id, caller.tenant_id, wait, partial(leaving, request), is_new=True)
            answer = await operations.see(receipt.task_id)
    status = 200 if isinstance(answer, TaskView) and answer.outcome else 202
    return JsonLine(answer, status, {"Location": f"/tasks/{receipt.task_id}"})


def _wait_seconds(request: Request) -> float:
    if "wait" not in request.query_params:
        return 0.0
    try:
        return _SubmitQuery(wait=request.query_params["wait"]).wait  # type: ignore[arg-type] text
    except ValidationError as error:
        raise InvalidFields.from_problems(error.errors(include_url=False, include_input=False)) from None


@router.post(
    "/tasks/{task_id}/cancel",
    summary="Cancel a task",
    response_description="It has ended.",
    responses={**_NO_TASK, 202: {"model": TaskView, "description": "It is going to end."}},
)
async def _cancel_task(
    operations: Annotated[Operations, may(Operations.cancel)], task_id: _TaskId, response: Response
) -> TaskView:
    """Ask for the end of a task. Its outcome follows when its agent has let go; an ended one stays so."""
    view = await operations.cancel(task_id)
    response.status_code = 200 if view.status in ENDED else 202
    return view


@router.get(
    "/tasks/{task_id}/events",
    summary="Follow a task",
    tags=["events"],
    response_model=EventPage,
    responses={**EVENTS, **_NO_TASK, 204: {"description": "All seen."}},
)
async def _follow_task(
    request: Request,
    operations: Annotated[EventOperations, may(EventOperations.follow, EventOperations)],
    task_id: _TaskId,
    query: Annotated[Range, Query()],
) -> Response:
    """Follow a task to its end (`Accept: text/event-stream`), or look up a page of its events.

    A stream begins with the task's first event, or behind `Last-Event-ID`. The pieces of answers
    (`model.delta`), as models write them, have no id, and are sent to live followers.
    """
    if "text/event-stream" not in request.headers.get("accept", ""):
        return page_response(await operations.task_events(task_id, make_filter(query)), query)
    feed = await operations.follow(task_id, after_seq=resume_after(request, query) or 0)
    if feed is None:
        return Response(status_code=204)  # tells a browser not to come back
    return open_streams(request).respond(feed)


# Steps and files


_StepPath = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9.]{1,256}$", description="The `path` of a step, or its `number`.")
]
_ReaderDep = Annotated[Operations, may(Operations.transcripts)]
_MAX_CHARS = 100_000
_MOST_CHARS = 4_194_304


class _Contents(Input):
    attempt: int | None = Field(default=None, ge=1)
    max_chars: int = Field(default=_MAX_CHARS, ge=100, le=_MOST_CHARS)


class _StepQuery(_Contents):
    """Which steps to list, by default those of all attempts.

    With `contents` each has what was said, each text up to `max_chars` characters. `cursor` is that of the
    page before.
    """

    contents: bool = False
    limit: int = Field(default=100, ge=1, le=500)
    cursor: str | None = Field(default=None, pattern=r"^[0-9]{1,9}$")


class _StepContentsQuery(_Contents):
    """The attempt of the step, by default the last; each text has up to `max_chars` characters."""


@router.get(
    "/tasks/{task_id}/steps",
    summary="List steps",
    response_model=StepPage | StepContentsPage,
    responses=problems({404: "There is no such task, or it has no attempt yet."}),
)
async def _list_steps(
    operations: _ReaderDep, task_id: _TaskId, query: Annotated[_StepQuery, Query()]
) -> Response:
    """List what an agent did for a task, step by step, with tokens, cost and duration.

    With `contents` the messages of a step are those that no step before it had: `request.since` names the
    step that it continues, and `request.same` how many of the messages are the same.
    """
    transcripts = await operations.transcripts(task_id, contents=query.contents)
    if query.attempt is not None:
        transcripts = [select_attempt(transcripts, query.attempt)]
    steps = [(transcript, path) for transcript in transcripts for path in transcript.paths]
    first = int(query.cursor or 0)
    last = first + query.limit
    cursor = str(last) if last < len(steps) else None

    def page() -> Response:
        if not query.contents:
            items = tuple(transcript.summary(path) for transcript, path in steps[first:last])
            return JsonLine(StepPage(items=items, cursor=cursor))
        views = tuple(
            transcript.view(path, max_chars=query.max_chars, whole=False)
            for transcript, path in steps[first:last]
        )
        return JsonLine(StepContentsPage(items=views, cursor=cursor))

    return await asyncio.to_thread(page)  # to find secrets in megabytes takes a while


@router.get(
    "/tasks/{task_id}/steps/{path}",
    summary="Show a step",
    responses=problems({404: "There is no such task, or no such step."}),
)
async def _show_step(
    operations: _ReaderDep, task_id: _TaskId, path: _StepPath, query: Annotated[_StepContentsQuery, Query()]
) -> StepView:
    """Show a step in full: the model's messages and reply, or a tool's arguments and result.

    Secrets are redacted, and a text over `max_chars` is cut and says so.
    """
    transcript = select_attempt(await operations.transcripts(task_id), query.attempt)
    return await asyncio.to_thread(transcript.view, path, max_chars=query.max_chars)


_Number = Annotated[int, Path(ge=1, le=999_999, description="As the `url` of a file has it.")]


@router.get(
    "/tasks/{task_id}/files/{number}",
    summary="Read a file of the outcome",
    response_description="The file as it is.",
    response_class=Response,
    responses={
        **problems({404: "There is no such task or file, or its contents were deleted."}),
        200: {"content": {"application/octet-stream": {}, "application/json": {}}},
    },
)
async def _read_file(
    request: Request,
    operations: Annotated[Operations, may(Operations.file)],
    task_id: _TaskId,
    number: _Number,
) -> Response:
    """Read a file that an outcome lists as bytes; with `Accept: application/json` as JSON, `data` in base64.

    One that is elsewhere has a `url` in place of `data`, and is always JSON.
    """
    file = await operations.file(task_id, number)
    if file.url or request.headers.get("accept") == "application/json":
        return JsonLine(file)
    return Response(
        file.data,
        media_type="application/octet-stream",  # agents and models chose the type: a browser might run it
        headers={
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.name, safe='')}",
            "Content-Security-Policy": "sandbox",  # beside that of all answers
            "X-Content-Type-Options": "nosniff",
        },
    )


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
        render_page(export), headers={"Content-Disposition": f'attachment; filename="task-{task_id}.html"'}
    )
