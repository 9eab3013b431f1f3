"""The child program: a mesh and a client of it, on a folder, until it is done or killed.

Run as a program it takes jobs as lines of JSON and forks for each, so that a start costs no imports; what the
child says, and how it ended, are lines on stdout.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import random
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import uvloop
from pydantic import TypeAdapter

from meshwright.core.errors import Conflict, HostError, NotFound, StoreUnavailable
from meshwright.core.messages import Outcome, Receipt, TaskRequest
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.inbox import Inbox
from meshwright.engine.kernel import ahead
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.mesh.app import StoreDeps, build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.balance import Balance
from tests.support.faults import controls
from tests.support.faults.evidence import BUDGET
from tests.support.faults.failpoints import FailingHost, Failpoints
from tests.support.faults.fleet import Books, CountingModel, agents
from tests.support.settings import Settings

ROOT = Path(__file__).parents[3]
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Item:
    """One task that the client wants done; `key` is its idempotency key, its first word its shape."""

    key: str
    agent_id: str
    thread_id: str | None = None
    cancel: bool = False
    deadline: float | None = None

    @property
    def number(self) -> int:
        """Its place in the plan."""
        return int(self.key.split()[1])


@dataclass(frozen=True)
class Job:
    folder: str
    plan: Sequence[Item]
    point: str = ""
    nth: int = 1
    control: str = ""
    max_open: int = 64
    is_paced: bool = False
    """Whether the client waits with each task until the books allow it."""
    max_model_seconds: float = 0.0
    cost_usd: Decimal = Decimal(0)
    """The price of a call of the model."""
    max_turns_a_round: int = ahead.MAX_TURNS_A_ROUND
    settings: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> str:
        return TypeAdapter(Job).dump_json(self).decode()

    @classmethod
    def decode(cls, text: str) -> Job:
        return TypeAdapter(Job).validate_json(text)


def say(*words: str) -> None:
    """Tell the parent something: one line, written at once."""
    os.write(1, " ".join(words).encode() + b"\n")


def mesh_of(job: Job, failpoints: Failpoints) -> Mesh:
    """The mesh of a job, with failpoints at its doors."""
    books = Books(Path(job.folder))

    def make(deps: StoreDeps) -> FailingHost:
        arguments = (deps.database, deps.log, deps.clock, deps.tracing)
        return FailingHost(failpoints, *arguments, apart=deps.settings.writer == "process")

    return build_mesh(
        Settings(data_dir=Path(job.folder, "data"), **job.settings),
        project=ROOT,
        agents=agents(books, failpoints.passes),
        model=model_of(job, books, failpoints),
        runtime=make,
    )


def model_of(job: Job, books: Books, failpoints: Failpoints) -> CountingModel:
    """The model of a job."""
    known = {"max_seconds": job.max_model_seconds, "cost_usd": job.cost_usd}
    return CountingModel(books, failpoints.passes, **known)


class Asked(Protocol):
    async def submit(self, request: TaskRequest, *, idempotency_key: str) -> Receipt: ...

    async def started(self, task_id: str) -> None: ...

    async def answer(self, task_id: str, key: str, value: Any) -> None: ...

    async def outcome(self, task_id: str) -> Outcome: ...

    async def cancel(self, task_id: str) -> Any: ...


class Direct:
    """A mesh as a client in its process sees it."""

    def __init__(self, mesh: Mesh) -> None:
        tasks, self._log = mesh.get(Tasks), mesh.log
        self.submit, self.outcome, self.cancel, self.answer = (
            tasks.submit,
            tasks.outcome,
            tasks.cancel,
            tasks.answer,
        )

    async def started(self, task_id: str) -> None:
        """Wait until a task has been claimed."""
        async for _ in self._log.tail(EventFilter(task_id=task_id, event_type="task.started", after_seq=0)):
            break


class Client:
    """Has a plan's tasks done: sends each until it is accepted, writes that down, waits for its outcome."""

    def __init__(self, tasks: Asked, job: Job, failpoints: Failpoints) -> None:
        self._tasks = tasks
        self._job = job
        self._failpoints = failpoints
        self._books = Books(Path(job.folder))
        self._accepted: dict[str, str] = dict(self._books.accepted.read())
        self._cancelled = set(self._books.cancelled.read())
        self._told = {task_id for task_id, _, _ in self._books.told.read()}
        self._open = asyncio.Semaphore(job.max_open)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for item in self._job.plan:
                while self._job.is_paced and item.number >= self._books.allowed():
                    await asyncio.sleep(LOOK_SECONDS)
                tasks.create_task(self._carry(item))

    async def _carry(self, item: Item) -> None:
        if self._accepted.get(item.key) in self._told:
            return
        async with self._open:
            task_id = self._accepted.get(item.key) or await self._submit(item)
            if item.cancel and task_id not in self._cancelled:
                await self._cancel(task_id)
            outcome = await self._tasks.outcome(task_id)
            self._books.told.write([task_id, outcome.status, outcome.text])
            self._failpoints.passes("client.told")
            say("ended", task_id)

    async def _submit(self, item: Item) -> str:
        request = TaskRequest(
            agent_id=item.agent_id,
            payload={"text": item.key},
            thread_id=item.thread_id,
            deadline=item.deadline,
        )
        if self._job.control == controls.ACK_ON_RECEIPT:
            self._books.accepted.write([item.key, controls.task_id_of(item.key)], durable=True)
        receipt = await self._tasks.submit(request, idempotency_key=item.key)
        if self._job.control != controls.ACK_ON_RECEIPT:
            self._books.accepted.write([item.key, receipt.task_id], durable=True)
        self._failpoints.passes("client.accepted")
        return receipt.task_id

    async def _cancel(self, task_id: str) -> None:
        await self._tasks.started(task_id)
        await self._tasks.cancel(task_id)
        self._books.cancelled.write(task_id)
        self._failpoints.passes("client.cancelled")


