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
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import uvloop
from pydantic import TypeAdapter

from meshwright.core.errors import StoreUnavailable
from meshwright.engine.events.inbox import Inbox
from meshwright.engine.kernel import exclusive_executor
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.mesh.app import StoreDeps, build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.money.balance import Balance
from meshwright.parts.proving.client import LOOK_SECONDS, LocalTasks, Person, PlanClient, TaskClient
from meshwright.parts.proving.evidence import BUDGET
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.workload import CountingModel, PlannedTask, make_agents
from tests.support.faults import controls
from tests.support.faults.failpoints import FailingHost, Failpoints
from tests.support.settings import Settings

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Job:
    folder: str
    plan: Sequence[PlannedTask]
    point: str = ""
    nth: int = 1
    control: str = ""
    max_open: int = 64
    is_paced: bool = False
    """Whether the client waits with each task until the books allow it."""
    max_model_seconds: float = 0.0
    cost_usd: Decimal = Decimal(0)
    """The price of a call of the model."""
    max_turns_a_round: int = exclusive_executor.MAX_TURNS_A_ROUND
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
    books = Records(Path(job.folder))

    def make(deps: StoreDeps) -> FailingHost:
        arguments = (deps.database, deps.log, deps.clock, deps.tracing)
        return FailingHost(failpoints, *arguments, apart=deps.settings.writer == "process")

    return build_mesh(
        Settings(data_dir=Path(job.folder, "data"), **job.settings),
        project=ROOT,
        agents=make_agents(books, failpoints.passes),
        model=model_of(job, books, failpoints),
        runtime=make,
    )


def model_of(job: Job, books: Records, failpoints: Failpoints) -> CountingModel:
    """The model of a job."""
    known = {"max_seconds": job.max_model_seconds, "cost_usd": job.cost_usd}
    return CountingModel(books, failpoints.passes, **known)


class EarlyClient(PlanClient):
    """Counts a task as accepted before the mesh has it."""

    async def submit(self, item: PlannedTask) -> str:
        self.records.accepted.write([item.key, controls.task_id_of(item.key)], durable=True)
        receipt = await self._tasks.submit(item.request(), idempotency_key=item.key)
        self.passes("client.accepted")
        return receipt.task_id


async def be_client(tasks: TaskClient, mesh: Mesh, job: Job, failpoints: Failpoints) -> None:
    """Have the plan's tasks done, with a person where one may be asked, and return once all are paid for."""
    asks = any(item.key.startswith("charge") for item in job.plan)
    person = asyncio.create_task(Person(tasks, mesh.get(Inbox)).run()) if asks else None
    kind = EarlyClient if job.control == controls.ACK_ON_RECEIPT else PlanClient
    client = kind(
        tasks,
        job.plan,
        Records(Path(job.folder)),
        passes=failpoints.passes,
        ended=lambda task_id: say("ended", task_id),
        max_open=job.max_open,
        is_paced=job.is_paced,
    )
    await client.run()
    if person is not None:
        person.cancel()
    while job.cost_usd and await has_reservations(mesh):  # a deadline ends a task before its call is settled
        say("reserves")
        await asyncio.sleep(LOOK_SECONDS)


async def has_reservations(mesh: Mesh) -> bool:
    """Return whether the budget still has money reserved for a call, or cannot be read."""
    try:
        return bool((await mesh.runtime.read(BUDGET) or Balance()).reserved)
    except StoreUnavailable:
        return True


async def work(job: Job) -> None:
    """Do a job to its end."""
    failpoints = Failpoints(job.point, job.nth)
    controls.break_on_purpose(job.control)
    setattr(exclusive_executor, "MAX_TURNS_A_ROUND", job.max_turns_a_round)  # noqa: B010 in this process alone
    mesh = mesh_of(job, failpoints)
    async with mesh:
        if mesh.settings.writer == "process" and isinstance(mesh.database, SqliteDatabase):
            await mesh.database.write_apart()
            say("writer", str(mesh.database.writer_pid))
        say("ready")
        await be_client(LocalTasks(mesh), mesh, job, failpoints)
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
