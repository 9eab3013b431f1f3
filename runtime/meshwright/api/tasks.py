"""Tasks: give one, look at it, list them, end one, follow its events."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from meshwright.api.callers import identity_of
from meshwright.api.events import EventPage, Range, event_page, make_filter, resume_after
from meshwright.api.examples import ANSWER, EVENT_PAGE, RECEIPT, REQUEST, TASK, TASKS
from meshwright.api.openapi import answers, problems, reads, streams
from meshwright.api.sse import Streams
from meshwright.api.wire import RawRoute, answer, read_model, traceparent
from meshwright.events.tasks import TaskPage
from meshwright.mesh import FINAL, Mesh, TaskView
from meshwright.messages import ENDED, ID_PATTERN, Event, Identifier, Receipt, TaskRequest, TaskStatus

TaskId = Annotated[str, Path(pattern=ID_PATTERN)]
NO_TASK = problems({404: "There is no such task."})
HEADERS = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key with the same body is the same task, however often it is sent.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    {
        "name": "traceparent",
        "in": "header",
        "description": "The W3C trace that the task becomes a part of.",
        "schema": {"type": "string"},
    },
]
REFUSALS = problems(
    {
        400: "The body is not JSON.",
        401: "The mesh requires a key.",
        404: "There is no such agent.",
        409: "The Idempotency-Key was used before, with another body.",
        413: "The body is too large, or nested too deep.",
        422: "A field is wrong, and `field` names it.",
        429: "The mesh or the thread has as many open tasks as it may: `Retry-After` says when to try again.",
        503: "No agent has the capability, or those that have it are offline; or the mesh is stopping.",
    }
)


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


class AnswerRequest(BaseModel):
    """A person's answer to what a task waits for, under the `key` of its `task.waiting` event."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=1, max_length=512)
    value: Any


class TaskRoutes:
    """Tasks over HTTP."""

    def __init__(self, mesh: Mesh, streams: Streams) -> None:
        self._mesh = mesh
        self._streams = streams

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.router.add_api_route(
            "/tasks",
            self.submit,
            route_class_override=RawRoute,
            methods=["POST"],
            status_code=202,
            summary="Give the mesh a task",
            tags=["tasks"],
            responses={**answers(Receipt, RECEIPT, status=202, description="Durable."), **REFUSALS},
            openapi_extra={**reads(TaskRequest, REQUEST), "parameters": HEADERS},
        )
        app.add_api_route(
            "/tasks", self.list, summary="List tasks", tags=["tasks"], responses=answers(TaskPage, TASKS)
        )
        app.add_api_route(
            "/tasks/{task_id}",
            self.show,
            summary="Look at a task",
            tags=["tasks"],
            responses={**answers(TaskView, TASK), **NO_TASK},
        )
        app.add_api_route(
            "/tasks/{task_id}/cancel",
            self.cancel,
            methods=["POST"],
            summary="End a task before its time",
            tags=["tasks"],
            responses={
                **answers(TaskView, TASK, description="It has ended."),
                **answers(TaskView, TASK, status=202, description="It is going to end."),
                **NO_TASK,
            },
        )
        app.add_api_route(
            "/tasks/{task_id}/answer",
            self.answer,
            methods=["POST"],
            status_code=202,
            summary="Answer what a task waits for",
            tags=["tasks"],
            responses={
                **answers(TaskView, TASK, status=202, description="It goes on."),
                **problems(
                    {
                        400: "The body is not JSON.",
                        404: "There is no such task, or it does not wait for that key.",
                        413: "The body is too large, or nested too deep.",
                        422: "A field is wrong, and `field` names it.",
                    }
                ),
            },
            openapi_extra=reads(AnswerRequest, ANSWER),
        )
        app.add_api_route(
            "/tasks/{task_id}/events",
            self.events,
            summary="Follow a task",
            tags=["tasks", "events"],
            responses={
                **streams(answers(EventPage, EVENT_PAGE)),
                204: {"description": "All seen."},
                **NO_TASK,
            },
        )

    async def submit(self, request: Request) -> Response:
        """Give a task to the best agent for a capability, or to one agent by name.

        It is durable when this answers. `payload.text` is the request in words.
        """
        task = await read_model(request, TaskRequest, self._mesh.settings)
        key = request.headers.get("idempotency-key")
        caller = identity_of(request).caller
        receipt = await self._mesh.submit(task, caller, idempotency_key=key, traceparent=traceparent(request))
        return answer(receipt, 202, {"Location": f"/tasks/{receipt.task_id}"})

    async def list(self, request: Request, query: Annotated[TaskQuery, Query()]) -> Response:
        """List tasks, the newest first."""
        return answer(await self._mesh.log.tasks(tenant_id=identity_of(request).tenant_id, **dict(query)))

    async def show(self, request: Request, task_id: TaskId) -> Response:
        """Show a task: its request, its attempts with the score of each choice, and its outcome."""
        return answer(await self._mesh.task(task_id, identity_of(request).tenant_id))

    async def cancel(self, request: Request, task_id: TaskId) -> Response:
        """Ask for the end of a task. Its outcome follows when its agent has let go; an ended one stays so."""
        view = await self._mesh.cancel(task_id, identity_of(request).tenant_id)
        return answer(view, 200 if view.status in ENDED else 202)

    async def answer(self, request: Request, task_id: TaskId) -> Response:
        """Give a task the answer of a person, under the key that its `task.waiting` event names.

        The value is what the step that waits gets as its result.
        """
        given = await read_model(request, AnswerRequest, self._mesh.settings)
        tenant_id = identity_of(request).tenant_id
        await self._mesh.answer(task_id, given.key, given.value, tenant_id)
        return answer(await self._mesh.task(task_id, tenant_id), 202)

    async def events(self, request: Request, task_id: TaskId, query: Annotated[Range, Query()]) -> Response:
        """Follow a task to its end (`Accept: text/event-stream`), or look up a page of its events.

        A stream begins with the task's first event, or behind `Last-Event-ID`. The pieces of answers
        (`model.delta`), as models write them, have no id, and are there for whoever follows live.
        """
        view = await self._mesh.task(task_id, identity_of(request).tenant_id)
        if "text/event-stream" in request.headers.get("accept", ""):
            return await self._follow(view, resume_after(request, query) or 0)
        return answer(await event_page(self._mesh.log, query, view.tenant_id, task_id=task_id))

    async def _follow(self, view: TaskView, after_seq: int) -> Response:
        task: dict[str, Any] = {"task_id": view.task_id}
        if view.status in ENDED and await self._has_seen_the_end(view, after_seq):
            return Response(status_code=204)  # tells a browser not to come back
        wanted = make_filter(Range(), view.tenant_id, **task, after_seq=after_seq)
        return self._streams.respond(self._mesh.log.follow(wanted, live=True), _is_final)

    async def _has_seen_the_end(self, view: TaskView, after_seq: int) -> bool:
        """False also while the log lacks the last event: on Dapr it may arrive after the outcome."""
        last = make_filter(
            Range(limit=1, order="desc"),
            view.tenant_id,
            task_id=view.task_id,
            event_type=f"task.{view.status}",
        )
        found = await self._mesh.log.query(last)
        return bool(found) and found[0].seq is not None and found[0].seq <= after_seq


def _is_final(event: Event) -> bool:
    return event.event_type in FINAL
