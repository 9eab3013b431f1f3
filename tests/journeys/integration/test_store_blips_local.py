"""The sidecar, the Redis or the writing process ends or hangs while a call runs: it takes effect once."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshwright.parts.proving.processes import writer_pids
from tests.journeys.integration.test_store_blips import SLOW_PAYER
from tests.run import DAPR, cores
from tests.support.running_mesh import MESH, UP, RunningMesh, mesh_up


async def paid_once(folder: Path, mesh: RunningMesh, take_away: Callable[[], None]) -> None:
    """Have a payment run while something of the store is away, and see that it took effect once."""
    notes = folder / "notes"
    task_id = await mesh.submit("pay", capability="paying")
    while not notes.exists():
        await asyncio.sleep(0.02)
    take_away()
    (folder / "go").touch()
    outcome = await mesh.outcome(task_id)
    assert outcome["success"], outcome
    assert [line.split()[0] for line in notes.read_text().splitlines()] == ["began", "paid"]
    assert await mesh.client.inbox() == []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "payer.py").write_text(SLOW_PAYER)
    return tmp_path


async def test_a_call_outlives_the_process_that_writes_to_sqlite(project: Path) -> None:
    async with mesh_up(project / "data", up=UP, cwd=project, MESH_WRITER="process") as mesh:
        while not writer_pids(mesh.process.pid):
            await asyncio.sleep(0.02)

        def kill_writer() -> None:
            for pid in writer_pids(mesh.process.pid):
                os.kill(pid, signal.SIGKILL)

        await paid_once(project, mesh, kill_writer)


@pytest.mark.skipif(cores() < 2, reason="one core: the mesh has no second process")
async def test_a_second_process_writes_once_there_is_much_to_write(tmp_path: Path) -> None:
    async with mesh_up(tmp_path) as mesh:
        await mesh.outcome(await mesh.submit("Who are you?"))
        assert writer_pids(mesh.process.pid) == []
        while not writer_pids(mesh.process.pid):
            await mesh.outcome(await mesh.submit("Who are you?"))
        assert (await mesh.outcome(await mesh.submit("Who are you?")))["success"]


@pytest.mark.needs(*DAPR)
@pytest.mark.parametrize("name", ["daprd-mesh-0", "redis"])
async def test_a_call_on_dapr_outlives_a_kill(project: Path, name: str) -> None:
    async with on_dapr(project, name) as (mesh, pid):
        await paid_once(project, mesh, lambda: os.kill(pid, signal.SIGKILL))  # another is started


@pytest.mark.needs(*DAPR)
@pytest.mark.parametrize("name", ["daprd-mesh-0", "redis"])
@pytest.mark.parametrize("seconds", [3, pytest.param(20, marks=pytest.mark.soak("longer than the lease"))])
async def test_a_call_on_dapr_outlives_a_process_that_hangs(project: Path, name: str, seconds: int) -> None:
    async with on_dapr(project, name) as (mesh, pid):

        def hang() -> None:
            os.kill(pid, signal.SIGSTOP)
            asyncio.get_running_loop().call_later(seconds, os.kill, pid, signal.SIGCONT)

        await paid_once(project, mesh, hang)


@asynccontextmanager
async def on_dapr(project: Path, name: str) -> AsyncIterator[tuple[RunningMesh, int]]:
    """A mesh on Dapr, and the process of a name beside it."""
    async with mesh_up(project / "data", up=[*MESH, "up", "--store", "dapr"], cwd=project) as mesh:
        row = re.search(rf"^{name} +\S+ +(\d+)", mesh.errors.text, re.MULTILINE)
        assert row is not None, mesh.errors.text
        yield mesh, int(row[1])
