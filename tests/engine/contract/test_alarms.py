"""An alarm fires at its time and not before, whatever happened to the host in between."""

import asyncio
from datetime import datetime, timedelta

import pytest
from pydantic import BaseModel

from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef, Message
from meshwright.engine.kernel.timers import Timers
from meshwright.engine.kernel.turns import ActorKind
from meshwright.testing import ManualClock
from tests.support.harness import RuntimeHarness

ONE = ActorRef("Sleeper", "one")


class Night(BaseModel):
    log: list[str] = []
    woken_at: list[datetime] = []
    every_seconds: float = 0
    fail: bool = False


class Set(BaseModel):
    seconds: float
    every_seconds: float = 0
    fail: bool = False


class Sleeper(Actor[Night]):
    @turn
    def set(self, turn: Turn, alarm: Set) -> None:
        self.state.log.append("set")
        self.state.every_seconds = alarm.every_seconds
        self.state.fail = alarm.fail
        turn.wake_at(turn.now + timedelta(seconds=alarm.seconds))

    @turn
    def clear(self, turn: Turn) -> None:
        self.state.log.append("clear")
        turn.wake_at(None)

    @turn
    def speak(self, turn: Turn) -> Night:
        self.state.log.append("speak")
        return self.state.model_copy(deep=True)

    def wake(self, turn: Turn) -> None:
        if self.state.fail:
            raise RuntimeError("cannot wake")
        self.state.log.append("wake")
        self.state.woken_at.append(turn.now)
        turn.publish("sleepers", "sleeper.woke", {"text": str(len(self.state.woken_at))})
        if self.state.every_seconds:
            turn.wake_at(turn.now + timedelta(seconds=self.state.every_seconds))


SLEEPER = ActorKind.from_class(Sleeper)


async def test_an_alarm_fires_at_its_time_and_once(harness: RuntimeHarness, clock: ManualClock) -> None:
    runtime = await harness.open(SLEEPER, clock=clock)
    await runtime.call(ONE, "set", Set(seconds=60))
    await clock.advance(59)
    assert (await runtime.call(ONE, "speak")).log == ["set", "speak"]
    await clock.advance(1)
    await woken(harness, 1)
    await clock.advance(600)
    assert (await runtime.call(ONE, "speak")).log == ["set", "speak", "wake", "speak"]


@pytest.mark.parametrize(
    "harness", ["memory", "embedded"], indirect=True
)  # these take up mailboxes as they start
async def test_an_alarm_that_is_set_while_the_host_starts_fires_at_its_time(
    harness: RuntimeHarness, clock: ManualClock
) -> None:
    runtime = await harness.open(SLEEPER, clock=clock)
    sleepers = [
        ActorRef("Sleeper", f"s{n}") for n in range(600)
    ]  # more than are taken while the first are written
    sends = [
        asyncio.create_task(runtime.send(Message(f"m/{ref.id}", ref, "set", Set(seconds=5))))
        for ref in sleepers
    ]
    await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED)
    runtime = await harness.crash(runtime)
    await asyncio.gather(*sends, return_exceptions=True)
    await runtime.call(ActorRef("Sleeper", "last"), "speak")  # behind those that were left
    was_set = [ref for ref in sleepers if await runtime.read(ref) is not None]
    await clock.advance(5)
    await harness.watch.until(
        lambda: (
            {str(ref) for ref in was_set}
            <= {event.aggregate_id for event in harness.watch.of("sleeper.woke")}
        )
    )


@pytest.mark.parametrize("how", ["reopen", "crash"])
async def test_an_alarm_outlives_its_host(harness: RuntimeHarness, clock: ManualClock, how: str) -> None:
    runtime = await harness.open(SLEEPER, clock=clock)
    await runtime.call(ONE, "set", Set(seconds=60))
    await clock.advance(30)
    runtime = await getattr(harness, how)(runtime)
    await clock.advance(29)
    assert (await runtime.call(ONE, "speak")).woken_at == []
    await clock.advance(1)
    await woken(harness, 1)


async def test_an_alarm_that_fell_due_while_no_host_ran_fires_at_the_start(
    harness: RuntimeHarness, clock: ManualClock
) -> None:
    runtime = await harness.open(SLEEPER, clock=clock)
    await runtime.call(ONE, "set", Set(seconds=60))
    snapshot = harness.snapshot(runtime)
    await runtime.stop()
    await clock.advance(3600)
    assert harness.watch.of("sleeper.woke") == []
    await harness.open_snapshot(runtime, snapshot)
    await woken(harness, 1)


async def test_an_alarm_already_due_fires_at_once(harness: RuntimeHarness, clock: ManualClock) -> None:
    runtime = await harness.open(SLEEPER, clock=clock)
    await runtime.call(ONE, "set", Set(seconds=-5))
    await woken(harness, 1)


