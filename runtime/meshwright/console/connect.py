"""Which mesh a command talks to: the one at a URL, the one that runs on its data, or one of its own.

In the data folder, `mesh.json` says where the mesh listens, `admin.token` is the secret of its administrator.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import click

from meshwright.console.options import Target
from meshwright.console.output import document, styled, timeline_line
from meshwright.console.project import declared_agents, require_trust
from meshwright.core.display import Document, Need
from meshwright.core.encoding import Struct
from meshwright.core.errors import ConfigError, Conflict, InvalidInput, NotFound, StoreLocked
from meshwright.engine.sql.folder import (
    LOCK_NAME,
    SOCKET_NAME,
    make_private,
    open_private,
    process_folders,
    read_private,
    write_private,
)
from meshwright.mesh.identity.settings import KeysSettings

if TYPE_CHECKING:
    from pydantic import BaseModel

    from meshwright.agents.agent import Agent
    from meshwright.client import Client
    from meshwright.core.events import Event
    from meshwright.core.settings import Settings
    from meshwright.mesh.mesh import Mesh
    from meshwright.models.port import Model

ResultT = TypeVar("ResultT")
_REPORTED_EVENTS = {
    "mesh.held": logging.WARNING,
    "agent.code_changed": logging.WARNING,
    "agent.missing": logging.WARNING,
    "agent.returned": logging.INFO,
    "prompt.fallback": logging.WARNING,
    "prompt.rejected": logging.WARNING,
    "prompt.reloaded": logging.INFO,
    "skill.rejected": logging.WARNING,
    "skill.reloaded": logging.INFO,
    "deployment.refused": logging.WARNING,
    "deployment.cooled_down": logging.WARNING,
    "deployment.recovered": logging.INFO,
}
_SAID_KEY = "meshwright.said"
_URL_FILE, _TOKEN_FILE = "mesh.json", "admin.token"
_SECRET_BYTES = 32
_WHOLE_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")  # an id that the mesh made
_SHOWN_IDS = 5
_STARTING_SECONDS, _STARTING_PAUSE_SECONDS = 10.0, 0.2  # for a mesh that has its data and does not listen yet
_ASKS_FILES, _RUNS_ONE = "asking its files", "this command runs one until it ends"
_WAIT_FOR_COMMAND = (
    "Answer its questions at its terminal, or wait for its end; beside a mesh up, every shell can answer"
)
_REMEDY = "remove the file, and mesh up makes another"


@dataclass(frozen=True)
class Connection:
    """A mesh to talk to, and what a person should know of it."""

    client: Client
    """The client of the mesh."""
    where: str
    """Its URL or its data folder."""
    options: str = ""
    """The options with which a `mesh` command finds it again."""
    is_running: bool = True
    """Whether it goes on when this command has ended."""
    about: str = ""
    """A remark for the person, "" without one."""

    def require_running(self) -> None:
        """Raises NotFound where no mesh runs: nothing would ever change."""
        if not self.is_running:
            raise NotFound(
                f"no mesh runs on {self.where}: nothing more happens there",
                remedy=f"start one with: mesh up{self.options}",
            )


def talk(
    target: Target,
    use: Callable[[Connection], Awaitable[ResultT]],
    *,
    need: Need = "log",
    begins: bool = False,
) -> ResultT:
    """Do something with the mesh that the options choose, and return its result.

    It is the mesh at the URL, else the running mesh of the data folder, else one in this process. `begins`
    says that a new mesh is begun in a folder of --data that is not there. Raises NotFound without it.
    """
    from meshwright.core.settings import load_settings

    async def connect_and_use() -> ResultT:
        options = f" --data {target.data}" if target.data else ""
        chosen = target.url or load_settings(Path(), data_dir=target.data)
        ends: float | None = None
        while True:
            async with running_mesh(chosen, options, target.tenant) as running:
                if running is not None:
                    say_asked(running.where)
                    return await use(running)
            assert not isinstance(chosen, str)
            if not begins:
                require_folder(target.data, chosen)
            async with AsyncExitStack() as stack:
                try:
                    own = await stack.enter_async_context(in_process(chosen, need, options, target.tenant))
                except StoreLocked as error:  # perhaps by a mesh that starts
                    if command := _embedding_command(chosen.data_dir):
                        problem = f"{error.message}: `{command}`, which runs a mesh of its own"
                        raise StoreLocked(problem, remedy=_WAIT_FOR_COMMAND) from None
                    if ends is None:
                        click.echo(f"mesh: {error.message}, which may be starting; waiting for it", err=True)
                        ends = time.monotonic() + _STARTING_SECONDS
                    elif time.monotonic() > ends:
                        raise
                    await asyncio.sleep(_STARTING_PAUSE_SECONDS)
                    continue
                say_asked(None, own.where, instead=_RUNS_ONE if need == "work" else _ASKS_FILES)
                return await use(own)

    return asyncio.run(connect_and_use())


def require_folder(data: Path | None, settings: Settings) -> None:
    """Raises NotFound for a folder of --data that is not there, where a mesh would have its store in it."""
    if data is not None and settings.store == "sqlite" and settings.database is None and not data.is_dir():
        raise NotFound(
            f"there is no folder {data}, and so no mesh in it",
            remedy=f"name one that has data, or make it with mesh up --data {data}",
            field="data",
        )


def say_asked(
    url: str | None, data: str | Path = "", *, always: bool = False, instead: str = _ASKS_FILES
) -> None:
    """Say on stderr which mesh a command asks: the one at a URL, or with None what is asked `instead`.

    A person at a terminal reads it, once; elsewhere it is left out, unless the answer differs by shell
    (`always`).
    """
    meta = click.get_current_context().meta
    if (always or sys.stderr.isatty()) and not meta.get(_SAID_KEY):
        meta[_SAID_KEY] = True
        where = f"asking the mesh at {url}" if url else f"no mesh runs on {data}; {instead}"
        click.echo(styled(f"mesh: {where}", dim=sys.stderr.isatty()), err=True)


def listed(
    target: Target, ask: Callable[[Client], Awaitable[Sequence[BaseModel | Struct]]], *, need: Need = "log"
) -> list[Document]:
    """A list that the chosen mesh gives, as plain data."""

    async def use(mesh: Connection) -> list[Document]:
        return [document(item) for item in await ask(mesh.client)]

    return talk(target, use, need=need)


async def whole_id(mesh: Connection, part: str) -> str:
    """The id of the task that is meant by an end or a beginning. Raises InvalidInput if several are.

    One that nothing fits is returned as it is: the mesh says that it does not know it.
    """
    if _WHOLE_ID.fullmatch(part):
        return part
    tasks = await mesh.client.tasks(limit=_SHOWN_IDS + 1, task_id=part)
    return match_id(part, (task.task_id for task in tasks), "task")


def match_id(part: str, ids: Iterable[str], what: str) -> str:
    """The one of the known ids that is, begins or ends so. Raises InvalidInput if several do."""
    fitting = list(dict.fromkeys(name for name in ids if name.startswith(part) or name.endswith(part)))
    if part in fitting or not fitting:
        return part
    if len(fitting) > 1:
        more = ", ..." if len(fitting) > _SHOWN_IDS else ""
        raise InvalidInput(
            f"{part!r} fits several ids of a {what}: {', '.join(fitting[:_SHOWN_IDS])}{more}",
            remedy="give more of it",
            field=f"{what}_id",
        )
    return fitting[0]


@asynccontextmanager
async def running_mesh(
    chosen: str | Settings, options: str = "", tenant: str | None = None
) -> AsyncIterator[Connection | None]:
    """The mesh at a URL, or that which serves the data folder of the settings; None if none does."""
    from meshwright.client import Client

    if isinstance(chosen, str):
        # The admin token, or a key, for a mesh elsewhere.
        token = os.environ.get("MESH_ADMIN_TOKEN") or None
        async with Client(chosen, token, tenant=tenant) as client:
            yield Connection(client, chosen, f" --url {chosen}")
        return
    for folder in process_folders(chosen.data_dir):
        if not (url := announced_url(folder)):
            continue
        path = folder / SOCKET_NAME
        if _is_own_socket(path):
            async with Client(socket_path=path, tenant=tenant) as client:
                if await client.is_alive():
                    yield Connection(client, url, options)
                    return
        async with Client(url, _announced_token(chosen, folder), tenant=tenant) as client:
            if await client.is_alive():
                yield Connection(client, url, options)
                return
    yield None


@asynccontextmanager
async def in_process(
    settings: Settings,
    need: Need,
    options: str = "",
    tenant: str | None = None,
    agents: Sequence[type[Agent]] | None = None,
    model: Model | None = None,
) -> AsyncIterator[Connection]:
    """A mesh in this process, on a data folder that no other mesh serves, of these agents, if it works.

    Without `agents` those of the folder work, without a `model` that of the settings.

    Raises StoreLocked if another process holds the data, InvalidInput if the mesh has its state elsewhere.
    """
    from meshwright.client import Client

    if need in ("state", "change") and settings.store != "sqlite":
        raise InvalidInput(
            f"no mesh runs on {settings.data_dir}, and one on {settings.store} has no keys there, "
            "and no tasks or budgets either",
            remedy="start it with mesh up, or name one that runs: --url",
            field="store",
        )
    from meshwright.models.port import Model as AnyModel

    settings = with_admin_token(settings, temporary=True)
    reads = need in ("log", "state")
    async with _readable(settings) if reads else _started(settings, need == "work", agents, model) as mesh:
        about = f"An embedded mesh on {settings.data_dir}, model: {mesh.get(AnyModel).name}"
        async with Client.local(mesh, tenant=tenant) as client:
            yield Connection(client, str(settings.data_dir), options, is_running=False, about=about)


@asynccontextmanager
async def _started(
    settings: Settings, works: bool, agents: Sequence[type[Agent]] | None, model: Model | None
) -> AsyncIterator[Mesh]:
    from meshwright.console.process import forks_apart, log_commands
    from meshwright.core.logs import MESH_LOGGER
    from meshwright.engine.work import Worker
    from meshwright.mesh.app import build_mesh

    log_commands(settings.data_dir)
    require_trust(settings)
    mesh = build_mesh(settings, agents=agents, model=model)
    if not works:
        await mesh.get(Worker).drain(0)
    context = click.get_current_context(silent=True)  # none in the process of a demo
    command = context.command_path if context is not None else "mesh"
    report_problems(mesh)
    for warning in mesh.warnings if works else ():  # as mesh up says them
        logging.getLogger(MESH_LOGGER).warning("%s", warning)
    with forks_apart(), ExitStack() as stack:
        async with mesh:
            if works:
                stack.enter_context(_announced_command(settings.data_dir, command))
            if works and mesh.state == "held":
                raise Conflict(
                    "This mesh is held and begins no task", remedy="Release it first: mesh release"
                )
            yield mesh


@asynccontextmanager
async def _readable(settings: Settings) -> AsyncIterator[Mesh]:
    """A mesh that is open to be read; if there is no data, an empty one. No turn runs."""
    from meshwright.agents.agent import Agent
    from meshwright.engine.sql.sqlite import FILE_NAME
    from meshwright.mesh.app import build_mesh, sqlite_runtime
    from meshwright.mesh.mesh import ORCHESTRATION, ProcessRole

    if fields := dict.fromkeys(error.field for error in settings.unread_secrets):
        tables = ", ".join(f"[{field}]" for field in fields)
        click.echo(
            f"mesh: warning: without {tables}: this shell lacks their secrets, see mesh doctor", err=True
        )
    settings = settings.without_unread()
    if settings.database is None and not (settings.data_dir / FILE_NAME).is_file():
        settings = settings.having(store="memory")  # to read makes nothing
    agents = [
        type(agent.name, (Agent,), {"agent_id": agent.agent_id, "capabilities": agent.capabilities})
        for agent in declared_agents(settings).agents
    ]
    role = ProcessRole(frozenset({ORCHESTRATION}))  # tools and contexts are of no use here
    mesh = build_mesh(settings, agents=agents, runtime=sqlite_runtime, role=role)
    await mesh.runtime.open()
    try:
        yield mesh
    finally:
        await mesh.runtime.stop()


def report_problems(mesh: Mesh) -> None:
    """Log which prompt files and deployments of a mesh in this process cannot be used."""
    from meshwright.core import topics

    mesh.runtime.listen(topics.MESH, _report_problem)


def _report_problem(event: Event) -> None:
    if event.event_type in _REPORTED_EVENTS and (line := timeline_line(event.model_dump(mode="json"))):
        from meshwright.core.logs import MESH_LOGGER

        logging.getLogger(MESH_LOGGER).log(_REPORTED_EVENTS[event.event_type], "%s", line.text)


@contextmanager
def _announced_command(folder: Path, command: str) -> Iterator[None]:
    """Say which command has the mesh of a folder within itself, for as long as the context lasts."""
    path = folder / _URL_FILE
    write_private(path, json.dumps({"command": command, "pid": os.getpid()}))
    try:
        yield
    finally:
        if _announced(folder).get("pid") == os.getpid():
            path.unlink(missing_ok=True)


def _embedding_command(folder: Path) -> str | None:
    """The command that has announced that it runs the mesh of a folder within itself."""
    announced = _announced(folder)
    try:
        is_owner = read_private(folder / LOCK_NAME).strip() == str(announced.get("pid"))
    except (OSError, ValueError):
        return None
    command = announced.get("command")
    return command if is_owner and isinstance(command, str) else None


@contextmanager
def announced(folder: Path, url: str) -> Iterator[None]:
    """Say where this process listens for as long as the context lasts."""
    path = folder / _URL_FILE
    write_private(path, json.dumps({"url": url, "pid": os.getpid()}))
    try:
        yield
    finally:
        if _announced(folder).get("pid") == os.getpid():
            path.unlink(missing_ok=True)


def announced_url(folder: Path) -> str | None:
    """The URL that the mesh of a data folder has announced; it may be gone without having removed that."""
    url = _announced(folder).get("url")
    return url if isinstance(url, str) and _is_here(url) else None


def _is_own_socket(path: Path) -> bool:
    """Whether that is a Unix socket that this user, or root, has made."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISSOCK(status.st_mode) and status.st_uid in (os.geteuid(), 0)


