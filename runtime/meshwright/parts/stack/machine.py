"""Finds free ports, programs, component files and the data folder, and asks who answers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from meshwright.agents.loader import PACKAGED, project_file
from meshwright.core.errors import ServiceFailed, StoreFailed
from meshwright.core.redaction import environment_with
from meshwright.engine.events.heads import FILE_NAME as HEADS
from meshwright.engine.sql.folder import LOCK_NAME, lock_folder, make_private
from meshwright.engine.sql.sqlite import FILE_NAME
from meshwright.kit import ConfigError

LOOPBACK = "127.0.0.1"
PROBE_SECONDS = 2.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 0.25
_SETTLE_SECONDS = 0.1
"""A daprd with a component that it refuses answers for a moment, and then ends."""
_REQUEST_SECONDS = 5.0
_MAX_REQUEST_BYTES = 8_192
_BUILD = Path(__file__).parents[4] / "tools" / "dapr" / "build"
_OF_THE_BUILD = ("MESH_CACHE", "XDG_CACHE_HOME")
_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")  # where brokers are, off most PATHs
_DAPR = (
    "in a checkout, make dapr builds it and prints its folder: set MESH_DAPR_BIN to that where Meshwright is "
    "not installed from there with pip install -e; or run dapr init --slim"
)
_REMEDIES = {
    "daprd": _DAPR,
    "placement": _DAPR,
    "scheduler": _DAPR,
    "mosquitto": "apt install mosquitto, or set MESH_BROKER_URL to a broker that runs",
    "redis-server": "apt install redis-server, or set MESH_REDIS_HOST to a server that runs",
}
_UNKNOWN_VERSION = (999,)
_COMPONENTS = Path("components")
_MARK = "state.yaml"
"""A folder named `components` without it belongs to something else."""
_NEEDED = (
    _MARK,
    "env.yaml",
    "config.yaml",
    "loopback.yaml",
    "resiliency.yaml",
    *(f"{bus}-bus/{name}.yaml" for bus in ("mqtt", "redis") for name in ("bus", "views")),
    "mosquitto/mosquitto.conf",
    "redis/redis.conf",
)


_FRONTS = ("mesh-0", "event-logger-0")


class Ports:
    """Free ports of loopback, reserved until this is closed.

    Each is held by a socket that does not listen: a program that asks for that very port gets it (with
    SO_REUSEADDR, as servers set it), and the kernel gives it to nothing that asks for any port, before the
    program starts or between its runs. Only Linux can hold ports.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self, count: int) -> list[int]:
        """That many free ports."""
        for _ in range(count):
            holder = socket.socket()
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((LOOPBACK, 0))
            self._held.append(holder)
        ports = [holder.getsockname()[1] for holder in self._held[-count:]]
        if sys.platform != "linux":
            self.close()
        return ports

    def close(self) -> None:
        """Release them all."""
        for holder in self._held:
            holder.close()
        self._held.clear()


# Who answers


def server_url(listen: tuple[str, int], scheme: str = "http") -> str:
    """The URL of a server that listens on that host and port."""
    host, port = listen
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


async def until_it_answers(url: str) -> None:
    """Return when the URL answers, and still does a moment later."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        if await answers(url):
            await asyncio.sleep(_SETTLE_SECONDS)
            if await answers(url):
                return
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)


async def answers(url: str) -> bool:
    """Whether the URL answers.

    `tcp:` a connection, `http:` a status below 300, `redis:` PONG (with the password of the URL, if any).
    """
    where = urlsplit(url)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            if where.scheme == "redis":  # refused while Redis still reads its data
                async with redis_at(where.netloc.rpartition("@")[2], where.password or ""):
                    return True
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            try:
                if where.scheme == "http":
                    writer.write(f"GET {where.path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                    return int((await reader.readline()).split()[1]) < 300
                return True
            finally:
                writer.close()
    except (OSError, EOFError, ValueError, IndexError):  # nothing is there, or it speaks something else
        return False


AskRedis = Callable[..., Awaitable[list[str]]]
"""Sends a command; returns the reply as texts. Raises RedisRefused."""


class RedisRefused(ValueError):
    """Redis answered with an error."""


@asynccontextmanager
async def redis_at(address: str, password: str) -> AsyncIterator[AskRedis]:
    """Log in at a Redis that works. Raises RedisRefused, OSError, EOFError."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def read_text(head: str) -> str:
        return (await reader.readexactly(int(head[1:]) + 2))[:-2].decode()

    async def ask(*words: str) -> list[str]:
        parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
        writer.write(f"*{len(words)}\r\n{''.join(parts)}".encode())
        head = (await reader.readuntil(b"\r\n")).decode().strip()
        if head.startswith("-"):
            raise RedisRefused(head[1:])
        if head.startswith("*"):
            return [await read_text((await reader.readuntil(b"\r\n")).decode()) for _ in range(int(head[1:]))]
        return [await read_text(head) if head.startswith("$") else head[1:]]

    try:
        if password:
            await ask("AUTH", password)
        if await ask("PING") != ["PONG"]:
            raise RedisRefused("it is no Redis")
        yield ask
    finally:
        writer.close()


