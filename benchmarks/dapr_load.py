"""Load at several levels in one process, and the CPU that a task costs each process of a stack meanwhile."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lifecycle import warm_up
from benchmarks.load import drive

TICKS = os.sysconf("SC_CLK_TCK")
USER, SYSTEM = 11, 12  # fields of /proc/PID/stat after the name


async def at_each_level(
    work: Callable[[], Awaitable[object]], place: dict[str, Any], levels: Sequence[int], seconds: float
) -> dict[str, float]:
    """Keep so many tasks in flight for `seconds`, level by level; each figure's name ends with its level.

    `place` names the processes; the worker itself is this one, with those that it names as workers.
    """
    pids = {**place["pids"], "worker": [os.getpid(), *place["pids"].get("worker", ())]}
    figures: dict[str, float] = {}
    for level in levels:
        meter = Meter(pids)
        seen = await drive(work, in_flight=level, seconds=seconds, warm_up_seconds=warm_up(seconds))
        used = {f"cpu_{name}": cpu / seen.total * 1000 for name, cpu in meter.read().items()}
        figures |= {f"{name}_{level}": value for name, value in {**seen.summary(), **used}.items()}
    return figures


class Meter:
    """CPU that groups of processes have used since, in seconds; all their threads count."""

    def __init__(self, pids: Mapping[str, Sequence[int]]) -> None:
        self._pids = pids
        self._before = self._now()

    def read(self) -> dict[str, float]:
        """Seconds by name."""
        return {name: seconds - self._before[name] for name, seconds in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {name: sum(map(cpu_seconds, pids)) for name, pids in self._pids.items()}


def cpu_seconds(pid: int) -> float:
    """What a process has used so far; nothing where it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return (int(fields[USER]) + int(fields[SYSTEM])) / TICKS
