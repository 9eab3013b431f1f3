"""The soak: tasks of every shape go on while each part of a mesh is killed, frozen and starved, in one run.

None may be lost and nothing repeated: the oracle decides (runtime/meshwright/parts/proving/oracle.py).
`SOAK=1` has the sizes of `FULL` in tests/support/soak/course.py, `SOAK_PERCENT` so many percent of them.
"""

import asyncio
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from meshwright.parts.proving.oracle import Evidence, complaints
from meshwright.parts.proving.workload import make_plan
from tests.support.faults.dapr_mesh import DaprMesh
from tests.support.faults.evidence import gather
from tests.support.faults.node import Job
from tests.support.faults.nodes import Nodes
from tests.support.postgres import running_cluster
from tests.support.services import Services
from tests.support.soak.course import ENDS, Course, size_of, statuses
from tests.support.soak.dapr import DaprSoak
from tests.support.soak.postgres import PostgresSoak
from tests.support.soak.small_disk import SmallDisk
from tests.support.soak.sqlite import SqliteSoak
from tests.support.soak.wall_clock import WallClock

COST_USD = Decimal("0.001")
SETTINGS = {
    "ledger": {
        "budgets": [{"name": "all", "limit_usd": "1000000"}],
        "default_price": {"input": "0", "output": "1000"},
    },
    "agents": {"timeout_seconds": 20},
}
LONG = pytest.mark.timeout(6 * 3600)

ALONE = pytest.mark.soak(
    "CI has each of these faults by itself: test_embedded_faults.py, test_postgres_workers.py, ..."
)
MAX_QUOTED = 20
Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Prints at once, whatever pytest captures."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)

    return say


@LONG
@ALONE
def test_tasks_on_sqlite_survive_deaths_of_mesh_and_writer(
    tmp_path: Path, rng: random.Random, seed: int, say: Say
) -> None:
    size = size_of("sqlite")
    clock = WallClock(tmp_path)
    job = Job(
        str(tmp_path),
        make_plan(size.tasks, rng),
        max_model_seconds=0.01,
        cost_usd=COST_USD,
        settings=SETTINGS | {"writer": "process"},
    )
    course = Course("sqlite", seed, size, say)
    with Nodes(**clock.environment) as nodes, SmallDisk(tmp_path / "data") as disk:
        SqliteSoak(nodes, job, course, rng, clock=clock, disk=disk).run()
        evidence = asyncio.run(gather(tmp_path, kills=course.kills, cost_usd=COST_USD))
        judge(course, evidence, complaints(evidence))


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that a server of another user may read."""
    with tempfile.TemporaryDirectory(prefix="mesh-soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@LONG
@ALONE
async def test_tasks_on_postgres_survive_deaths_of_workers_and_server(
    tmp_path: Path, shared: Path, rng: random.Random, seed: int, say: Say
) -> None:
    size = size_of("postgres")
    clock = WallClock(shared)
    job = Job(
        str(tmp_path),
        make_plan(size.tasks, rng),
        max_model_seconds=0.2,
        is_paced=True,
        cost_usd=COST_USD,
        settings=SETTINGS | {"writer": "process"},
    )
    course = Course("postgres", seed, size, say)
    with SmallDisk(shared / "data") as disk, running_cluster(disk.folder, clock.environment) as cluster:
        async with PostgresSoak(cluster, job, course, rng, clock=clock, disk=disk) as soak:
            await soak.run()
            evidence, found = await soak.evidence()
            if found:
                print(soak.logs())
        judge(course, evidence, found)


@LONG
@ALONE
@pytest.mark.needs("mosquitto", "redis-server", "redis-cli")
async def test_tasks_on_dapr_survive_deaths_of_all_that_they_rest_on(
    tmp_path: Path, rng: random.Random, seed: int, say: Say
) -> None:
    size = size_of("dapr")
    clock = WallClock(tmp_path)
    services = Services(tmp_path / "services", {}, clock.environment)
    course = Course("dapr", seed, size, say)
    job = {"cost_usd": COST_USD, "settings": SETTINGS, "is_paced": True}
    with closing(services), SmallDisk(services.folder / "redis") as disk:
        async with DaprMesh(services, tmp_path, make_plan(size.tasks, rng), job=job) as mesh:
            soak = DaprSoak(mesh, course, rng, clock=clock, disk=disk)
            await soak.run()
            evidence, found = await soak.evidence()
            if found:
                print(soak.logs())
        judge(course, evidence, found)


def judge(course: Course, evidence: Evidence, found: list[str]) -> None:
    """Show what came of it; nothing may be wrong."""
    course.say("\n".join([course.table(evidence, found), *found[:MAX_QUOTED]]))
    assert found == []
    assert len(evidence.accepted) == len(evidence.reported) == course.size.tasks
    assert evidence.select_events("task.resumed"), "no kill met work under way"
    assert statuses(evidence).keys() <= ENDS
