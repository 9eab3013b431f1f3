"""Where the time of a task goes: samples of the loop's thread while 128 tasks are in flight.

Every millisecond of CPU the process is interrupted and the loop's stack noted, so that what is measured
runs at nearly its own speed. A sample counts for the innermost part below that is on the stack. Interrupts
come by the CPU time of the whole process: those that hit the writer find the loop waiting ("the rest").

How many functions a task calls is counted too: unlike time that is the same on a busy machine.
"""

from __future__ import annotations

import cProfile
import signal
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from benchmarks.bench import Bench
from benchmarks.load import drive
from benchmarks.sides import ROOT
from benchmarks.stand import build_stand

IN_FLIGHT = 128
SECONDS, WARM_UP_SECONDS = 15.0, 1.0
COUNTED_SECONDS = 3.0
SAMPLE_SECONDS = 0.001
SHOWN = 45
RUNTIME = str(ROOT / "runtime" / "meshwright") + "/"
HOPS = (
    ("orchestration/orchestrator.py", "accept"),
    ("orchestration/orchestrator.py", "settle"),
    ("work/thread.py", "enqueue"),
    ("work/thread.py", "claim"),
    ("work/thread.py", "complete"),
    ("context/plan.py", "plan"),
    ("run.py", "_recall"),
    ("run.py", "_compress"),
    ("run.py", "_prepare"),
    ("run.py", "_complete"),
    ("run.py", "_ask"),
    ("work/journal.py", "step"),
    ("runner.py", "__call__"),
    ("work/worker.py", "_work"),
    ("kernel/exclusive_executor.py", "_turn"),
    ("kernel/exclusive_executor.py", "_round"),
    ("kernel/exclusive_executor.py", "_settled"),
    ("tracing", ""),
    ("announcements.py", "_emit"),
    ("orchestration/tasks.py", "submit"),
    ("orchestration/tasks.py", "outcome"),
)


async def report(bench: Bench) -> str:
    """Run the lifecycle under the sampler, and say what a task spends where."""
    result = await bench.side("benchmarks.profile:sampled", seconds=bench.seconds(SECONDS))
    calls = await bench.side("benchmarks.profile:counted", seconds=bench.seconds(COUNTED_SECONDS))
    us = partial(_lines, scale=result["us_a_sample"])
    return "\n".join(
        (
            f"{result['rate']:,.0f} tasks/s; a task: {result['loop_us']:.0f} us CPU of the loop's thread, "
            f"{result['other_us']:.0f} us of others (the writer)",
            "",
            "by hop, us a task (the innermost that a sample was in)",
            *us(result["hops"]),
            "",
            "by file, us a task (itself, with the C and library code that it calls)",
            *us(result["files"]),
            "",
            "by function, us a task (itself)",
            *us(result["functions"]),
            "",
            f"{sum(calls.values()):,.0f} calls of functions a task, by the package that makes them",
            *_lines(calls, scale=1.0),
        )
    )


def _lines(counts: dict[str, float], scale: float) -> list[str]:
    return [f"{count * scale:8.1f}  {name}" for name, count in list(counts.items())[:SHOWN]]


class Sampler:
    """Counts where the main thread is, by hop, file and function."""

    def __init__(self) -> None:
        self.hops: Counter[str] = Counter()
        self.files: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()
        self.samples = 0

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0.0)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        self.samples += 1
        stack = list(_stack(frame))
        self.functions[stack[0] if stack else "?"] += 1
        ours = [each for each in stack if not each.startswith("lib ")]
        self.files[ours[0].partition(":")[0] if ours else (stack[-1] if stack else "?")] += 1
        self.hops[next((hop for each in ours if (hop := _hop(each))), "the rest")] += 1


def _stack(frame: FrameType | None) -> Any:
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(RUNTIME):
            yield f"{path.removeprefix(RUNTIME)}:{frame.f_code.co_name}"
        else:
            yield f"lib {'/'.join(Path(path).parts[-2:])}:{frame.f_code.co_name}"
        frame = frame.f_back


def _hop(place: str) -> str | None:
    file, _, function = place.partition(":")
    for path, name in HOPS:
        if file.startswith(path) and name in ("", function):
            return f"{path} {name}"
    return None


async def sampled(folder: str, seconds: float) -> dict[str, Any]:
    """Run the lifecycle, sampling after the warm-up."""
    assert threading.current_thread() is threading.main_thread()
    stand, sampler = build_stand(folder), Sampler()
    async with stand.running():
        await drive(stand.task, in_flight=IN_FLIGHT, seconds=WARM_UP_SECONDS, warm_up_seconds=0.0)
        process, thread, started = time.process_time(), time.thread_time(), time.perf_counter()
        sampler.start()
        seen = await drive(stand.task, in_flight=IN_FLIGHT, seconds=seconds, warm_up_seconds=0.0)
        sampler.stop()
        loop = time.thread_time() - thread
        process = time.process_time() - process
        took = time.perf_counter() - started
    return {
        "rate": seen.total / took,
        "loop_us": loop / seen.total * 1e6,
        "other_us": (process - loop) / seen.total * 1e6,
        "us_a_sample": process / seen.total * 1e6 / max(1, sampler.samples),
        "hops": dict(sampler.hops.most_common()),
        "files": dict(sampler.files.most_common()),
        "functions": dict(sampler.functions.most_common()),
    }


async def counted(folder: str, seconds: float) -> dict[str, float]:
    """Run the lifecycle, and count calls of functions a task: those in C by the package that makes them."""
    stand, profiler = build_stand(folder), cProfile.Profile()
    async with stand.running():
        await drive(stand.task, in_flight=IN_FLIGHT, seconds=WARM_UP_SECONDS, warm_up_seconds=0.0)
        profiler.enable()
        seen = await drive(stand.task, in_flight=IN_FLIGHT, seconds=seconds, warm_up_seconds=0.0)
        profiler.disable()
    calls: Counter[str] = Counter()
    for entry in profiler.getstats():
        if isinstance(entry.code, CodeType):
            in_c = [called.callcount for called in entry.calls or () if isinstance(called.code, str)]
            calls[_package(entry.code)] += entry.callcount + sum(in_c)
    return {name: count / seen.total for name, count in calls.most_common()}


def _package(code: CodeType) -> str:
    path = code.co_filename
    return path.removeprefix(RUNTIME).partition("/")[0] if path.startswith(RUNTIME) else "others' code"
