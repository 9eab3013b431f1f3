"""How long a person waits: for `mesh --help`, for `mesh up`, for an answer; and what an idle mesh holds."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

from benchmarks.bench import Bench, Round
from benchmarks.figures import Row, column
from benchmarks.machine import rss_mb
from benchmarks.sides import ROOT, clean_environment

MESH = str(Path(sys.executable).with_name("mesh"))
QUESTION = "What is this project, in one sentence?"
SETTLE_SECONDS = 1.0
MAX_HELP_MS, MAX_UP_SECONDS, MAX_ASK_SECONDS, MAX_IDLE_MB = 60.0, 1.5, 1.5, 100.0


async def measure(bench: Bench) -> list[Row]:
    async def bare() -> Round:
        return await run(sys.executable, "-c", "pass")

    async def helped() -> Round:
        return await run(MESH, "--help")

    async def ask() -> Round:
        with bench.folder() as folder:
            return await run(MESH, "ask", "simple-agent", QUESTION, "--data", str(folder))

    async def idle() -> Round:
        with bench.folder() as folder:
            return await up(folder)

    short = await bench.in_turns({"bare": bare, "help": helped}, rounds=bench.rounds * 3)
    rounds = await bench.in_turns({"ask": ask, "up": idle})
    help_ms, bare_ms = (column(short[name], "ms", "ms") for name in ("help", "bare"))
    added = help_ms.median - bare_ms.median
    ready, idle_mb = column(rounds["up"], "ready_s", "s", 2), column(rounds["up"], "rss_mb", "MB", 1)
    asked = column(rounds["ask"], "seconds", "s", 2)
    return [
        Row("`mesh --help`", help_ms, bare_ms, f"+{added:.0f} ms", "<= +60 ms", added <= MAX_HELP_MS),
        Row("`mesh up` until ready", ready, target="<= 1.5 s", met=ready.median <= MAX_UP_SECONDS),
        Row(
            "`mesh ask`, no mesh running",
            asked,
            target="<= 1.5 s",
            met=asked.median <= MAX_ASK_SECONDS,
            note="the whole command, to its end",
        ),
        Row(
            "memory of an idle mesh, whole fleet",
            idle_mb,
            target="<= 100 MB",
            met=idle_mb.median <= MAX_IDLE_MB,
        ),
    ]


async def run(*command: str) -> Round:
    """Run a command to its end."""
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=clean_environment(), stdout=DEVNULL, stderr=PIPE
    )
    _, errors = await process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors.decode()}")
    return {"seconds": seconds, "ms": seconds * 1000}


async def up(folder: Path) -> Round:
    """Start a mesh, wait until it is ready, and see what it holds a moment later."""
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(MESH, "up", "--port", "0", "--data", str(folder)),
        cwd=ROOT,
        env=clean_environment(),
        stdout=PIPE,
        stderr=DEVNULL,
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 30.0)
        ready = time.perf_counter() - started
        assert line.startswith(b"ready "), line
        await asyncio.sleep(SETTLE_SECONDS)
        return {"ready_s": ready, "rss_mb": rss_mb(process.pid)}
    finally:
        process.terminate()
        await process.wait()
