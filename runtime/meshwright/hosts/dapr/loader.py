"""The loader: documents of actors, into their cells. What others that live have to send is left to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Set

from meshwright.hosts.dapr.cells import Cell, Documents
from meshwright.hosts.dapr.documents import Document

MAX_CARRIED = 32  # entries of another's that a document takes along; of more all are sent once more


class Loader:
    """Reads documents into cells. `incarnation` names the present run of this worker."""

    def __init__(
        self,
        documents: Documents,
        incarnation: Callable[[], str],
        is_gone: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._documents = documents
        self._incarnation = incarnation
        self._is_gone = is_gone

    async def load(self, cell: Cell) -> None:
        """Read a cell's document."""
        document, etag = await self._documents.read(cell.ref)
        self._adopt(cell, document, etag, await self._alive(document))

    async def refresh(self, cell: Cell, *, take_over: bool = False) -> None:
        """Read the document of a cell anew, unless turns of it are under way.

        With `take_over` all that it has to send is sent by this worker, whoever committed it.
        """
        before = cell.etag
        if cell.working:
            return
        document, etag = await self._documents.read(cell.ref)
        alive = set[str]() if take_over else await self._alive(document)
        is_still = not cell.working and cell.etag == before
        if is_still and (cell.document is None or etag != before or cell.carried or take_over):
            self._adopt(cell, document, etag, alive)

    def _adopt(self, cell: Cell, document: Document, etag: str | None, alive: Set[str]) -> None:
        """Go on with a document. What others that are alive have to send is carried, and left to them."""
        known = {entry.id for entry in cell.outbox} | set(cell.ended)
        found = [entry for entry in document.outbox if entry.id not in known]
        carried = [entry for entry in found if entry.by in alive]
        cell.carried = carried if len(carried) <= MAX_CARRIED else []
        cell.outbox = [*(entry for entry in found if entry not in cell.carried), *cell.outbox]
        cell.document, cell.etag, cell.actor = document, etag, None

    async def _alive(self, document: Document) -> set[str]:
        """Which other workers live, of those that have something to send for this actor."""
        others = {entry.by for entry in document.outbox} - {self._incarnation()}
        return {by for by in others if not await self._is_gone(by)}
