"""Limits of each tenant in this process: tasks and calls of models a minute, open tasks, and storage."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

from meshwright.core.clock import Clock
from meshwright.core.errors import Overloaded, StorageExceeded
from meshwright.engine.events.status import TenantUse
from meshwright.mesh.orchestration.settings import TenantLimit, TenantsSettings

_LIMITED = "tenant.limited"
_MAX_BUCKETS = 10_000  # above this the full ones are dropped: a new one is full too
_RECORDED_EVERY = timedelta(minutes=1)
_MAX_SHOWN = 100
_LEFT_TO_OTHERS = 20  # one of so many open tasks that the mesh may have
_READ_EACH_SECONDS = 1.0  # how old the known sizes may be
_WHAT = {"tasks_per_minute": "tasks", "calls_per_minute": "calls of models"}


@dataclass(slots=True)
class _Bucket:
    """Holds a minute's tokens when full; an empty one fills evenly."""

    per_minute: float
    tokens: float
    at: float

    def fill(self, now: float) -> None:
        elapsed = max(0.0, now - self.at)  # the clock may be set back
        self.tokens = min(self.per_minute, self.tokens + elapsed * self.per_minute / 60)
        self.at = now

    @property
    def wait_seconds(self) -> float:
        return max(0.0, 1 - self.tokens) * 60 / self.per_minute


