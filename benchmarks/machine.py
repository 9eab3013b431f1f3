"""The machine that the figures are of."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

PACKAGES = (
    "meshwright",
    "pydantic",
    "fastapi",
    "uvicorn",
    "uvloop",
    "aiohttp",
    "opentelemetry-sdk",
    "litellm",
)
FSYNCS = 200
BLOCK = b"\0" * 4096
_TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> list[str]:
    """Lines that name the machine and the versions."""
    versions = [f"{name} {installed}" for name in PACKAGES if (installed := _version(name))]
    return [
        f"machine: {_cpu()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        f"python {platform.python_version()}, sqlite {sqlite3.sqlite_version}, {', '.join(versions)}",
    ]


def load_average() -> str:
    """How busy the machine is, over 1, 5 and 15 minutes."""
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def fsync_ms(folder: Path) -> float:
    """What it takes to append a page to a file of that folder and flush it, as a commit does."""
    times = []
    descriptor = os.open(folder / "fsync", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        for _ in range(FSYNCS):
            started = time.perf_counter()
            os.write(descriptor, BLOCK)
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
    return median(times) * 1000


def rss_mb(pid: int | str = "self") -> float:
    """The memory that a process has in use (resident), in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown CPU")


def cpu_of(pid: int) -> float:
    """The seconds of CPU that a process has taken; 0 is none."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
