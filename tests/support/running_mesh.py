"""A mesh as a process, used by its command line and its HTTP API alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from meshwright import Client
from tests.support.mesh_forks import Forked, fork, is_plain, run_forked

ROOT = Path(__file__).resolve().parents[2]
MESH = [sys.executable, "-m", "meshwright.cli"]
UP = [*MESH, "up"]
READY_SECONDS = 120.0


class Reply(NamedTuple):
    status: int
    body: Any


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


async def mesh(*arguments: str, stdin: str = "", **environment: str) -> Done:
    """Run a `mesh` command to its end."""
    complete = os.environ | environment
    process = await fork(arguments, complete, ROOT, stdin=stdin.encode(), stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate()
    return Done(await process.wait(), out.decode(), err.decode())


def run(
    *arguments: str, stdin: str = "", cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a `mesh` command to its end, without a loop."""
    code, out, err = run_forked(arguments, os.environ | environment, cwd or Path.cwd(), stdin.encode())
    return subprocess.CompletedProcess([*MESH, *arguments], code, out.decode(), err.decode())


async def start(
    command: Sequence[str], environment: Mapping[str, str], cwd: Path = ROOT, **streams: Any
) -> Process | Forked:
    """Start a program; `mesh` is forked where its streams allow it."""
    complete = {**os.environ, **environment}
    if [*command[: len(MESH)]] == MESH and "stdin" not in streams and is_plain(*streams.values()):
        return await fork(command[len(MESH) :], complete, cwd, **streams)
    return await asyncio.create_subprocess_exec(*command, cwd=cwd, env=complete, **streams)


class Errors:
    def __init__(self, stream: asyncio.StreamReader) -> None:
        self.text = ""
        self._stream = stream
        self._more = asyncio.Condition()
        self._has_ended = False
        self._reading = asyncio.create_task(self._read())

    async def until(self, text: str) -> None:
        """Wait for it to say something. Fails, with all that it said, where it ends or the time is over."""
        try:
            async with self._more:
                await self._more.wait_for(lambda: text in self.text or self._has_ended)
        except asyncio.CancelledError as error:
            error.add_note(f"{text!r} is missing in:\n{self.text}")
            raise
        assert text in self.text, f"it has ended without {text!r}:\n{self.text}"

    async def whole(self) -> str:
        """All of it, once the process has ended."""
        await self._reading
        return self.text

    async def _read(self) -> None:
        try:
            async for line in self._stream:
                self.text += line.decode()
                await self._notify()
        finally:
            self._has_ended = True
            await self._notify()

    async def _notify(self) -> None:
        async with self._more:
            self._more.notify_all()


@dataclass
class RunningMesh:
    """A mesh that is ready."""

    url: str
    data: Path
    process: Process | Forked
    errors: Errors
    session: aiohttp.ClientSession
    client: Client

    async def get(self, path: str, **params: Any) -> Reply:
        return await self.call("GET", path, params=params)

    async def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call("POST", path, json=body, headers=named)

    async def call(self, method: str, path: str, **options: Any) -> Reply:
        async with self.session.request(method, self.url + path, **options) as response:
            return Reply(response.status, json.loads(await response.text()))

    async def submit(self, text: str, key: str | None = None, **fields: Any) -> str:
        """Submit a task, and return its id."""
        request = {"capability": "general-query"} | fields
        return (await self.client.submit(text=text, idempotency_key=key, **request)).task_id

    async def stream(self, *, after: int = 0, **fields: Any) -> AsyncIterator[dict[str, Any]]:
        """The logged events, from the first and those to come."""
        async for event in self.client.stream(after_seq=after, **fields):
            if event.seq is not None:
                yield event.model_dump(mode="json")

    async def story(self, task_id: str, *, after: int = 0) -> list[dict[str, Any]]:
        """The logged events of a task, up to the one that ends it."""
        events = [event async for event in self.client.follow(task_id, after_seq=after)]
        return [event.model_dump(mode="json") for event in events if event.seq is not None]

    async def outcome(self, task_id: str) -> dict[str, Any]:
        """Wait for the end of a task and return its outcome."""
        return (await self.client.outcome(task_id)).model_dump(mode="json")

    async def until(self, enough: Callable[[dict[str, Any]], bool]) -> None:
        """Watch all events, from the first, until one of them is enough."""
        async for event in self.stream():
            if enough(event):
                return

    @property
    def server_pid(self) -> int:
        """The process that said it serves the data."""
        return int(json.loads((self.data / "mesh.json").read_text())["pid"])

    async def kill(self) -> None:
        """Kill -9 the process that said it serves the data."""
        os.kill(self.server_pid, signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> int:
        """Ask it to stop, and return its exit status."""
        if self.process.returncode is None:
            self.process.terminate()
        return await self.process.wait()


@asynccontextmanager
async def mesh_up(
    data: Path, *arguments: str, up: Sequence[str] = UP, cwd: Path = ROOT, **environment: str
) -> AsyncIterator[RunningMesh]:
    """Start a mesh for a project and a data folder, on any free port, and stop it at the end."""
    command = [*up, "--port", "0", "--data", str(data), *arguments]
    process = await start(command, environment, cwd, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None and process.stderr is not None
    errors = Errors(process.stderr)
    try:
        url = await ready_url(process.stdout, errors)
        async with aiohttp.ClientSession() as session, Client(url) as client:
            yield RunningMesh(url, data, process, errors, session, client)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await asyncio.gather(process.stdout.read(), errors.whole())


async def ready_url(output: asyncio.StreamReader, errors: Errors) -> str:
    """Read the line that says where the mesh listens."""
    line = (await asyncio.wait_for(output.readline(), READY_SECONDS)).decode()
    word, _, url = line.strip().partition(" ")
    assert word == "ready" and url.startswith(("http://", "https://")), line or await errors.whole()
    return url


async def all_of(awaitables: list[Awaitable[Any]]) -> list[Any]:
    """Run them side by side, and return their results in order."""
    return list(await asyncio.gather(*awaitables))
