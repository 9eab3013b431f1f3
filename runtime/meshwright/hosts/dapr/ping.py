"""The ping: proof that what is published comes here, before anything rests on it.

daprd subscribes at its own time, and what is published before that is lost: a broker keeps messages only
for those who have subscribed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pydantic_core import from_json, to_json

from meshwright.errors import StoreUnavailable
from meshwright.hosts.dapr.sidecar import Sidecar

AGAIN_SECONDS = 0.1
MAX_BYTES = 100


class Pings:
    """Messages of this process to itself. Those of others are none of its business, and are dropped."""

    def __init__(self, sidecar: Sidecar, sender: str) -> None:
        self._sidecar = sidecar
        self._sender = sender
        self._awaited: set[int] = set()
        self._arrived = asyncio.Event()

    def take(self, data: bytes) -> bool:
        """Whether a message is a ping, of whomever."""
        if len(data) > MAX_BYTES or b'"ping"' not in data:
            return False
        try:
            document = from_json(data)
        except ValueError:
            return False
        if not isinstance(document, dict) or document.keys() != {"ping", "from"}:
            return False
        if document["from"] == self._sender:
            self._awaited.discard(document["ping"])
            if not self._awaited:
                self._arrived.set()
        return True

    async def prove(self, topics: Sequence[tuple[str, str]], seconds: float) -> bool:
        """Publish to each (component, topic), again and again, until all have come. False after that time.

        One may go to a replica that shares the subscription: the next one comes here.
        """
        self._awaited = set(range(len(topics)))
        self._arrived.clear()
        try:
            async with asyncio.timeout(seconds):
                while self._awaited:
                    await asyncio.gather(*(self._send(n, *topics[n]) for n in self._awaited))
                    await self._wait()
        except TimeoutError:
            return False
        return True

    async def _send(self, n: int, component: str, topic: str) -> None:
        try:
            await self._sidecar.publish(component, topic, [to_json({"ping": n, "from": self._sender})])
        except StoreUnavailable:
            await asyncio.sleep(AGAIN_SECONDS)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(AGAIN_SECONDS):
                await self._arrived.wait()
        except TimeoutError:
            return


def example_of(pattern: str) -> str:
    """A topic that a pattern matches."""
    return pattern.replace("*", "ping").replace("#", "ping")
