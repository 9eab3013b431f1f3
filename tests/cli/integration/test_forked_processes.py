"""Tools that fork, and code that makes a mesh deaf: the mesh goes on, or starts again and says why."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.cli.integration.test_watchdog import LIMITS, Up, up
from tests.journeys.integration.test_http_exposed import write_certificate

AGENTS = """
import asyncio
import atexit
import ctypes
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from meshwright import Agent, Capability, Run, tool

ATEXIT = Path("atexit")
atexit.register(lambda: ATEXIT.write_text(ATEXIT.read_text() + "x" if ATEXIT.exists() else "x"))


def fork(how: str) -> int:
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if how == "exit":
        sys.exit(7)
    if how == "raise":
        raise ValueError
    if how == "become":
        os.execvp("sh", ["sh", "-c", "exit 9"])
    if how == "be ended":
        os.kill(os.getpid(), 15)
        time.sleep(60)
    return -1


class Forker(Agent):
    agent_id = "forker"
    capabilities = (Capability("forking"),)

    async def run(self, run: Run) -> str:
        where, _, how = run.task.text.partition(": ")
        if where == "run":
            return str(fork(how))
        return str(await run.tools[where].call('{"how": "%s"}' % how, run))

    @tool
    def thread(self, how: str) -> int:
        "Fork in a thread."
        return fork(how)

    @tool
    async def loop(self, how: str) -> int:
        "Fork on the event loop."
        status = fork(how)
        if status == -1:
            await asyncio.sleep(0.01)
            Path("went-on").touch()
        return status

    @tool
    def process(self, how: str) -> str:
        "Start processes as one should."
        context = multiprocessing.get_context(how)
        with context.Pool(2) as pool:
            total = sum(pool.map(abs, range(-10, 0)))
        sleeper = context.Process(target=time.sleep, args=(60,))
        sleeper.start()
        sleeper.terminate()
        sleeper.join()
        done = subprocess.run(["echo", "done"], stdout=subprocess.PIPE, preexec_fn=os.setsid)
        return f"{total} {sleeper.exitcode} {done.stdout.decode().strip()}"


class Echo(Agent):
    agent_id = "echo"
    capabilities = (Capability("echoing"),)

    async def run(self, run: Run) -> str:
        return run.task.text


class Deafener(Agent):
    agent_id = "deafener"
    capabilities = (Capability("deafening"),)

    async def run(self, run: Run) -> str:
        if Path("deaf").exists():
            return "heard again"
        Path("deaf").touch()
        links = {int(name): link(name) for name in os.listdir("/proc/self/fd")}
        for poll in (number for number, target in links.items() if "eventpoll" in target):
            for number in (number for number, target in links.items() if target.startswith("socket:")):
                ctypes.CDLL(None).epoll_ctl(poll, 2, number, None)  # EPOLL_CTL_DEL
        await asyncio.sleep(3600)
        return "never"


class Hoarder(Agent):
    agent_id = "hoarder"
    capabilities = (Capability("hoarding"),)

    async def run(self, run: Run) -> str:
        hoard = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        try:
            while True:
                hoard.append(os.dup(0))
        except OSError:
            os.mkdir("used-up")
        while not Path("enough").exists():
            await asyncio.sleep(0.05)
        for number in hoard:
            os.close(number)
        return "free again"


def link(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""
"""
PATIENCE_SECONDS = 120


@pytest.mark.parametrize("where", ["thread", "loop", "run"])
async def test_a_forked_process_ends_where_it_comes_back(tmp_path: Path, where: str) -> None:
    statuses = {"become": 9, "exit": 7, "be ended": -15, "return": 1, "raise": 1}
    async with up(tmp_path, {**os.environ}, AGENTS) as mesh:
        for how, status in statuses.items():
            assert (await result(mesh, "forker", f"{where}: {how}")) == str(status), how
            await still_works(mesh)
        assert mesh.errors.text.count("came back to the mesh, and was ended") == 2
        assert not (tmp_path / "went-on").exists() and not (tmp_path / "atexit").exists()


@pytest.mark.parametrize("how", ["fork", "spawn"])
async def test_processes_of_tools_work(tmp_path: Path, how: str) -> None:
    async with up(tmp_path, {**os.environ}, AGENTS) as mesh:
        assert (await result(mesh, "forker", f"process: {how}")) == "55 -15 done"
        await still_works(mesh)


async def test_a_deaf_mesh_starts_again_and_says_why(tmp_path: Path) -> None:
    async with up(tmp_path, os.environ | LIMITS, AGENTS) as mesh:
        pid = mesh.process.pid
        # Once the watchdog has heard the mesh.
        task_id = await submit_apart(mesh.url, "deafener")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await mesh.errors.until("the mesh starts again")
        assert "The API of this process has not answered for" in mesh.errors.text
        assert (await mesh.outcome(task_id))["result"]["text"] == "heard again"
        assert mesh.process.pid == pid and mesh.process.returncode is None


async def test_a_mesh_that_speaks_tls_is_heard(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path, "mesh")
    tls = {"MESH_HTTP__TLS_CERT": str(cert), "MESH_HTTP__TLS_KEY": str(key)}
    log = {"MESH_LOG_LEVEL": "info,uvicorn.access=info"}
    async with up(tmp_path, os.environ | LIMITS | tls | log, AGENTS) as mesh:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await mesh.errors.until('\\"GET /healthz HTTP/1.1\\" 200')


async def test_used_up_descriptors_are_survived(tmp_path: Path) -> None:
    async with up(tmp_path, {**os.environ}, AGENTS) as mesh:
        task_id = await submit_apart(mesh.url, "hoarder")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (tmp_path / "used-up").exists():
                await asyncio.sleep(0.02)
        asked = await asyncio.gather(*(alive(mesh.url) for _ in range(20)))
        assert not any(asked)
        (tmp_path / "enough").touch()
        assert (await mesh.outcome(task_id))["result"]["text"] == "free again"
        await still_works(mesh)


async def result(mesh: Up, agent_id: str, text: str) -> str:
    outcome = await mesh.outcome(await mesh.submit(agent_id, text))
    assert outcome["success"], outcome
    return outcome["result"]["text"]


async def still_works(mesh: Up) -> None:
    assert (await result(mesh, "echo", "Hello")) == "Hello"
    assert (await mesh.get("/healthz"))["status"] == "ok"


async def submit_apart(url: str, agent_id: str) -> str:
    """Submit a task by a connection of its own, which the mesh may lose."""
    request = {"agent_id": agent_id, "payload": {"text": "Go on"}}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/tasks", json=request) as response:
        answer: dict[str, Any] = json.loads(await response.text())
        return answer["task_id"]


async def alive(url: str) -> bool:
    """Whether the mesh answers a new connection."""
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/healthz") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False
