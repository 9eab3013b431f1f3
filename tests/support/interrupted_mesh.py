"""A mesh that is stopped in the middle of work, and an agent whose tool a test can hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from meshwright import Agent, Capability, tool
from meshwright.core.events import Event
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.models.port import Model
from meshwright.testing import ScriptedModel
from tests.support.settings import load_settings

PATIENCE_SECONDS = 60


class Keeper(Agent):
    """Has a tool in which a test can stop the mesh, or the task."""

    agent_id = "keeper"
    capabilities = (Capability("keeping", preferred=True),)
    began: asyncio.Event
    opened: asyncio.Event

    @tool(idempotent=True)
    async def hold(self) -> str:
        """Wait for the test."""
        self.began.set()
        await self.opened.wait()
        return "held"


def keeper(*, opened: bool = False, **fields: Any) -> type[Keeper]:
    made = type("TestKeeper", (Keeper,), {"began": asyncio.Event(), "opened": asyncio.Event(), **fields})
    if opened:
        made.opened.set()
    return made


@asynccontextmanager
async def kept(
    folder: Path, *agents: type[Agent], model: Model | None = None, **settings: Any
) -> AsyncIterator[Mesh]:
    """A mesh on the files of a folder; at its end work is left where it is. It waits for no provider."""
    settings["models"] = {"park": False, **settings.get("models", {})}
    mesh = build_mesh(
        load_settings(folder, **settings), project=folder, agents=agents, model=model or ScriptedModel()
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        await mesh.start()
        try:
            yield mesh
        finally:
            await mesh.stop(drain_seconds=0)


async def told_of(mesh: Mesh, event_type: str) -> Event:
    """The first event of a type, as soon as there is one."""
    tail = mesh.log.tail(EventFilter(event_type=event_type, after_seq=0))
    event = await anext(tail)
    await tail.aclose()
    return event
