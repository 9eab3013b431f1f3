"""The crash trial of a user's agent: its process is killed before and behind each step.

Each run has a mesh of its own on a SQLite file, and a simulated model that calls each tool once.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from meshwright.core.errors import MeshError
from meshwright.core.folders import locked_folder
from meshwright.parts.proving.records import RecordFile
from meshwright.testing.crash_worker import CALLS, LOG, POINTS, RESULT, CrashJob

_MARK = "agent-"
_RUN_SECONDS = 120.0
_MAX_SHOWN = 120


class CrashRun(NamedTuple):
    """One run of the task: with a kill at a point, or without one."""

    point: str
    """The point of the kill, like `charge behind`. "" without one."""
    points: Sequence[str]
    """The points that its processes passed, in order."""
    calls: Sequence[tuple[str, str, str]]
    """[tool, arguments, result] of each call that returned."""
    question: str
    """The question that the crash asks a person. "" without one."""
    error: str
    """The error of the task. "" if it succeeded or asks."""


class CrashReport(NamedTuple):
    """The result of a crash trial."""

    agent_id: str
    """The agent."""
    runs: Sequence[CrashRun]
    """A run for each point."""

    @property
    def held(self) -> bool:
        """Whether each crash was survived without a person, and no repeated call gave another result."""
        return not any(remark for _, remark in self.remarks())

    def remarks(self) -> Iterator[tuple[str, str]]:
        """Yield each step with what a crash there means, "" where the mesh goes on by itself."""
        for name in dict.fromkeys(run.point.rpartition(" ")[0] for run in self.runs):
            runs = [run for run in self.runs if run.point.rpartition(" ")[0] == name]
            yield name, self._remark(name, runs)

    def _remark(self, name: str, runs: Sequence[CrashRun]) -> str:
        for run in runs:
            where = run.point.rpartition(" ")[2]
            if run.question:
                return (
                    f"a kill {where} it asks a person: {_short(run.question)!r}. Give the tool a check, or "
                    "idempotent=True if calling it twice does no harm"
                )
            if run.error:
                return f"a kill {where} it fails the task: {_short(run.error)}"
        for run in runs:
            results = [result for tool, _, result in run.calls if tool == name]
            if len(set(results)) > 1:
                first, last = _short(results[0]), _short(results[-1])
                return (
                    f"is called again after a kill, and gave another result: {first}, then {last}. Is it "
                    "idempotent? Give it a check, or use step_id as the key of its effect"
                )
        return ""


async def try_crashes(
    folder: Path, agent_id: str, text: str, tools: Sequence[str], report: Callable[[str], None]
) -> CrashReport:
    """Run an agent's task once, then once for each step before and behind which its process is killed.

    Each run has its files in a folder below `folder`, which is removed. Raises MeshError where the task does
    not succeed without a kill.
    """
    job = CrashJob("", agent_id, text, tuple(tools))
    with locked_folder(folder, _MARK) as (own_folder, _):
        async with _workers() as workers:
            undisturbed = await _run(workers, own_folder / "undisturbed", job, None, "")
            if problem := undisturbed.error or undisturbed.question:
                raise MeshError(
                    f"{agent_id} does not succeed without a kill: {problem}",
                    remedy="Name a request that it can answer with --text, or tools with --tool",
                )
            runs: list[CrashRun] = []
            for number, point in enumerate(undisturbed.points):
                report(f"kill {number + 1} of {len(undisturbed.points)}: {point}")
                runs.append(await _run(workers, own_folder / f"run-{number}", job, number, point))
        return CrashReport(agent_id, runs)


@asynccontextmanager
async def _workers() -> AsyncIterator[asyncio.subprocess.Process]:
    """The program that forks a process for each job; it ends with the block."""
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshwright.testing.crash_worker"), stdin=pipe, stdout=pipe, process_group=0
    )
    try:
        yield program
    finally:
        assert program.stdin is not None
        program.stdin.close()
        await program.wait()


async def _run(
    workers: asyncio.subprocess.Process, folder: Path, job: CrashJob, kill_at: int | None, point: str
) -> CrashRun:
    os.mkdir(folder, 0o700)
    job = replace(job, folder=str(folder), kill_at=kill_at)
    for life in (job, replace(job, kill_at=None)):
        if not await _live(workers, life):
            return _read_run(folder, point, f"no end within {_RUN_SECONDS:g} s")
        if (folder / RESULT).exists() or kill_at is None:
            break
    return _read_run(folder, point)


async def _live(workers: asyncio.subprocess.Process, job: CrashJob) -> bool:
    """Have a process do a job; whether it has ended by itself, or else was killed for taking too long."""
    assert workers.stdin is not None and workers.stdout is not None
    workers.stdin.write(job.encode().encode())
    pid = int(await workers.stdout.readline() or 0)
    if not pid:
        raise MeshError("The process of the crash trial has ended", remedy="See its lines above")
    has_ended = False
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(_RUN_SECONDS):
                await workers.stdout.readline()
                has_ended = True
    finally:
        if not has_ended:  # in time, or before the trial was interrupted
            os.killpg(pid, signal.SIGKILL)
            await workers.stdout.readline()
    return has_ended


def _read_run(folder: Path, point: str, problem: str = "") -> CrashRun:
    """Read the files of a run, which has ended; `problem` is why it was ended."""
    calls = [(tool, arguments, value) for tool, arguments, value in RecordFile(folder / CALLS).read()]
    points = RecordFile(folder / POINTS).read()
    result, log = folder / RESULT, folder / LOG
    end: dict[str, str] = {}
    if result.exists():
        end = json.loads(result.read_text())
    elif not problem:
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        problem = f"the process ended: {lines[-1] if lines else 'it said nothing'}"
    question, status = end.get("question", ""), end.get("status", "succeeded")
    problem = problem or end.get("error", "") or ("" if status == "succeeded" else f"it ended as {status}")
    return CrashRun(point, points, calls, question, problem)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]}..."
