"""An agent that holds the event loop: the mesh says where, starts again, and fails the task in the end."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.running_mesh import Errors, ready_url

AGENTS = """
import asyncio
import re
import time

from meshwright import Agent, Capability, Run, tool


class Spinner(Agent):
    agent_id = "spinner"
    capabilities = (Capability("spinning"),)

    async def run(self, run: Run) -> str:
        if run.task.text == "a moment":
            time.sleep(1.5)  # holds the loop
            return "done"
        if run.task.text == "a moment in a tool":
            return await run.tools["doze"].call("{}", run)
        if run.task.text == "in a task of its own":
            await asyncio.create_task(self.spin())  # the mesh finds it by its file
        if run.task.text == "a regular expression in a thread":
            return await run.tools["match"].call("{}", run)
        if run.task.text == "a regular expression":
            re.match(r"(a+)+$", "a" * 40 + "b")  # keeps the interpreter lock
        return "never"

    @tool
    def match(self) -> str:
        "Match."
        return str(re.match(r"(a+)+$", "a" * 40 + "b"))  # in a thread

    @tool
    async def doze(self) -> str:
        "Sleep."
        time.sleep(1.5)  # holds the loop
        return "done"

    async def spin(self) -> None:
        while True:
            pass  # holds the loop for ever


class Echo(Agent):
    agent_id = "echo"
    capabilities = (Capability("echoing"),)

    async def run(self, run: Run) -> str:
        return run.task.text
"""
PATIENCE_SECONDS = 240  # for some starts
LIMITS = {"MESH_WATCHDOG__HELD_SECONDS": "0.8", "MESH_WATCHDOG__RESTART_SECONDS": "4"}


class Up:
    """A mesh of some agents, in a process of its own."""

    def __init__(self, url: str, process: Process, errors: Errors, session: aiohttp.ClientSession) -> None:
        self.url, self.process, self.errors = url, process, errors
        self._session = session

    async def submit(self, agent_id: str, text: str) -> str:
        request = {"agent_id": agent_id, "payload": {"text": text}}
        async with self._session.post(f"{self.url}/tasks", json=request) as response:
            return (await response.json())["task_id"]

    async def get(self, path: str) -> Any:
        """An answer; what was under way as the mesh started again is asked once more."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    async with self._session.get(f"{self.url}{path}") as response:
                        return await response.json()
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)

    async def outcome(self, task_id: str) -> Any:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (task := await self.get(f"/tasks/{task_id}"))["outcome"] is None:
                await asyncio.sleep(0.05)
        return task["outcome"]


