"""Answers waits for events: a task that waits for one gets the first event of the log that fits.

The waits are a projection of the log. Each is served from its own place in the log on, in order, so that what
happened while no process was running counts too: at least once, and the thread takes the first answer alone.
The store has a note of how far the log was compared with the waits before it; a start goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from meshwright.core import topics
from meshwright.core.clock import Backoff
from meshwright.core.errors import HostError, NotFound
from meshwright.core.events import Event
from meshwright.core.task_events import TaskWaiting, WaitEnded
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.status import NO_MORE, WAITING, waits_for, waits_for_events
from meshwright.engine.events.table import events_at
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.meta import read_note, write_note
from meshwright.engine.work import Answer
from meshwright.engine.work.protocol import WaitKind
from meshwright.engine.work.record import read_task, thread_ref

_logger = logging.getLogger("meshwright.events")
_REACHED = "event_waits"
"""The note of the last `seq` that was compared with the waits before it."""
_NOTED_AFTER = 1_000  # events
_Key = tuple[str, str]
_PATTERNS = ""
Resume = Callable[[str, str, str, Any], Awaitable[None]]
"""Gives a task its answer: of its tenant and its id, the key of the wait, and the value."""


@dataclass(frozen=True, slots=True)
class _EventWait:
    tenant_id: str
    task_id: str
    key: str
    seq: int
    topic: str
    has_topic: Callable[[str], bool]
    match: Mapping[str, Any]

    @classmethod
    def from_event(cls, event: Event) -> _EventWait | None:
        wait = TaskWaiting.read(event)
        if wait is None or wait.kind != "event" or not wait.subject:
            return None
        match = wait.subject.get("match") or {}
        topic = str(wait.subject.get("topic"))
        try:
            has_topic = topics.matcher(topic)
        except ValueError:
            return None
        if not isinstance(match, dict):
            return None
        return cls(event.tenant_id, event.task_id or "", wait.key, event.seq or 0, topic, has_topic, match)

    def fits(self, document: Mapping[str, Any]) -> bool:
        if document["seq"] <= self.seq or not self.has_topic(document["topic"]):
            return False
        return all(_at(document, path) == value for path, value in self.match.items())


_Index = defaultdict[_Key, dict[_Key, _EventWait]]
_NONE: Mapping[_Key, _EventWait] = MappingProxyType({})


class _OpenWaits:
    """The open waits, by what an event is asked for: its tenant with its topic, or with its task."""

    def __init__(self) -> None:
        self._by_key: dict[_Key, _EventWait] = {}
        self._by_topic: _Index = defaultdict(dict)
        """By tenant and topic; those for a pattern have none."""
        self._by_task: _Index = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, wait: _EventWait) -> None:
        """Add a wait that is not open already."""
        key = wait.tenant_id, wait.key
        if key not in self._by_key:
            self._by_key[key] = wait
            for waits, place in self._indices(wait):
                waits[place][key] = wait

    def remove(self, key: _Key) -> None:
        """Remove a wait, if it is open."""
        if (wait := self._by_key.pop(key, None)) is not None:
            for waits, place in self._indices(wait):
                del waits[place][key]
                if not waits[place]:
                    del waits[place]

    def end_task(self, tenant_id: str, task_id: str) -> None:
        """Remove the waits of a task."""
        for key in [*self._by_task.get((tenant_id, task_id), ())]:
            self.remove(key)

    def for_topic(self, tenant_id: str, topic: str) -> list[_EventWait]:
        """The waits that an event on a topic may answer."""
        places = (tenant_id, topic), (tenant_id, _PATTERNS)
        return [wait for place in places for wait in self._by_topic.get(place, _NONE).values()]

    def _indices(self, wait: _EventWait) -> tuple[tuple[_Index, _Key], ...]:
        topic = _PATTERNS if topics.is_pattern(wait.topic) else wait.topic
        return (self._by_topic, (wait.tenant_id, topic)), (self._by_task, (wait.tenant_id, wait.task_id))


def _at(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


class EventWaits:
    """Reads the log while tasks wait for events, and answers them; a part of the mesh's front."""

    def __init__(self, runtime: Runtime, database: Database, log: EventLog, resume: Resume) -> None:
        self._runtime = runtime
        self._database = database
        self._log = log
        self._resume = resume
        self._reached = 0
        """The last `seq` that was compared with all open waits."""
        self._noted = 0
        self._is_complete = True
        """Whether each event since the note that fits a wait has answered it."""
        self._open = _OpenWaits()
        self._news = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._end_listening: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Begin with what waits already."""
        self._end_listening = self._runtime.listen(topics.TASK_PROGRESS, self._note, (WAITING,))
        self._news.set()  # for what waited before this process ran
        self._serving = asyncio.create_task(self._serve(), name="waits for events")

    async def stop(self) -> None:
        """Answer nothing more; the next start goes on."""
        self._end_listening()
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving
            with suppress(HostError):  # the next start compares some events again
                await self._note_reached()

    def _note(self, event: Event) -> None:
        if (wait := TaskWaiting.read(event)) is not None and wait.kind == "event":
            self._news.set()

    async def _serve(self) -> None:
        pauses = Backoff(0.25, 30.0)
        while True:
            await self._news.wait()
            self._news.clear()  # before it reads: news that come meanwhile count
            try:
                await self._read()
                pauses.reset()
            except HostError as error:
                _logger.warning("Waits for events are answered later: %s", error)
                self._news.set()
                await asyncio.sleep(pauses.next())

    async def _read(self) -> None:
        places = await self._log.view(waits_for_events)
        if not places:
            return
        self._open = _OpenWaits()
        note = await self._database.read(read_note, _REACHED)
        self._is_complete = True
        self._reached = self._noted = max(min(places) - 1, 0 if note is None else note["seq"])
        before = [place for place in places if place <= self._reached]
        for event in await self._database.read(events_at, before):
            if (wait := _EventWait.from_event(event)) is not None:
                self._open.add(wait)
        async with aclosing(self._log.follow(EventFilter(after_seq=self._reached))) as batches:
            async for batch in batches:
                for event in batch:
                    await self._take(event)
                    self._reached = event.seq or self._reached
                if self._reached - self._noted >= _NOTED_AFTER:
                    await self._note_reached()
                if not self._open and self._reached >= max(places):  # until `_note` hears of another wait
                    return

    async def _note_reached(self) -> None:
        if self._is_complete and self._reached > self._noted:
            await self._database.write(write_note, _REACHED, {"seq": self._reached})
            self._noted = self._reached

    async def _take(self, event: Event) -> None:
        if (wait := _EventWait.from_event(event)) is not None:
            self._open.add(wait)
        elif (end := WaitEnded.read(event)) is not None:
            self._open.remove((event.tenant_id, end.key))
        elif event.event_type in NO_MORE:
            self._open.end_task(event.tenant_id, event.task_id or "")
        if not (waits := self._open.for_topic(event.tenant_id, event.topic)):
            return
        document = event.model_dump(mode="json")
        for wait in waits:
            if wait.fits(document):
                try:
                    await self._resume(wait.tenant_id, wait.task_id, wait.key, document)
                except NotFound:  # of the agent, or it has ended meanwhile: the next start tries again
                    self._is_complete = False
                self._open.remove((wait.tenant_id, wait.key))  # the first event that fits is the answer


_AT_ONCE = 100  # their turns share commits


async def wake_waiting(
    runtime: Runtime,
    log: EventLog,
    kind: WaitKind,
    account: str | None = None,
    but: Collection[tuple[str, str, str]] = (),
) -> list[tuple[str, str, str]]:
    """Wake each task that waits for such: the most urgent first, then the longest waiting.

    With an `account` only those that wait for its money. Returns (tenant_id, task_id, key) of those that it
    woke; `but` names some to leave alone.
    """

    async def wake(tenant_id: str, task_id: str, key: str) -> None:
        with suppress(NotFound):  # a task of long ago
            record, task = await read_task(runtime, task_id, tenant_id)
            if (thread := thread_ref(record, task)) is not None:
                await runtime.call(thread, "resume", Answer(task_id=task_id, key=key, value=None))

    waits = [wait for wait in await log.view(waits_for, kind, account) if wait not in but]
    for start in range(0, len(waits), _AT_ONCE):
        await asyncio.gather(*[wake(*wait) for wait in waits[start : start + _AT_ONCE]])
    return waits
