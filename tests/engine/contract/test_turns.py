"""A turn is a unit of work: its state and its effects are committed together, or nothing is."""

import asyncio
import time

import pytest
from pydantic import BaseModel

from meshwright.core.errors import Conflict, InvalidInput, NotFound, StoreLocked
from meshwright.core.events import Event
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef, Message, Record
from meshwright.engine.kernel.turns import ActorKind
from tests.support.harness import RuntimeHarness
from tests.support.observer import Worker
from tests.support.sample_actors import DIARY, NO_JSON, SENDER, Round, diary, lines_of

SENDER_ONE = ActorRef("Sender", "one")


async def test_a_call_changes_the_state_and_returns_the_reply(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    first = await runtime.call(diary(), "write", {"text": "a"})
    second = await runtime.call(diary(), "write", {"text": "b"})
    assert (first.lines, second.lines) == (["a"], ["a", "b"])
    assert await lines_of(runtime) == ["a", "b"]


async def test_an_actor_that_never_had_a_turn_cannot_be_read(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    assert await runtime.read(diary()) is None


async def test_the_state_outlives_the_host(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    await runtime.call(diary(), "write", {"text": "a"})
    runtime = await harness.reopen(runtime)
    assert await lines_of(runtime) == ["a"]
    await runtime.call(diary(), "write", {"text": "b"})
    assert await lines_of(runtime) == ["a", "b"]


async def test_what_a_call_was_answered_outlives_a_crash_at_that_moment(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    calls = [asyncio.create_task(runtime.call(diary(), "write", {"text": str(n)})) for n in range(30)]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    answered = [call.result().lines[-1] for call in calls if call.done()]
    runtime = await harness.crash(runtime)
    assert set(answered) <= set(await lines_of(runtime))
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_turn_that_raises_changes_nothing_and_sends_nothing(harness: RuntimeHarness) -> None:
    worker = Worker()
    runtime = await harness.open(DIARY, worker=worker)
    await runtime.call(diary(), "write", {"text": "before"})
    with pytest.raises(Conflict):
        await runtime.call(diary(), "write_and_raise", {"text": "lost"})
    await runtime.call(diary(), "write", {"text": "after"})
    await harness.watch.written("before", "after")
    assert await lines_of(runtime) == ["before", "after"]
    assert harness.watch.texts() == ["before", "after"]
    assert await runtime.records(diary(), "lines") == []
    assert await runtime.read(diary("elsewhere")) is None
    assert worker.signals == []


async def test_a_turn_that_raises_leaves_nothing_for_after_a_restart(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    with pytest.raises(Conflict):
        await runtime.call(diary(), "write_and_raise", {"text": "lost"})
    runtime = await harness.reopen(runtime)
    await runtime.call(diary("marker"), "write", {"text": "marker"})
    assert await runtime.read(diary()) is None
    assert await runtime.read(diary("elsewhere")) is None


@pytest.mark.parametrize("how", NO_JSON)
@pytest.mark.parametrize("what", ["send", "publish", "append"])
async def test_a_turn_that_sends_what_is_no_json_changes_nothing(
    harness: RuntimeHarness, what: str, how: str
) -> None:
    runtime = await harness.open(DIARY, SENDER)
    with pytest.raises(InvalidInput):
        await runtime.call(SENDER_ONE, f"{what}_what_is_no_json", how)
    assert await runtime.call(SENDER_ONE, "send", Round(events=["news"])) == 1
    await harness.watch.until(lambda: bool(harness.watch.of("round.sent")))
    assert harness.watch.texts("round.sent") == ["news"]
    assert (await runtime.read(SENDER_ONE)).count == 1


@pytest.mark.parametrize("how", NO_JSON)
async def test_what_is_no_json_is_refused_at_the_door(harness: RuntimeHarness, how: str) -> None:
    runtime = await harness.open(DIARY)
    event = Event(id="e1", event_type="told", topic="any", time=runtime.clock.now(), payload=NO_JSON[how])
    with pytest.raises(InvalidInput):
        await runtime.send(Message("m1", diary(), "write", NO_JSON[how]))
    with pytest.raises(InvalidInput):
        await runtime.publish(event)
    with pytest.raises(InvalidInput):
        await runtime.append(Record(diary(), "lines", 1, NO_JSON[how]))
    with pytest.raises(InvalidInput):
        await runtime.append(Record(diary(), "lines", 2, {}), [event])
    with pytest.raises(InvalidInput):
        await runtime.call(diary(), "write", NO_JSON[how])
    await runtime.call(diary(), "write", {"text": "a"})
    assert await lines_of(runtime) == ["a"]
    assert await runtime.records(diary(), "lines") == []
    assert harness.watch.texts("told") == []


async def test_a_body_may_be_json_bytes_and_no_others(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    for body in (b"no json", b'{"text": "\xff"}', b'{"text": "cut'):
        with pytest.raises(InvalidInput):
            await runtime.send(Message("m1", diary(), "write", body))
        with pytest.raises(InvalidInput):
            await runtime.call(diary(), "write", body)
    await runtime.call(diary(), "write", b'{"text": "a"}')
    await runtime.send(Message("m2", diary(), "write", b'{"text": "b"}'))
    await harness.watch.written("a", "b")
    assert await lines_of(runtime) == ["a", "b"]


async def test_a_call_raises_what_its_turn_raises(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    with pytest.raises(Conflict, match="no room for this"):
        await runtime.call(diary(), "write_and_raise", {"text": "this"})
    with pytest.raises(ZeroDivisionError):
        await runtime.call(diary(), "divide_by_nothing")


async def test_a_call_that_does_not_fit_is_refused_and_names_the_field(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    with pytest.raises(InvalidInput) as refusal:
        await runtime.call(diary(), "write", {"text": ["no", "text"]})
    assert refusal.value.field == "text"
    with pytest.raises(InvalidInput, match="no turn named 'read'"):
        await runtime.call(diary(), "read")
    with pytest.raises(NotFound, match="Stranger"):
        await runtime.call(ActorRef("Stranger", "one"), "write", {"text": "a"})
    assert await runtime.read(diary()) is None


async def test_a_type_of_actor_is_registered_once(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    with pytest.raises(ValueError, match="Diary"):
        runtime.register(ActorKind.from_class(Slow, type="Diary"))


class Nothing(BaseModel):
    pass


class Slow(Actor[Nothing]):
    """Notes when each turn begins and ends, and takes its time in between."""

    def __init__(self, ref: ActorRef, notes: list[str]) -> None:
        super().__init__(ref)
        self.notes = notes

    @turn
    def work(self, turn: Turn) -> None:
        self.notes.append("begin")
        time.sleep(0.002)  # blocks on purpose: only another thread could get in between
        self.notes.append("end")


async def test_an_actor_has_one_turn_at_a_time(harness: RuntimeHarness) -> None:
    notes: list[str] = []
    runtime = await harness.open(ActorKind.from_class(Slow, notes=notes))
    await asyncio.gather(*[runtime.call(ActorRef("Slow", "one"), "work") for _ in range(20)])
    assert notes == ["begin", "end"] * 20


async def test_each_turn_sees_what_the_one_before_left(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    pages = await asyncio.gather(*[runtime.call(diary(), "write", {"text": str(n)}) for n in range(100)])
    assert sorted(len(page.lines) for page in pages) == list(range(1, 101))


async def test_two_workers_on_the_same_data_lose_no_update(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    await runtime.call(diary(), "write", {"text": "one"})
    if not harness.shares_data:
        with pytest.raises(StoreLocked):
            await harness.open_beside(runtime)
        return
    rival = await harness.open_beside(runtime)
    await rival.call(diary(), "write", {"text": "two"})
    await runtime.call(diary(), "write", {"text": "three"})
    await rival.call(diary(), "write", {"text": "four"})
    assert await lines_of(runtime) == await lines_of(rival) == ["one", "two", "three", "four"]


async def test_a_turn_that_only_looks_is_answered(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    assert await runtime.call(diary(), "glance") == 0
    await runtime.call(diary(), "write", {"text": "a"})
    assert await runtime.call(diary(), "glance") == 1


@pytest.mark.parametrize("text", ["x" * 2**20, "\x00 \u2028 ☃ \U0001f600 \"'\\"], ids=["large", "odd"])
async def test_text_of_any_sort_comes_through_whole(harness: RuntimeHarness, text: str) -> None:
    runtime = await harness.open(DIARY, SENDER)
    await runtime.call(SENDER_ONE, "send", Round(sends={"one": [text]}))
    await harness.watch.written(text)
    runtime = await harness.reopen(runtime)
    assert await lines_of(runtime) == [text]
    page = await runtime.call(diary(), "write", {"text": "last"})
    assert page.lines == [text, "last"]


async def test_a_thousand_actors_have_each_their_own_state(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    names = [f"n{n}" for n in range(1000)]
    await asyncio.gather(*[runtime.call(diary(name), "write", {"text": name}) for name in names])
    runtime = await harness.reopen(runtime)
    assert [await lines_of(runtime, name) for name in names] == [[name] for name in names]


async def test_what_an_actor_sent_is_numbered_without_a_gap(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY, SENDER)
    given = Round(sends={"one": ["a", "b"], "two": ["c"]}, events=["news", "weather"])
    rounds = [given, given.model_copy(update={"fail": True})] * 4
    await asyncio.gather(*[runtime.call(SENDER_ONE, "send", each) for each in rounds], return_exceptions=True)
    runtime = await harness.reopen(runtime)
    await runtime.call(SENDER_ONE, "send", Round(sends={"one": ["last"]}))
    await harness.watch.until(lambda: len(harness.watch.of("line.written")) == 13)
    pages = [await runtime.read(diary(name)) for name in ("one", "two")]
    ids = [event.id for event in harness.watch.of("round.sent")] + [
        name for page in pages for name in page.ids
    ]
    assert sorted(int(name.removeprefix("Sender/one/")) for name in ids) == list(range(1, 22))
