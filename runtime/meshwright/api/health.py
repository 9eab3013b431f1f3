"""Whether the process lives, and whether the mesh takes tasks: for probes."""

from __future__ import annotations

from fastapi import FastAPI, Response

from meshwright import __version__
from meshwright.api.openapi import problems
from meshwright.api.wire import answer
from meshwright.errors import Draining
from meshwright.mesh import Mesh


class HealthRoutes:
    """Probes over HTTP."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.add_api_route("/healthz", self.alive, summary="Is it alive?", tags=["health"])
        app.add_api_route(
            "/readyz",
            self.ready,
            summary="Does it take tasks?",
            tags=["health"],
            responses=problems({503: "It is starting or stopping."}),
        )

    async def alive(self) -> Response:
        """Answer while the process can."""
        return answer({"status": "ok", "version": __version__})

    async def ready(self) -> Response:
        """Answer with 200 while the mesh takes tasks."""
        if not self._mesh.ready:
            raise Draining("the mesh is starting or stopping", remedy="ask again in a moment")
        return answer({"status": "ready"})