@asynccontextmanager
async def answering_probes(listener: socket.socket, is_ready: Callable[[], bool]) -> AsyncIterator[None]:
    """Answer probes where there is no HTTP API: /healthz while the process lives, /readyz while it works."""

    async def answer(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_reply(request.split(maxsplit=2)[1], is_ready()))
                await writer.drain()
        except (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError):
            pass  # not a request
        finally:
            writer.close()

    server = await asyncio.start_server(answer, sock=listener, limit=_MAX_REQUEST_BYTES)
    async with server:
        yield


def _reply(path: bytes, ready: bool) -> bytes:
    status, document = {
        b"/healthz": ("200 OK", "ok"),
        b"/readyz": ("200 OK", "ready") if ready else ("503 Service Unavailable", "waits"),
    }.get(path, ("404 Not Found", "not found"))
    body = json.dumps({"status": document})
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}connection: close\r\n\r\n{body}".encode()


# Programs and component files


def find_program(name: str, dapr_bin: Path | None) -> Path:
    """The path of a program, Dapr's own in `dapr_bin` where that is named.

    Raises ServiceFailed, with what to install.
    """
    path = os.environ.get("PATH", os.defpath)
    if _REMEDIES[name] is not _DAPR:
        folders = [path, *_SYSTEM_FOLDERS]
    elif dapr_bin is not None:
        folders = [str(dapr_bin)]
    else:
        folders = [*_built(), path, str(Path.home() / ".dapr" / "bin")]
    for folder in folders:
        if match := shutil.which(name, path=folder):
            return Path(match).absolute()
    where = f"in {dapr_bin}" if folders == [str(dapr_bin)] else "on this machine"
    raise ServiceFailed(f"there is no {name} {where}", remedy=_REMEDIES[name])


def _built() -> list[str]:
    """The folder that `make dapr` has built into, in a checkout where it has."""
    if not _BUILD.exists():
        return []
    where = subprocess.run(
        [sys.executable, str(_BUILD), "--where"],
        env=environment_with(_OF_THE_BUILD),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return [] if where.returncode else [where.stdout.strip()]


def daprd_version(daprd: Path) -> tuple[int, ...]:
    """The version of a daprd, such as (1, 18, 2); a build without one, such as `edge`, counts as new."""
    output = subprocess.run(
        [daprd, "--version"], env=environment_with(), capture_output=True, text=True, check=False, timeout=30
    )
    numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", output.stdout.strip())
    return tuple(map(int, numbers.groups())) if numbers else _UNKNOWN_VERSION


def has_components(project: Path) -> bool:
    """Whether a project has component files of its own."""
    return (project / _COMPONENTS / _MARK).exists()


def components_folder(project: Path) -> Path:
    """The folder of component files: the project's own, else Meshwright's.

    Raises ConfigError where one of `_NEEDED` is missing.
    """
    own = project / _COMPONENTS
    folder = (own if has_components(project) else project_file(PACKAGED, _COMPONENTS)).absolute()
    missing = [name for name in _NEEDED if not (folder / name).exists()]
    if missing:
        remedy = "a project's components folder has to hold all files of Meshwright's"
        raise ConfigError(f"{missing[0]} is missing", remedy=remedy, path=str(folder))
    return folder


# The data folder


def front_folder(data: Path) -> Path | None:
    """The folder with the event log of a mesh on Dapr: the front's, in the data folder. None elsewhere."""
    if _has_log(data):
        return data if data.name in _FRONTS and (data.parent / LOCK_NAME).exists() else None
    folders = [data / name for name in _FRONTS if _has_log(data / name)]
    return max(folders, key=lambda folder: folder.stat().st_mtime, default=None)


def _has_log(folder: Path) -> bool:
    return any((folder / name).exists() for name in (HEADS, FILE_NAME))


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold a data folder, made where it is missing. Gives the descriptor of the lock.

    A process that inherits it holds the folder too, so that what a killed supervisor left is waited for.
    Raises StoreLocked where another mesh serves the folder, StoreFailed where it cannot be written.
    """
    try:
        make_private(folder)
        lock = lock_folder(folder)
    except OSError as error:
        raise StoreFailed(
            f"{folder} cannot be used: {error.strerror or error}", remedy="choose another with --data DIR"
        ) from error
    with lock:
        yield lock.fileno()
