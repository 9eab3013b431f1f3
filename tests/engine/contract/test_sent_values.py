"""Sent values are copies: a later change of an object does not show in them."""

import asyncio
from pathlib import Path

from pydantic import BaseModel

from meshwright.core.events import Event
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef, Message, Record
from meshwright.engine.kernel.guarantees import Subscription
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.engine.stores.sqlite import SqliteStore
from tests.support.harness import RuntimeHarness

SPEAKER, HEARER, READER = (ActorRef(kind, "one") for kind in ("Speaker", "Hearer", "Hearer"))
SUBSCRIBER = ActorRef("Hearer", "subscriber")
GROWING = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]


class Items(BaseModel):
    items: list[int] = []


class Speaker(Actor[Items]):
    """Says in each turn what it holds, by the one list that it holds, and changes that afterwards."""

    @turn
    def say(self, turn: Turn) -> None:
        self.state.items.append(len(self.state.items))
        turn.publish("items", "items.said", self.state.items)
        turn.send(HEARER, "hear", self.state.items)
        turn.append("items", len(self.state.items), self.state.items)
        self.state.items.append(-1)
        self.state.items.pop()


class Heard(BaseModel):
    heard: list[list[int]] = []


class Hearer(Actor[Heard]):
    """Keeps what it is given, and changes the object that it was given."""

    @turn
    def hear(self, turn: Turn, items: list[int]) -> None:
        self.state.heard.append(list(items))
        items.append(99)


KINDS = (ActorKind.from_class(Speaker), ActorKind.from_class(Hearer))
TO_SUBSCRIBER = Subscription("items", lambda event: SUBSCRIBER, "hear")


def spoil(event: Event) -> None:
    """Listen, and change what was heard."""
    if event.event_type == "items.said":
        event.payload.append(99)


async def heard_by(runtime: object, ref: ActorRef) -> list[list[int]]:
    state = await runtime.read(ref)  # type: ignore[attr-defined]
    return state.heard if isinstance(state, Heard) else []


async def test_what_an_actor_says_of_its_state_is_what_it_was_then(harness: RuntimeHarness) -> None:
    runtime = await harness.open(*KINDS, subscriptions=[TO_SUBSCRIBER])
    runtime.listen("items", spoil)
    await asyncio.gather(*(runtime.call(SPEAKER, "say") for _ in range(5)))
    await harness.watch.until(lambda: len(harness.watch.of("items.said")) == 5)
    assert [event.payload for event in harness.watch.of("items.said")] == GROWING
    assert [record.value for record in await runtime.records(SPEAKER, "items")] == GROWING
    for ref in (HEARER, SUBSCRIBER):
        while len(await heard_by(runtime, ref)) < 5:
            await runtime.call(ref, "recover")
        assert await heard_by(runtime, ref) == GROWING


async def test_a_listener_is_shown_the_types_that_it_names(harness: RuntimeHarness) -> None:
    runtime = await harness.open(*KINDS)
    said: list[str] = []
    runtime.listen("#", lambda event: said.append(event.event_type), ("items.said", "other"))
    runtime.listen("#", lambda event: said.append("unwanted"), ("other",))
    await runtime.call(SPEAKER, "say")
    await harness.watch.until(lambda: bool(harness.watch.of("items.said")))
    assert set(said) == {"items.said"}


async def test_what_comes_from_outside_is_taken_as_it_was(harness: RuntimeHarness) -> None:
    runtime = await harness.open(*KINDS, subscriptions=[TO_SUBSCRIBER])
    items, now = [0], runtime.clock.now()
    event = Event(id="told/1", event_type="items.said", topic="items", time=now, payload=items)
    emitted = event.model_copy(update={"id": "told/2"})
    appended = event.model_copy(update={"id": "told/3"})
    begun = [
        asyncio.ensure_future(runtime.send(Message("m1", HEARER, "hear", items))),
        asyncio.ensure_future(runtime.publish(event)),
    ]
    awaited = [runtime.emit([emitted]), runtime.append(Record(SPEAKER, "items", 1, items), [appended])]
    await asyncio.sleep(0)  # both have begun
    items.append(1)
    await asyncio.gather(*begun, *awaited)
    await harness.watch.until(lambda: len(harness.watch.of("items.said")) == 3)
    assert [event.payload for event in harness.watch.of("items.said")] == [[0]] * 3
    assert [record.value for record in await runtime.records(SPEAKER, "items")] == [[0]]
    while not await heard_by(runtime, HEARER):
        await runtime.call(HEARER, "recover")
    assert await heard_by(runtime, HEARER) == [[0]]


async def test_the_log_holds_what_was_said_whatever_listeners_do_with_it(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path)
    log = EventLog(database)
    runtime = Runtime(SqliteStore(database, log))
    for kind in KINDS:
        runtime.register(kind)
    runtime.subscribe(TO_SUBSCRIBER)
    runtime.listen("items", spoil)
    await runtime.start()
    await asyncio.gather(*(runtime.call(SPEAKER, "say") for _ in range(5)))
    said = await log.query(EventFilter(event_type="items.said"))
    assert [event.payload for event in said] == GROWING
    await runtime.stop()
