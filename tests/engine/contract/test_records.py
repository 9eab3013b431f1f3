"""Records are numbered and written once: within a turn, or outside and ahead of the turns that follow."""

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import BaseModel

from meshwright.core.errors import Conflict, StoreFailed
from meshwright.core.events import Event
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef, Record
from meshwright.engine.kernel.guarantees import RECORD_GAP
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.database import Session
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.engine.stores.sqlite import SqliteStore
from tests.support.harness import RuntimeHarness
from tests.support.sample_actors import DIARY, diary, lines_after_crash, lines_of, to_diary

ONE = ActorRef("Keeper", "one")


class Kept(BaseModel):
    turns: int = 0


class Entry(BaseModel):
    n: int
    value: str
    stream: str = "steps"
    fail: bool = False


class Keeper(Actor[Kept]):
    @turn
    def keep(self, turn: Turn, entry: Entry) -> int:
        turn.append(entry.stream, entry.n, entry)
        if entry.fail:
            raise Conflict("told to fail")
        return entry.n

    @turn
    def count(self, turn: Turn) -> int:
        self.state.turns += 1
        return self.state.turns


KEEPER = ActorKind.from_class(Keeper)


def record(n: int, value: str = "", stream: str = "steps", ref: ActorRef = ONE) -> Record:
    return Record(ref, stream, n, {"value": value or str(n)})


async def values(
    runtime: Runtime, stream: str = "steps", *, first: int = 1, last: int | None = None, ref: ActorRef = ONE
) -> Sequence[str]:
    return [each.value["value"] for each in await runtime.records(ref, stream, first=first, last=last)]


async def test_records_of_turns_and_from_outside_are_read_in_order_of_their_numbers(
    harness: RuntimeHarness,
) -> None:
    runtime = await harness.open(KEEPER)
    for n in (12, 2, 10):
        await runtime.call(ONE, "keep", Entry(n=n, value=str(n)))
    for n in (9, 1, 11):
        await runtime.append(record(n))
    assert await values(runtime) == ["1", "2", "9", "10", "11", "12"]
    assert [each.n for each in await runtime.records(ONE, "steps")] == [1, 2, 9, 10, 11, 12]


async def test_records_from_one_number_to_another_can_be_read_alone(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER)
    for n in range(1, 13):
        await runtime.append(record(n))
    assert await values(runtime, first=10) == ["10", "11", "12"]
    assert await values(runtime, first=3, last=4) == ["3", "4"]
    assert await values(runtime, last=1) == ["1"]
    assert await values(runtime, last=100) == [str(n) for n in range(1, 13)]
    assert await values(runtime, last=0) == []
    assert await values(runtime, first=13) == []


async def test_a_stream_is_read_to_its_end_over_the_gaps_that_are_allowed(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER)
    for n in (RECORD_GAP, 2 * RECORD_GAP, 5 * RECORD_GAP):
        await runtime.append(record(n))
    assert (await values(runtime))[:2] == [str(RECORD_GAP), str(2 * RECORD_GAP)]
    assert await values(runtime, last=5 * RECORD_GAP) == [str(RECORD_GAP * times) for times in (1, 2, 5)]


async def test_the_first_write_of_a_number_stands(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER)
    await runtime.append(record(1, "first"))
    await runtime.append(record(1, "second"))
    await runtime.call(ONE, "keep", Entry(n=1, value="third"))
    await runtime.call(ONE, "keep", Entry(n=2, value="first"))
    await runtime.append(record(2, "second"))
    assert await values(runtime) == ["first", "first"]
    runtime = await harness.reopen(runtime)
    await runtime.append(record(1, "after a restart"))
    assert await values(runtime) == ["first", "first"]


async def test_streams_and_actors_keep_their_records_apart(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER)
    other = ActorRef("Keeper", "other")
    await runtime.append(record(1, "step"))
    await runtime.append(record(1, "word", "history"))
    await runtime.append(record(1, "other", ref=other))
    assert await values(runtime) == ["step"]
    assert await values(runtime, "history") == ["word"]
    assert await values(runtime, ref=other) == ["other"]
    assert await values(runtime, "no such stream") == []


async def test_deleted_streams_are_gone_and_others_stay(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER)
    other = ActorRef("Keeper", "other")
    for n in range(1, 6):
        await runtime.append(record(n))
    await runtime.append(record(1, "word", "history"))
    await runtime.append(record(1, "other", ref=other))
    await runtime.delete_records({ONE: ["steps", "no such stream"]})
    runtime = await harness.reopen(runtime)
    assert await values(runtime) == []
    assert await values(runtime, "history") == ["word"]
    assert await values(runtime, ref=other) == ["other"]


