"""The component that erases contents of tasks: on request, and those of old ones; and the events of runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from meshwright.agents.run.erasure import Contents, Eraser
from meshwright.engine.events.audit import Audit
from meshwright.mesh.components import Component
from meshwright.mesh.mesh import Mesh
from meshwright.parts.stack.settings import DaprSettings


class ContentsComponent(Component):
    """Erases contents of tasks, and what was said at the steps of old ones after the days of the settings."""

    name = "contents"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        settings = mesh.settings
        mesh.provide(
            Eraser(mesh.runtime, mesh.log, mesh.database, mesh.get(Audit), mesh.tracing, self._erase_hooks)
        )
        limits = [
            days for days in (settings.keep_contents_days, settings.keep_events_days) if days is not None
        ]
        if limits and mesh.role.is_front:
            self.parts.append(Contents(mesh.runtime, mesh.log, mesh.tell, keep_days=min(limits)))

    def _erase_hooks(self) -> Iterable[Callable[[str, Sequence[str]], Awaitable[None]]]:
        return [component.erase for component in self.mesh.components if isinstance(component, Component)]

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Have the Redis of a mesh on Dapr take from its disk what was erased. Raises ServiceFailed."""
        dapr = self.mesh.settings[DaprSettings]
        if self.mesh.settings.store == "dapr" and dapr.redis_host is not None:
            from meshwright.parts.stack.checks import rewrite_redis_log

            password = "" if dapr.redis_password is None else dapr.redis_password.get_secret_value()
            await rewrite_redis_log(dapr.redis_host.split(",")[0], password)
