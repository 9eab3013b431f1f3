"""The port through which commands talk to a mesh, whether it runs elsewhere or in this process.

All that goes in and comes out is plain data, shaped as the HTTP API shapes it; errors are MeshErrors.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

Document = dict[str, Any]
"""One JSON object, as the HTTP API gives it."""

ENDINGS = frozenset({"task.succeeded", "task.failed", "task.cancelled", "task.timed_out"})
"""The types of the event that is the last word on a task; its payload is the outcome."""


class MeshClient(Protocol):
    """A mesh to talk to. Used as the mesh's only client in this process, by one command."""

    where: str
    """What a person would call it: its URL, or the data folder that it works on."""

    is_running: bool
    """Whether it goes on when this command has ended."""

    options: str
    """What to add to a `mesh` command so that it finds the same mesh: ` --data DIR`, or nothing."""

    about: str
    """What a person should know before it works for them, or nothing."""

    async def submit(self, request: Document, *, idempotency_key: str | None = None) -> Document:
        """Give it a task (a TaskRequest); returns the Receipt once the task is durable."""
        ...

    async def task(self, task_id: str) -> Document:
        """The task's own page. Raises NotFound."""
        ...

    async def tasks(
        self, *, status: str | None, capability: str | None, limit: int, task_id: str | None = None
    ) -> list[Document]:
        """Summaries of tasks, the newest first; `task_id` is the beginning or the end of their ids."""
        ...

    async def cancel(self, task_id: str) -> Document:
        """Ask for the end of a task; returns its page. Raises NotFound."""
        ...

    async def answer(self, task_id: str, key: str, value: Any) -> Document:
        """Answer what a task waits for under that key; returns its page. Raises NotFound."""
        ...

    async def events(self, limit: int, **fields: Any) -> list[Document]:
        """The last events whose fields have these values (`task_id`, `event_type`, ...), oldest first."""
        ...

    def follow(self, *, after_seq: int = 0, **fields: Any) -> AsyncGenerator[Document, None]:
        """The events after that `seq`, then those to come: none twice, none left out.

        Ends, if at all, with the last event of a task.
        """
        ...

    async def last_seq(self) -> int:
        """The `seq` of the newest event, 0 where there is none."""
        ...

    async def costs(self, *, by: str, since: str | None) -> Document:
        """What calls of models have cost since a time (RFC 3339), summed up by agent, tag, model, ..."""
        ...

    async def budgets(self) -> list[Document]:
        """How much may be spent, and how much is."""
        ...

    async def agents(self) -> list[Document]:
        """Every registered agent."""
        ...
