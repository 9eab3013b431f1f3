"""A course: one mesh with a tree for each job, whose process can be killed at every step of all jobs."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CalledProcessError
from typing import Literal

from benchmarks.coding.job import CodingJob, fill_cache, tree_settings
from benchmarks.coding.model import RecordedModel
from benchmarks.coding.proof import proved
from meshwright.core.errors import NotFound, ToolFailed
from meshwright.core.messages import ENDED
from meshwright.engine.events.tasks import TaskSummary
from tests.support.running_mesh import RunningMesh, mesh_up

AGENT = "api-coder"
"""The agent that comes with Meshwright: the folder of a course has no agents of its own."""
APPROVED = "propose"
"""The one tool that a course approves: it commits on a branch of a repository made for the course."""
Kill = Literal["never", "between", "within"]
_LOOK_SECONDS = 0.05
_DEADLINE_SECONDS = 3600.0


@dataclass
class Result:
    """The end of a job: whether its tests pass, by which diff, and how often models and tools were called.

    `asked` counts the calls of models that were answered, `cut` those that a kill ended before, `calls` those
    of each tool.
    """

    job: CodingJob
    task: TaskSummary
    is_solved: bool
    diff: str = field(repr=False)
    asked: int
    cut: int
    calls: Counter[str]
    failed_calls: int
    answer: str
    proof: str = field(repr=False)
    """The output of the tests that were run by code."""

    @property
    def digest(self) -> str:
        """A hash of the diff, by which runs are compared."""
        return hashlib.sha256(self.diff.encode()).hexdigest()[:8]


class Course:
    """Jobs in a mesh of their own, in a folder: with a recorded model, or with the one that `model` names."""

    def __init__(
        self,
        folder: Path,
        jobs: Sequence[CodingJob],
        *,
        model: str = "",
        recorded: RecordedModel | None = None,
    ) -> None:
        self.folder, self.jobs = folder, jobs
        self.data = folder / "data"
        self.kills = 0
        self.model = RecordedModel() if recorded is None else recorded
        self.model.follow(jobs)
        self._ids: dict[str, str] = {}
        self._environment = {"MESH_AGENTS__MAX_CONCURRENCY": str(len(jobs))}
        self._arguments = ["--model", model] if model else []
        tables = [self._table(job) for job in jobs]
        (folder / "mesh.toml").write_text("\n".join(tables))

    @property
    def repeated(self) -> int:
        """How many answers the recorded model has given again, to a repeated request."""
        return sum(times - 1 for times in self.model.given.values())

    def _table(self, job: CodingJob) -> str:
        """Make the repository of a job; returns its table of the settings."""
        source = job.make(self.folder / "sources" / job.name)
        if job.language == "go":
            fill_cache(source)
        settings = tree_settings(job.language)
        variables = [f"{name} = {json.dumps(value)}" for name, value in settings.get("env", {}).items()]
        lines = [f"repository = {json.dumps(str(source))}", f"read = {json.dumps(settings['read'])}"]
        return "\n".join([f"[trees.{job.name}]", *lines, f"env = {{ {', '.join(variables)} }}", ""])

    async def run(self, kill: Kill = "never") -> list[Result]:
        """Do the jobs, with kill -9 before every answer of the model, or within every step of a tree.

        Kills take the recorded model.
        """
        if self._arguments:
            return await self._finished()
        async with self.model as model:
            self._use(model)
            if kill != "never":
                await self._killed(kill)
            model.held_from.clear()
            return await self._finished()

    def _use(self, model: RecordedModel) -> None:
        """Have the meshes of this course ask a recorded model."""
        config = self.folder / "models.yaml"
        config.write_text(model.config)
        self._environment |= {"MESH_MODELS__CONFIG": str(config), "MESH_MODELS__ADAPTER": "router"}

    async def _killed(self, kill: Kill) -> None:
        """Let each job come one step further and kill the mesh, again and again, until all have ended."""
        model, asked = self.model, set[str]()
        while True:
            for job in self.jobs:
                if job.name not in asked:
                    model.held_from[job.name] = model.held_from.get(job.name, -1) + 1
            model.held.clear()
            steps = {job.name: self._last_step(job.name) for job in self.jobs}
            async with self._up() as running:
                while True:
                    open_now = await self._answered(running, asked)
                    ended = await self._ended(running)
                    if len(ended) == len(self.jobs):
                        return
                    come = ended | open_now | model.held
                    if kill == "within":
                        come |= {name for name, step in steps.items() if self._last_step(name) != step}
                    if come == steps.keys():
                        break
                    await asyncio.sleep(_LOOK_SECONDS)
                await running.kill()
            self.kills += 1
            asked = open_now

    async def _answered(self, running: RunningMesh, asked: set[str]) -> set[str]:
        """Approve what jobs have asked for; returns the names of those whose questions are left open."""
        found = set[str]()
        for question in await running.client.inbox():
            name = next(name for name, task_id in self._ids.items() if task_id == question.task_id)
            if name in asked:
                approve = (question.subject or {}).get("tool") == APPROVED
                await running.client.answer(question, {"approve": approve})
            else:
                found.add(name)
        return found

    async def _finished(self) -> list[Result]:
        everything = {job.name for job in self.jobs}
        async with self._up() as running:
            while await self._ended(running) != everything:
                await self._answered(running, everything)
                await asyncio.sleep(_LOOK_SECONDS)
            return [await self._result(running, job) for job in self.jobs]

    async def _result(self, running: RunningMesh, job: CodingJob) -> Result:
        client, task_id = running.client, self._ids[job.name]
        [task] = await client.tasks(task_id=task_id)
        outcome = await client.outcome(task_id)
        story = await running.story(task_id)
        called = [event for event in story if event["event_type"] == "tool.called"]
        asked = Counter(
            event["payload"]["outcome"] for event in story if event["event_type"] == "model.called"
        )
        diff = ""
        with suppress(NotFound):  # a model may answer without a look at the tree
            diff = (await client.call("GET", f"/trees/{task_id}/diff"))["diff"]
        is_green, output = await self._proof(job, diff)
        return Result(
            job=job,
            task=task,
            is_solved=outcome.success and is_green,
            diff=diff,
            asked=asked["ok"],
            cut=asked["cut"],
            calls=Counter(event["payload"]["tool"] for event in called),
            failed_calls=sum(not event["payload"]["ok"] for event in called),
            answer=str((outcome.result or {}).get("text", outcome.error)),
            proof=output,
        )

    async def _proof(self, job: CodingJob, diff: str) -> tuple[bool, str]:
        try:
            finished = await proved(job, diff, self.folder / "proofs" / job.name)
        except (CalledProcessError, ToolFailed) as error:
            return False, str(error)
        return finished.status == 0, finished.output

    @asynccontextmanager
    async def _up(self) -> AsyncGenerator[RunningMesh]:
        async with mesh_up(self.data, *self._arguments, cwd=self.folder, **self._environment) as running:
            for job in self.jobs:
                receipt = await running.client.submit(
                    AGENT,
                    f"{job.task} Commit it once all tests pass.",
                    repository=job.name,
                    idempotency_key=job.name,
                    deadline=_DEADLINE_SECONDS,
                )
                self._ids[job.name] = receipt.task_id
            yield running

    async def _ended(self, running: RunningMesh) -> set[str]:
        """The names of the jobs that have ended."""
        tasks = await running.client.tasks(limit=len(self.jobs), agent_id=AGENT)
        ended = {task.task_id for task in tasks if task.status in ENDED}
        return {name for name, task_id in self._ids.items() if task_id in ended}

    def _last_step(self, name: str) -> str:
        """The id of the last step that has begun in the tree of a job."""
        with suppress(FileNotFoundError, KeyError):
            return (self.data / "trees" / "default" / self._ids[name] / "steps" / "last").read_text()
        return ""
