"""The lease of a worker: a key that the store forgets unless it is renewed.

Who works names its incarnation; another may take the work up once that incarnation's lease is gone. The
store's own clock counts, so no two machines have to agree on the time. A worker that could not renew in
time (no sidecar, or the process was stopped) takes itself for gone as well: it begins a new incarnation.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from pydantic_core import from_json, to_json

from meshwright.errors import HostError, StoreUnavailable
from meshwright.hosts.dapr.sidecar import Sidecar, Write
from meshwright.hosts.dapr.state import State

logger = logging.getLogger("meshwright.dapr")

KNOWN_ALIVE_SECONDS = 1.0  # how long an answer is believed


class Lease:
    """Leases of incarnations in the store; this process holds one at a time."""

    def __init__(self, state: State, sidecar: Sidecar, *, lease_seconds: float, renew_seconds: float) -> None:
        self._state = state
        self._sidecar = sidecar
        self._lease_seconds = lease_seconds
        self._renew_seconds = renew_seconds
        self._incarnation = ""
        self._valid_until = -math.inf
        self._version = 0
        self._alive_until: dict[str, float] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def succeed(self, replica: str, incarnation: str) -> bool:
        """Follow the last incarnation of the same replica, if there was one: it has ended, since we are here.

        Should it live after all, only work is done twice: its commits are refused as those of any other.
        """
        key = self._state.key("replica", replica)
        stored = await self._state.read(key)
        if stored is not None and (last := from_json(stored.value)["incarnation"]) != incarnation:
            await self._sidecar.delete(self._key(last))
        value = to_json({"v": 1, "incarnation": incarnation})
        await self._sidecar.save([Write(key, value, blind=True)])
        return stored is not None

    async def take(self, incarnation: str) -> None:
        """Hold a lease for this incarnation from now on. Raises StoreUnavailable."""
        self._incarnation, self._version = incarnation, 0
        await self._renew()

    def keep(self, on_lapsed: Callable[[], None]) -> None:
        """Renew it in time, for ever; where that fails `on_lapsed` is called, and the renewing ends."""
        self._renewing = asyncio.create_task(self._keep(on_lapsed), name="lease")

    @property
    def held(self) -> bool:
        """Whether the lease can still be relied upon."""
        return asyncio.get_running_loop().time() < self._valid_until

    async def is_gone(self, incarnation: str) -> bool:
        """Whether that incarnation's lease has run out or was given back. Raises StoreUnavailable."""
        now = asyncio.get_running_loop().time()
        if incarnation == self._incarnation:
            return False
        if self._alive_until.get(incarnation, 0.0) > now:
            return False
        if await self._state.read(self._key(incarnation)) is None:
            self._alive_until.pop(incarnation, None)
            return True
        self._alive_until[incarnation] = now + KNOWN_ALIVE_SECONDS
        return False

    async def is_known_gone(self, incarnation: str) -> bool:
        """Likewise; where the store does not answer that counts as not."""
        try:
            return await self.is_gone(incarnation)
        except HostError as error:
            logger.warning("whether worker %s is gone is not known: %s", incarnation, error)
            return False

    async def stop(self, *, give_back: bool) -> None:
        """Renew it no more, and give it back so that others need not wait for its end."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
            self._renewing = None
        self._valid_until = -math.inf
        if give_back:
            try:
                await self._sidecar.delete(self._key(self._incarnation))
            except StoreUnavailable as error:
                logger.warning("the lease is not given back, and runs out by itself: %s", error)

    async def _keep(self, on_lapsed: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        while self.held:
            await asyncio.sleep(min(self._renew_seconds, max(0.0, self._valid_until - loop.time())))
            try:
                if self.held:
                    await self._renew()
            except StoreUnavailable as error:
                logger.warning("the lease is not renewed yet: %s", error)
        on_lapsed()

    async def _renew(self) -> None:
        """Write the key, and see that it was still there: one that comes too late would begin it anew.

        Redis counts the writes of a key, and forgets the count with it. Where a store does not count, a
        worker that was taken for gone finds that out by its watch list, which another has closed.
        """
        asked_at = asyncio.get_running_loop().time()
        key, ttl = self._key(self._incarnation), math.ceil(self._lease_seconds)
        await self._sidecar.save([Write(key, b'{"v":1}', blind=True, ttl_seconds=ttl)])
        stored = (await self._sidecar.get([key])).get(key)
        etag = stored.etag if stored is not None else None
        version = int(etag) if etag is not None and etag.isdecimal() else self._version + 1
        lapsed = stored is None or version <= self._version
        self._valid_until = -math.inf if lapsed else asked_at + self._lease_seconds
        self._version = version

    def _key(self, incarnation: str) -> str:
        return self._state.key("lease", incarnation)
