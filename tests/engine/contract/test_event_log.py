"""The log of events: what is found in it, and what is kept of it."""

import asyncio
import random
import sqlite3
from datetime import UTC, datetime, timedelta
from importlib import resources
from itertools import count
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from meshwright.core.errors import Conflict
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.engine.events.filter import EventFilter, Matcher
from meshwright.engine.sql.database import Session
from meshwright.engine.sql.migrations import migration_steps
from meshwright.engine.sql.sqlite import SqliteDatabase
from tests.support.event_logs import START, LogOnFile, database_at, event, open_log, seqs
from tests.support.postgres import Location

BLOCK = 2048


class MovedClock:
    """Time stands until the test moves it."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    async def sleep_until(self, when: datetime) -> None:
        raise AssertionError("the log does not sleep")


class Note(BaseModel):
    text: str


async def test_an_event_comes_back_as_it_was(store: LogOnFile) -> None:
    written = Event(
        id="Diary/one/7",
        event_type="line.written",
        event_version=3,
        topic="diary",
        time=datetime(2030, 5, 6, 7, 8, 9, 123_456, tzinfo=UTC),
        tenant_id="acme",
        task_id="t1",
        agent_id="writer",
        trace_id="0" * 31 + "1",
        traceparent="00-00000000000000000000000000000001-0000000000000002-01",
        aggregate_id="Diary/one",
        idempotency_key="k1",
        payload={"text": "naïve ☃", "list": [1, 2.5, None, True], "nested": {"a": {}}},
    )
    written = Event.model_validate({**written.model_dump(), "from_the_future": {"kept": [1]}})
    await store.write([written])
    [read] = await store.log.query(EventFilter())
    assert read == written
    assert read.seq == 1
    assert read.model_dump(mode="json")["from_the_future"] == {"kept": [1]}


@pytest.mark.parametrize("event_id", ["delivery-77", "Diary/one", "Diary/two/7", "", "Diary/one/7/8/9"])
async def test_an_id_of_any_form_comes_back(store: LogOnFile, event_id: str) -> None:
    await store.write([event(1, id=event_id)])
    assert [each.id for each in await store.log.query(EventFilter())] == [event_id]
    assert await store.log.knows(event_id)
    assert not await store.log.knows(event_id + "x")


async def test_a_time_without_a_zone_counts_as_utc(store: LogOnFile) -> None:
    await store.write([event(1, time=datetime(2030, 1, 1, 12))])  # noqa: DTZ001 - the point
    [read] = await store.log.query(EventFilter())
    assert read.time == datetime(2030, 1, 1, 12, tzinfo=UTC)


async def test_payloads_of_models_come_back_as_plain_data(store: LogOnFile) -> None:
    await store.write([event(1, payload=Note(text="hello")), event(2, payload={"note": Note(text="hello")})])
    read = await store.log.query(EventFilter())
    assert [each.payload for each in read] == [{"text": "hello"}, {"note": {"text": "hello"}}]


async def test_numbers_follow_the_order_of_commit_without_gaps(store: LogOnFile) -> None:
    written = await asyncio.gather(*(store.write([event(n), event(n + 1)]) for n in range(0, 100, 2)))
    assert [seq for events in written for seq in seqs(events)] == list(range(1, 101))
    assert await store.log.last_seq() == 100


async def test_numbers_go_on_after_a_restart(location: Location) -> None:
    async with open_log(location) as first:
        await first.write([event(n) for n in range(3)])
    async with open_log(location) as second:
        assert await second.log.last_seq() == 3
        assert seqs(await second.write([event(4)])) == [4]


async def test_events_of_before_a_restart_are_found_by_their_keys(location: Location) -> None:
    for run in range(4):  # the second and the fourth fill a block that another began
        async with open_log(location) as store:
            await store.write([event(n, task_id=f"task-{run}-{n % 500}") for n in range(BLOCK // 2 + 10)])
    async with open_log(location) as store:
        for run in range(4):
            found = await store.log.query(EventFilter(task_id=f"task-{run}-7"))
            assert [each.payload["number"] for each in found] == [7, 507, 1007]


def many(rng: random.Random, number: int) -> list[Event]:
    """Events whose fields take few values, in all combinations, and whose times are somewhat out of order."""
    return [
        event(
            n,
            rng.choice(["a.b", "c.d", f"rare.{n // 1500}"]),
            event_version=rng.choice([1, 2]),
            topic=rng.choice(["x", "y"]),
            time=START + timedelta(seconds=n + rng.randrange(-300, 300)),
            tenant_id=rng.choice(["default", "acme"]),
            task_id=rng.choice([None, f"task-{n // 20}"]),
            agent_id=rng.choice([None, "one", "two"]),
            trace_id=rng.choice([None, f"{n // 30:032x}"]),
            aggregate_id=rng.choice(["Diary/one", f"Diary/{n // 50}"]),
            idempotency_key=rng.choice([None, f"key-{n // 10}"]),
        )
        for n in range(number)
    ]


def some_filter(rng: random.Random, events: list[Event]) -> EventFilter:
    model = rng.choice(events)
    exact = rng.sample(
        [
            *("trace_id", "task_id", "agent_id", "event_type", "event_version"),
            *("aggregate_id", "idempotency_key", "topic", "tenant_id"),
        ],
        k=rng.randrange(4),
    )
    fields: dict[str, Any] = {name: getattr(model, name) for name in exact}
    if rng.random() < 0.3:
        fields |= {"since": model.time, "until": model.time + timedelta(seconds=rng.randrange(2000))}
    if rng.random() < 0.3:
        fields |= {"after_seq": rng.randrange(6000)}
    if rng.random() < 0.3:
        fields |= {"before_seq": rng.randrange(6000)}
    return EventFilter(**fields, limit=rng.choice([1, 50, 1000]), order=rng.choice(["asc", "desc"]))


async def test_a_query_finds_what_a_look_at_every_event_finds(store: LogOnFile, rng: random.Random) -> None:
    events = many(rng, 3 * BLOCK + 500)
    for start in range(0, len(events), 300):
        await store.write(events[start : start + 300])
    for _ in range(150):
        wanted = some_filter(rng, events)
        matches = Matcher(wanted)
        expected = [each for each in events if matches(each) and (each.seq or 0) > (wanted.after_seq or 0)]
        if wanted.order == "desc":
            expected.reverse()
        assert seqs(await store.log.query(wanted)) == seqs(expected[: wanted.limit]), wanted


async def test_pages_by_seq_add_up_to_the_whole(store: LogOnFile) -> None:
    await store.write([event(n) for n in range(25)])
    pages, position = [], 0
    while page := await store.log.query(EventFilter(after_seq=position, limit=10)):
        pages.append(seqs(page))
        position = page[-1].seq or 0
    assert pages == [[*range(1, 11)], [*range(11, 21)], [*range(21, 26)]]


async def test_the_story_of_an_aggregate_is_replayed_from_a_number(store: LogOnFile) -> None:
    mine = [event(n, aggregate_id="Diary/mine") for n in range(6)]
    others = (event(n, aggregate_id=f"Diary/{n}") for n in count(100))
    for each in mine:
        await store.write([each, *(next(others) for _ in range(1000))])
    wanted = EventFilter(aggregate_id="Diary/mine", after_seq=mine[1].seq, limit=1)
    story = [each async for each in store.log.replay(wanted)]
    assert [each.payload["number"] for each in story] == [2, 3, 4, 5]


async def test_a_replay_ends_where_the_log_ended_when_it_began(store: LogOnFile) -> None:
    await store.write([event(1), event(2)])
    seen = []
    async for each in store.log.replay(EventFilter()):
        seen.append(each.seq)
        await store.write([event(100 + len(seen))])
    assert seen == [1, 2]


@pytest.mark.parametrize(
    "wrong", [{"limit": 0}, {"limit": 1001}, {"after_seq": -1}, {"order": "up"}, {"colour": "red"}]
)
def test_a_filter_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EventFilter(**wrong)


# Events from outside


async def test_an_event_from_outside_is_taken_once(store: LogOnFile) -> None:
    first = await store.log.append([event(1), event(2), event(1)])
    again = await store.log.append([event(2), event(3)])
    assert [each.id for each in first + again] == ["Diary/one/1", "Diary/one/2", "Diary/one/3"]
    assert seqs(await store.log.query(EventFilter())) == [1, 2, 3]


async def test_an_id_is_still_known_after_a_restart(location: Location) -> None:
    async with open_log(location) as before:
        await before.log.append([event(1)])
    async with open_log(location) as after:
        assert await after.log.append([event(1)]) == []
        assert await after.log.knows("Diary/one/1")


async def test_a_repeat_among_the_events_of_turns_is_left_out_and_not_shown(store: LogOnFile) -> None:
    letter = {"id": "dead/letter", "aggregate_id": "Diary/one"}
    assert len(await store.write([event(1, **letter), event(2, **letter), event(3)])) == 2
    assert await store.write([event(4, **letter)]) == []
    assert seqs(await store.write([event(5)])) == [3]


async def test_one_who_gives_up_waiting_loses_no_event(store: LogOnFile) -> None:
    tail = store.log.tail(EventFilter())
    following = asyncio.ensure_future(anext(tail))
    appending = asyncio.ensure_future(store.log.append([event(1)]))
    await asyncio.sleep(0)
    appending.cancel()
    assert (await following).seq == 1
    await tail.aclose()


# Upkeep


async def test_a_log_that_keeps_a_day_deletes_what_is_older(location: Location) -> None:
    clock = MovedClock()
    async with open_log(location, clock) as store:
        await store.write([event(n) for n in range(BLOCK)])
    clock.time += timedelta(days=2)
    async with open_log(location, clock, keep_days=1) as store:
        await store.write([event(n) for n in range(BLOCK, BLOCK + 5)])
        while seqs(await store.log.query(EventFilter(limit=1))) == [1]:
            await asyncio.sleep(0.01)
        assert seqs(await store.log.query(EventFilter())) == [*range(BLOCK, BLOCK + 7)]  # one says so


async def test_an_upgrade_indexes_the_blocks_that_a_store_has_and_pruning_forgets_them(
    location: Location,
) -> None:
    def migrated(session: Session) -> None:
        session.execute("DROP INDEX event_blocks_by_time")
        session.execute("DROP TABLE event_keys")
        folder = resources.files("meshwright.engine.sql.migrations")
        for statement in migration_steps(folder, session.dialect)[27].split(";\n"):
            session.execute(statement)

    keys = "SELECT key, block FROM event_keys ORDER BY block, key"
    async with open_log(location) as store:
        long = "x" * 300
        for start in range(0, 3 * BLOCK, 512):
            some = [event(n, f"type.{n // 1000}", agent_id=long) for n in range(start, start + 512)]
            await store.write(some)
        written = await store.rows(keys)
        database = database_at(location)
    await database.open()
    await database.write(migrated)
    await database.close()
    async with open_log(location) as store:
        assert await store.rows(keys) == written
        assert {(key, block) for key, block in written if "type.3" in key} == {("event_type=type.3", 1)}
        await store.log.prune(max_events=2 * BLOCK)
        assert await store.rows(keys) == [(key, block) for key, block in written if block > 0]


async def test_the_newest_events_survive_pruning_and_their_numbers_go_on(location: Location) -> None:
    async with open_log(location) as store:
        for start in range(0, 3 * BLOCK, 512):
            await store.write([event(n, task_id=f"t{n}") for n in range(start, start + 512)])
        assert await store.log.prune(max_events=BLOCK + 10) == BLOCK - 1
        assert seqs(await store.log.query(EventFilter(limit=1))) == [BLOCK]
        assert await store.log.query(EventFilter(task_id="t0")) == []
        assert await store.rows("SELECT count(*) FROM event_blocks WHERE block = 0") == [(0,)]
        assert seqs([line async for line in store.log.replay(EventFilter())]) == [
            *range(BLOCK, 3 * BLOCK + 2)
        ]
        await store.log.prune(max_events=0)
        newest = await store.log.query(EventFilter(order="desc", limit=1, event_type="line.written"))
        assert seqs(newest) == [3 * BLOCK]
        last = await store.log.last_seq()
    async with open_log(location) as store:
        assert seqs(await store.write([event(1)])) == [last + 1]
        assert seqs(await store.log.query(EventFilter(task_id=newest[0].task_id))) == [3 * BLOCK]


async def test_what_was_written_long_ago_is_pruned_whatever_time_it_names(location: Location) -> None:
    clock = MovedClock()
    async with open_log(location, clock) as store:
        await store.write([event(n, time=START + timedelta(days=1000)) for n in range(BLOCK)])
        clock.time += timedelta(hours=2)
        await store.write([event(n, time=START - timedelta(days=1000)) for n in range(BLOCK)])
        assert await store.log.prune(keep_seconds=3 * 3600) == 0
        assert await store.log.prune(keep_seconds=3600) == BLOCK - 1
        assert await store.log.prune(keep_seconds=3600) == 0
        assert await store.log.prune() == 0


@pytest.mark.parametrize("location", ["sqlite"], indirect=True)
async def test_no_reader_holds_back_the_write_ahead_log(store: LogOnFile) -> None:
    assert isinstance(store.database, SqliteDatabase)
    await store.write([event(n) for n in range(3000)])
    tail = store.log.tail(EventFilter(after_seq=0))
    for _ in range(700):
        await anext(tail)
    replay = store.log.replay(EventFilter())
    await anext(replay)
    await store.log.query(EventFilter(event_type="nothing.such"))
    other = sqlite3.connect(store.database.path)
    assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    other.close()
    await tail.aclose()
    await replay.aclose()


async def test_a_random_key_is_found_among_many(store: LogOnFile, rng: random.Random) -> None:
    events = [event(n, trace_id=f"{rng.getrandbits(128):032x}", task_id=new_id()) for n in range(2 * BLOCK)]
    await store.write(events)
    for wanted in rng.sample(events, 20):
        assert await store.log.query(EventFilter(trace_id=wanted.trace_id)) == [wanted]


def note(session: Session, name: str, is_wrong: bool = False) -> tuple[list[str], list[Event]]:
    session.execute("CREATE TABLE IF NOT EXISTS notes (name TEXT)")
    session.insert("notes (name)", [(name,)])
    if is_wrong:
        raise Conflict("There is another note", field="name")
    names = [row[0] for row in session.execute("SELECT name FROM notes ORDER BY name").fetchall()]
    return names, [event(0, id=name, event_type="note.made", payload={"name": name})]


async def test_rows_and_the_events_that_tell_of_them_are_written_together(store: LogOnFile) -> None:
    [before] = await store.write([event(1)])
    names, [made] = await store.log.write(note, "a")
    assert (names, made.seq, made.fields) == (["a"], (before.seq or 0) + 1, {"name": "a"})
    with pytest.raises(Conflict, match="There is another note"):
        await store.log.write(note, "b", is_wrong=True)
    names, _ = await store.log.write(note, "c")
    assert names == ["a", "c"]
    logged = await store.log.query(EventFilter(event_type="note.made"))
    assert [found.payload for found in logged] == [{"name": "a"}, {"name": "c"}]


def _list_numbered(session: Session, names: list[str]) -> list[str]:
    session.execute("CREATE TABLE IF NOT EXISTS numbered (n INTEGER, name TEXT)")
    session.insert("numbered (n, name)", list(enumerate(names)))
    return [name for (name,) in session.execute("SELECT name FROM numbered ORDER BY n").fetchall()]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 21])
async def test_each_row_of_a_list_is_inserted_once(store: LogOnFile, count: int) -> None:
    names = [f"half \ud800 of {n}" if n % 5 == 2 else f"name {n}" for n in range(count)]
    mended = [name.replace("\ud800", "?") for name in names]
    assert await store.database.write(_list_numbered, names) == mended
