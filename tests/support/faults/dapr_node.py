"""The worker program on Dapr: a mesh beside its sidecar, and in the one that is the front a client of it.

Its argument is the file of its post, as JSON; it finds its sidecar by Dapr's variables. It says when
it is "ready" and which tasks have "ended". SIGUSR1 lets the client begin; SIGTERM ends the worker as it ends
`mesh worker`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop
from pydantic import TypeAdapter

from meshwright.core import topics
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.sql.writer import ApartDatabase
from meshwright.engine.stores.dapr import DaprStore, Options
from meshwright.mesh.app import WHOLE_MESH, StoreDeps, build_mesh, process_role
from meshwright.mesh.mesh import Mesh
from meshwright.parts.proving.client import PatientTasks
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.workload import make_agents
from tests.support.faults import dapr_controls
from tests.support.faults.failpoints import Failpoints
from tests.support.faults.node import ROOT, Job, be_client, model_of, say
from tests.support.settings import Settings

LEASE_SECONDS, RENEW_SECONDS = 3.0, 0.5


@dataclass(frozen=True)
class Post:
    """One worker's place: what it does, where its own database is, and whether it is the front."""

    job: Job
    data: str
    namespace: str
    is_front: bool
    redrive_seconds: float = 1.0

    def encode(self) -> str:
        return TypeAdapter(Post).dump_json(self).decode()

    @classmethod
    def decode(cls, text: str) -> Post:
        return TypeAdapter(Post).validate_json(text)


def mesh_of(post: Post) -> Mesh:
    """The worker's part of the mesh, with leases and pauses that are short."""
    job, unharmed = post.job, Failpoints()
    books = Records(Path(job.folder))
    fleet = make_agents(books, unharmed.passes)

    def make(deps: StoreDeps) -> Runtime:
        options = replace(
            Options.from_environment(namespace=post.namespace, channel="auto"),
            lease_seconds=LEASE_SECONDS,
            renew_seconds=RENEW_SECONDS,
            redrive_seconds=post.redrive_seconds,
        )
        store = DaprStore(
            options,
            clock=deps.clock,
            log=deps.log,
            database=deps.database,
            keeps_log=deps.role.is_front,
            taken_elsewhere=(topics.tasks("#"), topics.TASK_RESULTS),
        )
        return Runtime(store, clock=deps.clock, tracing=deps.tracing)

    settings = Settings(data_dir=Path(post.data), store="dapr", namespace=post.namespace, **job.settings)
    return build_mesh(
        settings,
        project=ROOT,
        agents=fleet,
        model=model_of(job, books, unharmed),
        runtime=make,
        role=process_role(settings, WHOLE_MESH, [each.agent_id for each in fleet], replica=not post.is_front),
    )


async def work(mesh: Mesh, job: Job) -> None:
    """Work until SIGTERM."""
    loop = asyncio.get_running_loop()
    begin, end = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, begin.set)
    loop.add_signal_handler(signal.SIGTERM, end.set)
    async with mesh:
        if mesh.settings.writer == "process" and isinstance(mesh.database, ApartDatabase):
            await mesh.database.write_apart()
        say("ready")
        client = asyncio.create_task(begin_client(mesh, job, begin))
        client.add_done_callback(lambda client: None if client.cancelled() else client.result())
        await end.wait()
        client.cancel()


async def begin_client(mesh: Mesh, job: Job, begin: asyncio.Event) -> None:
    """Have the plan's tasks done, once told to begin."""
    await begin.wait()
    await be_client(PatientTasks(mesh), mesh, job, Failpoints())


def run_until_told(mesh: Mesh, job: Job) -> None:
    """Be a worker, with a client of it where the job has a plan."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    faulthandler.enable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(mesh, job))


def main() -> None:
    """Do the job of the arguments."""
    post = Post.decode(Path(sys.argv[1]).read_text())
    dapr_controls.break_on_purpose(post.job.control)
    run_until_told(mesh_of(post), post.job)


if __name__ == "__main__":
    main()
