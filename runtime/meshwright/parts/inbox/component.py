"""The component of the inbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwright.component import Component

if TYPE_CHECKING:
    from fastapi import APIRouter


class InboxComponent(Component):
    """Serves what waits for people; the log and the parts of the mesh have it."""

    name = "inbox"

    def routes(self) -> APIRouter:
        """`/inbox`."""
        from meshwright.kit import make_routes
        from meshwright.parts.inbox.operations import InboxOperations

        return make_routes(InboxOperations, "tasks")
