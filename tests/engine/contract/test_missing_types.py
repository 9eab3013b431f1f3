"""A message to a type of actor that no process runs waits for one that does; a call of it is refused."""

import asyncio

import pytest

from meshwright.core.errors import NotFound
from meshwright.engine.kernel.envelope import ActorRef, Message
from meshwright.engine.kernel.runtime import Runtime
from tests.support.harness import RuntimeHarness
from tests.support.sample_actors import DIARY, SENDER, Line, Round, diary, lines_of

ONE, TWO = ActorRef("Sender", "one"), ActorRef("Sender", "two")


async def send(runtime: Runtime, sender: ActorRef, name: str, *lines: str) -> None:
    await runtime.call(sender, "send", Round(sends={name: list(lines)}))


async def test_messages_wait_for_their_type_in_order(harness: RuntimeHarness) -> None:
    runtime = await harness.open(SENDER)
    first, second = [f"a{n}" for n in range(20)], [f"b{n}" for n in range(20)]
    await send(runtime, ONE, "one", *first)
    runtime = await harness.reopen(runtime)
    await send(runtime, ONE, "one", *second)
    runtime = await harness.crash(runtime)
    runtime = await harness.reopen(runtime, SENDER, DIARY)
    await harness.watch.written(*first, *second)
    await send(runtime, ONE, "one", "last")
    await harness.watch.written("last")
    assert await lines_of(runtime) == [*first, *second, "last"]
    assert harness.watch.of("message.dead_lettered") == []


async def test_waiting_messages_arrive_once_through_restarts(harness: RuntimeHarness) -> None:
    runtime = await harness.open(SENDER)
    await send(runtime, ONE, "one", "a", "b")
    runtime = await harness.crash(runtime, SENDER, DIARY)
    await harness.watch.written("a", "b")
    runtime = await harness.crash(runtime, SENDER)
    await send(runtime, TWO, "one", "c")
    runtime = await harness.crash(runtime, SENDER, DIARY)
    await harness.watch.written("c")
    assert await lines_of(runtime) == ["a", "b", "c"]


async def test_a_waiting_message_holds_nothing_else_up(harness: RuntimeHarness) -> None:
    runtime = await harness.open(SENDER, DIARY)
    sends = {f"missing{n}": ["waits"] for n in range(30)}
    await runtime.call(ONE, "send", Round(sends=sends, kind="Stranger"))
    for number in range(3):
        await send(runtime, ONE, "one", f"line {number}")
    await harness.watch.written("line 0", "line 1", "line 2")
    assert await lines_of(runtime) == ["line 0", "line 1", "line 2"]


async def test_a_call_of_an_unknown_type_is_refused(harness: RuntimeHarness) -> None:
    runtime = await harness.open(SENDER)
    with pytest.raises(NotFound, match="Diary"):
        await runtime.call(diary(), "glance")
    with pytest.raises(NotFound, match="Diary"):
        await runtime.send(Message("typo", diary(), "write", Line(text="a")))


@pytest.mark.parametrize("harness", ["memory", "postgres", "dapr"], indirect=True)
async def test_another_worker_that_runs_the_type_gets_its_messages(harness: RuntimeHarness) -> None:
    runtime = await harness.open(SENDER)
    await send(runtime, ONE, "one", "before")
    beside = await harness.open_beside(runtime, SENDER, DIARY)
    await harness.watch.written("before")
    for number in range(5):
        await send(runtime, ONE, "one", f"line {number}")
    await harness.watch.written("line 4")
    assert await lines_of(beside) == ["before", *(f"line {number}" for number in range(5))]
    await harness.kill(beside)
    await send(runtime, ONE, "one", "after")
    await harness.open_beside(runtime, DIARY)
    await harness.watch.written("after")


@pytest.mark.parametrize("harness", ["memory", "embedded", "postgres"], indirect=True)
async def test_a_call_of_a_type_that_once_ran_is_a_turn_here(harness: RuntimeHarness) -> None:
    runtime = await harness.open(SENDER, DIARY)
    await runtime.call(diary(), "write", {"text": "first"})
    runtime = await harness.reopen(runtime, SENDER)
    runtime.register_remote(DIARY)
    await send(runtime, ONE, "one", "waits")
    calls = [runtime.call(diary(), "write", {"text": f"called {n}"}) for n in range(10)]
    await asyncio.gather(*calls)
    called = [f"called {n}" for n in range(10)]
    assert sorted(await lines_of(runtime)) == sorted(["first", *called])
    runtime = await harness.crash(runtime, SENDER, DIARY)
    await harness.watch.written("waits")
    assert sorted(await lines_of(runtime)) == sorted(["first", *called, "waits"])
