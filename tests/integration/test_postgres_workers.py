"""Several processes of one mesh on PostgreSQL: tasks end although workers are killed."""

import asyncio
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.support.mesh_forks import Forked
from tests.support.postgres import PASSWORD, Address, Cluster
from tests.support.running_mesh import MESH, start

SLEEPER = """
from meshwright import Agent, Capability, Run


class Sleeper(Agent):
    agent_id = "sleeper"
    capabilities = (Capability("sleeping"),)

    async def run(self, run: Run) -> str:
        if run.task.text == "sleep":
            await run.sleep(seconds=3)
        return "rested"
"""
AGENT = """
import asyncio

from meshwright import Agent, Capability, Run


class Slow(Agent):
    agent_id = "slow"
    capabilities = (Capability("slow"),)
    max_concurrency = 20
    prompt_text = "Be slow."

    async def run(self, run: Run) -> str:
        first = await run.step("first", self.first)
        await asyncio.sleep(0.5)
        return first

    async def first(self) -> str:
        return "done"
"""
TASKS = 24


@asynccontextmanager
async def process(folder: Path, url: Address, *arguments: str) -> AsyncIterator[Forked]:
    folder.mkdir(exist_ok=True)
    with (folder / "stderr").open("wb") as stderr:
        stdout = PIPE if arguments[0] == "up" else DEVNULL
        command = [*MESH, *arguments, "--data", str(folder / "data")]
        database = {"MESH_DATABASE": url}
        started = await start(command, database, cwd=folder.parent, stdout=stdout, stderr=stderr)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def ready(front: Forked) -> str:
    assert front.stdout is not None
    line = (await front.stdout.readline()).decode()
    assert line.startswith("ready "), line
    return line.split()[1]


async def test_tasks_of_killed_workers_end_on_the_others(tmp_path: Path, postgres_url: Address) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "slow.py").write_text(AGENT)
    up = ("up", "--port", "0", "--trust")
    async with (
        process(tmp_path / "one", postgres_url, *up) as one,
        process(tmp_path / "two", postgres_url, *up) as two,
        aiohttp.ClientSession() as http,
    ):
        urls = [await ready(one), await ready(two)]

        async def submit(number: int) -> str:
            body = {"agent_id": "slow", "payload": {"text": str(number)}}
            async with http.post(f"{urls[number % 2]}/tasks", json=body) as answer:
                assert answer.status == 202, await answer.text()
                return (await answer.json())["task_id"]

        async def ended() -> dict[str, str]:
            async with http.get(f"{urls[1]}/tasks", params={"limit": "100"}) as answer:
                return {task["task_id"]: task["status"] for task in (await answer.json())["items"]}

        tasks = await asyncio.gather(*(submit(number) for number in range(TASKS)))
        one.send_signal(signal.SIGKILL)
        async with asyncio.timeout(120):
            while await ended() != dict.fromkeys(tasks, "succeeded"):
                await asyncio.sleep(0.05)
    for name in ("one", "two"):
        assert PASSWORD not in (tmp_path / name / "stderr").read_text()


async def test_a_mesh_goes_on_when_its_database_has_restarted(tmp_path: Path, own_postgres: Cluster) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "sleeper.py").write_text(SLEEPER)
    async with (
        process(tmp_path / "one", own_postgres.url(), "up", "--port", "0", "--trust") as front,
        asyncio.timeout(240),
        aiohttp.ClientSession(await ready(front)) as http,
    ):

        async def submit(text: str) -> str | None:
            body = {"agent_id": "sleeper", "payload": {"text": text}}
            async with http.post("/tasks", json=body) as answer:
                assert answer.status in (202, 503), await answer.text()
                return (await answer.json()).get("task_id")

        async def is_ready() -> bool:
            async with http.get("/readyz") as answer:
                return answer.status == 200

        async def ended() -> set[str]:
            async with http.get("/tasks", params={"status": "succeeded"}) as answer:
                items = (await answer.json())["items"] if answer.status == 200 else []
                return {task["task_id"] for task in items}

        for _ in range(2):
            asleep, awake = await submit("sleep"), await submit("work")
            while awake not in await ended():
                await asyncio.sleep(0.05)
            own_postgres.stop(signal.SIGINT)
            while await is_ready():
                await asyncio.sleep(0.05)
            assert await submit("refused") is None
            own_postgres.start()
            while not await is_ready():
                await asyncio.sleep(0.05)
            while (after := await submit("work")) is None:
                await asyncio.sleep(0.05)
            while not {asleep, after} <= await ended():
                await asyncio.sleep(0.05)
    assert PASSWORD not in (tmp_path / "one" / "stderr").read_text()
