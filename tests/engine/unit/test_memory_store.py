"""The runtime in memory where it is stricter than others, and the faults that it brings about on request."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from meshwright.core.errors import HostError, InvalidInput, StoreFailed, StoreUnavailable
from meshwright.core.events import Event
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel import shared_executor
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef, Message
from meshwright.engine.kernel.guarantees import Subscription
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.store import Batch, Delivery
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.engine.stores.memory import DisturbedMail, Faults, InMemoryStore, MemoryData
from meshwright.testing.mesh import memory_runtime

ONE = ActorRef("Book", "one")


class Text(BaseModel):
    lines: list[str] = []
    incarnations: int = 0
    redrives: int = 0


class Book(Actor[Text]):
    @property
    def has_pending_work(self) -> bool:
        return bool(self.state.lines)

    @turn
    def write(self, turn: Turn, body: dict[str, Any]) -> Text:
        self.state.lines.append(body["text"])
        turn.publish("books", "line.written", {"text": body["text"]})
        turn.signal_after_commit(body["text"])
        return self.state

    @turn
    def answer_what_is_no_json(self, turn: Turn) -> object:
        self.state.lines.append("lost")
        return object()

    def recover(self, turn: Turn) -> None:
        self.state.incarnations += 1

    def redrive(self, turn: Turn) -> None:
        self.state.redrives += 1
        turn.publish("books", "book.redriven")


class Signals:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def signal(self, ref: ActorRef, signal: Any) -> None:
        self.taken.append(signal)

    def reserve(self, request: Any) -> None:
        return None

    def lease_lost(self) -> None:
        self.taken.append("lease_lost")


def new_host(**options: Any) -> Runtime:
    runtime = memory_runtime(**options)
    runtime.register(ActorKind.from_class(Book))
    return runtime


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    runtime = new_host()
    await runtime.start()
    yield runtime
    await runtime.stop()


async def lines_of(runtime: Runtime) -> list[str]:
    text = await runtime.read(ONE)
    return text.lines if isinstance(text, Text) else []


async def test_a_reply_is_the_callers_own(runtime: Runtime) -> None:
    text = await runtime.call(ONE, "write", {"text": "a"})
    text.lines.append("scribbled by the caller")
    await runtime.call(ONE, "write", {"text": "b"})
    assert await lines_of(runtime) == ["a", "b"]


async def test_a_reply_that_is_no_json_undoes_its_turn(runtime: Runtime) -> None:
    with pytest.raises(InvalidInput, match="a reply"):
        await runtime.call(ONE, "answer_what_is_no_json")
    assert await runtime.read(ONE) is None


class SlowLog:
    """A log that takes events when it is let."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_write = asyncio.Event()
        self.events: list[Event] = []
        self.failure: Exception | None = None

    async def append(self, events: Sequence[Event]) -> list[Event]:
        self.asked.set()
        await self.may_write.wait()
        if self.failure is not None:
            raise self.failure
        known = {event.id for event in self.events}
        new = [event for event in events if event.id not in known]
        self.events += new
        return new


async def test_nobody_is_told_before_the_log_has_the_event() -> None:
    log, signals, heard = SlowLog(), Signals(), list[Event]()
    runtime = new_host(log=log)
    runtime.attach(signals)
    runtime.listen("#", heard.append)
    await runtime.start()
    call = asyncio.create_task(runtime.call(ONE, "write", {"text": "a"}))
    await log.asked.wait()
    assert (heard, signals.taken, call.done()) == ([], [], False)
    log.may_write.set()
    await call
    assert [event.id for event in heard] == [event.id for event in log.events] == ["Book/one/1"]
    assert signals.taken == ["a"]
    await runtime.stop()


async def test_an_event_that_a_crash_kept_from_the_log_is_there_after_the_start() -> None:
    log = SlowLog()
    runtime = new_host(log=log)
    await runtime.start()
    call = asyncio.create_task(runtime.call(ONE, "write", {"text": "a"}))
    await log.asked.wait()
    await runtime.crash()
    with pytest.raises(HostError):
        await call
    assert log.events == []
    log.may_write.set()
    await runtime.start()
    assert [event.id for event in log.events] == ["Book/one/1"]
    await runtime.stop()


async def test_a_log_that_fails_stops_the_host_and_says_why() -> None:
    log = SlowLog()
    log.failure = StoreFailed("the disk is full")
    log.may_write.set()
    runtime = new_host(log=log)
    failures: list[StoreFailed] = []
    runtime.on_failure = failures.append
    await runtime.start()
    for text in ("a", "b"):
        with pytest.raises(StoreFailed, match="the disk is full"):
            await runtime.call(ONE, "write", {"text": text})
    assert failures == [log.failure]
    await runtime.stop()


async def test_what_a_publisher_who_gave_up_had_published_is_delivered() -> None:
    log = SlowLog()
    runtime = new_host(log=log)
    runtime.subscribe(Subscription("news", lambda event: ONE, "write"))
    await runtime.start()
    event = Event(id="e1", event_type="told", topic="news", time=runtime.clock.now(), payload={"text": "a"})
    publishing = asyncio.create_task(runtime.publish(event))
    await log.asked.wait()
    publishing.cancel()
    written = asyncio.Event()
    runtime.listen("books", lambda event: written.set())
    log.may_write.set()
    await written.wait()
    assert await lines_of(runtime) == ["a"]
    await runtime.stop()