class Tenants:
    """The limits of tenants, as the settings have them. Each process counts by itself.

    `record` records that a tenant was refused: at once, then at most once a minute, with how often.
    `read_stored` returns how many bytes each tenant stores. Of `max_open_tasks` of the mesh, a tenant without
    a limit of its own leaves some to others.
    """

    def __init__(
        self,
        settings: TenantsSettings,
        clock: Clock,
        record: Callable[..., None],
        read_stored: Callable[[], Awaitable[Mapping[str, int]]],
        *,
        max_open_tasks: int,
    ) -> None:
        self._limit_of = lru_cache(_MAX_BUCKETS)(settings.limit)
        self._max_open_tasks = max_open_tasks - max_open_tasks // _LEFT_TO_OTHERS
        self._clock = clock
        self._record = record
        self._read_stored = read_stored
        self._reading = asyncio.Lock()
        self._stored: Mapping[str, int] = {}
        self._read_at = float("-inf")
        self._buckets: dict[tuple[str, TenantLimit], _Bucket] = {}
        self._refused: Counter[str] = Counter()
        self._recorded_at: dict[str, float] = {}

    async def check(self, tenant_id: str, rate: TenantLimit) -> None:
        """Raise Overloaded where a tenant has used its rate up, StorageExceeded where it stores what it may.

        It counts nothing, so it may come early.
        """
        self._within(tenant_id, rate)
        if self._limit_of(tenant_id, "max_storage") is not None:
            await self.require_storage(tenant_id)

    async def take(self, tenant_id: str, rate: TenantLimit) -> None:
        """Count one task or call. Raises what `check` raises."""
        if self._limit_of(tenant_id, "max_storage") is not None:
            await self.require_storage(tenant_id)
        bucket = self._within(tenant_id, rate)
        if bucket is not None:
            bucket.tokens -= 1

    def require_room(self, tenant_id: str, open_tasks: int) -> None:
        """Raise Overloaded where a tenant has as many open tasks as it may."""
        maximum = self._limit_of(tenant_id, "max_open_tasks") or self._max_open_tasks
        if open_tasks >= maximum:
            raise self._refusal(
                tenant_id,
                "max_open_tasks",
                f"Tenant {tenant_id} has {open_tasks:,} open tasks, and may have {maximum:,}",
                "Send the task again when some have ended, cancel some",
            )

    def require_streams(self, tenant_id: str, open_streams: int) -> None:
        """Raise Overloaded where a tenant has as many open event streams and WebSockets as it may."""
        maximum = self._limit_of(tenant_id, "max_streams")
        if maximum is not None and open_streams >= maximum:
            raise self._refusal(
                tenant_id,
                "max_streams",
                f"Tenant {tenant_id} has {open_streams:,} open event streams and WebSockets, and may have "
                f"{maximum:,}",
                "Close some",
            )

    async def require_storage(self, tenant_id: str) -> None:
        """Raise StorageExceeded where a tenant stores as much as it may, as of a second ago."""
        maximum = self._limit_of(tenant_id, "max_storage")
        if maximum is None:
            return
        stored = (await self._sizes()).get(tenant_id, 0)
        if stored >= maximum:
            self._record_refusal(tenant_id, "max_storage")
            raise StorageExceeded(
                f"Tenant {tenant_id} stores {stored:,} bytes, and may store {maximum:,}",
                remedy="Have old tasks erased (mesh erase), or keep_events_days lowered, or max_storage of "
                "[tenants] raised",
                field="tenant_id",
            )

    async def uses(self, tenant_id: str | None, open_tasks: Mapping[str, int]) -> list[TenantUse]:
        """The open tasks and stored bytes of a tenant; None: of the 100 that store most."""
        stored = await self._read_stored()
        tenants = sorted({*stored, *open_tasks}, key=lambda name: (-stored.get(name, 0), name))
        names = tenants[:_MAX_SHOWN] if tenant_id is None else [tenant_id]

        def limit(name: str, setting: TenantLimit) -> int | None:
            value = self._limit_of(name, setting)
            return None if value is None else int(value)

        return [
            TenantUse(
                tenant_id=name,
                open_tasks=open_tasks.get(name, 0),
                max_open_tasks=limit(name, "max_open_tasks"),
                stored_bytes=stored.get(name, 0),
                max_storage=limit(name, "max_storage"),
            )
            for name in names
        ]

    async def _sizes(self) -> Mapping[str, int]:
        async with self._reading:  # those who wait take what the first has read
            now = time.monotonic()
            if now - self._read_at >= _READ_EACH_SECONDS:
                self._stored = await self._read_stored()
                self._read_at = now
        return self._stored

    def _refusal(
        self, tenant_id: str, setting: str, message: str, remedy: str, *, wait_seconds: float | None = None
    ) -> Overloaded:
        self._record_refusal(tenant_id, setting)
        error = Overloaded(
            message, remedy=f"{remedy}, or have {setting} of [tenants] raised", field="tenant_id"
        )
        if wait_seconds is not None:
            error.retry_after_seconds = wait_seconds
        return error

    def _within(self, tenant_id: str, rate: TenantLimit) -> _Bucket | None:
        per_minute = self._limit_of(tenant_id, rate)
        if per_minute is None:
            return None
        bucket = self._bucket(tenant_id, rate, per_minute)
        if bucket.tokens < 1:
            raise self._refusal(
                tenant_id,
                rate,
                f"Tenant {tenant_id} may have {bucket.per_minute:,g} {_WHAT[rate]} a minute, and had them",
                "Send it again later",
                wait_seconds=bucket.wait_seconds,
            )
        return bucket

    def _bucket(self, tenant_id: str, rate: TenantLimit, per_minute: float) -> _Bucket:
        now, key = self._clock.now().timestamp(), (tenant_id, rate)
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _MAX_BUCKETS:
                self._drop_full(now)
            bucket = self._buckets[key] = _Bucket(per_minute, per_minute, now)
        else:
            bucket.fill(now)
        return bucket

    def _drop_full(self, now: float) -> None:
        for key, bucket in list(self._buckets.items()):
            bucket.fill(now)
            if bucket.tokens >= bucket.per_minute:
                del self._buckets[key]

    def _record_refusal(self, tenant_id: str, setting: str) -> None:
        self._refused[tenant_id] += 1
        now = self._clock.now().timestamp()
        if now - self._recorded_at.get(tenant_id, float("-inf")) < _RECORDED_EVERY.total_seconds():
            return
        self._recorded_at[tenant_id] = now
        payload: dict[str, Any] = {"limit": setting, "refused": self._refused.pop(tenant_id)}
        self._record(_LIMITED, payload, tenant_id=tenant_id)
