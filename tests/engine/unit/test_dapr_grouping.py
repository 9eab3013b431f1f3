"""Calls to Dapr in groups: each caller gets a result or an error, whenever the group is cancelled."""

import asyncio

import pytest

from meshwright.core.errors import StoreUnavailable
from meshwright.engine.stores.dapr.state import Grouping

GIVEN_UP = StoreUnavailable("the worker has started again")


async def double(group: list[int]) -> list[int]:
    await asyncio.sleep(0)
    return [2 * item for item in group]


@pytest.mark.parametrize("steps", range(6))
async def test_all_who_wait_are_told_when_groups_are_given_up(steps: int) -> None:
    grouping: Grouping[int, int] = Grouping(double, size=2, width=1)
    waiting = [grouping.add(item) for item in range(5)]
    for _ in range(steps):
        await asyncio.sleep(0)
    grouping.cancel(GIVEN_UP)
    async with asyncio.timeout(240):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    ended = [result for result in results if isinstance(result, int)]
    assert ended == [0, 2, 4, 6, 8][: len(ended)]
    assert results[len(ended) :] == [GIVEN_UP] * (5 - len(ended))


async def test_what_is_given_up_without_a_reason_is_cancelled() -> None:
    grouping: Grouping[int, int] = Grouping(double)
    waiting = grouping.add(1)
    asyncio.get_running_loop().call_soon(grouping.cancel)  # after the group began, before its first step
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(240):
            await waiting


async def test_what_comes_too_late_is_told_so() -> None:
    grouping: Grouping[int, int] = Grouping(double)
    grouping.cancel(GIVEN_UP)
    with pytest.raises(StoreUnavailable, match="started again"):
        await grouping.add(1)


async def test_what_nobody_waits_for_is_performed_in_its_place_and_again() -> None:
    groups = list[list[int]]()

    async def fail_at_first(group: list[int]) -> list[int | BaseException]:
        groups.append(group)
        return [*group] if groups[1:] else [GIVEN_UP] * len(group)

    grouping: Grouping[int, int] = Grouping(fail_at_first, retries=True)
    grouping.put([1, 2])
    assert await asyncio.wait_for(grouping.add(3), 60) == 3
    assert groups == [[1, 2, 3]] * 2
