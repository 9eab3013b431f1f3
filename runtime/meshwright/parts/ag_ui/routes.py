"""`/ag-ui/AGENT`: runs of user interfaces, with the caller that the API knows, and in its limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from fnmatch import fnmatchcase
from importlib import import_module
from types import ModuleType
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT
from starlette.types import Scope

from meshwright import MeshError
from meshwright.component import NotFound, Operations, make_router
from meshwright.edges.bodies import read_json
from meshwright.edges.http.broadcast import with_pauses
from meshwright.edges.http.errors import CALLER
from meshwright.edges.http.events import open_streams
from meshwright.edges.http.routing import Endpoint, read_body
from meshwright.edges.http.sessions import ServerSentEvents
from meshwright.kit import Role, Rule
from meshwright.parts.ag_ui.settings import AgUiSettings

_MAX_BODY = ("max_payload_bytes", "models.max_request_bytes")
"""A run has the messages of its thread, as a call of a model has; the payload has its own limit."""
_RULE = Rule("speaks AG-UI", (Role.VIEWER, Role.SUBMITTER))


def make_routes(settings: AgUiSettings) -> APIRouter:
    """Makes the router, whose routes are not in the document of the API: the protocol describes itself."""
    router = make_router("ag-ui", max_body=_MAX_BODY)
    router.add_api_route("/ag-ui/{agent_id}", _RunAgent(settings), methods=["POST"], include_in_schema=False)
    return router


class _RunAgent(Endpoint):
    """Answers with the events of a run as server-sent events, or a problem where it cannot begin."""

    __name__ = "run_agent"

    def __init__(self, settings: AgUiSettings) -> None:
        super().__init__(_RULE)  # each operation has a rule of its own beside this
        self._settings = settings

    async def __call__(self, request: Request) -> Response:
        await self.caller(request)
        mesh, agent_id = request.app.state.mesh, request.path_params["agent_id"]
        body = read_json(await read_body(request, mesh.settings), mesh.settings, _MAX_BODY)
        if not any(fnmatchcase(agent_id, pattern) for pattern in self._settings.agents):
            raise NotFound(f"There is no agent {agent_id!r} for user interfaces", field="agent_id")
        run = await asyncio.to_thread(import_module, "meshwright.parts.ag_ui.run")
        view = run.RunView(Operations(mesh, request.scope[CALLER]), agent_id, run.read_run(body))
        await view.begin()
        return _RunResponse(_encode(view.frames(), open_streams(request).closing(), run), run)


class _RunResponse(ServerSentEvents):
    def __init__(self, frames: AsyncGenerator[bytes], run: ModuleType) -> None:
        super().__init__(frames)
        self._run = run

    def last_frame(self, scope: Scope, problem: MeshError) -> bytes:
        """Returns the error of the run: its credentials have ended."""
        frame: bytes = self._run.encode_error(problem)
        return frame


async def _encode(
    frames: AsyncGenerator[Any], closing: asyncio.Future[None], run: ModuleType
) -> AsyncGenerator[bytes]:
    """Frames as server-sent events, with a comment while nothing comes, until the server stops."""
    try:
        async with aclosing(with_pauses(frames, closing, run.stopping)) as paused:
            async for frame in paused:
                yield KEEPALIVE_COMMENT if frame is None else run.encode_frame(frame)
    except MeshError as error:
        yield run.encode_error(error)
