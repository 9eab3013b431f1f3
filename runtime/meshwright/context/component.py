"""The component of the context of agents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshwright.component import Actors, Component, offered
from meshwright.context.event_words import FACTS
from meshwright.context.memory import Memory, MemoryStore
from meshwright.context.plan import DEFAULT_RULES
from meshwright.context.service import CONTEXT_SERVICE, ContextClient, ContextService
from meshwright.kernel.turns import ActorKind
from meshwright.mesh import Mesh
from meshwright.models.port import Model
from meshwright.prompts import PromptSources


class ContextComponent(Component):
    """The context of agents: planned by rules, compressed by a model, with memories."""

    name = "context"
    facts = FACTS
    apps = (CONTEXT_SERVICE,)

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._memory = Memory(mesh.database, mesh.host.clock)
        self._stores: list[MemoryStore] = []

    def memory_store(self) -> MemoryStore:
        """The memories in the mesh's database."""
        return self._memory

    def assemble(self) -> None:
        """Take the memory store of the last component that has one."""
        mesh = self.mesh
        self._stores = offered(mesh, lambda component: component.memory_store())
        mesh.provide(self._stores[0], MemoryStore)
        here = mesh.role.runs(CONTEXT_SERVICE)
        rules = DEFAULT_RULES if here else None
        mesh.provide(ContextClient(mesh.host, mesh.get(Model), mesh.get(PromptSources), rules=rules))

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Delete what the tasks have remembered, also in stores that are no longer used."""
        for store in self._stores:
            await store.erase(tenant_id, task_ids)

    def actors(self) -> Iterable[Actors]:
        """The context-service."""
        return [Actors(ActorKind.of(ContextService, type=CONTEXT_SERVICE), CONTEXT_SERVICE)]
