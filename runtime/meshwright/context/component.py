"""The component of the context of agents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshwright.component import Actors, Component
from meshwright.context.event_words import FACTS
from meshwright.context.memory import Memory
from meshwright.context.plan import DEFAULT_RULES
from meshwright.context.service import CONTEXT_SERVICE, ContextClient, ContextService
from meshwright.kernel.turns import ActorKind
from meshwright.mesh import Mesh
from meshwright.models.port import Model
from meshwright.prompts import Prompts


class ContextComponent(Component):
    """The context of agents: planned by rules, compressed by a model, with memories."""

    name = "context"
    facts = FACTS
    apps = (CONTEXT_SERVICE,)

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._memory = mesh.provide(Memory(mesh.database, mesh.host.clock))
        here = mesh.role.runs(CONTEXT_SERVICE)
        rules = DEFAULT_RULES if here else None
        mesh.provide(ContextClient(mesh.host, mesh.get(Model), mesh.get(Prompts), rules=rules))

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Delete what the tasks have remembered."""
        await self._memory.erase(tenant_id, task_ids)

    def actors(self) -> Iterable[Actors]:
        """The context-service."""
        return [Actors(ActorKind.of(ContextService, type=CONTEXT_SERVICE), CONTEXT_SERVICE)]
