"""The application: every route of the API, over one mesh."""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI

from meshwright import __version__
from meshwright.api.agents import AgentRoutes
from meshwright.api.context import ContextRoutes
from meshwright.api.events import EventRoutes
from meshwright.api.guard import BrowserGuard
from meshwright.api.health import HealthRoutes
from meshwright.api.openapi import any_problem, make_document
from meshwright.api.problems import handle_problems
from meshwright.api.sse import Streams
from meshwright.api.tasks import AnswerRequest, TaskRoutes
from meshwright.context.request import CompressRequest
from meshwright.mesh import Mesh
from meshwright.messages import TaskRequest


def create_app(mesh: Mesh, streams: Streams | None = None) -> FastAPI:
    """Make the HTTP API of a mesh, which whoever made it starts and stops.

    `streams.close()` ends the event streams, which would otherwise keep a server from stopping.
    """
    app = FastAPI(title="Meshwright", version=__version__, responses=any_problem(), redirect_slashes=False)
    streams = streams or Streams()
    for routes in (
        TaskRoutes(mesh, streams),
        EventRoutes(mesh, streams),
        AgentRoutes(mesh),
        ContextRoutes(mesh),
        HealthRoutes(mesh),
    ):
        routes.add_to(app)
    handle_problems(app)
    app.add_middleware(BrowserGuard)
    app.openapi = partial(make_document, app, TaskRequest, AnswerRequest, CompressRequest)  # type: ignore[method-assign]
    return app
