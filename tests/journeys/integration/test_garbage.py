"""The garbage collector: what a task leaves behind, and what a process that serves does about it."""

import asyncio
import gc
import weakref
from collections import Counter

from benchmarks.sides import run_side
from benchmarks.stand import build_stand
from meshwright.cli.serving import IDLE_BYTES, IDLE_OBJECTS, YOUNG_OBJECTS, collecting

HERE = "tests.journeys.integration.test_garbage"
TASKS = 50


async def count_circles(folder: str) -> dict[str, int]:
    """By type, the objects that TASKS tasks leave for the collector."""
    harness = build_stand(folder)
    async with harness.mesh:
        await asyncio.gather(*(harness.task() for _ in range(TASKS)))  # caches fill once
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        await asyncio.gather(*(harness.task() for _ in range(TASKS)))
        gc.collect()
        gc.set_debug(0)
        return dict(Counter(type(found).__name__ for found in gc.garbage))


async def test_a_task_leaves_no_reference_circles(tmp_path):
    left = await run_side(f"{HERE}:count_circles", folder=str(tmp_path))

    assert sum(left.values()) < TASKS, f"at least one object a task: {left}"


class Circle:
    """Refers to itself, as an agent's own code may."""

    def __init__(self) -> None:
        self.me = self


async def free_circles() -> dict[str, bool]:
    """Whether circles that were set aside are walked again while work runs, and freed when it has ended."""
    idle = asyncio.Event()
    async with collecting(idle.is_set, check_seconds=0.01):
        circles = [Circle() for _ in range(IDLE_OBJECTS + 2 * YOUNG_OBJECTS)]
        freed = asyncio.Event()
        weakref.finalize(circles[0], freed.set)
        del circles
        gc.collect(0)
        kept = not freed.is_set()
        idle.set()
        async with asyncio.timeout(240):
            await freed.wait()
    return {"kept": kept}


async def test_circles_set_aside_are_freed_when_idle():
    seen = await run_side(f"{HERE}:free_circles")

    assert seen == {"kept": True}


async def free_megabytes() -> dict[str, bool]:
    """Whether one circle that holds much memory is freed when idle, after what the start left."""
    idle, looked, freed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    idle.set()

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            looked.set()

    gc.callbacks.append(note)
    circles = [Circle() for _ in range(IDLE_OBJECTS + 2 * YOUNG_OBJECTS)]
    async with collecting(idle.is_set, check_seconds=0.01), asyncio.timeout(240):
        await looked.wait()
        gc.callbacks.remove(note)
        large = Circle()
        vars(large)["text"] = b"x" * (2 * IDLE_BYTES)
        weakref.finalize(large, freed.set)
        del large
        gc.collect(0)
        await freed.wait()
    return {"freed": bool(circles)}


async def test_a_few_objects_that_hold_much_memory_are_freed_when_idle():
    seen = await run_side(f"{HERE}:free_megabytes")

    assert seen == {"freed": True}
