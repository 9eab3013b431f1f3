"""The component of AG-UI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwright.component import Component
from meshwright.parts.ag_ui.settings import AgUiSettings

if TYPE_CHECKING:
    from fastapi import APIRouter


class AgUiComponent(Component):
    """Serves AG-UI, unless the settings turn it off."""

    name = "ag_ui"
    config: AgUiSettings

    def routes(self) -> list[APIRouter]:
        """Returns the router of `/ag-ui/AGENT`."""
        if not self.config.enabled:
            return []
        from meshwright.parts.ag_ui.routes import make_routes

        return [make_routes(self.config)]
