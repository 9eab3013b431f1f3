"""Registered prompts for workers without a database: the front shares them as the states of actors.

    prompt-registry/mesh                     the live versions
    prompt-version/{tenant}:{name}:{number}  the text of a version

A worker reads both from the store of actors, and has to call the front only for what is not shared: what a
front of an earlier release has, and what is larger than a record may be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Set

from meshwright.core.encoding import Struct
from meshwright.kernel.actor import Actor, Turn, turn
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.turns import ActorKind
from meshwright.mesh import Mesh
from meshwright.services.llmops.table import Live, LivePrompts

_REGISTRY = ActorRef("prompt-registry", "mesh")
_VERSION = "prompt-version"


class _SharedLive(Struct):
    live: LivePrompts | None = None


class _SharedText(Struct):
    text: str = ""


class _SharedRegistry(Actor[_SharedLive]):
    """The live versions that workers read, and turns for those that have to call."""

    def __init__(
        self, ref: ActorRef, live_now: Callable[[], LivePrompts], text_of: Callable[[Live], str]
    ) -> None:
        super().__init__(ref)
        self._live_now = live_now
        self._text_of = text_of

    @turn
    def share(self, turn: Turn, state: _SharedLive) -> None:
        """Let workers read which versions are live."""
        self.state = state

    @turn
    def live(self, turn: Turn) -> LivePrompts:
        """Which version of which prompt is live. Raises HostError while the front reads a change."""
        return self._live_now()

    @turn
    def text(self, turn: Turn, version: Live) -> str:
        """The text of one of them, or of a version that is tried."""
        return self._text_of(version)


class _SharedVersion(Actor[_SharedText]):
    """The text of a version."""

    @turn
    def share(self, turn: Turn, state: _SharedText) -> None:
        """Let workers read it, in place of what a database that was lost had under this number."""
        self.state = state


class SharedPrompts:
    """The live versions and the texts of versions: a front shares them, a worker without a database reads."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    @staticmethod
    def kinds(live_now: Callable[[], LivePrompts], text_of: Callable[[Live], str]) -> list[ActorKind]:
        """The actors of the front."""
        registry = ActorKind.of(_SharedRegistry, type=_REGISTRY.type, live_now=live_now, text_of=text_of)
        return [registry, ActorKind.of(_SharedVersion, type=_VERSION)]

    async def share(self, texts: Mapping[Live, str], earlier: Set[Live]) -> None:
        """Share the live versions, of which the texts of the `earlier` ones are shared. Raises HostError."""
        await asyncio.gather(
            *(self.share_text(item, text) for item, text in texts.items() if item not in earlier)
        )
        await self._mesh.share(_REGISTRY, _SharedLive(live=LivePrompts(items=tuple(texts))))

    async def share_text(self, item: Live, text: str) -> None:
        """Share the text of a version. Raises HostError."""
        await self._mesh.share(_ref(item), _SharedText(text=text))

    async def live(self) -> LivePrompts:
        """The live versions. Raises HostError."""
        state = await self._mesh.runtime.read(_REGISTRY, _SharedLive)
        if state is not None and state.live is not None:
            return state.live
        return LivePrompts.model_validate(await self._mesh.runtime.call(_REGISTRY, "live"))

    async def text_of(self, item: Live) -> str:
        """The text of a version. Raises HostError, and NotFound."""
        state = await self._mesh.runtime.read(_ref(item), _SharedText)
        if state is not None and state.text:
            return state.text
        return str(await self._mesh.runtime.call(_REGISTRY, "text", item))


def _ref(item: Live) -> ActorRef:
    return ActorRef(_VERSION, f"{item.tenant_id}:{item.name}:{item.version}")