class Person:
    """Says of each charge that may have been made that it was."""

    def __init__(self, tasks: Asked, inbox: Inbox) -> None:
        self._tasks = tasks
        self._inbox = inbox

    async def run(self) -> None:
        while True:
            with suppress(HostError):  # it is asked again
                for question in (await self._inbox.page("default", limit=500)).items:
                    with suppress(Conflict, NotFound):  # it was answered before
                        answer = {"approve": False, "reason": "it was charged"}
                        await self._tasks.answer(question.task_id, question.wait_id, answer)
            await asyncio.sleep(LOOK_SECONDS)


async def be_client(tasks: Asked, mesh: Mesh, job: Job, failpoints: Failpoints) -> None:
    """Have the plan's tasks done, with a person where one may be asked, and return once all are paid for."""
    asks = any(item.key.startswith("charge") for item in job.plan)
    person = asyncio.create_task(Person(tasks, mesh.get(Inbox)).run()) if asks else None
    await Client(tasks, job, failpoints).run()
    if person is not None:
        person.cancel()
    while job.cost_usd and await _reserves(mesh):  # a deadline ends a task before its call is settled
        say("reserves")
        await asyncio.sleep(LOOK_SECONDS)


async def _reserves(mesh: Mesh) -> bool:
    """Whether a call is not paid for yet."""
    try:
        return bool((await mesh.runtime.read(BUDGET) or Balance()).reserved)
    except StoreUnavailable:
        return True


async def work(job: Job) -> None:
    """Do a job to its end."""
    failpoints = Failpoints(job.point, job.nth)
    controls.break_on_purpose(job.control)
    setattr(ahead, "MAX_TURNS_A_ROUND", job.max_turns_a_round)  # noqa: B010 in this process alone
    mesh = mesh_of(job, failpoints)
    async with mesh:
        if mesh.settings.writer == "process" and isinstance(mesh.database, SqliteDatabase):
            await mesh.database.write_apart()
            say("writer", str(mesh.database.writer_pid))
        say("ready")
        await be_client(Direct(mesh), mesh, job, failpoints)
    say("passed", json.dumps(failpoints.passed))


def child(job: Job) -> int:
    """Be the child; returns its exit status."""
    faulthandler.enable()  # what has hung says where, when it is told to end by SIGABRT
    random.seed()  # what was forked would else draw what its siblings draw
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work(job))
    except BaseException:  # noqa: BLE001 whatever it was belongs on stderr, and nothing of the parent may run
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Fork a child for each line, and say how it ended: 0, its exit status, or minus the signal."""
    for line in sys.stdin:
        job = Job.decode(line)
        pid = os.fork()
        if pid == 0:
            os._exit(child(job))
        say("pid", str(pid))
        _, status = os.waitpid(pid, 0)
        say("exit", str(os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    main()
