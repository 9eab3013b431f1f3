"""A wall clock that is set forward or back: what waits neither sleeps through it nor ends before its time."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from meshwright.core import clock as clocks
from meshwright.core.clock import SystemClock
from meshwright.core.errors import StoreUnavailable
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.timers import Timers, every
from meshwright.models.circuits import Retrying
from meshwright.models.errors import ModelUnavailable
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest, OnDelta
from meshwright.testing import ManualClock

REF = ActorRef("clerk", "one")


class SetClock(SystemClock):
    """The machine's clock, which a test sets."""

    ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_sleep_ends_in_its_time_whichever_way_the_clock_is_set(
    monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    monkeypatch.setattr(clocks, "_LOOK_SECONDS", 0.01)
    clock = SetClock()
    pause = timedelta(seconds=0.1) if hours < 0 else timedelta(minutes=30)
    sleeping = asyncio.create_task(clock.sleep_until(clock.now() + pause))
    await asyncio.sleep(0)
    clock.ahead = timedelta(hours=hours)
    async with asyncio.timeout(240):
        await sleeping


async def test_alarms_are_asked_for_again_where_the_clock_was_set_back(clock: ManualClock) -> None:
    stored: list[tuple[ActorRef, datetime]] = []
    rung = asyncio.Event()
    timers = Timers(clock, lambda until: [due for due in stored if due[1] <= until], lambda ref: rung.set())
    timers.start()
    await clock.advance(1)
    clock.jump(-3600)
    stored.append((REF, clock.now() + timedelta(seconds=70)))  # of a worker that is gone, say
    await clock.advance(60)
    await clock.advance(60)
    assert rung.is_set()
    await timers.stop()


class Away:
    """A provider that is away once; meanwhile somebody sets the clock."""

    name = "away"

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.asked: list[ModelRequest] = []

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.asked.append(request)
        if len(self.asked) == 1:
            self._clock.jump(3600)
            raise ModelUnavailable("away")
        return ModelReply(content="there", model="away")

    async def close(self) -> None: ...


async def test_a_call_is_tried_again_although_the_clock_was_set_forward(clock: ManualClock) -> None:
    away = Away(clock)
    model = Retrying(away, clock, draw=lambda: 0.0)
    request = ModelRequest(
        messages=(ChatMessage(role="user", content="?"),), user="clerk", timeout_seconds=60
    )
    assert (await model.complete(request)).content == "there"
    assert [asked.timeout_seconds for asked in away.asked] == [60, 60]


async def test_an_outage_that_puts_a_duty_off_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    tries = iter(["away", "away", "away", "well", "away", "away"])
    is_over = asyncio.Event()

    async def work() -> None:
        said = next(tries, None)
        if said is None:
            is_over.set()
        if said == "away":
            raise StoreUnavailable("the store is away")

    duty = asyncio.create_task(every(SystemClock(), 0.0, work))
    await is_over.wait()
    duty.cancel()
    assert caplog.text.count("a regular duty is put off: the store is away") == 2
