"""Scripts of a pool of workers."""

import asyncio
from datetime import timedelta

from tests.support.worker_pool import Shift


async def one_step(shift: Shift) -> str:
    return await shift.do("work")


async def three_steps(shift: Shift) -> str:
    return ", ".join([await shift.do(name) for name in ("first", "second", "third")])


async def asks_between(shift: Shift) -> str:
    """Asks a person between two steps; other tasks just work."""
    if not shift.task_id.startswith("ask"):
        return await shift.do("work")
    await shift.do("before")
    answer = await shift.ask("may I?")
    await shift.do("after")
    return str(answer)


async def delegates(shift: Shift) -> str:
    """Has a child do it; the child just works."""
    if not shift.task_id.startswith("parent"):
        return await shift.do("work")
    await shift.do("before")
    outcome = await shift.delegate(shift.task_id.replace("parent", "child"))
    await shift.do("after")
    return f"{outcome['status']}: {(outcome['result'] or {}).get('text')}"


async def waits_side_by_side(shift: Shift) -> str:
    """Asks two people, works, delegates and sleeps, all at once; a child just works."""
    if not shift.task_id.startswith("parent"):
        return await shift.do("work")
    outcome, first, second, work, _ = await asyncio.gather(
        shift.delegate(shift.task_id.replace("parent", "child")),
        shift.ask("first?"),
        shift.ask("second?"),
        shift.do("aside"),
        shift.sleep(timedelta(milliseconds=50)),
    )
    await shift.do("after")
    return f"{first}, {second}, {outcome['status']}, {work.partition(' by ')[0]}"
