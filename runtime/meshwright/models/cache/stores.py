"""Where answers are kept, as the settings choose: in memory, in a file, or in a Redis that workers share."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from meshwright.clock import Clock
from meshwright.errors import CacheUnavailable, ConfigError
from meshwright.models.cache.cached import Cached, CacheStore
from meshwright.models.config import names_in, read_text
from meshwright.models.port import Model
from meshwright.settings import Settings
from meshwright.sql.cache import SqliteCache

if TYPE_CHECKING:
    from redis.asyncio import Redis

ResultT = TypeVar("ResultT")
_ENTRY_BYTES = 512  # what an entry in memory takes beside its value, about
PREFIX = "mesh:answers:"
TIMEOUT_SECONDS = 0.05  # of a question, connecting included: a cache that is slower helps nobody
MAX_CONNECTIONS = 8  # more get no more out of one thread
_SCHEMES = ("redis://", "rediss://", "unix://")
URL_REMEDY = "Set MESH_MODELS__CACHE_REDIS_URL, like redis://:password@127.0.0.1:6379/0, or rediss:// for TLS"


def cached(
    model: Model,
    settings: Settings,
    folder: Path,
    config_path: Path,
    clock: Clock,
    *,
    kind: str,
    environment: Mapping[str, str] | None = None,
) -> Model:
    """The model with the cache that the settings ask for; the model itself where they ask for none.

    `kind` is that of the adapter below it, `folder` the mesh's data folder; the litellm_config.yaml at
    `config_path` need not exist. Raises ConfigError as `cache_of` does.
    """
    store = cache_of(settings, folder, clock)
    if store is None:
        return model
    identity = _identity_of(kind, settings, config_path, os.environ if environment is None else environment)
    return Cached(model, store, ttl_seconds=settings.models.cache_ttl_seconds, clock=clock, identity=identity)


def cache_of(settings: Settings, folder: Path, clock: Clock) -> CacheStore | None:
    """The store that the settings ask for, None where they ask for none.

    Raises ConfigError for a Redis that is not named, or without its client.
    """
    if settings.models.cache == "memory":
        return MemoryCache(clock, settings.models.cache_max_bytes)
    if settings.models.cache == "disk":
        return SqliteCache(folder, clock, settings.models.cache_max_bytes)
    if settings.models.cache == "redis":
        url = settings.models.cache_redis_url
        return RedisCache("" if url is None else url.get_secret_value())
    return None


def _identity_of(kind: str, settings: Settings, config_path: Path, environment: Mapping[str, str]) -> str:
    """What answers, as a hash: the adapter, its server and key, the configuration and what that reads.

    Keys count, since another key may open other models.
    """
    config = read_text(config_path) if config_path.exists() else ""
    key = settings.models.api_key
    parts = [
        kind,
        settings.models.base_url or "",
        key.get_secret_value() if key else "",
        config,
        *([settings.models.name] if settings.models.name else ()),
        *(f"{name}={environment.get(name, '')}" for name in names_in(config)),
    ]
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


class MemoryCache:
    """At most `max_bytes` of answers in this process: what was used last stays."""

    name = "memory"

    def __init__(self, clock: Clock, max_bytes: int) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[bytes, datetime]] = OrderedDict()  # the last used comes last

    async def get(self, key: str) -> bytes | None:
        """The value of a key, None where there is none, or its time has passed."""
        value, ends = self._entries.get(key, (None, None))
        if ends is not None and ends <= self._clock.now():
            self._drop(key)
            return None
        if value is not None:
            self._entries.move_to_end(key)
        return value

    async def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep a value for so long; one that is larger than the whole store is not kept."""
        self._drop(key)
        if len(value) + _ENTRY_BYTES > self._max_bytes:
            return
        self._entries[key] = (value, self._clock.now() + timedelta(seconds=ttl_seconds))
        self._bytes += len(value) + _ENTRY_BYTES
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    async def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0

    def _drop(self, key: str) -> None:
        if key in self._entries:
            self._bytes -= len(self._entries.pop(key)[0]) + _ENTRY_BYTES


class RedisCache:
    """Answers in a Redis, which ends their time itself, and whose `maxmemory` says how many there can be.

    Redis's client is imported when it is first used, in a thread. Raises ConfigError where it is not
    installed, and for an address that is none; it never shows the address, which may hold a password.
    """

    name = "redis"

    def __init__(self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        field, problem, remedy = "cache_redis_url", "", URL_REMEDY
        if find_spec("redis") is None:
            problem, remedy = (
                'cache = "redis" needs the package redis',
                "pip install -e '.[redis]' in a checkout",
            )
            field = "cache"
        elif not url.startswith(_SCHEMES):
            problem = "cache_redis_url is no address of a Redis" if url else "cache_redis_url is not set"
        if problem:
            raise ConfigError(problem, remedy=remedy, field=field)
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._client: Redis | None = None
        self._opening = asyncio.Lock()
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._failures = 0

    async def get(self, key: str) -> bytes | None:
        """The value of a key, None where there is none, or its time has passed."""
        value = await self._ask(lambda client: client.get(PREFIX + key))
        return value.encode() if isinstance(value, str) else value  # text where the address asks for it

    async def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep a value for so long."""
        ttl_ms = max(1, round(ttl_seconds * 1000))
        await self._ask(lambda client: client.set(PREFIX + key, value, px=ttl_ms))

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _ask(self, command: Callable[[Redis], Awaitable[ResultT]]) -> ResultT:
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(_client, self._url)
            client = self._client
        from redis.exceptions import RedisError

        failures = self._failures
        async with self._slots:
            if self._failures > failures:  # of those that stood before us: to wait as they did helps nobody
                raise CacheUnavailable("Redis is unavailable (other calls are failing)")
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    return await command(client)
            except (RedisError, OSError) as error:  # OSError: nobody there, and TimeoutError
                self._failures += 1
                raise CacheUnavailable(f"Redis does not answer: {type(error).__name__}") from error


def _client(url: str) -> Redis:
    """A client that tries once: calls go on without it."""
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return Redis.from_pool(ConnectionPool.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0)))
