"""The component of agents elsewhere: the agents that its tables make, and their cards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from meshwright import Agent
from meshwright.component import Component, Mesh, Settings
from meshwright.core.errors import MeshError
from meshwright.kit import Backoff, BoundAgents
from meshwright.mesh.components import Check
from meshwright.mesh.orchestration.elsewhere import CancelsElsewhere, TaskElsewhere
from meshwright.mesh.orchestration.presence import Presence
from meshwright.parts.remote.settings import RemotePeer, RemoteSettings

if TYPE_CHECKING:
    from meshwright.parts.remote.peer import Peer

_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 60.0  # before the card of a peer that is away is read again
_REREAD_SECONDS = 300.0
_CHECK_SECONDS = 70.0
_logger = logging.getLogger("meshwright.remote")


class RemoteComponent(Component):
    """Keeps the cards of agents elsewhere, and closes their connections."""

    name = "remote"
    config: RemoteSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._readers: list[asyncio.Task[None]] = []
        self._by_name: dict[str, Peer] = {}
        self._cancels: CancelsElsewhere | None = None

    @classmethod
    def agents(cls, settings: Settings) -> Iterable[type[Agent]]:
        """An agent for each table."""
        tables: RemoteSettings = settings.table("remote")
        if not tables:
            return ()
        from meshwright.parts.remote.agent import make_agent

        return [make_agent(name, table) for name, table in tables.items()]

    def assemble(self) -> None:
        """Cancel at peers what is cancelled here."""
        self._by_name = {peer.name: peer for peer in self._peers()}
        if self._by_name:
            self._cancels = CancelsElsewhere(self.mesh, self._read_task, self._cancel)

    def _read_task(self, agent_id: str, result: Mapping[str, Any]) -> TaskElsewhere | None:
        from meshwright.parts.remote.wire import ENDED

        if agent_id not in self._by_name or result.get("remote") != agent_id or "id" not in result:
            return None
        return TaskElsewhere(agent_id, result["id"], result.get("state") in ENDED)

    async def _cancel(self, name: str, remote: str) -> None:
        from meshwright.parts.remote.client import PeerFailed

        peer = self._by_name[name]
        try:
            await peer.client.call(await peer.interface(), "CancelTask", {"id": remote})
        except PeerFailed as error:
            if error.is_away:
                raise
            _logger.info("Task %s of %s was not cancelled: %s", remote, name, error)

    def _peers(self) -> list[Peer]:
        """The peers of the agents of this process."""
        if not self.config:
            return []
        from meshwright.parts.remote.agent import RemoteAgent

        agents = (bound.agent for bound in self.mesh.get(BoundAgents).values())
        return [agent.peer for agent in agents if isinstance(agent, RemoteAgent)]

    def checks(self) -> Iterable[Check]:
        """Whether each peer shows a card that can be used."""
        return [
            Check(f"remote.{name}", partial(_check, name, table), _CHECK_SECONDS)
            for name, table in self.config.items()
        ]

    async def start(self) -> None:
        """Read the cards, now and every five minutes."""
        await super().start()
        if self._cancels is not None:
            await self._cancels.start(self._by_name)
        for peer in self._peers():
            reading = asyncio.create_task(self._keep_card(peer), name=f"card of {peer.name}")
            self._readers.append(reading)

    async def stop(self) -> None:
        """Read no more, and close the connections."""
        readers, self._readers = self._readers, list[asyncio.Task[None]]()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        if self._cancels is not None:
            await self._cancels.stop()
        for peer in self._peers():
            await peer.client.close()
        await super().stop()

    async def _keep_card(self, peer: Peer) -> None:
        pauses = Backoff(_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS)
        while True:
            before = peer.problem
            try:
                await peer.read_card()
                pauses.reset()
                pause = _REREAD_SECONDS
            except MeshError:
                pause = pauses.next()
                if peer.problem != before:
                    _logger.warning("remote.%s cannot take tasks: %s", peer.name, peer.problem)
            self._renew(peer)
            await asyncio.sleep(pause)

    def _renew(self, peer: Peer) -> None:
        """Make the agent known as its card is now."""
        presence = self.mesh.get(Presence)
        own = self.mesh.get(BoundAgents)[peer.name].registration()
        presence.renew([own if one.agent_id == peer.name else one for one in presence.registrations])


async def _check(name: str, table: RemotePeer) -> str:
    from meshwright.parts.remote.peer import Peer

    peer = Peer(name, table)
    try:
        await peer.read_card()
        return peer.describe()
    finally:
        await peer.client.close()