async def test_a_record_of_a_turn_that_raised_is_not_written(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER)
    with pytest.raises(Conflict):
        await runtime.call(ONE, "keep", Entry(n=1, value="lost", fail=True))
    await runtime.call(ONE, "keep", Entry(n=2, value="kept"))
    assert await values(runtime) == ["kept"]


async def test_a_turn_that_only_appends_is_committed(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER)
    await runtime.call(ONE, "keep", Entry(n=1, value="kept"))
    runtime = await harness.crash(runtime)
    assert await values(runtime) == ["kept"]


async def test_a_record_is_durable_once_it_was_awaited(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER)
    await asyncio.gather(*[runtime.append(record(n)) for n in range(1, 21)])
    runtime = await harness.crash(runtime)
    assert await values(runtime) == [str(n) for n in range(1, 21)]


async def test_a_record_stands_before_the_commit_of_any_later_turn(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER)
    writing = runtime.append(record(1, "before the turn"))
    await runtime.call(ONE, "count")
    runtime = await harness.crash(runtime)
    assert await values(runtime) == ["before the turn"]
    await writing


async def test_a_record_can_be_read_as_soon_as_it_is_appended(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER)
    writing = runtime.append(record(1))
    assert await values(runtime) == ["1"]
    await writing


async def test_a_record_belongs_to_the_store_and_not_to_who_wrote_it(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER)
    value = {"value": "as it was"}
    await runtime.append(Record(ONE, "steps", 1, value))
    value["value"] = "as it became"
    [kept] = await runtime.records(ONE, "steps")
    kept.value["value"] = "scribbled by a reader"
    assert await values(runtime) == ["as it was"]


def progress(event_id: str) -> Event:
    return Event(
        id=event_id, event_type="progress", topic="news", time=datetime.now(UTC), payload={"text": event_id}
    )


async def test_events_go_with_a_record_to_subscribers_and_listeners(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER, DIARY, subscriptions=[to_diary("news")])
    await runtime.append(record(1), [progress("p1"), progress("p2")])
    await harness.watch.written("p1", "p2")
    assert harness.watch.texts("progress") == ["p1", "p2"]
    assert await values(runtime) == ["1"]


async def test_events_of_a_record_are_durable_once_it_was_awaited(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER, DIARY, subscriptions=[to_diary("news")])
    await runtime.append(record(1), [progress("p1")])
    assert await lines_after_crash(await harness.crash(runtime), 1) == ["p1"]


async def test_events_of_a_record_are_told_once_however_often_it_is_written(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER, DIARY, subscriptions=[to_diary("news")])
    heard: list[str] = []
    runtime.listen("news", lambda event: heard.append(event.id))
    for n, name in ((1, "p1"), (1, "p1"), (1, "other"), (2, "p2")):
        await runtime.append(record(n), [progress(name)])
    await harness.watch.written("p1", "p2")
    await runtime.call(diary(), "glance")
    assert heard == ["p1", "p2"]
    assert sorted(await lines_of(runtime)) == ["p1", "p2"]


async def test_events_of_a_record_are_told_before_those_of_later_turns(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER, DIARY)
    for n in range(20):
        _ = runtime.append(record(n, ref=diary()), [progress(f"{n} step")])
        await runtime.call(diary(), "write", {"text": f"{n} turn"})
    await harness.watch.written("19 turn")
    told = [event.payload["text"] for event in harness.watch.events.values()]
    assert told == [text for n in range(20) for text in (f"{n} step", f"{n} turn")]


async def test_a_large_record_comes_through_whole(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KEEPER)
    await runtime.append(record(1, "x" * 2**20))
    runtime = await harness.reopen(runtime)
    assert await values(runtime) == ["x" * 2**20]


async def test_no_record_behind_a_failed_commit_counts_as_durable(tmp_path: Path) -> None:
    database, goes_on = SqliteDatabase(tmp_path), threading.Event()
    runtime = Runtime(SqliteStore(database, EventLog(database)))
    runtime.register(KEEPER)
    await runtime.start()

    def fill_the_disk(session: Session) -> None:
        goes_on.wait()
        raise sqlite3.OperationalError("database or disk is full")

    filling = asyncio.create_task(database.write(fill_the_disk))
    await asyncio.sleep(0)  # the record below is behind it
    queued = []
    for number in (1, 2):  # the first is with the store, the second in the commit that is filled meanwhile
        queued.append(asyncio.ensure_future(runtime.append(record(number), [])))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    goes_on.set()
    outcomes = await asyncio.gather(filling, *queued, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreFailed] * 3
    await runtime.crash()
