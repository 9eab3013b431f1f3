"""A mesh that is open to be read, for one command: no turn runs, and none of the folder's code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshwright.host import Host
    from meshwright.mesh import Mesh
    from meshwright.runtimes import Grounds
    from meshwright.settings import Settings


@asynccontextmanager
async def readable_mesh(settings: Settings) -> AsyncIterator[Mesh]:
    """Open the data folder of an embedded mesh that does not run; where there is no data, an empty mesh.

    Raises StoreLocked where another process holds it, and ConfigError.
    """
    from meshwright.agent import Agent
    from meshwright.agents.loader import project_file
    from meshwright.app import build_mesh
    from meshwright.cli.declared import declared_agents
    from meshwright.runtimes import embedded_host
    from meshwright.sql.sqlite import FILE_NAME

    if not (settings.data_dir / FILE_NAME).is_file():
        settings = settings.having(store="memory")  # to read makes nothing
    declared = declared_agents(project_file(Path(), settings.actors_dir))
    agents = [
        type(agent.name, (Agent,), {"agent_id": agent.agent_id, "capabilities": agent.capabilities})
        for agent in declared.agents
    ]
    hosts = []

    def kept(grounds: Grounds) -> Host:
        hosts.append(embedded_host(grounds))
        return hosts[0]

    mesh = build_mesh(settings, agents=agents, host=kept)
    await hosts[0].open()
    try:
        yield mesh
    finally:
        await hosts[0].stop()
