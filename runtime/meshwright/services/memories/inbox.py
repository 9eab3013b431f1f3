"""The memories in quarantine, as items of the inbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from typing import Any

from meshwright.context.memory import MemoryCatalog, MemoryItem
from meshwright.core.messages import Caller
from meshwright.events.audit import RECORDED
from meshwright.events.inbox import Question
from meshwright.events.inbox_sources import SourcePage, SourceQuery
from meshwright.services.memories.display import owner, trusted
from meshwright.work.people import Approval

Decide = Callable[[str, Caller, Approval], Awaitable[MemoryItem]]
"""Promotes or forgets a memory of the caller's tenant, by its id."""


class Quarantine:
    """Lists what agents recall only once a person has promoted it. A yes promotes it, a no forgets it."""

    name = "memory"
    event_types: Collection[str] = ("memory.stored", RECORDED)

    def __init__(self, catalog: MemoryCatalog, decide: Decide) -> None:
        self._catalog = catalog
        self._decide = decide

    async def page(self, query: SourceQuery) -> SourcePage:
        """The newest first, none that has ended. A filter of their tasks but by `agent_id` leaves all out."""
        fields = {} if query.of_task is None else query.of_task.model_dump(exclude_defaults=True)
        if fields.keys() - {"agent_id"}:
            return SourcePage([])
        if query.id is not None:
            fields["named"] = query.id
        page = await self._catalog.page(
            query.tenant_id, ["quarantined"], fields, after=query.after, limit=query.limit
        )
        return SourcePage([_question(item) for item in page.items], page.cursor)

    async def answer(self, item: Question, value: Any, caller: Caller) -> None:
        """Promote or forget a memory. Raises Conflict where it is in quarantine no longer."""
        await self._decide(item.subject["memory_id"], caller, Approval.model_validate(value))


def _question(item: MemoryItem) -> Question:
    fields = item.model_dump()
    return Question(
        id=item.memory_id,
        seq=0,
        wait_id=f"{Quarantine.name}/{item.memory_id}",
        task_id=item.task_id or "",
        tenant_id=item.tenant_id,
        source=Quarantine.name,
        agent_id=item.agent_id,
        question=f'May agents recall this? "{item.text}"',
        subject={
            "kind": Quarantine.name,
            "memory_id": item.memory_id,
            "says": item.kind,
            "about": item.subject,
            "recalled_by": owner(fields),
            "trust": trusted(fields),
            "step": item.step,
        },
        answer_schema=Approval.model_json_schema(),
        since=item.created_at or datetime.fromtimestamp(0, UTC),
        expires_at=item.expires_at,
    )
