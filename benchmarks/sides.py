"""Sides: functions that run in a process of their own and hand back JSON, a line at a time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MAX_SECONDS = 600.0  # for a result, on however busy a machine
MAX_LINE_BYTES = 16 * 1024 * 1024
LEFT_OUT = ("MESH_", "LITELLM_", "OTEL_", "PROMPT_DIR", "PYTHONDONTWRITEBYTECODE")


@dataclass
class Side:
    """A side that runs: `next` lets it go on to its next result."""

    process: Process

    async def next(self, max_seconds: float = MAX_SECONDS) -> dict[str, Any]:
        """Let it go on, and wait for what it says next."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        line = await asyncio.wait_for(self.process.stdout.readline(), max_seconds)
        if not line:
            raise RuntimeError(f"a side ended with status {await self.process.wait()}: its words are above")
        return json.loads(line)


@asynccontextmanager
async def side(function: str, **arguments: Any) -> AsyncIterator[Side]:
    """Start `module:function` in a process of its own; it is gone at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.side", function, json.dumps(arguments)),
        cwd=ROOT,
        env=clean_environment(),
        stdin=PIPE,
        stdout=PIPE,
        limit=MAX_LINE_BYTES,
    )
    try:
        yield Side(process)
    finally:
        kill(process)
        await process.wait()


def kill(process: Process) -> None:
    """Kill -9. Not `process.kill`, which would take the exit status from under asyncio's feet."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


async def run_side(function: str, **arguments: Any) -> dict[str, Any]:
    """Run a side that has one result."""
    async with side(function, **arguments) as running:
        return await running.next()


def clean_environment() -> dict[str, str]:
    """The environment without settings and keys: and no side compiles at each start."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LEFT_OUT)}
    return {name: value for name, value in kept.items() if not name.endswith("_API_KEY")}
