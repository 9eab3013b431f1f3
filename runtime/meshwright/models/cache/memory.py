"""Answers in the memory of this process, gone when it ends."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import NamedTuple

from meshwright.clock import Clock

ENTRY_BYTES = 512  # what an entry takes beside its value, about


class _Entry(NamedTuple):
    value: bytes
    ends: datetime

    @property
    def size(self) -> int:
        return len(self.value) + ENTRY_BYTES


class MemoryStore:
    """At most `max_bytes` of answers: what was used last stays."""

    name = "memory"

    def __init__(self, clock: Clock, max_bytes: int) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # what was used last stands last

    async def get(self, key: str) -> bytes | None:
        """The value of a key, None where there is none, or its time has passed."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.ends <= self._clock.now():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.value

    async def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep a value for so long; one that is larger than the whole store is not kept."""
        self._drop(key)
        entry = _Entry(value, self._clock.now() + timedelta(seconds=ttl_seconds))
        if entry.size > self._max_bytes:
            return
        self._entries[key] = entry
        self._bytes += entry.size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    async def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size
