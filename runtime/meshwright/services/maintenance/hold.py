"""The hold of a mesh: an actor that says whether its processes begin work, and how a process follows it."""

from __future__ import annotations

import asyncio

from meshwright.core.encoding import Struct
from meshwright.kernel.actor import Actor, Turn, turn
from meshwright.kernel.envelope import ActorRef
from meshwright.mesh import Mesh
from meshwright.work import Worker


class _State(Struct, frozen=False, omit_defaults=True):
    is_held: bool = False


class MeshHold(Actor[_State]):
    """Whether the work of a mesh is held: one actor for all of its processes, which outlives them."""

    @turn
    def hold(self, turn: Turn) -> None:
        """Let no process begin work."""
        self.state.is_held = True

    @turn
    def release(self, turn: Turn) -> None:
        """Let them begin again."""
        self.state.is_held = False


_HOLD = ActorRef(MeshHold.__name__, "mesh")


class ProcessHold:
    """The hold as one process of the mesh knows it."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._following = asyncio.Lock()

    async def is_set(self) -> bool:
        """Whether the mesh is held."""
        state = await self._mesh.runtime.read(_HOLD)
        return isinstance(state, _State) and state.is_held

    async def change(self, *, is_held: bool) -> None:
        """Hold the work of all processes, or release it; this process follows at once. Durable on return."""
        await self._mesh.runtime.call(_HOLD, "hold" if is_held else "release")
        await self.follow()

    async def follow(self) -> bool:
        """Bring this process in line with the hold, but for one that drains; returns whether it is set."""
        mesh = self._mesh
        async with self._following:
            is_held = await self.is_set()
            if is_held and mesh.state != "draining":
                mesh.get(Worker).hold()  # again where it is held: a start may just have begun work
                mesh.state = "held"
            elif not is_held and mesh.state == "held":
                await mesh.begin()
            return is_held
