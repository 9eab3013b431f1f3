"""After a crash everything accepted goes on; a stop takes nothing new and loses nothing it took."""

import asyncio
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from meshwright.core.errors import Draining, HostError
from meshwright.kernel.actor import Actor, Turn, turn
from meshwright.kernel.envelope import ActorRef, Message
from meshwright.kernel.runtime import Runtime
from meshwright.kernel.turns import ActorKind
from meshwright.stores.postgres import store
from meshwright.stores.sqlite import SqliteStore
from tests.support.host_harness import HostHarness, Setup
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


BUILDER = ActorKind.of(Builder)
FOREMAN = ActorKind.of(Foreman)


@pytest.mark.parametrize("how", ["reopen", "crash"])
async def test_an_actor_with_pending_work_gets_a_recover_turn_after_a_restart(
    harness: HostHarness, how: str
) -> None:
    worker = Worker()
    host = await harness.open(BUILDER, worker=worker)
    await host.call(ONE, "accept", Job(name="bridge"))
    worker.signals.clear()
    host = await getattr(harness, how)(host)
    await worker.until(ONE, "build bridge")
    assert (await host.call(ONE, "look")).recoveries >= 1


async def test_an_actor_without_pending_work_is_left_alone(harness: HostHarness) -> None:
    host = await harness.open(BUILDER)
    idle, done = ActorRef("Builder", "idle"), ActorRef("Builder", "done")
    await host.call(idle, "finish")
    await host.call(done, "accept", Job(name="house"))
    await host.call(done, "finish")
    await host.call(ONE, "accept", Job(name="bridge"))
    host = await harness.crash(host)
    finished = await host.read(done)  # a restart before it had finished may have given it a turn
    await harness.watch.until(lambda: "one" in harness.watch.texts("builder.recovered"))
    assert (await host.call(idle, "look")).recoveries == 0
    assert (await host.call(done, "look")) == finished


async def test_a_redrive_that_another_actor_asks_for_needs_no_pending_work(harness: HostHarness) -> None:
    host = await harness.open(BUILDER, FOREMAN)
    await host.call(ActorRef("Foreman", "one"), "ask_again")
    await harness.watch.until(lambda: "one" in harness.watch.texts("builder.redriven"))


@pytest.mark.parametrize("harness", ["postgres"], indirect=True)
async def test_work_of_a_gone_worker_is_left_to_one_that_has_its_type(
    harness: HostHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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


async def test_every_one_of_many_actors_with_pending_work_recovers(harness: HostHarness) -> None:
    host = await harness.open(BUILDER)
    names = [f"b{n}" for n in range(250)]
    for start in range(0, 250, 50):  # all at once hold up a lease on a slow machine
        jobs = [(ActorRef("Builder", name), Job(name=name)) for name in names[start : start + 50]]
        await asyncio.gather(*[host.call(builder, "accept", job) for builder, job in jobs])
    harness.watch.events.clear()
    await harness.crash(host)
    await harness.watch.until(lambda: {*names} <= {*harness.watch.texts("builder.recovered")})


async def test_signals_reach_the_worker_with_the_actor_that_gave_them(harness: HostHarness) -> None:
    worker = Worker()
    host = await harness.open(BUILDER, worker=worker)
    await host.call(ONE, "accept", Job(name="bridge"))
    await worker.until(ONE, "prepare bridge")
    await worker.until(ONE, "build bridge")


async def test_no_work_starts_that_a_crash_could_undo(harness: HostHarness) -> None:
    snapshots = []

    def look(signal: str) -> None:
        if signal == "build bridge" and not snapshots:
            snapshots.append(harness.snapshot(host))

    worker = Worker(look)
    host = await harness.open(BUILDER, worker=worker)
    await host.call(ONE, "accept", Job(name="bridge"))
    await worker.until(ONE, "build bridge")
    host = await harness.open_snapshot(host, snapshots[0])
    assert (await host.call(ONE, "look")).open_job == "bridge"


async def test_each_run_of_a_worker_has_a_name_and_is_known_to_be_gone_after(harness: HostHarness) -> None:
    host = await harness.open(BUILDER)
    first = host.incarnation
    assert not await host.has_expired(host.incarnation)
    host = await harness.reopen(host)
    second = host.incarnation
    assert await host.has_expired(first)
    host = await harness.crash(host)
    assert await host.has_expired(second)
    assert not await host.has_expired(host.incarnation)
    assert len({first, second, host.incarnation}) == 3


async def test_a_stopping_host_lets_what_it_took_commit(harness: HostHarness) -> None:
    host = await harness.open(DIARY)
    calls = [asyncio.create_task(host.call(diary(), "write", {"text": str(n)})) for n in range(50)]
    sends = [
        asyncio.create_task(host.send(Message(f"m{n}", diary("two"), "write", Line(text=f"m{n}"))))
        for n in range(50)
    ]
    await asyncio.sleep(0)
    host = await harness.reopen(host)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    taken = await asyncio.gather(*sends, return_exceptions=True)
    assert all(isinstance(each, Draining) for each in answers + taken if isinstance(each, BaseException))
    answered = [str(n) for n, answer in enumerate(answers) if not isinstance(answer, BaseException)]
    assert sorted(await lines_of(host)) == sorted(answered)
    await harness.watch.written(*[f"m{n}" for n, answer in enumerate(taken) if answer is None])


async def test_a_stopped_host_takes_nothing(harness: HostHarness) -> None:
    host = await harness.open(DIARY)
    await host.call(diary(), "write", {"text": "a"})
    stopped = host
    host = await harness.reopen(host)
    with pytest.raises(Draining):
        await stopped.call(diary(), "write", {"text": "b"})
    with pytest.raises(Draining):
        await stopped.send(Message("b", diary(), "write", Line(text="b")))
    with pytest.raises(HostError):
        await stopped.read(diary())
    assert await lines_of(host) == ["a"]


async def test_a_host_may_be_stopped_twice(harness: HostHarness) -> None:
    host = await harness.open(DIARY)
    await host.stop()
    await host.stop()


async def test_whoever_waits_for_a_reply_when_a_host_ends_is_told(harness: HostHarness) -> None:
    host = await harness.open(DIARY)
    calls = [asyncio.create_task(host.call(diary(), "write", {"text": str(n)})) for n in range(20)]
    await asyncio.sleep(0)
    await harness.crash(host)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(not isinstance(each, BaseException) or isinstance(each, HostError) for each in answers)


async def test_a_caller_who_gives_up_harms_nobody(harness: HostHarness) -> None:
    host = await harness.open(DIARY)
    calls = [asyncio.create_task(host.call(diary(), "write", {"text": str(n)})) for n in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    answers = await asyncio.gather(*calls[1::2])
    assert len(answers) == 10
    page = await host.call(diary(), "write", {"text": "last"})
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
    host = Runtime(SqliteStore.in_folder(tmp_path, durability="off"))
    host.register(ActorKind.of(Slow, turns=turns))
    await host.start()
    refs = [ActorRef("Slow", f"{number}") for number in range(64)]
    sends = [asyncio.create_task(host.send(Message(f"m/{ref.id}", ref, "work"))) for ref in refs]
    between = []
    while not all(send.done() for send in sends) or len(turns) < len(refs):
        before = len(turns)
        await asyncio.sleep(0)
        between.append(len(turns) - before)
    await host.stop()
    assert 0 < max(between) <= 16
