"""However and whenever the lists are made from the log, they are the same."""

import asyncio
import random
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from meshwright.core.encoding import decode, encode
from meshwright.core.events import Event
from meshwright.core.messages import Fault
from meshwright.engine.events import table
from meshwright.engine.events.log import EventLog
from meshwright.engine.sql.database import Session
from meshwright.engine.sql.sqlite import SqliteDatabase
from tests.support.event_logs import LogOnFile, event, open_log
from tests.support.postgres import Location
from tests.support.task_events import (
    about,
    accepted,
    attempt_ended,
    dispatched,
    ended,
    names,
    progress,
    summary,
)

TABLES = (
    "SELECT * FROM tasks ORDER BY seq",
    "SELECT * FROM task_hours ORDER BY tenant_id, time, agent_id, status",
    "SELECT * FROM agent_outcomes ORDER BY agent_id, capability",
)


def plain(events: Sequence[Event]) -> list[Event]:
    """The events as another process would see them."""
    return [each.model_copy(update={"payload": decode(encode(each.payload))}) for each in events]


def some_history(rng: random.Random, task_id: str) -> list[Event]:
    attempt, generation = rng.randrange(1, 4), rng.randrange(1, 3)
    fault = Fault(type="Timeout", message="no answer")
    known = [
        accepted(task_id),
        dispatched(task_id),
        dispatched(task_id, attempt, generation, rng.choice(["writer", "other"])),
        *(progress(task_id, f"task.{each}", attempt) for each in ("started", "waiting", "resumed")),
        progress(task_id, "attempt.failed", attempt, error=fault),
        attempt_ended(task_id, rng.choice(["failed", "succeeded"])),
        ended(task_id, rng.choice(["failed", "succeeded"]), generation=generation, attempt=attempt),
        about(task_id, "model.called"),
        about(task_id, rng.choice(["task.accepted", "task.started", "task.failed"]), "of no shape"),
    ]
    return [each for each in known if rng.random() < 0.8] if rng.random() < 0.7 else rng.sample(known, k=5)


def shuffled_roads(rng: random.Random, tasks: int) -> list[Event]:
    """The histories of many tasks side by side, each in its own order."""
    histories = [some_history(rng, f"task-{n}") for n in range(tasks)]
    events: list[Event] = []
    while histories := [history for history in histories if history]:
        events.append(rng.choice(histories[:20]).pop(0))
    return events


async def tables(store: LogOnFile) -> list[list[tuple[Any, ...]]]:
    await store.log.tasks(tenant_id="default")
    return [await store.rows(table) for table in TABLES]


async def test_however_events_are_cut_into_batches_the_tables_are_the_same(
    location: Location, rng: random.Random
) -> None:
    events = shuffled_roads(rng, 300)
    async with open_log(location / "one by one") as store:
        for start in range(0, len(events), 7):
            await store.write(events[start : start + 7])
            if rng.random() < 0.2:
                await store.log.tasks(tenant_id="default")
        expected = await tables(store)
        await store.log.rebuild()
        assert await tables(store) == expected
    async with open_log(location / "at once") as store:
        await store.write(plain(events))
        assert await tables(store) == expected
    assert len(expected[0]) == 300


async def test_what_a_crash_left_unfolded_is_folded_at_the_next_start(
    location: Location, rng: random.Random
) -> None:
    events = shuffled_roads(rng, 40)
    async with open_log(location / "whole") as store:
        await store.write(events)
        expected = await tables(store)
    for start in range(0, len(events), 50):
        async with open_log(location / "broken") as store:
            await store.write(events[start : start + 50])  # and nobody asks for the list before the end
    async with open_log(location / "broken") as store:
        assert await tables(store) == expected


async def test_contents_erased_before_the_fold_are_in_no_list(store: LogOnFile) -> None:
    failure = progress("t", "attempt.failed", error=Fault(type="Timeout", message="a secret"))
    [*_, failed] = await store.write([accepted("t"), dispatched("t"), failure])
    await store.database.write(table.erase_payload, failed.seq)
    assert (await store.log.tasks(tenant_id="default")).items[0].reason is None


def _insert_and_fail(session: Session, log: EventLog, events: Sequence[Event]) -> None:
    log.insert(session, events)
    raise ValueError("no")


async def test_events_of_a_write_that_failed_are_in_no_list(store: LogOnFile) -> None:
    await store.write([accepted("first")])
    with pytest.raises(ValueError):
        await store.database.write(_insert_and_fail, store.log, [accepted("failed"), ended("first")])
    await store.write([accepted("second")])
    assert await names(store) == ["second", "first"]
    expected = await tables(store)
    await store.log.rebuild()
    assert await tables(store) == expected


async def test_tables_of_another_version_are_made_anew(location: Location) -> None:
    async with open_log(location) as store:
        await store.write([accepted("t"), ended("t")])
        expected = await tables(store)
        await store.database.write(lambda connection: connection.execute("DELETE FROM tasks").rowcount)
        await store.database.write(
            lambda connection: connection.execute("UPDATE projection_positions SET version = 99").rowcount
        )
    async with open_log(location) as store:
        assert await tables(store) == expected


async def test_events_that_come_during_a_rebuild_are_in_the_tables_after_it(
    location: Location, rng: random.Random
) -> None:
    events = shuffled_roads(rng, 700)
    async with open_log(location / "plain") as store:
        await store.write(events)
        expected = await tables(store)
    async with open_log(location / "rebuilt") as store:
        await store.write(events[:3000])
        rebuilding = asyncio.ensure_future(store.log.rebuild())
        for start in range(3000, len(events), 10):
            await store.write(events[start : start + 10])
        await rebuilding
        assert await tables(store) == expected


async def test_ended_tasks_leave_the_list_with_their_last_event(store: LogOnFile) -> None:
    await store.write([accepted("ended"), ended("ended"), accepted("open")])
    await store.write([event(n) for n in range(2100)])
    await store.log.prune(max_events=10)
    assert await names(store) == ["open"]
    await store.log.rebuild()
    assert await names(store) == ["open"]


class Unknown(BaseModel):
    """A model that the log has never seen, with the fields of an outcome."""

    task_id: str = "t"
    agent_id: str = "writer"
    capability: str = "writing"
    status: str = "succeeded"
    success: bool = True
    completed_at: datetime = datetime(2030, 1, 1, tzinfo=UTC)


async def test_another_model_of_the_same_shape_says_the_same(store: LogOnFile) -> None:
    item = await summary(store, [accepted("t"), about("t", "task.succeeded", Unknown())])
    assert (item.status, item.completed_at) == ("succeeded", datetime(2030, 1, 1, tzinfo=UTC))


class Folds:
    """Notes how many events it is given at a time."""

    name, version = "folds", 1
    event_types: Collection[str] = ("line.written",)

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        self.sizes.append(len(events))

    def clear(self, session: Session, oldest: int) -> None:
        """There is nothing to clear."""


async def test_commits_go_on_between_parts_of_what_is_folded_behind_the_log() -> None:
    folds = Folds()
    database = SqliteDatabase(None)
    log = EventLog(database, projections=[folds])
    await database.open()
    try:
        await log.start()
        await LogOnFile(database, log).write([event(number) for number in range(1, 1201)])
        async with asyncio.timeout(240):
            while sum(folds.sizes) < 1200:
                await database.write(lambda session: None)
        assert max(folds.sizes) == 250
    finally:
        log.close()
        await database.close()
