"""A message is delivered at least once and taken once, in order, or its refusal is on record."""

import asyncio
import itertools
from datetime import timedelta

import pytest
from pydantic_core import from_json

from meshwright.core.errors import MailboxFull
from meshwright.engine.kernel.envelope import ActorRef, Message
from meshwright.testing import ManualClock
from tests.support.harness import RuntimeHarness
from tests.support.sample_actors import DIARY, SENDER, Line, Round, diary, lines_after_crash, lines_of


def to_write(text: str, name: str = "one", **fields: object) -> Message:
    """A message from outside; its id is its text."""
    return Message(text, diary(name), "write", Line(text=text), **{"sender": "client", **fields})


async def test_a_message_from_outside_reaches_its_actor(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY)
    await host.send(to_write("a"))
    await harness.watch.written("a")
    assert await lines_of(host) == ["a"]


async def test_a_message_taken_in_is_durable_before_send_returns(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY)
    await host.send(to_write("a"))
    assert await lines_after_crash(await harness.crash(host), 1) == ["a"]


async def test_messages_of_each_pair_arrive_in_the_order_of_sending(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY, SENDER)
    senders = [ActorRef("Sender", f"s{n}") for n in range(5)]
    texts = {ref: [f"{ref.id}-{n}" for n in range(60)] for ref in senders}

    async def send_all(ref: ActorRef) -> None:
        for start in range(0, 60, 6):
            given = Round(sends={"one": texts[ref][start : start + 6], "two": [f"to two {ref.id}-{start}"]})
            await host.call(ref, "send", given)

    await asyncio.gather(*map(send_all, senders))
    await harness.watch.written(*itertools.chain(*texts.values()))
    lines = await lines_of(host)
    for ref in senders:
        assert [line for line in lines if line.startswith(f"{ref.id}-")] == texts[ref]
    assert len(lines) == 300


async def test_messages_sent_by_a_turn_outlive_a_crash_in_their_order(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY, SENDER)
    texts = [str(n) for n in range(50)]
    snapshots = []
    end = host.listen("sent", lambda event: snapshots.append(harness.snapshot(host)))
    await host.call(ActorRef("Sender", "one"), "send", Round(sends={"one": texts}, events=["sent"]))
    await harness.watch.until(lambda: bool(snapshots))
    end()
    host = await harness.open_snapshot(host, snapshots[0])
    await harness.watch.written(*texts)
    await host.call(diary(), "glance")
    assert await lines_of(host) == texts


@pytest.mark.parametrize("sender", ["client", ""])
async def test_a_second_message_of_an_id_is_dropped(harness: RuntimeHarness, sender: str) -> None:
    host = await harness.open(DIARY)
    for text in ("a", "a", "b", "a", "b"):
        await host.send(to_write(text, sender=sender))
    await host.send(to_write("last", sender=sender))
    await harness.watch.written("a", "b", "last")
    await host.call(diary(), "glance")
    assert sorted(await lines_of(host)) == ["a", "b", "last"]


async def test_a_repeat_is_dropped_after_a_restart_and_after_a_crash(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY)
    await host.send(to_write("a"))
    await harness.watch.written("a")
    host = await harness.reopen(host)
    await host.send(to_write("a"))
    await host.send(to_write("b"))
    await harness.watch.written("b")
    host = await harness.crash(host)
    await host.send(to_write("a"))
    await host.send(to_write("b"))
    await host.send(to_write("c"))
    await harness.watch.written("c")
    assert await lines_of(host) == ["a", "b", "c"]


async def test_a_repeat_is_dropped_where_the_first_changed_nothing(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY)
    await host.call(diary(), "glance")  # now the state is stored as it stands
    await host.send(Message("idle", diary(), "write_if_begun", Line(text="too late"), "client"))
    await host.send(to_write("a"))
    await host.send(Message("idle", diary(), "write_if_begun", Line(text="too late"), "client"))
    await host.send(to_write("b"))
    await harness.watch.written("a", "b")
    assert await lines_of(host) == ["a", "b"]


async def test_the_same_id_may_go_to_two_actors(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY)
    await host.send(to_write("a", "one"))
    await host.send(to_write("a", "two"))
    await harness.watch.until(lambda: len(harness.watch.texts()) == 2)
    assert [await lines_of(host, name) for name in ("one", "two")] == [["a"], ["a"]]


