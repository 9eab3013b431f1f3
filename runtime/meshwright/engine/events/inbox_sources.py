"""The inbox whole: the questions of tasks, and what else people decide, which parts of the mesh bring."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec.structs import replace

from meshwright.core.errors import Conflict, NotFound
from meshwright.core.messages import Caller
from meshwright.engine.events.answers import check_fits
from meshwright.engine.events.filter import TaskFilter
from meshwright.engine.events.inbox import Inbox, InboxPage, Question
from meshwright.engine.work.protocol import question_digest

_COUNTED = 500  # items at a time


class SourcePage(NamedTuple):
    """Some items of a source."""

    items: Sequence[Question]
    """The items, in their order."""
    after: int | None = None
    """The number after which the next page begins. None at the end."""


class SourceQuery(NamedTuple):
    """Asks a source for a tenant's open items."""

    tenant_id: str
    """The tenant."""
    limit: int
    """How many items are returned at most."""
    after: int
    """The `after` of the page before. 0 for the first."""
    id: str | None = None
    """An end or a beginning of their ids, or of those of their tasks. None: any."""
    with_ended: bool = False
    """Whether those decided on, as far as the source has them, are asked for too."""
    of_task: TaskFilter | None = None
    """A filter of their tasks. A source that cannot tell whether an item agrees with it leaves it out."""

    def names(self, item: Question) -> bool:
        """Whether an item has the `id`."""
        return self.id is None or self.id in (item.id[: len(self.id)], item.id[-len(self.id) :])


class InboxSource(Protocol):
    """Brings items that have its `name` as their `source`, and takes the decisions on them.

    The items may change with events of the `event_types`.
    """

    name: str
    event_types: Collection[str]

    async def page(self, query: SourceQuery) -> SourcePage:
        """Returns the items that are asked for, in an order of its own."""
        ...

    async def answer(self, item: Question, value: Any, caller: Caller) -> None:
        """Decide on an open item, durably; the value fits its `answer_schema`. Checks the caller's roles."""
        ...


def _with_digest(item: Question) -> Question:
    digest = question_digest(item.wait_id, item.question, item.subject, item.answer_schema)
    return replace(item, digest=digest)


class WholeInbox:
    """The questions of tasks, and behind them the items of sources."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._sources: dict[str, InboxSource] = {}

    def add(self, source: InboxSource) -> None:
        """List the items of a source too."""
        self._sources[source.name] = source

    @property
    def event_types(self) -> Collection[str]:
        """The events with which items of sources may change."""
        return {name for source in self._sources.values() for name in source.event_types}

    async def page(
        self,
        tenant_id: str,
        *,
        id: str | None = None,
        with_ended: bool = False,
        limit: int = 50,
        cursor: str | None = None,
        of_task: TaskFilter | None = None,
    ) -> InboxPage:
        """A page as `Inbox.page` gives it, the items of sources last."""
        items: list[Question] = []
        begin, _, position = (cursor or "").partition(":")
        if begin not in self._sources:
            page = await self._inbox.page(
                tenant_id, id=id, with_ended=with_ended, limit=limit, cursor=cursor, of_task=of_task
            )
            if page.cursor is not None:
                return page
            items, position = [*page.items], ""
        names = [*self._sources]
        for name in names[names.index(begin) if begin in names else 0 :]:
            room, after = limit - len(items), int(position) if position.isdecimal() else 0
            if not room:
                return InboxPage(items=tuple(items), cursor=f"{name}:{after}")
            query = SourceQuery(tenant_id, room, after, id, with_ended, of_task)
            source_page = await self._sources[name].page(query)
            items, position = [*items, *(_with_digest(item) for item in source_page.items)], ""
            if source_page.after is not None:
                return InboxPage(items=tuple(items), cursor=f"{name}:{source_page.after}")
        return InboxPage(items=tuple(items))

    async def count(self, tenant_id: str) -> Mapping[str, int]:
        """The number of a tenant's open items of each source that has any."""
        counts = dict[str, int]()
        for name, source in self._sources.items():
            after: int | None = 0
            while after is not None:
                page = await source.page(SourceQuery(tenant_id, _COUNTED, after))
                counts[name], after = counts.get(name, 0) + len(page.items), page.after
        return {name: count for name, count in counts.items() if count}

    async def answer(self, item: Question, value: Any, caller: Caller) -> None:
        """Have its source decide on an open item, durably.

        Raises NotFound for an item of no source, Conflict for one that has ended, InvalidInput for a value
        that does not fit its `answer_schema`, and what the source raises, as Forbidden.
        """
        source = self._sources.get(item.source)
        if source is None:
            raise NotFound(f"No part of the mesh decides on {item.id}", remedy="Answer its task", field="id")
        if item.status != "open":
            problem = f"The item {item.id} was {item.status} by {item.answered_by or 'another caller'}"
            raise Conflict(problem, remedy="GET /inbox, or mesh inbox, lists what is open", field="id")
        check_fits(item.answer_schema, value)
        await source.answer(item, value, caller)
