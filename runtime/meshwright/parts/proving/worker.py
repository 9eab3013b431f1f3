"""The worker program: a whole mesh on the store of a run, with a client for its share of the plan.

Its last argument is the file of its job, as JSON. It prints "ready" once the mesh has started, and ends on
SIGTERM. It dies with the process that started it, whose end closes its stdin.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from meshwright.component import Mesh, Settings, build_mesh
from meshwright.engine.events.inbox import Inbox
from meshwright.engine.sql.writer import ApartDatabase
from meshwright.parts.proving.client import PatientTasks, Person, PlanClient
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.workload import CountingModel, is_published, make_agents, make_plan

_MAX_MODEL_SECONDS = 0.4
_MAX_TOOL_SECONDS = 2.0
_BEAT_SECONDS, _STALL_SECONDS = 0.5, 3.0
COST_USD = Decimal("0.001")
"""The price of each call of the simulated model."""
_SETTINGS: dict[str, Any] = {
    "ledger": {
        "budgets": [{"name": "all", "limit_usd": "1000000"}],
        "default_price": {"input": "0", "output": "1000"},
    },
    "agents": {"timeout_seconds": 20},
    "writer": "process",
}


@dataclass(frozen=True)
class Job:
    """The work of one worker."""

    folder: str
    """The folder of the run, with the records of all workers."""
    data: str
    """The data folder of the worker."""
    database: str
    """The address of the database; "" for SQLite in the data folder."""
    seed: int
    """The seed of the plan."""
    tasks: int
    """The number of tasks of the whole plan."""
    index: int
    """The place of the worker among all."""
    workers: int
    """The number of workers: each submits its share of the plan."""
    has_broker: bool = False
    """Whether the process that started it publishes some of the plan to a broker."""
    project: str = ""
    """The project whose model answers plain tasks."""
    model: str = ""
    """The name of that model; "" for none."""
    budget_usd: str = "0"
    """The dollars that its calls may cost."""
    mqtt: Mapping[str, Any] = field(default_factory=dict)
    """The table [mqtt] of the worker; empty for one without the edge."""

    def encode(self) -> str:
        """Return the job as JSON."""
        return TypeAdapter(Job).dump_json(self).decode()

    @classmethod
    def decode(cls, text: str) -> Job:
        """Read a job."""
        return TypeAdapter(Job).validate_json(text)


def build_worker(job: Job) -> Mesh:
    """Build the mesh of a worker."""
    records, paid = Records(Path(job.folder)), None
    if job.model:
        from meshwright.parts.proving.paid import PaidCalls

        paid = PaidCalls.from_project(Path(job.project), job.model, Decimal(job.budget_usd), records)
    return build_mesh(
        Settings.model_validate(
            {"data_dir": job.data, "database": job.database or None, "mqtt": job.mqtt, **_SETTINGS}
        ),
        project=Path(job.folder),
        agents=make_agents(records, max_seconds=_MAX_TOOL_SECONDS),
        model=CountingModel(
            records,
            max_seconds=_MAX_MODEL_SECONDS,
            cost_usd=COST_USD,
            answer=None if paid is None else paid.answer,
        ),
    )


async def work(job: Job) -> None:
    """Work until SIGTERM."""
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    mesh = build_worker(job)
    async with mesh:
        if isinstance(mesh.database, ApartDatabase):
            await mesh.database.write_apart()
        os.write(1, b"ready\n")
        async with asyncio.TaskGroup() as group:
            parts = (_be_client(mesh, job), _be_person(mesh, job), _watch_itself(Records(Path(job.folder))))
            under_way = [group.create_task(part) for part in parts]
            await end.wait()
            for task in under_way:
                task.cancel()


async def _watch_itself(records: Records) -> None:
    """Record when this process hung: others may take a worker without a lease for gone."""
    while True:
        now = time.time()
        await asyncio.sleep(_BEAT_SECONDS)
        if time.time() - now > _STALL_SECONDS:
            records.stalls.write([os.getpid(), now])


async def _be_client(mesh: Mesh, job: Job) -> None:
    plan = make_plan(job.tasks, random.Random(job.seed))
    own = [item for item in plan if not (job.has_broker and is_published(item))][job.index :: job.workers]
    await PlanClient(PatientTasks(mesh), own, Records(Path(job.folder)), is_paced=True).run()


async def _be_person(mesh: Mesh, job: Job) -> None:
    await Person(PatientTasks(mesh), mesh.get(Inbox), Records(Path(job.folder))).run()


def _end_with_parent() -> None:
    """Kill this process and what it started once stdin is closed: the parent has ended."""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Do the job of the last argument."""
    job = Job.decode(Path(sys.argv[-1]).read_text())
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    faulthandler.enable()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(work(job))


if __name__ == "__main__":
    main()
