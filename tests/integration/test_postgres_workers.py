"""Several processes of one mesh on PostgreSQL: tasks end although workers are killed."""

import asyncio
import os
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.support.postgres import PASSWORD, Address
from tests.support.running_mesh import MESH

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
async def process(folder: Path, url: Address, *arguments: str) -> AsyncIterator[Process]:
    folder.mkdir(exist_ok=True)
    with (folder / "stderr").open("wb") as stderr:
        started = await asyncio.create_subprocess_exec(
            *MESH,
            *arguments,
            "--data",
            str(folder / "data"),
            cwd=folder.parent,
            env={**os.environ, "MESH_DATABASE": url},
            stdout=PIPE if arguments[0] == "up" else DEVNULL,
            stderr=stderr,
        )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def ready(front: Process) -> str:
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
        killed_at = time.monotonic()
        while (listed := await ended()) != dict.fromkeys(tasks, "succeeded"):
            assert time.monotonic() - killed_at < 20, listed
            await asyncio.sleep(0.05)
    for name in ("one", "two"):
        assert PASSWORD not in (tmp_path / name / "stderr").read_text()
