"""The component of conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshwright.component import Component

if TYPE_CHECKING:
    from fastapi import APIRouter


class ConversationsComponent(Component):
    """Serves /v1/conversations, with its tables."""

    name = "conversations"
    tables = "tables"

    def routes(self) -> APIRouter:
        """The routes of conversations and of their items."""
        from meshwright.parts.conversations.routes import make_routes

        return make_routes(self.mesh)

    async def erase(self, tenant_id: str, task_ids: Sequence[str]) -> None:
        """Erase what was added to the conversations of tasks: these have heard it."""
        from meshwright.parts.conversations.conversations import erase_added

        await erase_added(self.mesh, tenant_id, task_ids)
