"""A mesh in this process, for one command, on a data folder that no other mesh serves."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshwright.cli.client import Document
from meshwright.errors import InvalidInput

if TYPE_CHECKING:
    from meshwright.events.log import EventLog
    from meshwright.mesh import Mesh
    from meshwright.settings import Settings

TENANT = "default"


@asynccontextmanager
async def local_mesh(settings: Settings, *, works: bool, options: str = "") -> AsyncIterator[LocalMesh]:
    """Start a mesh on the settings' data, and stop it at the end.

    Without `works` no agent does: what waits there from an earlier run stays untouched.
    Raises StoreLocked where another process holds the data, and ConfigError.
    """
    from meshwright.app import build_mesh
    from meshwright.cli.logs import log_to_stderr
    from meshwright.cli.notices import tell_of_prompts
    from meshwright.cli.trust import require_trust

    log_to_stderr(settings.data_dir)
    require_trust(settings)
    mesh = build_mesh(settings)
    if not works:
        await mesh.worker.drain(0)
    tell_of_prompts(mesh)
    async with mesh:
        yield LocalMesh(mesh, settings.data_dir, options)


class LocalMesh:
    """The doors of a Mesh, as plain data."""

    is_running = False

    def __init__(self, mesh: Mesh, data: Path, options: str = "") -> None:
        self.where = str(data)
        self.options = options
        self.about = f"An embedded mesh on {data}, model: {mesh.model.name}"
        self._mesh = mesh

    async def submit(self, request: Document, *, idempotency_key: str | None = None) -> Document:
        """Accept a task."""
        from pydantic import ValidationError

        from meshwright.messages import TaskRequest

        try:
            task = TaskRequest.model_validate(request)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise InvalidInput(f"{field}: {first['msg']}", field=field) from None
        receipt = await self._mesh.submit(task, idempotency_key=idempotency_key)
        return receipt.model_dump(mode="json")

    async def task(self, task_id: str) -> Document:
        """The task's own page."""
        return (await self._mesh.task(task_id)).model_dump(mode="json")

    async def tasks(self, **fields: Any) -> list[Document]:
        """From the projection of the log."""
        return await plain_tasks(self._mesh.log, **fields)

    async def cancel(self, task_id: str) -> Document:
        """Ask for the end of a task."""
        return (await self._mesh.cancel(task_id)).model_dump(mode="json")

    async def answer(self, task_id: str, key: str, value: Any) -> Document:
        """Answer what it waits for."""
        await self._mesh.answer(task_id, key, value)
        return await self.task(task_id)

    async def events(self, limit: int, **fields: Any) -> list[Document]:
        """From the newest back."""
        return await plain_events(self._mesh.log, limit, **fields)

    async def follow(self, *, after_seq: int = 0, **fields: Any) -> AsyncGenerator[Document, None]:
        """The tail of the log, and what is shown besides."""
        from meshwright.events.filter import EventFilter

        wanted = EventFilter(**fields, after_seq=after_seq)
        async with aclosing(self._mesh.log.follow(wanted, live=True)) as batches:
            async for batch in batches:
                for event in batch:
                    yield event.model_dump(mode="json")

    async def last_seq(self) -> int:
        """The `seq` of the newest event."""
        return await self._mesh.log.last_seq()

    async def costs(self, *, by: str, since: str | None) -> Document:
        """From the ledger."""
        return await plain_costs(self._mesh.log, by=by, since=since)

    async def budgets(self) -> list[Document]:
        """As their accounts stand."""
        return [view.model_dump(mode="json") for view in await self._mesh.budget_views(None)]

    async def agents(self) -> list[Document]:
        """Every registered agent."""
        return [agent.model_dump(mode="json") for agent in self._mesh.registry.agents()]


async def plain_tasks(log: EventLog, **fields: Any) -> list[Document]:
    """Summaries of tasks, the newest first, as plain data."""
    page = await log.tasks(tenant_id=TENANT, **fields)
    return [item.model_dump(mode="json") for item in page.items]


async def plain_costs(log: EventLog, *, by: Any, since: str | None) -> Document:
    """What calls of models have cost, those of all tenants, as plain data."""
    from meshwright.ledger.costs import costs_of

    costs = await costs_of(
        log, tenant_id=None, by=by, since=None if since is None else datetime.fromisoformat(since)
    )
    return costs.model_dump(mode="json")


async def plain_events(log: EventLog, limit: int, **fields: Any) -> list[Document]:
    """The last events that fit, oldest first, as plain data."""
    from meshwright.events.filter import EventFilter

    found = await log.query(EventFilter(**fields, limit=limit, order="desc"))
    return [event.model_dump(mode="json") for event in reversed(found)]
