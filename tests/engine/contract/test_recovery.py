"""After a crash everything accepted goes on; a stop takes nothing new and loses nothing it took."""

import asyncio
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from meshwright.core.errors import Draining, HostError
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef, Message
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.stores.postgres import store
from meshwright.engine.stores.sqlite import SqliteStore
from tests.support.harness import RuntimeHarness, Setup
from tests.support.observer import Worker
from tests.support.sample_actors import DIARY, SENDER, Line, Round, diary, lines_of

ONE = ActorRef("Builder", "one")


class Site(BaseModel):
    open_job: str = ""
    recoveries: int = 0


class Job(BaseModel):
    name: str


class Builder(Actor[Site]):
    """Takes a job on, has it started by the worker, and again after a crash, until it is done."""

    @property
    def has_pending_work(self) -> bool:
        return bool(self.state.open_job)

    @turn
    def accept(self, turn: Turn, job: Job) -> None:
        self.state.open_job = job.name
        turn.signal_early(f"prepare {job.name}")
        turn.signal_after_commit(f"build {job.name}")

    @turn
    def finish(self, turn: Turn) -> Site:
        self.state.open_job = ""
        return self.state.model_copy()

    @turn
    def look(self, turn: Turn) -> Site:
        return self.state.model_copy()

    def recover(self, turn: Turn) -> None:
        self.state.recoveries += 1
        turn.signal_early(f"prepare {self.state.open_job}")
        turn.signal_after_commit(f"build {self.state.open_job}")
        turn.publish("builders", "builder.recovered", {"text": self.ref.id})

    def redrive(self, turn: Turn) -> None:
        turn.publish("builders", "builder.redriven", {"text": self.ref.id})


class Foreman(Actor[Site]):
    @turn
    def ask_again(self, turn: Turn) -> None:
        turn.send(ONE, "redrive")


BUILDER = ActorKind.from_class(Builder)
FOREMAN = ActorKind.from_class(Foreman)


@pytest.mark.parametrize("how", ["reopen", "crash"])
async def test_an_actor_with_pending_work_gets_a_recover_turn_after_a_restart(
    harness: RuntimeHarness, how: str
) -> None:
    worker = Worker()
    runtime = await harness.open(BUILDER, worker=worker)
    await runtime.call(ONE, "accept", Job(name="bridge"))
    worker.signals.clear()
    runtime = await getattr(harness, how)(runtime)
    await worker.until(ONE, "build bridge")
    assert (await runtime.call(ONE, "look")).recoveries >= 1


async def test_an_actor_without_pending_work_is_left_alone(harness: RuntimeHarness) -> None:
    runtime = await harness.open(BUILDER)
    idle, done = ActorRef("Builder", "idle"), ActorRef("Builder", "done")
    await runtime.call(idle, "finish")
    await runtime.call(done, "accept", Job(name="house"))
    await runtime.call(done, "finish")
    await runtime.call(ONE, "accept", Job(name="bridge"))
    runtime = await harness.crash(runtime)
    finished = await runtime.read(done)  # a restart before it had finished may have given it a turn
    await harness.watch.until(lambda: "one" in harness.watch.texts("builder.recovered"))
    assert (await runtime.call(idle, "look")).recoveries == 0
    assert (await runtime.call(done, "look")) == finished


async def test_a_redrive_that_another_actor_asks_for_needs_no_pending_work(harness: RuntimeHarness) -> None:
    runtime = await harness.open(BUILDER, FOREMAN)
    await runtime.call(ActorRef("Foreman", "one"), "ask_again")
    await harness.watch.until(lambda: "one" in harness.watch.texts("builder.redriven"))


@pytest.mark.parametrize("harness", ["postgres"], indirect=True)
async def test_work_of_a_gone_worker_is_left_to_one_that_has_its_type(
    harness: RuntimeHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "LOOK_SECONDS", 1e6)  # messages still go to the worker that is gone
    data, front_kinds = harness.new_data(), Setup((FOREMAN, SENDER, DIARY))
    gone = await harness.open_on(data, Setup((BUILDER, DIARY)))
    front = await harness.open_on(data, front_kinds)
    await gone.call(ONE, "accept", Job(name="bridge"))
    await harness.kill(gone)
    await front.call(ActorRef("Foreman", "one"), "ask_again")
    lines = {f"line {number}": [f"line {number}"] for number in range(40)}  # for both workers
    await front.call(ActorRef("Sender", "one"), "send", Round(sends=lines))
    monkeypatch.setattr(store, "LOOK_SECONDS", 0.01)
    await harness.open_on(data, front_kinds)  # it joins, so that the other looks
    await harness.watch.written(*lines)
    await harness.open_on(data, Setup((BUILDER,)))
    for event_type in ("builder.recovered", "builder.redriven"):
        await harness.watch.until(lambda event_type=event_type: harness.watch.texts(event_type) == ["one"])
    assert "Open work waits for a worker that has Builder" in caplog.messages


async def test_every_one_of_many_actors_with_pending_work_recovers(harness: RuntimeHarness) -> None:
    runtime = await harness.open(BUILDER)
    names = [f"b{n}" for n in range(250)]
    for start in range(0, 250, 50):  # all at once hold up a lease on a slow machine
        jobs = [(ActorRef("Builder", name), Job(name=name)) for name in names[start : start + 50]]
        await asyncio.gather(*[runtime.call(builder, "accept", job) for builder, job in jobs])
    harness.watch.events.clear()
    await harness.crash(runtime)
    await harness.watch.until(lambda: {*names} <= {*harness.watch.texts("builder.recovered")})


