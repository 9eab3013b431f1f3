"""The application: every route of the API, over one mesh."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Protocol

from fastapi import FastAPI
from pydantic import BaseModel

from meshwright import __version__
from meshwright.api.agents import AgentRoutes
from meshwright.api.budgets import BudgetRoutes
from meshwright.api.callers import Callers
from meshwright.api.chat import ChatRequest
from meshwright.api.completions import CompletionRoutes
from meshwright.api.context import ContextRoutes
from meshwright.api.costs import CostRoutes
from meshwright.api.events import EventRoutes
from meshwright.api.guard import BrowserGuard
from meshwright.api.health import HealthRoutes
from meshwright.api.keys import KeyRequest, KeyRoutes
from meshwright.api.llm import CompleteRequest, LlmRoutes
from meshwright.api.openapi import any_problem, make_document
from meshwright.api.pages import Pages
from meshwright.api.problems import handle_problems
from meshwright.api.sse import Streams
from meshwright.api.tasks import AnswerRequest, TaskRoutes
from meshwright.context.request import CompressRequest
from meshwright.mesh import Mesh
from meshwright.messages import TaskRequest

MODEL_REQUESTS = (CompleteRequest, ChatRequest, KeyRequest)


class Routes(Protocol):
    """The routes of one noun."""

    def add_to(self, app: FastAPI) -> None:
        """Add them to an application."""
        ...


def create_app(
    mesh: Mesh, streams: Streams | None = None, *, groups: tuple[str, ...] | None = None
) -> FastAPI:
    """Make the HTTP API of a mesh, which whoever made it starts and stops.

    `streams.close()` ends the event streams, which would otherwise keep a server from stopping. `groups` are
    the models that may be named; None where only the server knows.
    """
    streams = streams or Streams()
    nouns = (
        TaskRoutes(mesh, streams),
        EventRoutes(mesh, streams),
        AgentRoutes(mesh),
        CostRoutes(mesh),
        BudgetRoutes(mesh),
        ContextRoutes(mesh),
        *model_routes(mesh, groups),
        HealthRoutes(mesh),
    )
    return _joined(mesh, nouns, TaskRequest, AnswerRequest, CompressRequest, *MODEL_REQUESTS)


def create_llm_app(
    mesh: Mesh, streams: Streams | None = None, *, groups: tuple[str, ...] | None = None
) -> FastAPI:
    """Make the HTTP API of a worker that has models to offer, and no front."""
    return _joined(mesh, (*model_routes(mesh, groups), HealthRoutes(mesh)), *MODEL_REQUESTS)


def model_routes(mesh: Mesh, groups: tuple[str, ...] | None) -> tuple[Routes, ...]:
    """The routes by which models are called, and their keys looked after."""
    return LlmRoutes(mesh), CompletionRoutes(mesh, groups), KeyRoutes(mesh)


def _joined(mesh: Mesh, nouns: Iterable[Routes], *models: type[BaseModel]) -> FastAPI:
    app = FastAPI(
        title="Meshwright",
        version=__version__,
        responses=any_problem(),
        redirect_slashes=False,
        docs_url=None,  # FastAPI's pages load their scripts from other sites
        redoc_url=None,
    )
    for routes in (*nouns, Pages()):
        routes.add_to(app)
    handle_problems(app)
    app.add_middleware(Callers, mesh=mesh)
    app.add_middleware(BrowserGuard, settings=mesh.settings)
    app.openapi = partial(make_document, app, *models)  # type: ignore[method-assign]
    return app
