"""Batches of events reach the log in the order in which each sender made them."""

import asyncio
from collections.abc import Sequence

import pytest

from meshwright.engine.stores.dapr import broker
from meshwright.engine.stores.dapr.broker import Order


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "MISSING_SECONDS", 0.05)


async def passed(ordered: Order, *arriving: tuple[str, int]) -> Sequence[tuple[str, int]]:
    """In which order batches pass that arrive in this one, all at once."""
    passing: list[tuple[str, int]] = []

    async def take(sender: str, number: int) -> None:
        async with ordered.turn(sender, number):
            await asyncio.sleep(0)
            passing.append((sender, number))

    async with asyncio.TaskGroup() as group:
        for sender, number in arriving:
            group.create_task(take(sender, number))
    return passing


async def test_batches_pass_in_the_order_of_their_numbers() -> None:
    assert await passed(Order(), ("a", 3), ("a", 1), ("a", 2)) == [("a", 1), ("a", 2), ("a", 3)]


async def test_a_log_that_starts_anew_takes_what_waited_for_it_in_order() -> None:
    heap = [("a", 78), ("a", 52), ("a", 54), ("a", 53)]
    assert await passed(Order(), *heap) == [("a", 52), ("a", 53), ("a", 54), ("a", 78)]


async def test_those_after_a_lost_batch_pass_in_order_after_some_time() -> None:
    ordered = Order()
    await passed(ordered, ("a", 1))
    assert await passed(ordered, ("a", 4), ("a", 3)) == [("a", 3), ("a", 4)]


async def test_a_heap_with_many_gaps_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "MISSING_SECONDS", 2.0)
    heap = [("a", number) for number in range(4000, 1, -2)]
    async with asyncio.timeout(60):  # 4,000 s if each gap is waited for
        assert await passed(Order(), *heap) == heap[::-1]


async def test_a_batch_that_is_given_up_holds_up_none(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered = Order()
    monkeypatch.setattr(broker, "MISSING_SECONDS", 1e6)
    given_up = [asyncio.create_task(passed(ordered, ("a", number))) for number in (3, 2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    given_up[1].cancel()
    async with asyncio.timeout(240):
        await passed(ordered, ("a", 1))
        await passed(ordered, ("a", 2))
        assert await given_up[0] == [("a", 3)]


async def test_a_repeat_and_a_latecomer_pass_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered = Order()
    await passed(ordered, ("a", 5))
    monkeypatch.setattr(broker, "MISSING_SECONDS", 1e6)
    async with asyncio.timeout(240):
        assert await passed(ordered, ("a", 5), ("a", 2)) == [("a", 5), ("a", 2)]


async def test_senders_do_not_wait_for_one_another() -> None:
    assert await passed(Order(), ("a", 9), ("b", 1)) == [("b", 1), ("a", 9)]
