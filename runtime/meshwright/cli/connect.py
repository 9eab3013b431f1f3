"""Which mesh a command talks to: the one at a URL, the one that runs on its data, or one of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import click

from meshwright.cli.running import announced_token, announced_url, token_of_environment, with_admin_token
from meshwright.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from meshwright.client import Client
    from meshwright.kernel.runtime import Runtime
    from meshwright.mesh import Mesh
    from meshwright.messages import Event
    from meshwright.runtimes import Grounds
    from meshwright.settings import Settings

ResultT = TypeVar("ResultT")
_Need = Literal["log", "state", "change", "work"]
"""What a command needs of a mesh that does not run.

To read its `log`, or also the `state` of tasks, budgets and keys: no code of the folder runs. To `change`
something: the agents are loaded, and what waits for them stays untouched. That they `work`.
"""
_PROMPT_EVENTS = {"prompt.fallback": "warning: ", "prompt.rejected": "warning: ", "prompt.reloaded": ""}


@dataclass(frozen=True)
class Connection:
    """A mesh to talk to, and what a person should know of it.

    `where` is its URL or data folder; `options` are those with which a `mesh` command finds it again;
    `is_running` says whether it goes on when this command has ended.
    """

    client: Client
    where: str
    options: str = ""
    is_running: bool = True
    about: str = ""

    def require_running(self) -> None:
        """Raise NotFound for a mesh in which nothing more happens."""
        if not self.is_running:
            message = f"no mesh runs on {self.where}: nothing more happens there"
            raise NotFound(message, remedy=f"start one with: mesh up{self.options}")


def talk(
    url: str | None,
    data: Path | None,
    use: Callable[[Connection], Awaitable[ResultT]],
    *,
    need: _Need = "log",
) -> ResultT:
    """Do something with the mesh that `--url` and `--data` choose, and return its result."""

    async def connect_and_use() -> ResultT:
        async with connected(url, data, need) as mesh:
            return await use(mesh)

    return asyncio.run(connect_and_use())


@asynccontextmanager
async def connected(url: str | None, data: Path | None, need: _Need) -> AsyncIterator[Connection]:
    """The mesh at the URL, else the running mesh of the data folder, else one in this process."""
    from meshwright.settings import load_settings

    options = f" --data {data}" if data else ""
    chosen = url or load_settings(Path(), data_dir=data)
    async with running_mesh(chosen, options) as running:
        if running is not None:
            yield running
            return
    assert not isinstance(chosen, str)
    async with in_process(chosen, need, options) as connection:
        yield connection


@asynccontextmanager
async def running_mesh(chosen: str | Settings, options: str = "") -> AsyncIterator[Connection | None]:
    """The mesh at a URL, or that which serves the data folder of the settings; None if none does."""
    from meshwright.client import Client

    if isinstance(chosen, str):
        async with Client(chosen, token_of_environment()) as client:
            yield Connection(client, chosen, f" --url {chosen}")
        return
    if url := announced_url(chosen.data_dir):
        async with Client(url, announced_token(chosen)) as client:
            if await client.is_alive():
                yield Connection(client, url, options)
                return
    yield None


@asynccontextmanager
async def in_process(settings: Settings, need: _Need, options: str = "") -> AsyncIterator[Connection]:
    """A mesh in this process, on a data folder that no other mesh serves.

    Raises StoreLocked if another process holds the data, InvalidInput if the mesh has its state elsewhere.
    """
    from meshwright.client import Client

    if need in ("state", "change") and settings.store != "sqlite":
        raise InvalidInput(
            f"no mesh runs on {settings.data_dir}, and one on {settings.store} has no keys there, "
            "and no tasks or budgets either",
            remedy="start it with mesh up, or name one that runs: --url",
            field="host",
        )
    settings = with_admin_token(settings, temporary=True)
    reads = need in ("log", "state")
    async with _readable(settings) if reads else _started(settings, works=need == "work") as mesh:
        about = f"An embedded mesh on {settings.data_dir}, model: {mesh.model.name}"
        async with Client.local(mesh) as client:
            yield Connection(client, str(settings.data_dir), options, is_running=False, about=about)


@asynccontextmanager
async def _started(settings: Settings, *, works: bool) -> AsyncIterator[Mesh]:
    from meshwright.app import build_mesh
    from meshwright.cli.reports import log_to_stderr
    from meshwright.cli.trust import require_trust

    log_to_stderr(settings.data_dir)
    require_trust(settings)
    mesh = build_mesh(settings)
    if not works:
        await mesh.worker.drain(0)
    report_prompts(mesh)
    async with mesh:
        yield mesh


@asynccontextmanager
async def _readable(settings: Settings) -> AsyncIterator[Mesh]:
    """A mesh that is open to be read; if there is no data, an empty one. No turn runs."""
    from meshwright.agent import Agent
    from meshwright.app import build_mesh
    from meshwright.cli.declared import declared_agents
    from meshwright.runtimes import embedded_host
    from meshwright.sql.sqlite import FILE_NAME

    if settings.database is None and not (settings.data_dir / FILE_NAME).is_file():
        settings = settings.having(store="memory")  # to read makes nothing
    agents = [
        type(agent.name, (Agent,), {"agent_id": agent.agent_id, "capabilities": agent.capabilities})
        for agent in declared_agents(settings).agents
    ]
    hosts = []

    def build_host(grounds: Grounds) -> Runtime:
        hosts.append(embedded_host(grounds))
        return hosts[0]

    mesh = build_mesh(settings, agents=agents, host=build_host)
    await hosts[0].open()
    try:
        yield mesh
    finally:
        await hosts[0].stop()


def report_prompts(mesh: Mesh) -> None:
    """Say on stderr which prompt file of a mesh in this process cannot be used, and which was read again."""
    from meshwright import topics

    mesh.host.listen(topics.MESH, _report_prompt)


def _report_prompt(event: Event) -> None:
    from meshwright.cli.event_lines import line_of

    if event.event_type in _PROMPT_EVENTS and (line := line_of(event.model_dump(mode="json"))):
        click.echo(f"mesh: {_PROMPT_EVENTS[event.event_type]}{line.text}", err=True)