async def test_the_event_log_numbers_what_listeners_hear() -> None:
    database = SqliteDatabase()
    log = EventLog(database)
    runtime = new_host(log=log, database=database)
    heard: list[Event] = []
    runtime.listen("#", heard.append)
    await runtime.start()
    for text in ("a", "b"):
        await runtime.call(ONE, "write", {"text": text})
    kept = await log.query(EventFilter())
    assert [(event.seq, event.payload["text"]) for event in heard] == [(1, "a"), (2, "b")]
    assert kept == heard
    await runtime.stop()


def mail_to_one(*pairs: str) -> list[Delivery]:
    return [Delivery(Message(f"m{n}", ONE, "write", None, pair), n) for n, pair in enumerate(pairs, start=1)]


def taken_from(mail: DisturbedMail, *, passes: int = 1000) -> list[str]:
    taken = [mail.take() for _ in range(passes)]
    return [delivery.message.id for delivery in taken if delivery is not None]


def filled(faults: Faults, *pairs: str) -> DisturbedMail:
    mail = DisturbedMail(faults)
    for delivery in mail_to_one(*pairs):
        mail.put(delivery)
    return mail


def test_without_faults_messages_arrive_once_and_in_order() -> None:
    assert taken_from(filled(Faults(), "a", "b", "a")) == ["m1", "m2", "m3"]


def test_duplicates_arrive_later() -> None:
    taken = taken_from(filled(Faults(duplicate=1.0), "a", "b", "c"))
    assert sorted(taken) == ["m1", "m1", "m2", "m2", "m3", "m3"]


def test_a_delayed_message_arrives_some_passes_later(seed: int) -> None:
    mail = filled(Faults(seed, delay=1.0, max_delay_passes=10), "a")
    taken = [mail.take() for _ in range(11)]
    assert taken[0] is None
    assert [delivery.message.id for delivery in taken if delivery is not None] == ["m1"]


def test_messages_of_different_pairs_overtake_one_another_and_those_of_one_never(seed: int) -> None:
    pairs = ["a", "b", "c", "d"] * 25
    taken = taken_from(filled(Faults(seed, reorder=0.5, delay=0.5), *pairs))
    assert taken != [f"m{n}" for n in range(1, 101)]
    for first in range(1, 5):
        own = [name for name in taken if int(name[1:]) % 4 == first % 4]
        assert own == [f"m{n}" for n in range(first, 101, 4)]


def test_the_same_seed_draws_the_same_chances(seed: int) -> None:
    def chances() -> list[object]:
        faults = Faults(seed, duplicate=0.5, delay=0.5, restart=0.5)
        return [(faults.duplicates(), faults.delay_passes(), faults.restarts()) for _ in range(50)]

    assert chances() == chances()


async def test_a_restart_by_chance_loses_signals_and_recovers_pending_work() -> None:
    signals, data = Signals(), MemoryData()
    runtime = new_host(faults=Faults(restart=1.0, max_restarts=1), data=data)
    runtime.attach(signals)
    await runtime.start()
    first = runtime.incarnation
    await runtime.call(ONE, "write", {"text": "a"})
    text = await runtime.call(ONE, "write", {"text": "b"})
    assert await runtime.has_expired(first)
    assert (text.lines, text.incarnations) == (["a", "b"], 1)
    assert signals.taken == ["b"]
    await runtime.stop()


async def test_what_is_lost_does_not_come_and_pending_work_is_redriven() -> None:
    runtime = new_host(faults=Faults(lose=1.0))
    runtime.subscribe(Subscription("news", lambda event: ONE, "write"))
    redriven = asyncio.Event()
    runtime.listen("books", lambda event: redriven.set() if event.event_type == "book.redriven" else None)
    await runtime.start()
    other = ActorRef("Book", "other")
    await runtime.call(other, "write", {"text": "a"})
    await runtime.publish(
        Event(id="e1", event_type="told", topic="news", time=runtime.clock.now(), payload={})
    )
    await redriven.wait()
    assert await runtime.read(ONE) is None
    assert (await runtime.call(other, "write", {"text": "b"})).redrives == 1
    await runtime.stop()


async def test_what_was_lost_before_a_start_is_redriven_after_it() -> None:
    data = MemoryData()
    before = new_host(data=data)
    await before.start()
    assert (await before.call(ONE, "write", {"text": "a"})).redrives == 0
    await before.crash()
    runtime = new_host(data=data, faults=Faults(lose=0.1))
    redriven = asyncio.Event()
    runtime.listen("books", lambda event: redriven.set() if event.event_type == "book.redriven" else None)
    await runtime.start()
    await redriven.wait()
    assert (await runtime.call(ONE, "write", {"text": "b"})).redrives == 1
    await runtime.stop()


class Unavailable(InMemoryStore):
    """Fails the first commits of turns."""

    failures = 2

    async def commit(self, batch: Batch) -> None:
        if batch.actors and self.failures:
            self.failures -= 1
            raise StoreUnavailable("not now")
        await super().commit(batch)


async def test_what_a_store_could_not_commit_is_tried_again_and_callers_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_executor, "RETRY_SECONDS", 0)
    runtime = Runtime(Unavailable())
    runtime.register(ActorKind.from_class(Book))
    await runtime.start()
    with pytest.raises(StoreUnavailable):
        await runtime.call(ONE, "write", {"text": "a"})
    written = asyncio.Event()
    runtime.listen("books", lambda event: written.set())
    await runtime.send(Message("m1", ONE, "write", {"text": "b"}))
    await written.wait()
    assert await lines_of(runtime) == ["b"]
    await runtime.stop()
