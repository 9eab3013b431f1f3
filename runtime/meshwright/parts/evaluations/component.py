"""The component of evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from meshwright import Agent
from meshwright.component import Component, Mesh, Settings
from meshwright.parts.evaluations.operations import Evaluations
from meshwright.parts.evaluations.runner import make_judge
from meshwright.parts.evaluations.settings import EvaluationsSettings

if TYPE_CHECKING:
    from fastapi import APIRouter


class EvaluationsComponent(Component):
    """Provides the evaluations of a mesh, with their tables and routes."""

    name = "evaluations"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._evaluations = mesh.provide(Evaluations(mesh))

    @classmethod
    def agents(cls, settings: Settings) -> Iterable[type[Agent]]:
        """The agent `judge`, where the settings say which models it calls."""
        return (
            [make_judge(settings[EvaluationsSettings].judge)] if settings[EvaluationsSettings].judge else []
        )

    def migrations(self) -> Traversable:
        """The tables `evaluations`, `evaluation_items` and `evaluation_tasks`."""
        return self.folder("tables")

    def routes(self) -> APIRouter:
        """/v1/evaluations."""
        from meshwright.kit import make_routes

        max_body = ("evaluations.max_bytes",)
        return make_routes(Evaluations, "evaluations", max_body=max_body, names_tenant=True)

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Delete the texts of items that hold what these tasks were asked, answered or judged."""
        await self._evaluations.erase(tenant_id, task_ids)

    async def begin(self) -> None:
        """Go on with the evaluations that have not ended, but in the process of a command."""
        await self._evaluations.begin()

    async def stop(self) -> None:
        """Stop working on them; they go on at the next start."""
        await self._evaluations.stop()