@asynccontextmanager
async def up(project: Path, environment: dict[str, str], agents: str = AGENTS) -> AsyncIterator[Up]:
    (project / "actors").mkdir()
    (project / "actors" / "agents.py").write_text(agents)
    command = [sys.executable, "-m", "meshwright.cli", "up", "--port", "0"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=project, env=environment, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    errors = Errors(process.stderr)
    try:
        url = await ready_url(process.stdout, errors)
        async with aiohttp.ClientSession() as session:
            yield Up(url, process, errors, session)
    finally:
        if process.returncode is None:
            process.kill()  # its loop may be held: it would not hear of anything else
        await process.wait()


@pytest.fixture
def environment() -> dict[str, str]:
    return os.environ | LIMITS


async def test_a_task_that_holds_the_loop_for_ever_fails_after_three_restarts(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    async with up(tmp_path, environment) as mesh:
        pid = mesh.process.pid
        outcome = await mesh.outcome(await mesh.submit("spinner", "in a task of its own"))
        line = AGENTS.splitlines().index("            pass  # holds the loop for ever") + 1
        assert (outcome["status"], outcome["error"]["type"]) == ("failed", "BrokeOff")
        place = rf"it held the event loop at {tmp_path}/actors/agents.py:({line - 1}|{line}) "
        assert re.search(f"because of this: {place}", outcome["error"]["message"])
        assert (await mesh.get("/healthz"))["status"] == "ok"
        echoed = await mesh.outcome(await mesh.submit("echo", "Hello"))
        assert echoed["success"]
        said = mesh.errors.text
        assert said.count("the mesh starts again") == 3
        assert re.search(rf'File "{tmp_path}/actors/agents.py", line \d+ in spin', said)
        assert mesh.process.pid == pid and mesh.process.returncode is None


async def test_a_task_that_keeps_the_interpreter_lock_fails_after_three_restarts(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    async with up(tmp_path, environment) as mesh:
        outcome = await mesh.outcome(await mesh.submit("spinner", "a regular expression"))
        line = AGENTS.splitlines().index(
            '            re.match(r"(a+)+$", "a" * 40 + "b")  # keeps the interpreter lock'
        )
        assert (outcome["status"], outcome["error"]["type"]) == ("failed", "BrokeOff")
        place = f"it held the event loop at {tmp_path}/actors/agents.py:{line + 1} "
        assert place in outcome["error"]["message"]
        assert (await mesh.outcome(await mesh.submit("echo", "Hello")))["success"]
        assert mesh.errors.text.count("the mesh starts again") == 3


LOCKED_AT_ONCE = """
import asyncio, functools, os, pathlib, re
from meshwright.mesh.app import build_mesh
from meshwright.cli.serving import watching
from meshwright.core.settings import load_settings

async def main():
    limits = {"held_seconds": 0.2, "restart_seconds": 1.0}
    mesh = build_mesh(load_settings(pathlib.Path(), watchdog=limits))
    with watching(mesh, functools.partial(os._exit, 7)):
        re.match(r"(a+)+$", "a" * 40 + "b")

asyncio.run(main())
"""


def test_work_that_keeps_the_interpreter_lock_before_the_first_look_is_seen(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOCKED_AT_ONCE], cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 7


async def test_a_thread_that_keeps_the_interpreter_lock_ends_the_process_with_its_stacks(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    async with up(tmp_path, environment) as mesh:
        await mesh.submit("spinner", "a regular expression in a thread")
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await mesh.process.wait() == -signal.SIGPROF
        assert re.search(rf'File "{tmp_path}/actors/agents.py", line \d+ in match', mesh.errors.text)


@pytest.mark.parametrize(("text", "tool"), [("a moment", None), ("a moment in a tool", "doze")])
async def test_a_loop_that_was_held_a_moment_is_an_event(
    tmp_path: Path, environment: dict[str, str], text: str, tool: str | None
) -> None:
    async with up(tmp_path, environment) as mesh:
        task_id = await mesh.submit("spinner", text)
        assert (await mesh.outcome(task_id))["success"]
        async with asyncio.timeout(PATIENCE_SECONDS):  # the watchdog sees a moment later that it goes on
            path = f"/events?event_type=loop.held&task_id={task_id}"
            while not (events := (await mesh.get(path))["items"]):
                await asyncio.sleep(0.05)
        event = max(events, key=lambda each: each["payload"]["seconds"])  # a busy machine holds it as well
        assert event["agent_id"] == "spinner" and event["payload"]["seconds"] >= 0.8
        assert re.fullmatch(rf"{tmp_path}/actors/agents.py:\d+", event["payload"]["where"])
        assert event["payload"]["tool"] == tool
        assert not (tmp_path / ".mesh" / "held.json").exists()
        assert "time.sleep(1.5)" in (tmp_path / ".mesh" / "last-error.txt").read_text()


PROBES_BESIDE_TLS = """
import asyncio, functools, os, pathlib
from meshwright.mesh.app import build_mesh
from meshwright.cli.serving import watching
from meshwright.edges.http.server import listen
from meshwright.core.settings import load_settings
from meshwright.parts.stack.machine import answering_probes

async def main():
    limits = {"held_seconds": 0.2, "restart_seconds": 1.0}
    http = {"tls_cert": "mesh.pem", "tls_key": "mesh.key"}
    mesh = build_mesh(load_settings(pathlib.Path(), watchdog=limits, http=http))
    asks, answered = [], asyncio.Event()

    def is_ready():
        asks.append(1)
        if len(asks) == 8:
            answered.set()
        return True

    with listen("127.0.0.1", 0) as listener, watching(mesh, functools.partial(os._exit, 7)) as watch_api:
        async with answering_probes(listener, is_ready):
            watch_api(listener, False)
            await answered.wait()

asyncio.run(main())
"""


def test_a_worker_that_answers_plain_probes_of_a_mesh_with_tls_is_not_silent(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROBES_BESIDE_TLS], cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0
