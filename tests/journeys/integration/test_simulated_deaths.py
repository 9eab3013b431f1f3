"""A task that ends its process, among others that work against a provider: it fails, and they all succeed."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshwright import Client
from tests.run import DAPR
from tests.support.postgres import Address
from tests.support.running_mesh import MESH, RunningMesh, mesh_up, start
from tests.support.simulated_mesh import SimulatedMesh, step_counts
from tests.support.simulator.scenario import load_scenarios
from tests.support.simulator.server import Simulator

SCENARIO = load_scenarios()["deaths"]
POISON = """
import os

from meshwright import Agent, Capability, Run


class Poison(Agent):
    agent_id = "poison"
    capabilities = (Capability("dying"),)

    async def run(self, run: Run) -> str:
        with open({deaths!r}, "a") as deaths:
            deaths.write("died\\n")
        os._exit(9)
"""
DEATHS = 3
"""How often the process ends before the task fails."""
PATIENCE_SECONDS = 240
LOOK_SECONDS = 0.1


@asynccontextmanager
async def simulated(folder: Path) -> AsyncIterator[SimulatedMesh]:
    async with Simulator(SCENARIO) as simulator, asyncio.timeout(PATIENCE_SECONDS):
        work = SimulatedMesh(simulator, folder)
        (folder / "actors" / "poison.py").write_text(POISON.format(deaths=str(folder / "deaths")))
        yield work


def deaths(work: SimulatedMesh) -> int:
    """How often the poison has ended its process."""
    try:
        return len((work.job.path / "deaths").read_text().splitlines())
    except FileNotFoundError:
        return 0


async def submit_all(work: SimulatedMesh, running: RunningMesh) -> None:
    """Submit the work, and once it goes on the poison."""
    await work.submit(running)
    await work.answered(5)
    body = {"task_id": "poison", "agent_id": "poison", "payload": {"text": "Die."}}
    with suppress(aiohttp.ClientError):  # it may be quicker than its receipt
        await running.post("/tasks", body)


async def all_ended(running: RunningMesh) -> None:
    """Wait until all tasks have ended, through every death of the front."""
    while True:
        with suppress(aiohttp.ClientError, ValueError):
            tasks = (await running.get("/tasks", limit=100)).body["items"]
            if len(tasks) == SCENARIO.tasks + 1 and all("ed" in task["status"] for task in tasks):
                return
        await asyncio.sleep(LOOK_SECONDS)


async def check(work: SimulatedMesh, running: RunningMesh) -> None:
    outcomes = await work.outcomes(running)
    assert all(outcome.success for outcome in outcomes)
    assert set((await step_counts(running)).values()) == {1}, "a finished step was made again"
    score = work.score()
    assert (score.done, score.wrong, score.failed) == (SCENARIO.tasks, 0, 0), score.reasons
    poison: dict[str, Any] = await running.outcome("poison")
    assert (poison["status"], poison["error"]["type"], poison["attempt"]) == ("failed", "BrokeOff", 1)
    assert deaths(work) == DEATHS
    [dead] = (await running.get("/events", event_type="task.dead_lettered")).body["items"]
    assert dead["task_id"] == "poison"


class Supervisor:
    """Starts processes of one mesh again whenever they end."""

    def __init__(self, work: SimulatedMesh, workers: int, **environment: str) -> None:
        self.fewest = 1 + workers
        """How many lived at the least, once all had been started."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._folder = work.job.path
        self._environment = {**work.environment, **environment}
        self._commands = [("up", "--port", str(self.port)), *[("worker", "--port", "0")] * workers]
        self._living = 0

    def log(self, number: int = 0) -> Path:
        return self._folder / f"log{number}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RunningMesh]:
        url = f"http://127.0.0.1:{self.port}"
        kept = [asyncio.create_task(self._keep(number)) for number in range(len(self._commands))]
        try:
            async with aiohttp.ClientSession() as session, Client(url) as client:
                mesh = RunningMesh(url, self._folder, None, None, session, client)  # type: ignore[arg-type]
                await self._is_up(mesh)
                yield mesh
        finally:
            for keeper in kept:
                keeper.cancel()
            await asyncio.gather(*kept, return_exceptions=True)

    async def _is_up(self, mesh: RunningMesh) -> None:
        while True:
            with suppress(aiohttp.ClientError):
                if self._living == len(self._commands) and (await mesh.get("/healthz")).status == 200:
                    return
            await asyncio.sleep(LOOK_SECONDS)

    async def _keep(self, number: int) -> None:
        command = [*MESH, *self._commands[number], "--trust", "--data", str(self._folder / f"data{number}")]
        while True:
            with self.log(number).open("a") as log:
                process = await start(command, self._environment, stdout=log, stderr=log)
            self._living += 1
            try:
                await process.wait()
                self._living -= 1
                self.fewest = min(self.fewest, self._living)
            finally:
                if process.returncode is None:
                    process.terminate()
                    await process.wait()


async def test_a_mesh_survives_a_task_that_ends_its_process(tmp_path: Path) -> None:
    async with simulated(tmp_path) as work:
        supervisor = Supervisor(work, workers=0)
        async with supervisor.running() as mesh:
            await submit_all(work, mesh)
            await all_ended(mesh)
            await check(work, mesh)
        assert "Task poison of poison ran each of the last 2 times" in supervisor.log().read_text()


async def test_workers_on_postgres_survive_a_task_that_ends_its_process(
    tmp_path: Path, postgres_url: Address
) -> None:
    async with simulated(tmp_path) as work:
        supervisor = Supervisor(work, workers=2, MESH_DATABASE=str(postgres_url))
        async with supervisor.running() as mesh:
            await submit_all(work, mesh)
            await all_ended(mesh)
            assert supervisor.fewest > 0, "all were down at a time"
            await check(work, mesh)


@pytest.mark.soak("the same on SQLite and PostgreSQL")
@pytest.mark.needs(*DAPR)
async def test_replicas_on_dapr_survive_a_task_that_ends_its_process(tmp_path: Path) -> None:
    async with simulated(tmp_path) as work:
        up = [*MESH, "up", "--store", "dapr"]
        async with mesh_up(work.data, "--replicas", "2", up=up, **work.environment) as running:
            await submit_all(work, running)
            await all_ended(running)
            await check(work, running)
