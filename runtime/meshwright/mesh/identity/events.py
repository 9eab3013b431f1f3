"""Operations on events: read, follow and publish them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

from meshwright.core.access import Role
from meshwright.core.events import Event
from meshwright.core.ids import derived_id, new_id
from meshwright.core.messages import ENDED
from meshwright.core.operations import Rule, has_role, operation
from meshwright.core.task_events import TaskEnded
from meshwright.engine.events.audit import Audit
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import Page
from meshwright.engine.work.record import TaskView
from meshwright.mesh.identity.filters import read_filter, require_known
from meshwright.mesh.identity.operations import Acting
from meshwright.mesh.identity.rules import FOLLOW_TASK, SUBMITTER, VIEWER, event_facts, sees_contents
from meshwright.mesh.orchestration.acceptance import FINAL
from meshwright.mesh.orchestration.tenants import Tenants


class Common(NamedTuple):
    """Events that all readers with the same `key` see alike, begun behind `position` by one of them.

    `newest` is the end of the log then, `after(seq)` reads them behind any event.
    """

    key: str
    position: int
    newest: int
    after: Callable[[int], AsyncGenerator[list[Event]]]


class EventFeed(NamedTuple):
    """Events as they come, as their reader may see them; `is_whole` where that is with all contents.

    Those of a task end with the outcome of its `generation`: what was worked on again has earlier ones. Those
    of the log may be read in `common` with others.
    """

    batches: AsyncGenerator[list[Event]]
    is_whole: bool
    generation: int | None = None
    common: Common | None = None

    def is_last(self, event: Event) -> bool:
        """Whether an event ends the task that is followed."""
        if self.generation is None or event.event_type not in FINAL:
            return False
        return TaskEnded.from_payload(event.payload).generation >= self.generation


class EventOperations(Acting):
    """The operations on events. Each raises what the operations of `Operations` raise."""

    @operation(FOLLOW_TASK)
    async def task_events(self, task_id: str, filter: EventFilter) -> Page:
        """A page of a task's events."""
        view = await self.task_seen(FOLLOW_TASK, task_id)
        before = (await self.mesh.log.task_filter(task_id, self.caller.tenant_id)).after_seq or 0
        filter = filter.model_copy(update={"after_seq": max(before, filter.after_seq or 0)})
        return await self._page(self._own(filter, task_id), is_whole=sees_contents(view, self.caller))

    @operation(FOLLOW_TASK)
    async def follow(self, task_id: str, *, after_seq: int = 0) -> EventFeed | None:
        """The events of a task behind `after_seq`, as they come; None where it has ended and all were seen.

        The last event ends the task. Close the batches to stop earlier.
        """
        view = await self.task_seen(FOLLOW_TASK, task_id)
        if view.status in ENDED and await self._has_seen_the_end(view, after_seq):
            return None
        filter = await self.mesh.log.task_filter(task_id, self.caller.tenant_id, after_seq=after_seq)
        feed = self._feed(filter, is_whole=sees_contents(view, self.caller))
        return feed._replace(generation=view.generation)

    @operation(Rule("sees events", VIEWER))
    async def events(self, filter: EventFilter) -> Page:
        """A page of the tenant's events.

        Raises NotFound where there are none, and agent or a field of their tasks has a value that never was.
        """
        filter = self._own(self._allowed_filter(filter))
        page = await self._page(filter, is_whole=await self._reads_events())
        if not page.events:
            of_task = {} if filter.of_task is None else filter.of_task.model_dump(exclude_none=True)
            if filter.agent_id is not None and not await self._has_events(filter.agent_id):
                of_task["agent_id"] = filter.agent_id
            await require_known(self.mesh, of_task, self.caller.tenant_id)
        return page

    @operation(Rule("follows events", VIEWER))
    async def tail(self, filter: EventFilter) -> EventFeed:
        """The tenant's events as they are committed, behind `after_seq` or from now on."""
        filter, newest = self._own(self._allowed_filter(filter)), await self.mesh.log.last_seq()
        is_whole, position = (
            await self._reads_events(),
            newest if filter.after_seq is None else filter.after_seq,
        )

        def after(seq: int) -> AsyncGenerator[list[Event]]:
            return self._feed(filter.model_copy(update={"after_seq": seq}), is_whole=is_whole).batches

        key = f"{is_whole} {filter.model_copy(update={'after_seq': None}).model_dump_json()}"
        is_known = position <= newest  # else it is of a log that has started again
        common = Common(key, position, newest, after) if is_known else None
        return EventFeed(after(position), is_whole, common=common)

    @operation(Rule("publishes events", SUBMITTER))
    async def publish(
        self, topic: str, event_type: str, payload: dict[str, Any], *, idempotency_key: str | None = None
    ) -> str:
        """Publish an event to a topic of the application, and return its id: it is in the log then.

        One with an idempotency key that was used before is not published again. Raises StorageExceeded.
        """
        caller = self.caller
        name = new_id() if idempotency_key is None else derived_id(caller.requested_by, idempotency_key)
        event_id, aggregate_id = f"app/{caller.tenant_id}/{name}", f"app/{caller.requested_by}"
        if idempotency_key is None or not await self.mesh.log.knows(event_id, aggregate_id):
            await self.mesh.get(Tenants).require_storage(caller.tenant_id)
            event = Event(
                id=event_id,
                event_type=event_type,
                topic=topic,
                time=self.mesh.runtime.clock.now(),
                tenant_id=caller.tenant_id,
                aggregate_id=aggregate_id,
                idempotency_key=idempotency_key,
                payload=payload,
            )
            await self.mesh.runtime.emit([event])
        return event_id

    async def _has_seen_the_end(self, view: TaskView, after_seq: int) -> bool:
        """False also while the log lacks the last event: on Dapr it may arrive after the outcome."""
        event_type = f"task.{view.status}"
        ends = await self.mesh.log.newest_of_task(view.task_id, self.caller.tenant_id, [event_type])
        end = ends.get(event_type)
        return end is not None and end.seq is not None and end.seq <= after_seq

    async def _reads_events(self) -> bool:
        """Whether the caller sees the contents of events, which is recorded then."""
        if is_whole := has_role(self.caller, Role.CONTENTS):
            await self.mesh.get(Audit).record_read(self.caller, "events")
        return is_whole

    def _allowed_filter(self, filter: EventFilter) -> EventFilter:
        """The filter of events. Raises Forbidden for texts of tasks that the caller may not read."""
        if filter.of_task is not None:
            read_filter(self.mesh, self.caller, filter.of_task.model_dump(exclude_none=True))
        return filter

    def _own(self, filter: EventFilter, task_id: str | None = None) -> EventFilter:
        """Limits a filter to the caller's tenant."""
        of_task = {} if task_id is None else {"task_id": task_id}
        return filter.model_copy(update={"tenant_id": self.caller.tenant_id, **of_task})

    async def _has_events(self, agent_id: str) -> bool:
        return bool(await self.mesh.log.query(self._own(EventFilter(agent_id=agent_id, limit=1))))

    async def _page(self, filter: EventFilter, *, is_whole: bool) -> Page:
        page = await self.mesh.log.page(filter)
        return page if is_whole else page._replace(events=self._visible_facts(page.events))

    def _feed(self, filter: EventFilter, *, is_whole: bool) -> EventFeed:
        batches = self.mesh.log.follow(filter, live=True)
        return EventFeed(batches if is_whole else self._without_contents(batches), is_whole)

    async def _without_contents(self, batches: AsyncGenerator[list[Event]]) -> AsyncGenerator[list[Event]]:
        async with aclosing(batches):
            async for batch in batches:
                yield self._visible_facts(batch)

    def _visible_facts(self, events: list[Event]) -> list[Event]:
        visible = (event_facts(event, self.mesh.events) for event in events)
        return [facts for facts in visible if facts is not None]
