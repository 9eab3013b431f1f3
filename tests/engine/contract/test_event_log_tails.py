"""Tails follow the log live: nothing is skipped or repeated, and nobody waits for a slow reader."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic import BaseModel

from meshwright.core.events import Event
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.tails import MAX_BUFFERED
from tests.support.event_logs import LogOnFile, event, seqs


class Note(BaseModel):
    text: str


async def take(tail: AsyncGenerator[Event], number: int) -> list[int]:
    async with asyncio.timeout(240):
        return seqs([await anext(tail) for _ in range(number)])


async def test_a_tail_without_a_number_gives_what_comes_after_it_was_asked_for(store: LogOnFile) -> None:
    await store.write([event(1)])
    tail = store.log.tail(EventFilter())
    await store.write([event(2)])
    following = asyncio.ensure_future(take(tail, 2))
    await store.write([event(3)])
    assert await following == [2, 3]


async def test_a_tail_goes_on_behind_the_number_that_was_seen_last(store: LogOnFile) -> None:
    await store.write([event(n) for n in range(1, 6)])
    async with aclosing(store.log.tail(EventFilter(after_seq=2))) as tail:
        assert await take(tail, 2) == [3, 4]
    await store.write([event(6)])
    async with aclosing(store.log.tail(EventFilter(after_seq=4))) as tail:
        assert await take(tail, 2) == [5, 6]


async def test_one_event_for_many_tails_leaves_the_loop_to_others_between_them(store: LogOnFile) -> None:
    got: list[int] = []

    async def read(tail: AsyncGenerator[Event]) -> None:
        got.append((await anext(tail)).seq or 0)

    tails = [store.log.tail(EventFilter()) for _ in range(200)]
    reading = asyncio.gather(*map(read, tails))
    await asyncio.sleep(0.1)
    await store.write([event(1)])
    in_one_turn = 0
    while not reading.done():
        before = len(got)
        await asyncio.sleep(0)
        in_one_turn = max(in_one_turn, len(got) - before)
    assert (len(got), in_one_turn) == (200, 32)


async def test_a_tail_gives_only_what_is_wanted(store: LogOnFile) -> None:
    tail = store.log.tail(EventFilter(task_id="mine", event_type="a.b", after_seq=0, order="desc", limit=1))
    await store.write([event(1, "a.b", task_id="mine"), event(2, "a.b"), event(3, "c.d", task_id="mine")])
    assert await take(tail, 1) == [1]
    following = asyncio.ensure_future(take(tail, 2))
    await store.write(
        [event(n, "a.b", task_id=task) for n, task in enumerate(["other", "mine", None, "mine"])]
    )
    assert await following == [5, 7]


async def test_live_payloads_look_as_those_read_later(store: LogOnFile) -> None:
    tail = store.log.tail(EventFilter())
    following = asyncio.ensure_future(anext(tail))
    await asyncio.sleep(0)
    await store.write([event(1, payload={"note": Note(text="x"), "pair": (1, 2)})])
    live = await following
    assert [live] == await store.log.query(EventFilter())
    assert live.payload == {"note": {"text": "x"}, "pair": [1, 2]}


async def test_a_reader_that_pauses_misses_nothing_and_keeps_nobody_waiting(store: LogOnFile) -> None:
    tail = store.log.tail(EventFilter())
    following = asyncio.ensure_future(take(tail, 1))
    await asyncio.sleep(0)
    total = 3 * MAX_BUFFERED
    for start in range(0, total, 250):
        await store.write([event(n) for n in range(start, start + 250)])
    assert await following == [1]
    assert await take(tail, total - 1) == [*range(2, total + 1)]
    following = asyncio.ensure_future(take(tail, 1))
    await store.write([event(0)])
    assert await following == [total + 1]


async def test_readers_of_every_speed_see_everything_once_while_events_pour_in(
    store: LogOnFile, rng: random.Random
) -> None:
    already, total = 3000, 3000 + 3 * MAX_BUFFERED
    after = [0, 0, 100, 1500, already]
    await store.write([event(n) for n in range(already)])

    async def read(after_seq: int, pause_every: int) -> list[int]:
        seen: list[int] = []
        async with aclosing(store.log.tail(EventFilter(after_seq=after_seq))) as tail:
            while not seen or seen[-1] < total:
                seen += seqs([await anext(tail)])
                for _ in range(rng.randrange(10) if len(seen) % pause_every == 0 else 0):
                    await asyncio.sleep(0)
        return seen

    async def write() -> None:
        written = already
        while written < total:
            sizes = [rng.randrange(1, 200) for _ in range(3)]
            written += sum(sizes)
            await asyncio.gather(*(store.write([event(n) for n in range(size)]) for size in sizes))

    async with asyncio.timeout(240):
        reading = [asyncio.ensure_future(read(seq, 10**i)) for i, seq in enumerate(after)]
        await write()
        assert await asyncio.gather(*reading) == [[*range(seq + 1, total + 1)] for seq in after]


async def test_commits_told_out_of_order_are_still_seen_in_order(store: LogOnFile) -> None:
    tail = store.log.tail(EventFilter())
    following = asyncio.ensure_future(take(tail, 3))
    await asyncio.sleep(0)
    batches = [[event(1), event(2)], [event(3)]]
    written = [await store.database.write(store.log.insert, batch) for batch in batches]
    first, second = map(store.log.number, batches, written)
    store.log.committed(second)
    store.log.committed(first)
    assert await following == [1, 2, 3]


async def test_a_number_of_another_log_counts_as_now(store: LogOnFile) -> None:
    await store.write([event(1)])
    tail = store.log.tail(EventFilter(after_seq=1_000_000))
    following = asyncio.ensure_future(take(tail, 1))
    while not store.log.readers:
        await asyncio.sleep(0)
    await store.write([event(2)])
    assert await following == [2]


async def test_a_reader_that_goes_leaves_nothing_behind(store: LogOnFile) -> None:
    tails = [store.log.tail(EventFilter(task_id=task)) for task in (None, "a", "a", "b")]
    waiting = [asyncio.ensure_future(anext(tail)) for tail in tails]
    while store.log.readers < len(tails):
        await asyncio.sleep(0)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert store.log.readers == 0


async def test_tails_end_when_the_log_closes(store: LogOnFile) -> None:
    await store.write([event(1)])
    tail = store.log.tail(EventFilter(after_seq=0))

    async def read_all() -> list[int]:
        return seqs([each async for each in tail])

    reading = asyncio.ensure_future(read_all())
    await store.write([event(2)])
    while store.log.readers == 0:
        await asyncio.sleep(0)
    store.log.close()
    async with asyncio.timeout(240):
        assert set(await reading) <= {1, 2}
    assert store.log.readers == 0
