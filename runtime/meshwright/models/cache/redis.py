"""Answers in a Redis that several workers share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeVar

from meshwright.errors import ConfigError
from meshwright.models.cache.port import CacheUnavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

ResultT = TypeVar("ResultT")
PREFIX = "mesh:answers:"
TIMEOUT_SECONDS = 0.05  # of a question, connecting included: a cache that is slower helps nobody
MAX_CONNECTIONS = 8  # more get no more out of one thread
SCHEMES = ("redis://", "rediss://", "unix://")


class RedisStore:
    """Answers in a Redis, which ends their time itself, and whose `maxmemory` says how many there can be.

    Redis's client is imported when it is first used, in a thread. Raises ConfigError where it is not
    installed, and for an address that is none; it never says the address, which may hold a password.
    """

    name = "redis"

    def __init__(self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        if find_spec("redis") is None:
            raise ConfigError(
                'cache = "redis" needs the package redis',
                remedy="pip install -e '.[redis]' in a checkout",
                field="cache",
            )
        if not url.startswith(SCHEMES):
            raise ConfigError(
                "cache_redis_url is no address of a Redis",
                remedy="write it like redis://:password@127.0.0.1:6379/0, or with rediss:// for TLS",
                field="cache_redis_url",
            )
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
        client = await self._connected()
        from redis.exceptions import RedisError

        failures = self._failures
        async with self._slots:
            if self._failures > failures:  # of those that stood before us: to wait as they did helps nobody
                raise CacheUnavailable("Redis does not answer others")
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    return await command(client)
            except (RedisError, OSError) as error:  # OSError: nobody there, and TimeoutError
                self._failures += 1
                raise CacheUnavailable(f"Redis does not answer: {type(error).__name__}") from error

    async def _connected(self) -> Redis:
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(_client, self._url)
            return self._client


def _client(url: str) -> Redis:
    """A client that tries once: whoever asks goes on without it."""
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return Redis.from_pool(ConnectionPool.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0)))
