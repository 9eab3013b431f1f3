"""Ctrl-C, closed pipes and broken settings: quiet, or one line, and never a traceback."""

import asyncio
import json
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.fake_openai import FakeOpenAI
from tests.support.running_mesh import MESH, RunningMesh, mesh, mesh_up, start


async def interrupted(process: Process) -> tuple[int | None, str, str]:
    """Press Ctrl-C, and return how the command ended."""
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def asking(environment: dict[str, str], *where: str) -> AsyncIterator[Process]:
    command = [*MESH, "ask", "simple-agent", "Hello", "--quiet", *where]
    process = await start(command, environment, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()


async def test_ctrl_c_cancels_what_an_embedded_mesh_was_asked(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    async with FakeOpenAI(seconds=60.0) as provider:
        async with asking({"LITELLM_BASE_URL": provider.url}, "--data", data) as process:
            await provider.arrived.wait()
            status, out, err = await interrupted(process)
            assert (status, out) == (130, "")
            assert err.startswith("the task is cancelled; mesh task ")
        await provider.abandoned.wait()
    [task] = json.loads((await mesh("tasks", "--json", "--data", data)).out)
    assert task["status"] == "cancelled"


async def test_ctrl_c_leaves_a_running_mesh_its_task_and_says_how_to_end_it(tmp_path: Path) -> None:
    async with (
        FakeOpenAI(seconds=60.0) as provider,
        mesh_up(tmp_path / "data", LITELLM_BASE_URL=provider.url) as running,
    ):
        async with asking({}, "--url", running.url) as process:
            await provider.arrived.wait()
            status, out, err = await interrupted(process)
        [task] = (await running.get("/tasks")).body["items"]
        assert (status, out) == (130, "")
        assert err.strip() == (
            f"the task goes on; to end it: mesh cancel {task['task_id']} --url {running.url}"
        )
        assert (await running.get(f"/tasks/{task['task_id']}")).body["status"] == "running"
        assert (await mesh(*err.partition("mesh ")[2].split())).status == 0
        await provider.abandoned.wait()


async def first_line_of(running: RunningMesh, *arguments: str) -> tuple[bytes, bytes]:
    """Read one line of a command's output, close the pipe, and return it with what came on stderr."""
    process = await start([*MESH, *arguments, "--url", running.url], {}, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None and process.stderr is not None
    line = await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    await running.submit("Hello")
    err = await process.stderr.read()
    await process.wait()
    return line, err


@pytest.mark.parametrize("follow", [[], ["--follow"]])
async def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, follow: list[str]) -> None:
    async with mesh_up(tmp_path / "data") as running:
        line, err = await first_line_of(running, "events", "--json", *follow)
        assert json.loads(line)["seq"] == 1
        assert err == b""


async def test_a_second_ctrl_c_leaves_running_work_for_the_next_start(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with FakeOpenAI(seconds=60.0) as provider:
        async with mesh_up(data, LITELLM_BASE_URL=provider.url) as running:
            task_id = await running.submit("Hello")
            await provider.arrived.wait()
            running.process.send_signal(signal.SIGINT)
            await running.errors.until("1 running")
            running.process.send_signal(signal.SIGINT)
            assert await running.process.wait() == 130, "it was drained to its end"
        assert "Traceback" not in await running.errors.whole()
        provider.seconds = 0.0
        async with mesh_up(data, LITELLM_BASE_URL=provider.url) as again:
            assert (await again.outcome(task_id))["success"]


BLOCKED = """\
import math
import time

from meshwright import Agent, Capability, Run, tool


class Blocked(Agent):
    agent_id = "blocked"
    capabilities = (Capability("blocking"),)

    @tool(timeout=math.inf)
    def sleep(self) -> str:
        '''Sleep for an hour.'''
        time.sleep(3600)
        return "slept"

    async def run(self, run: Run) -> str:
        return await run.tools["sleep"].call("{}", run)
"""


async def test_ctrl_c_ends_a_mesh_whose_tool_sleeps_for_an_hour(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/blocked.py").write_text(BLOCKED)
    async with mesh_up(tmp_path / "data", MESH_AGENTS__DIR=str(tmp_path / "actors")) as running:
        await running.submit("Sleep.", capability="blocking")
        await running.until(lambda event: event["event_type"] == "task.started")
        running.process.send_signal(signal.SIGINT)
        await running.errors.until("1 running")
        running.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(240):
            assert await running.process.wait() == 130
    assert "tool sleep of blocked was given up and still runs" in await running.errors.whole()
