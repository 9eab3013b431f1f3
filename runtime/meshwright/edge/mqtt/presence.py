"""Presence: the broker keeps who is in the mesh, and says by itself when the mesh is gone.

An agent's document runs out after as long a silence as makes it offline, so that nobody is shown for ever who
was there when the mesh was killed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from meshwright import __version__
from meshwright.capability import AgentInfo
from meshwright.clock import Clock
from meshwright.edge.mqtt.connection import Connection
from meshwright.edge.mqtt.notices import Notices
from meshwright.edge.mqtt.packets import JSON, Publication
from meshwright.edge.mqtt.topics import Topics
from meshwright.encoding import encode
from meshwright.messages import Event
from meshwright.orchestration.registry import Registry
from meshwright.topics import AGENTS


def will(topics: Topics) -> Publication:
    """What the broker publishes when the connection ends without a goodbye."""
    return Publication(topics.status, encode({"status": "offline", "reason": "connection lost"}), retain=True)


class Presence:
    """Keeps the retained documents of the agents and of the mesh true."""

    def __init__(
        self,
        topics: Topics,
        registry: Registry,
        clock: Clock,
        notices: Notices,
        own: Sequence[str],
        *,
        offline_after_seconds: float,
    ) -> None:
        self._topics = topics
        self._registry = registry
        self._clock = clock
        self._notices = notices
        self._own = frozenset(own)
        self._expiry_seconds = math.ceil(offline_after_seconds)
        self._changed: set[str] = set()
        self._news = asyncio.Event()

    def hear(self, event: Event) -> None:
        """Take an event of the bus; those of agents change what is shown."""
        if event.topic == AGENTS and event.agent_id is not None:
            self._changed.add(event.agent_id)
            self._news.set()

    async def show(self, connection: Connection) -> None:
        """Publish who is there, then each change. Raises BrokerAway."""
        await self._publish(connection, self._status("online"))
        self._changed = {info.agent_id for info in self._registry.agents()}
        while True:
            changed, self._changed = self._changed, set()
            self._news.clear()
            for info in self._registry.agents():
                if info.agent_id in changed:
                    await self._publish(connection, self._document(info, self._expiry_seconds))
            await self._news.wait()

    async def leave(self, connection: Connection) -> None:
        """Say that the agents of this process are gone, and the mesh with them. Raises BrokerAway.

        The broker has it all when this returns.
        """
        gone = [info for info in self._registry.agents() if info.agent_id in self._own]
        documents = [self._document(info.model_copy(update={"status": "offline"})) for info in gone]
        documents.append(self._status("offline", reason="stopped"))
        await asyncio.gather(*[await self._publish(connection, document) for document in documents])

    async def _publish(self, connection: Connection, publication: Publication) -> asyncio.Future[str]:
        answer = await connection.send(publication)
        self._notices.watch(publication, answer)
        return answer

    def _document(self, info: AgentInfo, expiry_seconds: int | None = None) -> Publication:
        return Publication(
            self._topics.agent(info.agent_id),
            encode(info),
            retain=True,
            content_type=JSON,
            expiry_seconds=expiry_seconds,
        )

    def _status(self, status: str, **known: str) -> Publication:
        document = {"status": status, **known, "time": self._clock.now(), "version": __version__}
        return Publication(self._topics.status, encode(document), retain=True, content_type=JSON)
