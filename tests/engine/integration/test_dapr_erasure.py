"""Erasure on Dapr: the contents of tasks are gone from its store and the database; the chain verifies."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshwright.agents.run.erasure import Eraser
from meshwright.cli.app import mesh as cli
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.task_lists import TaskSubject
from meshwright.engine.events.verify import verify
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.offline_model import OfflineModel
from meshwright.parts.stack.machine import Ports
from meshwright.parts.stack.services import Backends
from tests.agents.contract.test_erasure import (
    ADMIN,
    ANN,
    BOB,
    OTHER,
    SECRET,
    Helper,
    Writer,
    finished,
    holding,
)
from tests.run import DAPR
from tests.support.postgres import Address
from tests.support.services import Services
from tests.support.settings import load_settings

SHARED = pytest.mark.soak("contract/test_erasure.py erases on PostgreSQL")
pytestmark = [pytest.mark.needs(*DAPR)]


@pytest.fixture(params=["own", pytest.param("postgres", marks=SHARED)])
def database(request: pytest.FixtureRequest) -> Address | None:
    """The log's database: the front's own, or one that all workers share."""
    return None if request.param == "own" else request.getfixturevalue("postgres_url")


@pytest.fixture
async def mesh(
    own_services: Services,
    database: Address | None,
    ports: Ports,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Mesh]:
    """A whole mesh in this process, beside a sidecar."""
    [port] = ports.take(1)
    sidecar = own_services.daprd("mesh", port=port, namespace="erasing", pod="mesh-0_erasing")
    backends = Backends(own_services.broker_url, own_services.redis_host, own_services.redis_password)
    options = {"MESH_STORE": "dapr", "MESH_DAPR__NAMESPACE": "erasing"}
    for name, value in {**backends.environment(), **sidecar.app.environment(), **options}.items():
        monkeypatch.setenv(name, value)
    shared = {} if database is None else {"database": str(database)}
    settings = load_settings(tmp_path, data_dir=tmp_path / "data", tracing={"content": True}, **shared)
    agents = [Writer, Helper]
    mesh = build_mesh(settings, project=tmp_path, agents=agents, model=OfflineModel())
    sidecar.launch()
    try:
        async with mesh:
            yield mesh
    finally:
        sidecar.end()


async def test_nothing_of_a_requester_is_left_in_store_and_database(
    mesh: Mesh, own_services: Services, database: Address | None
) -> None:
    mine = await finished(mesh, ANN, f"{SECRET} one", thread_id="t1")
    other = await finished(mesh, BOB, f"{OTHER} two", thread_id="t1")
    assert holding(own_services.folder, SECRET), "Redis has it"

    erased = await mesh.get(Eraser).erase(ADMIN, TaskSubject(requested_by="ann"))
    assert erased.tasks == 2 and erased.events > 4
    view = await mesh.get(Tasks).task(mine)
    assert view.payload == {} and view.outcome is not None and view.outcome.result is None
    assert SECRET not in str(await mesh.get(Tasks).transcripts(mine))
    events = await mesh.log.query(EventFilter(limit=1000))
    assert SECRET not in str([event.encode() for event in events])
    assert (await mesh.get(Tasks).task(other)).payload == {"text": f"{OTHER} two"}
    found = verify(mesh.database)
    assert found.faults == [] and found.erased == erased.events
    if database is None:  # the log of a mesh on Dapr is in a folder of its front
        arguments = ["verify", "--audit", "--data", str(mesh.settings.data_dir.parent)]
        done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert (done.exit_code, done.stderr) == (0, "") and found.sentence() in done.stdout
    async with asyncio.timeout(240):
        while holding(own_services.folder, SECRET):  # Redis deletes its old log by and by
            await asyncio.sleep(0.05)
    assert holding(mesh.settings.data_dir, SECRET) == []
    if database is not None:
        assert tables_holding(database, SECRET) == [] and tables_holding(database, OTHER) != []


def tables_holding(database: Address, text: str) -> list[str]:
    """The tables that hold a text."""
    import psycopg

    query = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
    with psycopg.connect(database) as connection:
        tables = [name for (name,) in connection.execute(query).fetchall()]
        rows = {name: connection.execute(f"SELECT * FROM {name}".encode()).fetchall() for name in tables}
    return [name for name in tables if text in str(rows[name])]
