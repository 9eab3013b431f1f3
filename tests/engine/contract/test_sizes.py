"""No record is stored that has more bytes than it may, whatever made it large; and nothing hangs by it."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from meshwright.core.errors import TooLarge
from meshwright.core.events import Event
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef, Message, Record
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from tests.support.harness import RuntimeHarness
from tests.support.sample_actors import DIARY, diary, lines_of
from tests.support.work_scripts import one_step
from tests.support.worker_pool import Shift, StartWorkers

LIMIT = 20_000
LARGE = "x" * (LIMIT + 1)
HUGE = "x" * 5_000_000  # over the default limit
HOARDER = ActorRef("Hoarder", "one")


class Hoard(BaseModel):
    items: list[str] = []


class Hoarder(Actor[Hoard]):
    """Does something large in each of its turns, and remembers which."""

    @turn
    def keep(self, turn: Turn, text: str) -> None:
        self.state.items.append(text)

    @turn
    def send(self, turn: Turn, text: str) -> None:
        self.state.items.append("send")
        turn.send(diary(), "write", {"text": text})

    @turn
    def publish(self, turn: Turn, text: str) -> None:
        self.state.items.append("publish")
        turn.publish("any", "any", {"text": text})

    @turn
    def publish_under_a_long_key(self, turn: Turn, text: str) -> None:
        self.state.items.append("publish")
        turn.publish("any", "any", idempotency_key=text)

    @turn
    def append(self, turn: Turn, text: str) -> None:
        self.state.items.append("append")
        turn.append("texts", 1, text)


KIND = ActorKind.from_class(Hoarder)


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("keep", "the state of Hoarder/one"),
        ("send", "the message 'write' to Diary/one"),
        ("publish", "the event 'any'"),
        ("publish_under_a_long_key", "the event 'any'"),
        ("append", "the record texts/1"),
    ],
)
async def test_a_turn_that_makes_a_record_too_large_changes_nothing(
    harness: RuntimeHarness, method: str, what: str
) -> None:
    runtime = await harness.open(KIND, DIARY, max_record_bytes=LIMIT)
    await runtime.call(HOARDER, "keep", "before")
    with pytest.raises(TooLarge, match=what) as refused:
        await runtime.call(HOARDER, method, LARGE)
    assert refused.value.status == 413
    await runtime.call(HOARDER, "keep", "after")
    state = await runtime.read(HOARDER)
    assert isinstance(state, Hoard)
    assert state.items == ["before", "after"]
    assert await runtime.records(HOARDER, "texts") == []
    assert await lines_of(runtime) == []


async def test_states_grow_up_to_the_limit(harness: RuntimeHarness) -> None:
    runtime = await harness.open(KIND, max_record_bytes=LIMIT)
    for _ in range(9):
        await runtime.call(HOARDER, "keep", "x" * 2_000)
    with pytest.raises(TooLarge, match="20,0"):
        await runtime.call(HOARDER, "keep", "x" * 2_000)


def an_event(runtime: Runtime, **fields: Any) -> Event:
    given = {"id": "e1", "event_type": "told", "topic": "any", "time": runtime.clock.now(), "payload": {}}
    return Event.model_validate(given | fields)


@pytest.mark.parametrize(
    "take",
    [
        lambda runtime: runtime.send(Message("m1", diary(), "write", {"text": LARGE})),
        lambda runtime: runtime.send(Message(LARGE, diary(), "write", {"text": "a"})),
        lambda runtime: runtime.publish(an_event(runtime, payload={"text": LARGE})),
        lambda runtime: runtime.publish(an_event(runtime, another_field=LARGE)),
        lambda runtime: runtime.emit([an_event(runtime, payload={"text": LARGE})]),
        lambda runtime: runtime.append(Record(diary(), "lines", 1, LARGE)),
        lambda runtime: runtime.append(Record(diary(), "lines", 1, "a"), [an_event(runtime, payload=LARGE)]),
    ],
    ids=["message", "message id", "event", "extra field", "emitted event", "record", "event of a record"],
)
async def test_what_comes_from_outside_is_refused_where_it_is_too_large(
    harness: RuntimeHarness, take: Callable[[Runtime], Any]
) -> None:
    runtime = await harness.open(DIARY, max_record_bytes=LIMIT)
    with pytest.raises(TooLarge, match=r"2\d,\d{3} bytes, and 20,000 are allowed"):
        await take(runtime)
    await runtime.call(diary(), "write", {"text": "a"})
    assert await lines_of(runtime) == ["a"]
    assert await runtime.records(diary(), "lines") == []
    assert harness.watch.of("told") == []


async def test_a_message_that_makes_its_actor_too_large_becomes_a_dead_letter(
    harness: RuntimeHarness,
) -> None:
    runtime = await harness.open(DIARY, max_record_bytes=LIMIT)
    for n in range(3):
        await runtime.send(Message(f"m{n}", diary(), "write", {"text": "x" * 9_000}))
    await runtime.send(Message("last", diary(), "write", {"text": "last"}))
    await harness.watch.written("last")
    [letter] = await harness.watch.dead_letters()
    assert letter.payload["message"]["id"] in {"m0", "m1", "m2"}  # whichever came last
    assert letter.payload["error"]["type"] == "TooLarge"
    assert len(await lines_of(runtime)) == 3


async def test_a_dead_letter_quotes_only_the_beginning_of_a_large_message(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    await runtime.send(Message("m1", diary(), "divide_by_nothing", {"text": "x" * 1_000_000}))
    [letter] = await harness.watch.dead_letters()
    assert letter.payload["message"]["body"]["bytes"] > 1_000_000
    assert letter.payload["message"]["body"]["begins"].startswith('{"text":"xxx')
    assert letter.size < 5_000


async def test_a_result_that_is_too_large_fails_its_task_once(start_workers: StartWorkers) -> None:
    async def script(shift: Shift) -> str:
        await shift.do("work")
        return HUGE

    pool = await start_workers(script)
    await pool.submit("t1")
    outcome = await pool.outcome("t1")
    assert outcome.error is not None
    assert (outcome.status, outcome.error.type) == ("failed", "TooLarge")
    assert "the outcome of task t1 has 5,000," in outcome.error.message
    assert len(pool.events("attempt.ended", "t1")) == 1
    assert pool.begun.count("t1 work") == 1
    assert await pool.inbox("t1") == []


async def test_a_step_that_is_too_large_fails_its_task_once(start_workers: StartWorkers) -> None:
    async def script(shift: Shift) -> str:
        async def run() -> str:
            shift.pool.begun.append("large")
            return HUGE

        return await shift.journal.step("large", {}, run)

    pool = await start_workers(script)
    await pool.submit("t1")
    outcome = await pool.outcome("t1")
    assert outcome.error is not None
    assert (outcome.status, outcome.error.type) == ("failed", "TooLarge")
    assert len(pool.events("attempt.ended", "t1")) == 1
    assert pool.begun == ["large"]


async def test_a_question_that_is_too_large_fails_its_task_once(start_workers: StartWorkers) -> None:
    async def script(shift: Shift) -> str:
        if shift.task_id == "next":
            return await one_step(shift)
        return await shift.ask(HUGE)

    pool = await start_workers(script)
    await pool.submit("t1", thread_id="thread")
    outcome = await pool.outcome("t1")
    assert outcome.error is not None
    assert (outcome.status, outcome.error.type) == ("failed", "TooLarge")
    await pool.submit("next", thread_id="thread")
    assert (await pool.outcome("next")).success


async def test_large_results_of_a_thread_do_not_add_up(start_workers: StartWorkers) -> None:
    async def script(shift: Shift) -> str:
        return "x" * 1_500_000

    pool = await start_workers(script)
    for n in range(6):
        await pool.submit(f"t{n}", thread_id="thread")
        assert (await pool.outcome(f"t{n}")).success
