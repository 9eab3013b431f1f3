"""The component of A2A."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwright.component import Component
from meshwright.parts.a2a.settings import A2aSettings

if TYPE_CHECKING:
    from fastapi import APIRouter


class A2aComponent(Component):
    """Serves A2A, unless the settings turn it off."""

    name = "a2a"
    config: A2aSettings

    def assemble(self) -> None:
        """Send updates to the URLs that clients have named."""
        if not (self.config.enabled and self.config.push and self.mesh.role.is_front):
            return
        from meshwright.edges.replies.courier import Courier
        from meshwright.parts.a2a.push import UpdateSender

        sender = UpdateSender(self.mesh, self.config)
        self.mesh.get(Courier).register(sender)
        self.parts.append(sender.http)

    def routes(self) -> list[APIRouter]:
        """Returns the routers of cards and of both bindings."""
        if not self.config.enabled:
            return []
        from meshwright.parts.a2a.routes import make_routes

        return make_routes(self.config)
