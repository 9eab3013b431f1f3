"""Probes: whether the process lives, takes tasks, and has models."""

from __future__ import annotations

from meshwright.core import __version__
from meshwright.core.errors import Draining
from meshwright.edges.http.routing import ReadyMesh, make_router, problems

probes = make_router("health", is_open=True)


@probes.get("/healthz", summary="Is the process alive?")
async def _alive() -> dict[str, str]:
    """Answer while the process can."""
    return {"status": "ok", "version": __version__}


@probes.get(
    "/readyz",
    summary="Does it take tasks?",
    responses=problems({503: "It is starting, stopping or draining, or its store is away."}),
)
async def _ready(mesh: ReadyMesh) -> dict[str, str]:
    """Answer with 200 while the mesh takes tasks."""
    if mesh.state == "draining":
        raise Draining("This process begins no more work", remedy="Stop it, or release it: mesh release")
    if not mesh.takes_tasks:
        raise Draining(
            "The store of this mesh is away, or its lease was lost", remedy="Ask again in a moment"
        )
    return {"status": "ready"}


@probes.get("/health", summary="Is a model available?")
async def _llm_alive() -> dict[str, str]:
    """Answer while the process can."""
    return {"status": "ok"}
