"""A store of answers whose failures cost nobody anything."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from meshwright.clock import Clock
from meshwright.models.cache.port import CacheUnavailable, Store

logger = logging.getLogger("meshwright.cache")

ResultT = TypeVar("ResultT")
REST = timedelta(seconds=1)  # a store that failed is not asked again at once: each call would wait for it
QUIET = timedelta(minutes=1)


class Lenient:
    """A store that finds and keeps nothing while the one below it fails; one warning a minute says so."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.name = store.name
        self._store = store
        self._clock = clock
        self._asked_from = self._told_from = clock.now()

    async def get(self, key: str) -> bytes | None:
        """The value of a key, None where it cannot be told."""
        return await self._try(lambda: self._store.get(key))

    async def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep a value if that can be done."""
        await self._try(lambda: self._store.put(key, value, ttl_seconds))

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def _try(self, work: Callable[[], Awaitable[ResultT]]) -> ResultT | None:
        if self._clock.now() < self._asked_from:
            return None
        try:
            return await work()
        except CacheUnavailable as error:
            self._rest(error)
            return None

    def _rest(self, error: CacheUnavailable) -> None:
        now = self._clock.now()
        self._asked_from = now + REST
        if now >= self._told_from:
            self._told_from = now + QUIET
            logger.warning("calls go on without the cache (%s): %s", self.name, error)