def _announced(folder: Path) -> dict[str, object]:
    try:
        document = json.loads(read_private(folder / _URL_FILE))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _is_here(url: str) -> bool:
    """Whether an address is one of this machine's: a folder from elsewhere must not name a mesh elsewhere."""
    try:
        host = urlsplit(url).hostname
        family = socket.AF_INET6 if host and ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((host or "", 0))
    except (OSError, ValueError):
        return False
    return bool(host)


def _announced_token(settings: Settings, folder: Path) -> str | None:
    """The admin token for the mesh that the folder of a process announces, or None.

    None too if the process that announced it has gone: another user's program may listen there now.
    """
    pid = _announced(folder).get("pid")
    try:
        if not isinstance(pid, int) or pid <= 0:
            return None
        os.kill(pid, 0)
    except (OSError, OverflowError):  # gone, or another user's
        return None
    if (token := settings[KeysSettings].admin_token) is not None:
        return token.get_secret_value()
    try:
        return _read_token(settings.data_dir / _TOKEN_FILE)
    except FileNotFoundError:
        return None


def with_admin_token(settings: Settings, *, temporary: bool = False) -> Settings:
    """The settings with an admin token: theirs, else that of the data folder.

    A folder that has none gets one, which stays the same until its file is removed. A `temporary` one is of
    this process alone. Raises ConfigError for a file that is not a token.
    """
    if settings[KeysSettings].admin_token is not None and not temporary:
        return settings
    from pydantic import SecretStr

    token = _new_token() if temporary else _make_token(settings.data_dir)
    return settings.having(keys={"admin_token": SecretStr(token)})


def _new_token() -> str:
    from meshwright.mesh.identity.settings import ADMIN_PREFIX

    return ADMIN_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def _make_token(folder: Path) -> str:
    path = make_private(folder) / _TOKEN_FILE
    try:
        descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return _read_token(path)
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        raise ConfigError(problem, path=str(path), remedy="choose another folder with --data DIR") from error
    token = _new_token()
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{token}\n")
    return token


def _read_token(path: Path) -> str:
    from meshwright.mesh.identity.settings import ADMIN_PREFIX

    try:
        token = read_private(path).strip()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", path=str(path), remedy=_REMEDY) from error
    if not token.startswith(ADMIN_PREFIX) or not token.isascii() or not token.isprintable():
        raise ConfigError("holds no admin token", path=str(path), remedy=_REMEDY)
    return token