async def test_signals_reach_the_worker_with_the_actor_that_gave_them(harness: RuntimeHarness) -> None:
    worker = Worker()
    runtime = await harness.open(BUILDER, worker=worker)
    await runtime.call(ONE, "accept", Job(name="bridge"))
    await worker.until(ONE, "prepare bridge")
    await worker.until(ONE, "build bridge")


async def test_no_work_starts_that_a_crash_could_undo(harness: RuntimeHarness) -> None:
    snapshots = []

    def look(signal: str) -> None:
        if signal == "build bridge" and not snapshots:
            snapshots.append(harness.snapshot(runtime))

    worker = Worker(look)
    runtime = await harness.open(BUILDER, worker=worker)
    await runtime.call(ONE, "accept", Job(name="bridge"))
    await worker.until(ONE, "build bridge")
    runtime = await harness.open_snapshot(runtime, snapshots[0])
    assert (await runtime.call(ONE, "look")).open_job == "bridge"


async def test_each_run_of_a_worker_has_a_name_and_is_known_to_be_gone_after(harness: RuntimeHarness) -> None:
    runtime = await harness.open(BUILDER)
    first = runtime.incarnation
    assert not await runtime.has_expired(runtime.incarnation)
    runtime = await harness.reopen(runtime)
    second = runtime.incarnation
    assert await runtime.has_expired(first)
    runtime = await harness.crash(runtime)
    async with asyncio.timeout(60):
        while not await runtime.has_expired(second):  # its connection alone may have ended
            await asyncio.sleep(0.02)
    assert not await runtime.has_expired(runtime.incarnation)
    assert len({first, second, runtime.incarnation}) == 3


async def test_a_stopping_host_lets_what_it_took_commit(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    calls = [asyncio.create_task(runtime.call(diary(), "write", {"text": str(n)})) for n in range(50)]
    sends = [
        asyncio.create_task(runtime.send(Message(f"m{n}", diary("two"), "write", Line(text=f"m{n}"))))
        for n in range(50)
    ]
    await asyncio.sleep(0)
    runtime = await harness.reopen(runtime)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    taken = await asyncio.gather(*sends, return_exceptions=True)
    assert all(isinstance(each, Draining) for each in answers + taken if isinstance(each, BaseException))
    answered = [str(n) for n, answer in enumerate(answers) if not isinstance(answer, BaseException)]
    assert sorted(await lines_of(runtime)) == sorted(answered)
    await harness.watch.written(*[f"m{n}" for n, answer in enumerate(taken) if answer is None])


async def test_a_stopped_host_takes_nothing(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    await runtime.call(diary(), "write", {"text": "a"})
    stopped = runtime
    runtime = await harness.reopen(runtime)
    with pytest.raises(Draining):
        await stopped.call(diary(), "write", {"text": "b"})
    with pytest.raises(Draining):
        await stopped.send(Message("b", diary(), "write", Line(text="b")))
    with pytest.raises(HostError):
        await stopped.read(diary())
    assert await lines_of(runtime) == ["a"]


async def test_a_host_may_be_stopped_twice(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    await runtime.stop()
    await runtime.stop()


async def test_whoever_waits_for_a_reply_when_a_host_ends_is_told(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    calls = [asyncio.create_task(runtime.call(diary(), "write", {"text": str(n)})) for n in range(20)]
    await asyncio.sleep(0)
    await harness.crash(runtime)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(not isinstance(each, BaseException) or isinstance(each, HostError) for each in answers)


async def test_a_caller_who_gives_up_harms_nobody(harness: RuntimeHarness) -> None:
    runtime = await harness.open(DIARY)
    calls = [asyncio.create_task(runtime.call(diary(), "write", {"text": str(n)})) for n in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    answers = await asyncio.gather(*calls[1::2])
    assert len(answers) == 10
    page = await runtime.call(diary(), "write", {"text": "last"})
    assert {"last", *(str(n) for n in range(1, 20, 2))} <= set(page.lines)


class Slow(Actor[Site]):
    """Works for a millisecond in each turn, which it counts in `turns`."""

    def __init__(self, ref: ActorRef, turns: list[str]) -> None:
        super().__init__(ref)
        self.turns = turns

    @turn
    def work(self, turn: Turn) -> None:
        self.turns.append(self.ref.id)
        until = time.perf_counter() + 0.001
        while time.perf_counter() < until:
            pass


async def test_many_slow_turns_let_the_event_loop_go_on(tmp_path: Path) -> None:
    turns: list[str] = []
    runtime = Runtime(SqliteStore.in_folder(tmp_path, durability="off"))
    runtime.register(ActorKind.from_class(Slow, turns=turns))
    await runtime.start()
    refs = [ActorRef("Slow", f"{number}") for number in range(64)]
    sends = [asyncio.create_task(runtime.send(Message(f"m/{ref.id}", ref, "work"))) for ref in refs]
    between = []
    while not all(send.done() for send in sends) or len(turns) < len(refs):
        before = len(turns)
        await asyncio.sleep(0)
        between.append(len(turns) - before)
    await runtime.stop()
    assert 0 < max(between) <= 16