async def test_a_repeat_is_dropped_until_it_expires_and_refused_after(harness: RuntimeHarness) -> None:
    clock = ManualClock()
    host = await harness.open(DIARY, clock=clock)
    until = (clock.now() + timedelta(seconds=60)).timestamp()
    await host.send(to_write("a", expires_at=until))
    await harness.watch.written("a")
    await clock.advance(59)
    for text in ("b", "a", "c"):  # with each message taken, what has expired may be forgotten
        await host.send(to_write(text, expires_at=until if text == "a" else None))
    await harness.watch.written("b", "c")
    assert harness.watch.of("message.dead_lettered") == []
    await clock.advance(2)
    for text in ("d", "a", "e"):
        await host.send(to_write(text, expires_at=until if text == "a" else None))
    await harness.watch.dead_letters()
    await harness.watch.written("d", "e")
    assert await lines_of(host) == ["a", "b", "c", "d", "e"]


async def test_a_repeat_at_the_very_end_is_not_taken(harness: RuntimeHarness) -> None:
    clock = ManualClock()
    host = await harness.open(DIARY, clock=clock)
    until = (clock.now() + timedelta(seconds=60)).timestamp()
    await host.send(to_write("a", expires_at=until))
    await harness.watch.written("a")
    await clock.advance(60)
    for text in ("b", "a", "c"):
        await host.send(to_write(text, expires_at=until if text == "a" else None))
    await harness.watch.written("b", "c")
    assert await lines_of(host) == ["a", "b", "c"]


async def test_a_message_without_an_end_is_remembered_for_most_of_an_hour(harness: RuntimeHarness) -> None:
    clock = ManualClock()
    host = await harness.open(DIARY, clock=clock)
    await host.send(to_write("a"))
    await harness.watch.written("a")
    await clock.advance(3500)
    for text in ("b", "a", "c"):
        await host.send(to_write(text))
    await harness.watch.written("b", "c")
    assert await lines_of(host) == ["a", "b", "c"]


async def test_a_late_message_is_refused_with_an_event(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY)
    await host.send(to_write("late", expires_at=host.clock.now().timestamp() - 1))
    [event] = await harness.watch.dead_letters()
    assert "expired" in event.payload["error"]["message"]
    assert await lines_of(host) == []


POISON = {
    "a turn that raises": Message("poison", diary(), "write_and_raise", Line(text="p"), "client"),
    "a defect": Message("poison", diary(), "divide_by_nothing", None, "client"),
    "no such turn": Message("poison", diary(), "read", Line(text="p"), "client"),
    "the wrong shape": Message("poison", diary(), "write", {"text": 7}, "client"),
    "no body": Message("poison", diary(), "write", None, "client"),
}


@pytest.mark.parametrize("poison", POISON.values(), ids=list(POISON))
async def test_a_message_that_cannot_be_taken_is_recorded_and_the_rest_flows_on(
    harness: RuntimeHarness, poison: Message
) -> None:
    host = await harness.open(DIARY)
    for message in (to_write("a"), poison, to_write("b")):
        await host.send(message)
    await harness.watch.written("a", "b")
    [event] = await harness.watch.dead_letters()
    assert await lines_of(host) == ["a", "b"]
    assert event.topic == "mesh-events"
    assert event.payload["error"]["type"]
    assert event.payload["message"] == from_json(poison.encode())  # all that sending it again needs


async def test_a_refused_message_is_not_tried_again_after_a_restart(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY)
    await host.send(POISON["a defect"])
    await harness.watch.dead_letters()
    host = await harness.reopen(host)
    await host.send(to_write("a"))
    await harness.watch.written("a")
    assert len(harness.watch.of("message.dead_lettered")) == 1


async def test_a_full_mailbox_refuses_calls_and_loses_none_that_it_took(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY, max_mailbox=5)
    calls = [host.call(diary(), "write", {"text": str(n)}) for n in range(100)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [n for n, result in enumerate(results) if isinstance(result, MailboxFull)]
    taken = [n for n, result in enumerate(results) if not isinstance(result, BaseException)]
    assert len(refused) + len(taken) == 100
    assert refused
    assert sorted(map(int, await lines_of(host))) == taken
    page = await host.call(diary(), "write", {"text": "room again"})
    assert page.lines[-1] == "room again"


async def test_a_full_mailbox_refuses_messages_and_loses_none_that_it_took(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY, max_mailbox=5)
    sends = [host.send(to_write(str(n))) for n in range(50)]
    results = await asyncio.gather(*sends, return_exceptions=True)
    taken = [str(n) for n, result in enumerate(results) if result is None]
    assert all(result is None or isinstance(result, MailboxFull) for result in results)
    assert len(taken) < 50
    await harness.watch.written(*taken)
    assert sorted(await lines_of(host)) == sorted(taken)


async def test_a_turn_may_send_more_than_a_mailbox_holds(harness: RuntimeHarness) -> None:
    host = await harness.open(DIARY, SENDER, max_mailbox=5)
    texts = [str(n) for n in range(50)]
    await host.call(ActorRef("Sender", "one"), "send", Round(sends={"one": texts}))
    await harness.watch.written(*texts)
    assert await lines_of(host) == texts
