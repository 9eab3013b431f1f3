"""A course of Codex or Claude Code: the real programs do the jobs, and they and the mesh are killed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks.coding.commands import mark_of
from benchmarks.coding.course import Course, Result
from benchmarks.coding.job import CodingJob
from benchmarks.coding.program_model import ProgramModel
from meshwright.core.messages import ENDED
from meshwright.engine.events.inbox import Question
from meshwright.engine.work.people import is_doubt
from tests.support.running_mesh import RunningMesh, mesh_up

PROGRAMS = {"codex": "codex-acp", "claude": "claude-code-acp"}
"""The adapter of each program; without one the program itself is called, by its own name."""
INSTALL = Path(__file__).resolve().parents[2] / "tests/support/harness_programs/install"
_LOOK_SECONDS = 0.05
_DEADLINE_SECONDS = 1800.0
"""The time of a job, with its kills."""
_PERMISSION = "asks for a permission"


class KillPlace(NamedTuple):
    """A kill -9: of the mesh as an answer of the model is recorded (`between`), as the model is asked
    (`within`), as a permission is open (`asked`), or of the `program` as the model is asked.

    `step` is the number of commands that have ended by then.
    """

    step: int
    what: Literal["between", "within", "asked", "program"]


@dataclass
class Tally:
    """How a job went: its kills, its questions, its sessions, and tokens by the provider and the ledger.

    Whether a call that a kill cut off was answered is known to the provider alone: the ledger has such calls
    by an estimate, `cut_tokens`, beside the `ledger_tokens` of calls that ended.
    """

    kills: list[KillPlace] = field(default_factory=list)
    permissions: Counter[str] = field(default_factory=Counter)
    """How often each command was asked about."""
    doubts: int = 0
    sessions: Counter[str] = field(default_factory=Counter)
    provider_tokens: int = 0
    ledger_tokens: int = 0
    cut_tokens: int = 0
    provider_answers: int = 0
    provider_repeats: int = 0

    @property
    def asked_again(self) -> int:
        """How many questions were asked that had been asked before."""
        return self.permissions.total() - len(self.permissions)


class ProgramCourse(Course):
    """The jobs one after the other, each by a session of `program`, which asks for its permissions.

    With `headless` the program is called without its adapter, and asks for none.
    """

    def __init__(
        self, folder: Path, jobs: Sequence[CodingJob], program: str, seed: int = 0, *, headless: bool = False
    ) -> None:
        self.script = ProgramModel()
        super().__init__(folder, jobs, recorded=self.script)
        self.agent, self._seed, self._headless = program, seed, headless
        self._command = program if headless else PROGRAMS[program]
        self.tallies = {job.name: Tally() for job in jobs}
        table = {
            "program": program,
            "protocol": "headless" if headless else "acp",
            "command": str(installed() / self._command),
            "permissions": "box" if headless else "ask",
            "capabilities": ["bug-fix"],
        }
        lines = [f"[coding.{program}]", *(f"{name} = {json.dumps(value)}" for name, value in table.items())]
        with (folder / "mesh.toml").open("a") as settings:
            settings.write("\n".join(["", *lines, ""]))

    async def done(self, *, kill: bool = False) -> AsyncGenerator[Result]:
        """Do the jobs, and yield the result of each; with `kill`, each has a kill of every kind."""
        async with self.script as model:
            self._use(model)
            for job in self.jobs:
                yield await self._done(job, self._kills(job) if kill else [])

    def _kills(self, job: CodingJob) -> list[KillPlace]:
        """The places of a job's kills, in their order, by the seed."""
        chance = random.Random(f"{self._seed}/{job.name}")
        commands = self.script.commands[job.name]
        if self._headless:
            places = chance.sample(range(len(commands) + 1), 4)
            return sorted(map(KillPlace, places, ("between", "within", "program", "within")))
        asked = chance.choice([step for step, command in enumerate(commands) if command.writes])
        others = chance.sample([step for step in range(len(commands) + 1) if step != asked], 3)
        kinds: list[Literal["between", "within", "program"]] = ["between", "within", "program"]
        return sorted([KillPlace(asked, "asked"), *map(KillPlace, others, kinds)])

    async def _done(self, job: CodingJob, kills: Sequence[KillPlace]) -> Result:
        waiting, tally = deque(kills), self.tallies[job.name]
        tokens, side_requests = self.script.tokens, self.script.side_requests
        self.script.requests.clear()
        while True:
            async with self._started(job) as running:
                if await self._has_ended(running, job, waiting):
                    result = await self._result(running, job)
                    await self._count(running, job, tally)
                    break
                await running.kill()
                self.script.release(job)
            self.kills += 1
        tally.provider_tokens = self.script.tokens - tokens
        side_requests = self.script.side_requests - side_requests
        tally.provider_answers = self.script.requests.total() + side_requests
        tally.provider_repeats = self.script.repeated
        return result

    @asynccontextmanager
    async def _started(self, job: CodingJob) -> AsyncGenerator[RunningMesh]:
        async with mesh_up(self.data, cwd=self.folder, **self._environment) as running:
            receipt = await running.client.submit(
                self.agent,
                job.task,
                repository=job.name,
                idempotency_key=job.name,
                deadline=_DEADLINE_SECONDS,
            )
            self._ids[job.name] = receipt.task_id
            yield running

    async def _count(self, running: RunningMesh, job: CodingJob, tally: Tally) -> None:
        """Count what the task of a job has asked, and its sessions."""
        task_id = self._ids[job.name]
        for question in await running.client.inbox(id=task_id, ended=True):
            if _PERMISSION in question.question:
                tally.permissions[_command_of(question, job)] += 1
            tally.doubts += is_doubt(question.wait_id)
        for event in await running.story(task_id):
            payload = event["payload"]
            if event["event_type"] == "coding.session":
                tally.sessions[payload["how"]] += 1
            elif event["event_type"] == "model.called" and payload["outcome"] == "ok":
                tally.ledger_tokens += _tokens(payload["usage"])
            elif event["event_type"] == "model.called" and payload["outcome"] == "cut":
                tally.cut_tokens += _tokens(payload["usage"])

    async def _has_ended(self, running: RunningMesh, job: CodingJob, waiting: deque[KillPlace]) -> bool:
        """Answer what is asked until the job has ended; false where the mesh is to be killed before."""
        while True:
            [task] = await running.client.tasks(task_id=self._ids[job.name])
            if task.status in ENDED:
                return True
            kill = waiting[0] if waiting else None
            questions = await running.client.inbox(id=task.task_id)
            if kill is not None and await self._is_reached(running, job, kill, questions):
                self.tallies[job.name].kills.append(waiting.popleft())
                if kill.what != "program":
                    return False
                kill_program(running.process.pid, self._command)
                self.script.release(job)
            else:
                for question in questions:
                    await running.client.answer(question, {"approve": True})
            await asyncio.sleep(_LOOK_SECONDS)

    async def _is_reached(
        self, running: RunningMesh, job: CodingJob, kill: KillPlace, questions: Sequence[Question]
    ) -> bool:
        """Whether a job has come to the place of a kill; it does not come further."""
        if kill.what == "asked":
            mark = mark_of(kill.step, job)
            return any(mark in json.dumps(question.subject) for question in questions)
        self.script.held_from[job.name] = kill.step
        if job.name not in self.script.held:
            return False
        if kill.what == "between":
            last = await self._last_answer(running, job)
            self.script.release(job)
            await running.until(lambda event: event["event_type"] == "model.called" and event["seq"] > last)
        return True

    async def _last_answer(self, running: RunningMesh, job: CodingJob) -> int:
        """The number of the event of a job's last call of the model."""
        page = await running.get("/events", task_id=self._ids[job.name], event_type="model.called", limit=500)
        return max((int(event["seq"]) for event in page.body["items"]), default=0)


def _tokens(usage: Mapping[str, int]) -> int:
    return usage["prompt_tokens"] + usage["completion_tokens"]


def _command_of(question: Question, job: CodingJob) -> str:
    """The command that a permission is for: by its mark, where it is one of the job."""
    subject = json.dumps(question.subject, sort_keys=True)
    marks = (mark_of(step, job) for step in range(len(job.calls)))
    return next((mark for mark in marks if mark in subject), subject)


def installed() -> Path:
    """The folder of the programs. Raises LookupError where they are not installed."""
    where = subprocess.run([sys.executable, INSTALL, "--where"], capture_output=True, text=True, check=False)
    if where.returncode:
        raise LookupError("the coding agents are not installed: make harness")
    return Path(where.stdout.strip())


def kill_program(mesh_pid: int, name: str) -> None:
    """Kill -9 what runs under a name among the descendants of a mesh, without their box."""
    for pid in _descendants(mesh_pid):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(Path(os.fsdecode(word)).name == name for word in words[:2]):
            os.kill(pid, signal.SIGKILL)
            return
    raise LookupError(f"no {name} is running")


def _descendants(pid: int) -> list[int]:
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for child in task.read_text().split()
    ]
    return [*children, *(other for child in children for other in _descendants(child))]
