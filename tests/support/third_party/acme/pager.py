"""Acme's component: settings, a table with its projection, a route and a check."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from meshwright import Event, MeshError
from meshwright.component import Check, Component

if TYPE_CHECKING:
    from fastapi import APIRouter


class PagerSettings(BaseModel):
    """The table [pager]."""

    url: str = "https://pager.example.com"
    reachable: bool = True


class Pages:
    """The projection behind GET /pager: one row for each call of a tool."""

    name = "acme_pages"
    version = 1
    event_types: Collection[str] = ("tool.called",)

    def fold(self, session: Any, events: Sequence[Event]) -> None:
        """Add a row for each call."""
        calls = [event for event in events if event.event_type in self.event_types]
        rows = [(event.seq, str(event.fields.get("tool"))) for event in calls]
        session.insert("acme_pages (seq, tool)", rows, then="ON CONFLICT (seq) DO NOTHING")

    def clear(self, session: Any, oldest: int) -> None:
        """Forget what these events have made."""
        session.execute("DELETE FROM acme_pages WHERE seq >= ?", (oldest,))


class Pager(Component):
    """Says who was paged."""

    name = "pager"

    def migrations(self) -> Traversable:
        """Acme's tables."""
        return files("acme.tables")

    def projections(self) -> Iterable[Pages]:
        return [Pages()]

    def routes(self) -> list[APIRouter]:
        """Their kinds decide on errors, limits and keys, wherever their paths are."""
        from acme.routes import make_routes

        return make_routes(self._calls)

    async def _calls(self) -> dict[str, Any]:
        """How often which tool was called."""
        return {"url": self.config.url, "calls": dict(await self.mesh.log.view(_counted))}

    def checks(self) -> Iterable[Check]:
        """Whether the pager answers."""
        return [Check("pager", self._check)]

    async def _check(self) -> str:
        if not self.config.reachable:
            raise MeshError(f"{self.config.url} does not answer", remedy="Set url in [pager] of mesh.toml")
        return f"{self.config.url} answers"


def _counted(session: Any) -> list[tuple[str, int]]:
    return session.execute("SELECT tool, count(*) FROM acme_pages GROUP BY tool").fetchall()
