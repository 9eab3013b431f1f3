"""The component of the context of agents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable

from meshwright.agents.context.memory import Memory, MemoryStore
from meshwright.agents.context.rules import with_defaults
from meshwright.agents.context.service import CONTEXT_SERVICE, ContextClient, ContextService
from meshwright.agents.context.settings import ContextSettings
from meshwright.agents.context.vectors import Embedder, Vectors
from meshwright.agents.prompts import PromptSources
from meshwright.engine.kernel.turns import ActorKind
from meshwright.mesh.components import Actors, Component, call_hook
from meshwright.mesh.mesh import Mesh
from meshwright.models.port import Model

TABLES = files("meshwright.agents.context") / "tables"


class ContextComponent(Component):
    """The context of agents: planned by rules, compressed by a model, with memories."""

    name = "context"
    apps = (CONTEXT_SERVICE,)

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        settings, self._vectors = mesh.settings[ContextSettings], None
        if settings.embedding_model:
            embedder = Embedder(settings.embedding_model, lambda: mesh.get(Model))
            self._vectors = Vectors(mesh.database, embedder, settings.embedding_floor)
        self._memory = Memory(mesh.database, mesh.runtime.clock, self._vectors)
        self._stores: list[MemoryStore] = []
        self._rules = with_defaults(mesh.settings[ContextSettings].rules)

    def migrations(self) -> Traversable:
        """The columns of the table `memories`."""
        return TABLES

    def memory_store(self) -> MemoryStore:
        """The memories in the mesh's database."""
        return self._memory

    def assemble(self) -> None:
        """Take the memory store of the last component that has one."""
        mesh = self.mesh
        self._stores = call_hook(mesh, lambda component: component.memory_store())
        mesh.provide(self._stores[0], MemoryStore)
        here = mesh.role.runs(CONTEXT_SERVICE)
        rules = self._rules if here else None
        mesh.provide(ContextClient(mesh.runtime, mesh.get(Model), mesh.get(PromptSources), rules=rules))

    async def begin(self) -> None:
        """Begin to embed memories; of processes that share a database the fronts do."""
        embeds = self.mesh.database.exclusive or self.mesh.role.is_front
        if self._vectors is not None and embeds and self._memory in self._stores:
            await self._vectors.begin(self.mesh.runtime.clock)

    async def stop(self) -> None:
        """Embed no more."""
        if self._vectors is not None:
            await self._vectors.stop()

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Delete what the tasks have remembered, also in stores that are no longer used."""
        for store in self._stores:
            await store.erase(tenant_id, task_ids)

    def actors(self) -> Iterable[Actors]:
        """The context-service."""
        kind = ActorKind.from_class(ContextService, type=CONTEXT_SERVICE, rules=self._rules)
        return [Actors(kind, CONTEXT_SERVICE)]
