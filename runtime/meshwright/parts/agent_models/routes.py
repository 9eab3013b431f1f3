"""Calls of agents on `/v1`, and `/v1/responses/ID`: a response is a task, whose id it has."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, nullcontext, suppress
from fnmatch import fnmatchcase
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT
from starlette.types import Receive, Scope, Send

from meshwright import MeshError, TaskRequest
from meshwright.component import Caller, Forbidden, Mesh, NotFound, Operations, Tasks, make_router, may
from meshwright.core.tracing import valid_trace
from meshwright.edges.http.broadcast import with_pauses
from meshwright.edges.http.errors import CALLER, KIND, JsonLine, answer_error, router_kind
from meshwright.edges.http.events import leaving, open_streams
from meshwright.edges.http.models import AgentDirectory
from meshwright.edges.http.sessions import ServerSentEvents, Sessions
from meshwright.engine.work.record import TaskView
from meshwright.kit import ID_PATTERN, Registry
from meshwright.models.wire.chat import ChatRequest
from meshwright.models.wire.dialects import DIALECTS
from meshwright.models.wire.errors import (
    OPENAI_REQUEST_ID,
    UnknownResponse,
    UnsupportedParameter,
    new_request_id,
)
from meshwright.models.wire.messages import MessagesRequest
from meshwright.models.wire.port import WireCall
from meshwright.models.wire.responses import ResponseDocument, ResponsesRequest
from meshwright.models.wire.stream import StreamedCall
from meshwright.parts.agent_models.requests import PREFIX, AgentCall, read_call, stored_response
from meshwright.parts.agent_models.settings import AgentModelsSettings
from meshwright.parts.agent_models.turns import AgentTurn, agent_id, unfinished

_COST_HEADER = "x-litellm-response-cost"
_FIRST_SECONDS = 1.0  # within which a task that fails has its own status, also where it is streamed
_CANCEL_SECONDS = 5.0  # for an agent to let go
_TaskId = Annotated[
    str, Path(max_length=128, description="The id of the task, which that of the response ends with.")
]
_Body = ChatRequest | ResponsesRequest | MessagesRequest


def make_routes(mesh: Mesh, settings: AgentModelsSettings) -> APIRouter:
    """Makes the router of stored responses, and lets the routes of calls have the agents."""
    if mesh.find(AgentDirectory) is None:  # a mesh may have several applications
        mesh.provide(_NamedAgents(mesh, settings), AgentDirectory)
    router = make_router("models", errors="openai")

    @router.get(
        "/v1/responses/resp_{task_id}", summary="Show a response of an agent", response_model=ResponseDocument
    )
    async def _show_response(
        operations: Annotated[Operations, may(Operations.see)],
        task_id: _TaskId,
        stream: Annotated[bool, Query(description="Only `false`: a response is read whole.")] = False,
    ) -> Response:
        """Show a response that an agent made or makes: the task of its id.

        It is `queued`, `in_progress`, `completed`, `failed` or `cancelled`; `incomplete` while it waits for
        a person.
        """
        if stream:
            problem = "stream: a response that exists is read whole"
            raise UnsupportedParameter(problem, remedy="Leave it out", field="stream")
        return _json(_document(operations, await _find(operations, task_id)))

    @router.post(
        "/v1/responses/resp_{task_id}/cancel",
        summary="Cancel a response of an agent",
        response_model=ResponseDocument,
    )
    async def _cancel_response(
        request: Request, operations: Annotated[Operations, may(Operations.cancel)], task_id: _TaskId
    ) -> Response:
        """Cancel the task of a response. It is `cancelled` once its agent has let go; an ended one stays."""
        view = await _find(operations, task_id)
        await operations.cancel(view.task_id)
        with leaving(request) as left:
            tasks, tenant_id = mesh.get(Tasks), operations.caller.tenant_id
            await tasks.wait(view.task_id, tenant_id, _CANCEL_SECONDS, lambda: nullcontext(left))
        return _json(_document(operations, await _find(operations, task_id)))

    return router


class _NamedAgents(AgentDirectory):
    """The agents of a mesh as models."""

    def __init__(self, mesh: Mesh, settings: AgentModelsSettings) -> None:
        self._mesh = mesh
        self._patterns = settings.agents

    def names(self) -> list[str]:
        return [
            f"{PREFIX}{agent.agent_id}"
            for agent in self._mesh.get(Registry).agents()
            if agent.kind != "system" and agent.capabilities
            if any(fnmatchcase(agent.agent_id, pattern) for pattern in self._patterns)
        ]

    async def answer(self, request: Request, body: _Body) -> Response:
        caller: Caller = request.scope[CALLER]
        if body.tenant_id not in (None, caller.tenant_id):
            raise Forbidden(
                "tenant_id names another tenant than the caller works for",
                remedy="Leave it out; a caller of all tenants names one in the header Mesh-Tenant",
                field="tenant_id",
            )
        call = read_call(body, request.headers)
        turn = AgentTurn(Operations(self._mesh, caller), call)
        if call.wire.streams:
            return await _stream(request, turn, call)
        return await _whole(request, turn, call)


async def _whole(request: Request, turn: AgentTurn, call: AgentCall) -> Response:
    """Answer at the end of the task, or at once where the client asks for the outcome later."""
    with leaving(request) as left:  # before there is a task: too many may wait
        await _begin(request, turn, call.wire)
        try:
            if call.is_background:
                return _json(await turn.document(), request)
            if (reply := await turn.reply(left)) is not None:
                cost = {} if reply.cost_usd is None else {_COST_HEADER: f"{reply.cost_usd:f}"}
                return _json(call.wire.whole(reply), request, cost)
        except MeshError as error:
            return await _refuse(request, error)
    return await _refuse(request, unfinished(turn.task_id))


async def _stream(request: Request, turn: AgentTurn, call: AgentCall) -> Response:
    sessions: Sessions = request.app.state.sessions
    with sessions.watch(_counted(request.scope)):  # before there is a task: the caller may have too many
        await _begin(request, turn, call.wire)
    streamed = StreamedCall(partial(turn.stream, open_streams(request).closing()))
    try:
        await streamed.begun(_FIRST_SECONDS)
    except MeshError as error:
        await streamed.end()
        return await _refuse(request, error)
    except BaseException:  # also where the server ends: nothing else would end the call
        await streamed.end()
        raise
    return _AgentStream(_pinged(call.wire.frames(streamed)), streamed.end, _request_id(request))


async def _begin(request: Request, turn: AgentTurn, wire: WireCall) -> None:
    """Have the task of a call, by whose id the answer is named."""
    await turn.begin(request.headers.get("idempotency-key"), valid_trace(request.headers.get("traceparent")))
    wire.name(turn.task_id, int(time.time()))


async def _refuse(request: Request, error: MeshError) -> Response:
    """Answer with the error of a task that exists: an SDK that repeats its call would make another."""
    response = await answer_error(request, error)
    if "idempotency-key" not in request.headers:
        response.headers["x-should-retry"] = "false"
    return response


async def _pinged(frames: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The frames of an answer, with comments while nothing comes: proxies cut off what is silent."""
    async with aclosing(with_pauses(frames)) as paused:
        async for frame in paused:
            yield KEEPALIVE_COMMENT if frame is None else frame


class _AgentStream(ServerSentEvents):
    """A stream of a task, which lasts as long as that: it counts as one of the caller's."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(_counted(scope), receive, send)


def _counted(scope: Scope) -> Scope:
    return {**scope, KIND: router_kind(scope)._replace(counts_streams=True)}


async def _find(operations: Operations, task_id: str) -> TaskView:
    """The task of a response. One of another tenant is as unknown as any."""
    with suppress(NotFound, Forbidden):
        if re.fullmatch(ID_PATTERN, task_id):
            return await operations.see(task_id)
    raise UnknownResponse(f"Response with id {f'resp_{task_id}'!r} not found", field="response_id")


def _document(operations: Operations, view: TaskView) -> dict[str, Any]:
    """A task as a response, for a client that has its id alone."""
    wire = stored_response(f"{PREFIX}{agent_id(view)}", view)
    return AgentTurn(operations, AgentCall(wire, TaskRequest())).describe(view)


def _json(
    document: Any, request: Request | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    named = _request_id(request) if request is not None else {OPENAI_REQUEST_ID: new_request_id()}
    return JsonLine(document, headers={**named, **(headers or {})})


def _request_id(request: Request) -> dict[str, str]:
    return {DIALECTS[request.url.path].request_id_header: new_request_id()}
