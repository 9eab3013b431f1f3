"""The data of a mesh that does not run: read, and added to, without an agent starting to work."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshwright.cli.client import Document
from meshwright.cli.local import LocalMesh, local_mesh, plain_costs, plain_events, plain_tasks
from meshwright.errors import NotFound

if TYPE_CHECKING:
    from meshwright.events.log import EventLog
    from meshwright.settings import Settings


class StoredMesh:
    """A data folder that no mesh serves. Each call opens what it needs, and closes it again.

    Raises StoreLocked where another process holds the data, and ConfigError.
    """

    is_running = False
    about = ""

    def __init__(self, settings: Settings, options: str = "") -> None:
        self.where = str(settings.data_dir)
        self.options = options
        self._settings = settings

    async def submit(self, request: Document, *, idempotency_key: str | None = None) -> Document:
        """Accept a task; it waits for a mesh that works."""
        async with self._idle() as mesh:
            return await mesh.submit(request, idempotency_key=idempotency_key)

    async def task(self, task_id: str) -> Document:
        """The task's own page."""
        async with self._readable() as mesh:
            return await mesh.task(task_id)

    async def cancel(self, task_id: str) -> Document:
        """Ask for the end of a task."""
        async with self._idle() as mesh:
            return await mesh.cancel(task_id)

    async def answer(self, task_id: str, key: str, value: Any) -> Document:
        """Answer what it waits for; it goes on in a mesh that works."""
        async with self._idle() as mesh:
            return await mesh.answer(task_id, key, value)

    async def tasks(self, **fields: Any) -> list[Document]:
        """From the projection of the log."""
        async with self._log() as log:
            return await plain_tasks(log, **fields)

    async def events(self, limit: int, **fields: Any) -> list[Document]:
        """From the newest back."""
        async with self._log() as log:
            return await plain_events(log, limit, **fields)

    async def last_seq(self) -> int:
        """The `seq` of the newest event."""
        async with self._log() as log:
            return await log.last_seq()

    async def costs(self, *, by: str, since: str | None) -> Document:
        """From the ledger."""
        async with self._log() as log:
            return await plain_costs(log, by=by, since=since)

    async def budgets(self) -> list[Document]:
        """As their accounts stand."""
        async with self._readable() as mesh:
            return await mesh.budgets()

    def follow(self, *, after_seq: int = 0, **fields: Any) -> AsyncGenerator[Document, None]:
        """Raises NotFound: nothing will happen here."""
        message = f"no mesh runs on {self.where}: nothing more happens there"
        raise NotFound(message, remedy=f"start one with: mesh up{self.options}")

    async def agents(self) -> list[Document]:
        """The agents that would register, read from their files; nobody has seen them."""
        from meshwright.agents.loader import project_file
        from meshwright.cli.declared import declared_agents

        declared = declared_agents(project_file(Path(), self._settings.actors_dir))
        if declared.note:
            click.echo(f"mesh: note: {declared.note}", err=True)
        unseen = {"status": "not running", "last_seen": None}
        return [{**agent.model_dump(mode="json"), **unseen} for agent in declared.agents]

    @asynccontextmanager
    async def _log(self) -> AsyncIterator[EventLog]:
        from meshwright.events.log import EventLog
        from meshwright.ledger.costs import CallProjection
        from meshwright.sql.sqlite import FILE_NAME, SqliteDatabase

        folder = self._settings.data_dir
        database = SqliteDatabase(folder if (folder / FILE_NAME).is_file() else None)  # to read makes nothing
        await database.open()
        try:
            log = EventLog(database, projections=(CallProjection(),))
            await log.start()
            yield log
        finally:
            await database.close()

    @asynccontextmanager
    async def _idle(self) -> AsyncIterator[LocalMesh]:
        async with local_mesh(self._settings, works=False) as mesh:
            yield mesh

    @asynccontextmanager
    async def _readable(self) -> AsyncIterator[LocalMesh]:
        from meshwright.cli.reading import readable_mesh

        if self._settings.store == "dapr":  # its actors are in a store that only a sidecar reads
            async with self._idle() as local:
                yield local
            return
        async with readable_mesh(self._settings) as mesh:
            yield LocalMesh(mesh, self._settings.data_dir)
