"""The port to a store of answers: bytes under keys, each for a while. It may forget any of them sooner."""

from __future__ import annotations

from typing import Protocol

from meshwright.errors import MeshError

MAX_VALUE_BYTES = 1024 * 1024


class Store(Protocol):
    """Keeps values. Both methods raise CacheUnavailable where the store cannot do its part now."""

    name: str
    """Where it keeps them: `memory`, `disk` or `redis`; never an address or a key."""

    async def get(self, key: str) -> bytes | None:
        """The value of a key, None where there is none, or its time has passed."""
        ...

    async def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep a value for so long, in the place of an earlier one; what was used least makes room for it."""
        ...

    async def close(self) -> None:
        """Give back files and connections; it opens anew when it is used again."""
        ...


class CacheUnavailable(MeshError):
    """A store of answers cannot be read or written right now: calls go on without it."""

    status = 503