async def test_an_alarm_moved_later_does_not_fire_at_its_first_time(
    harness: RuntimeHarness, clock: ManualClock
) -> None:
    runtime = await harness.open(SLEEPER, clock=clock)
    await runtime.call(ONE, "set", Set(seconds=60))
    await clock.advance(50)
    await runtime.call(ONE, "set", Set(seconds=60))
    await clock.advance(59)
    assert (await runtime.call(ONE, "speak")).woken_at == []
    await clock.advance(1)
    await woken(harness, 1)


async def test_an_alarm_moved_earlier_fires_then_and_not_again(
    harness: RuntimeHarness, clock: ManualClock
) -> None:
    runtime = await harness.open(SLEEPER, clock=clock)
    await runtime.call(ONE, "set", Set(seconds=600))
    await runtime.call(ONE, "set", Set(seconds=10))
    await clock.advance(10)
    await woken(harness, 1)
    await clock.advance(1200)
    assert len((await runtime.call(ONE, "speak")).woken_at) == 1


async def test_a_cleared_alarm_does_not_fire_even_after_a_restart(
    harness: RuntimeHarness, clock: ManualClock
) -> None:
    runtime = await harness.open(SLEEPER, clock=clock)
    await runtime.call(ONE, "set", Set(seconds=60))
    await runtime.call(ONE, "clear")
    await clock.advance(120)
    runtime = await harness.reopen(runtime)
    await clock.advance(120)
    assert (await runtime.call(ONE, "speak")).log == ["set", "clear", "speak"]


async def test_no_alarm_fires_after_the_turn_that_cleared_it(
    harness: RuntimeHarness, clock: ManualClock
) -> None:
    runtime = await harness.open(SLEEPER, clock=clock)
    refs = [ActorRef("Sleeper", f"s{n}") for n in range(250)]
    for ref in refs:
        await runtime.call(ref, "set", Set(seconds=60))

    async def clear(ref: ActorRef, passes: int) -> None:
        for _ in range(passes):  # some before, some while and some after it rings
            await asyncio.sleep(0)
        await runtime.call(ref, "clear")

    await asyncio.gather(clock.advance(60), *[clear(ref, n) for n, ref in enumerate(refs)])
    logs = [(await runtime.call(ref, "speak")).log for ref in refs]
    assert all(log in (["set", "clear", "speak"], ["set", "wake", "clear", "speak"]) for log in logs)


async def test_an_alarm_may_set_the_next(harness: RuntimeHarness, clock: ManualClock) -> None:
    runtime = await harness.open(SLEEPER, clock=clock)
    began = clock.now()
    await runtime.call(ONE, "set", Set(seconds=60, every_seconds=60))
    for count in range(1, 6):
        await clock.advance(60)
        await woken(harness, count)
    page = await runtime.call(ONE, "speak")
    assert page.woken_at == [began + timedelta(seconds=60 * n) for n in range(1, 6)]


async def test_each_actor_has_an_alarm_of_its_own(harness: RuntimeHarness, clock: ManualClock) -> None:
    runtime = await harness.open(SLEEPER, clock=clock)
    for n in range(200):
        await runtime.call(ActorRef("Sleeper", f"s{n}"), "set", Set(seconds=n + 1))
    await clock.advance(100)
    await woken(harness, 100)
    await clock.advance(100)
    await woken(harness, 200)


async def test_an_alarm_whose_turn_raises_is_recorded_and_not_tried_again(
    harness: RuntimeHarness, clock: ManualClock
) -> None:
    runtime = await harness.open(SLEEPER, clock=clock)
    await runtime.call(ONE, "set", Set(seconds=60, fail=True))
    await clock.advance(60)
    [letter] = await harness.watch.dead_letters()
    assert letter.payload["message"]["method"] == "wake"
    await clock.advance(600)
    await runtime.call(ONE, "speak")
    runtime = await harness.reopen(runtime)
    await clock.advance(600)
    assert (await runtime.call(ONE, "speak")).log == ["set", "speak", "speak"]
    assert len(harness.watch.of("message.dead_lettered")) == 1


async def woken(harness: RuntimeHarness, count: int) -> None:
    await harness.watch.until(lambda: len(harness.watch.of("sleeper.woke")) >= count)
    assert len(harness.watch.of("sleeper.woke")) == count


async def test_an_alarm_that_is_moved_ahead_of_one_in_memory_rings_at_the_earlier_time(
    clock: ManualClock,
) -> None:
    stored: dict[ActorRef, datetime] = {}
    rung: list[datetime] = []

    def due(until: datetime) -> list[tuple[ActorRef, datetime]]:
        return [(ref, wake_at) for ref, wake_at in stored.items() if wake_at <= until]

    timers = Timers(clock, due, lambda ref: rung.append(clock.now()))
    timers.note(ONE, clock.now() + timedelta(days=7))  # as of a mailbox that is taken up while it starts
    timers.start()
    await clock.advance(1)
    stored[ONE] = clock.now() + timedelta(seconds=100)
    timers.note(ONE, stored[ONE])
    await clock.advance(100)
    assert rung == [stored[ONE]]
    await timers.stop()
