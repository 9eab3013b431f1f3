"""The cache of answers: a model that is asked the same thing once, and the stores that keep what it said."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from weakref import WeakValueDictionary

from pydantic_core import to_json

from meshwright.core.clock import Clock
from meshwright.core.encoding import Struct, write_struct
from meshwright.core.errors import CacheUnavailable, ConfigError
from meshwright.core.money import ZERO
from meshwright.core.plugins import install_command
from meshwright.core.settings import Settings
from meshwright.engine.sql.cache import SqliteCache
from meshwright.models.config import names_in, read_text
from meshwright.models.errors import ModelTimeout
from meshwright.models.port import Model, ModelReply, ModelRequest, OnDelta, Wrapper
from meshwright.models.settings import ModelsSettings
from meshwright.models.thinking import stream_whole

if TYPE_CHECKING:
    from redis.asyncio import Redis

_logger = logging.getLogger("meshwright.cache")

_ResultT = TypeVar("_ResultT")
MAX_VALUE_BYTES = 1024 * 1024
_TIMEOUT_SECONDS = 0.05  # of a request to Redis, connecting included: a slower cache is of no use
_CHECK_SECONDS = 5.0
_CACHED_FINISH_REASONS = ("stop", "tool_calls")
_PAUSE = timedelta(seconds=1)  # a store that failed is not asked at once: each call would wait for it
_QUIET = timedelta(minutes=1)
_FORMAT = 1  # of keys and entries
_WITHOUT_EFFECT = ("user", "metadata", "timeout_seconds", "cache")  # on an answer; all other fields count
_ENTRY_BYTES = 512  # what an entry in memory takes beside its value, about
_PREFIX = "mesh:answers:"
_MAX_CONNECTIONS = 8  # more get no more out of one thread
_REDIS_REMEDY = "Set MESH_MODELS__CACHE_REDIS_URL, like redis://:password@host:6379/0, or rediss:// for TLS"


class CacheStore(Protocol):
    """Keeps bytes under keys, each for a while. It may forget any of them sooner.

    `get` and `put` raise CacheUnavailable where the store cannot do its part now.
    """

    name: str
    """`memory`, `disk` or `redis`; never an address or a key."""

    async def get(self, key: str) -> bytes | None:
        """The value of a key, None where there is none, or its time has passed."""

    async def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep a value for so long, in place of an earlier one; what was used least makes room for it."""

    async def clear(self) -> None:
        """Forget every answer, for good where they are on disk."""

    async def close(self) -> None:
        """Release files and connections; the store opens again when it is used again."""


class _Entry(Struct):
    """A reply, and its key: a store that mixed up its answers would show one tenant another's."""

    key: str
    reply: ModelReply


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Flight:
    """A call that several wait for: one at a time makes it, until one of them has a reply for all."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    reply: ModelReply | None = None


class CachedModel(Wrapper):
    """A model that answers repeated requests from a store, for `ttl_seconds`.

    It looks up only calls at temperature 0 whose `cache` is true, and keeps a reply that is whole: not one
    that was cut off, is empty, or has more than a MB. A hit costs 0, and says in `saved_usd` what the reply
    had cost; its text goes to `on_delta` in one piece.

    Identical calls at the same time are made once (in this process): the others wait, each within its own
    `timeout_seconds`, and get a hit. If the call fails or is cancelled, only its caller learns of it, and
    the next makes its own. `identity` says what answers: an answer of something else is none.
    """

    def __init__(
        self, model: Model, store: CacheStore, *, ttl_seconds: float, clock: Clock, identity: str
    ) -> None:
        super().__init__(model)
        self._store = store
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._identity = identity
        self._ask_from = self._warn_from = clock.now()
        self._flights: WeakValueDictionary[str, _Flight] = WeakValueDictionary()  # while somebody waits

    async def clear(self) -> None:
        """Forget every answer. Raises CacheUnavailable."""
        await self._store.clear()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Answer from the cache, or else by the model. Raises the model's ModelError."""
        cached = request.cache and request.temperature == 0 and not request.inputs
        key = cache_key(request, self._identity) if cached else None
        if key is None:
            return await self.model.complete(request, on_delta)
        started = time.perf_counter()
        ends = self._clock.monotonic() + request.timeout_seconds
        flight = self._flights.setdefault(key, _Flight())
        await _take(flight.turn, request.timeout_seconds)
        try:
            if flight.reply is None:
                flight.reply = await self._read(key)
            if flight.reply is None:
                remaining = ends - self._clock.monotonic()
                if remaining <= 0:
                    raise _too_late()
                attempt = request.model_copy(update={"timeout_seconds": remaining})
                flight.reply = await self.model.complete(attempt, on_delta)
                await self._write(key, flight.reply)
                return flight.reply
        finally:
            if flight.reply is not None and self._flights.get(key) is flight:
                del self._flights[key]  # later callers find it in the store
            flight.turn.release()
        reply = flight.reply
        if on_delta is not None:
            stream_whole(reply, on_delta)
        latency_ms = (time.perf_counter() - started) * 1000
        hit = {"cost_usd": ZERO, "cache_hit": True, "saved_usd": reply.cost_usd, "attempts": 0}
        return reply.model_copy(update={**hit, "latency_ms": latency_ms, "lost": ()})

    async def close(self) -> None:
        """Close the store and the model."""
        await self._store.close()
        await super().close()

    async def _read(self, key: str) -> ModelReply | None:
        value = await self._try(lambda: self._store.get(key))
        if value is None or len(value) > MAX_VALUE_BYTES:
            return None
        try:
            entry = _Entry.model_validate_json(value)
        except ValueError:  # of another version, or not ours: the next reply takes its place
            return None
        return entry.reply if entry.key == key else None

    async def _write(self, key: str, reply: ModelReply) -> None:
        if reply.finish_reason not in _CACHED_FINISH_REASONS or not (reply.content or reply.tool_calls):
            return
        try:
            value = write_struct(_Entry(key=key, reply=reply))
        except ValueError:  # half a character, which no JSON can hold
            return
        if len(value) <= MAX_VALUE_BYTES:
            await self._try(lambda: self._store.put(key, value, self._ttl_seconds))

    async def _try(self, work: Callable[[], Awaitable[_ResultT]]) -> _ResultT | None:
        """Ask the store; None while it fails, with one warning a minute."""
        if self._clock.now() < self._ask_from:
            return None
        try:
            return await work()
        except CacheUnavailable as error:
            now = self._clock.now()
            self._ask_from = now + _PAUSE
            if now >= self._warn_from:
                self._warn_from = now + _QUIET
                _logger.warning("Calls go on without the cache (%s): %s", self._store.name, error)
            return None


def cache_key(request: ModelRequest, identity: str) -> str | None:
    """The key of a call to what `identity` names: 64 hex digits, or None for what JSON cannot hold.

    Each tenant has keys of its own. The order within a schema counts, since models answer in it.
    """
    try:
        whose = json.dumps([_FORMAT, identity, request.context.tenant_id])
        document = request.model_dump()
        for name in _WITHOUT_EFFECT:
            del document[name]
        text = to_json(document, inf_nan_mode="null").decode()
    except (TypeError, ValueError, RecursionError):  # what is foreign, half a character, a circle
        return None
    return hashlib.sha256(f"{whose}\n{text}".encode()).hexdigest()


async def _take(turn: asyncio.Lock, timeout_seconds: float) -> None:
    try:
        async with asyncio.timeout(timeout_seconds):
            await turn.acquire()
    except TimeoutError:
        raise _too_late() from None
    except asyncio.CancelledError:
        raise asyncio.CancelledError from _too_late()  # which says that no call was made


def _too_late() -> ModelTimeout:
    error = ModelTimeout("No answer in time: it waited for a call like it, which took too long")
    error.attempts = 0  # it was never made, so it cost nothing
    return error


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

    `kind` names the adapter below it, `folder` is the mesh's data folder; the litellm_config.yaml at
    `config_path` need not exist. Raises ConfigError as `open_cache` does.
    """
    store, options = open_cache(settings, folder, clock), settings[ModelsSettings]
    if store is None:
        return model
    # What answers: adapter, server and key (another may open other models), the file and what it reads.
    variables = os.environ if environment is None else environment
    config = read_text(config_path) if config_path.exists() else ""
    key = options.api_key.get_secret_value() if options.api_key else ""
    parts = [kind, options.base_url or "", key, config, *([options.name] if options.name else ())]
    parts += [f"{name}: {value.get_secret_value()}" for name, value in sorted(options.headers.items())]
    parts += [f"{name}={variables.get(name, '')}" for name in names_in(config)]
    identity = hashlib.sha256("\x00".join(parts).encode()).hexdigest()
    return CachedModel(model, store, ttl_seconds=options.cache_ttl_seconds, clock=clock, identity=identity)


def open_cache(settings: Settings, folder: Path, clock: Clock) -> CacheStore | None:
    """The store that the settings ask for, None where they ask for none.

    Raises ConfigError for a Redis that is not named, or without its client.
    """
    options = settings[ModelsSettings]
    if options.cache == "memory":
        return MemoryCache(clock, options.cache_max_bytes)
    if options.cache == "disk":
        return SqliteCache(folder, clock, options.cache_max_bytes)
    if options.cache == "redis":
        return RedisCache(options.cache_redis_url.get_secret_value() if options.cache_redis_url else "")
    return None


async def check_redis(url: str) -> str:
    """Ask a Redis, with more patience than a call has. Returns a sentence. Raises CacheUnavailable."""
    store = RedisCache(url, timeout_seconds=_CHECK_SECONDS)
    try:
        await store.get("check")
    except CacheUnavailable as error:
        remedy = "Start it, or correct models.cache_redis_url (MESH_MODELS__CACHE_REDIS_URL)"
        raise CacheUnavailable(f"{error}; calls go on without the cache", remedy=remedy) from error
    finally:
        await store.close()
    return "Redis answers"


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
        """Keep a value for so long; a value larger than the whole store is dropped."""
        self._drop(key)
        if len(value) + _ENTRY_BYTES > self._max_bytes:
            return
        self._entries[key] = (value, self._clock.now() + timedelta(seconds=ttl_seconds))
        self._bytes += len(value) + _ENTRY_BYTES
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    async def clear(self) -> None:
        """Forget every answer."""
        self._entries.clear()
        self._bytes = 0

    close = clear

    def _drop(self, key: str) -> None:
        if key in self._entries:
            self._bytes -= len(self._entries.pop(key)[0]) + _ENTRY_BYTES


class RedisCache:
    """Answers in a Redis, which ends their time itself, and whose `maxmemory` says how many there can be.

    Redis's client is imported when it is first used, in a thread. Raises ConfigError where it is not
    installed, and for an address that is none; it never shows the address, which may hold a password.
    """

    name = "redis"

    def __init__(self, url: str, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        if find_spec("redis") is None:
            problem = 'cache = "redis" needs the package redis'
            raise ConfigError(problem, remedy=install_command("redis"), field="cache")
        if not url.startswith(("redis://", "rediss://", "unix://")):
            problem = "is no address of a Redis" if url else "is not set"
            raise ConfigError(f"cache_redis_url {problem}", remedy=_REDIS_REMEDY, field="cache_redis_url")
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._client: Redis | None = None
        self._opening = asyncio.Lock()
        self._slots = asyncio.Semaphore(_MAX_CONNECTIONS)
        self._failures = 0

    async def get(self, key: str) -> bytes | None:
        """The value of a key, None where there is none, or its time has passed."""
        value = await self._ask(lambda client: client.get(_PREFIX + key))
        return value.encode() if isinstance(value, str) else value  # text where the address asks for it

    async def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep a value for so long."""
        ttl_ms = max(1, round(ttl_seconds * 1000))
        await self._ask(lambda client: client.set(_PREFIX + key, value, px=ttl_ms))

    async def clear(self) -> None:
        """Forget every answer, also answers of other meshes."""

        async def delete(client: Redis) -> None:
            async for key in client.scan_iter(f"{_PREFIX}*"):
                await client.delete(key)

        await self._ask(delete)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _ask(self, command: Callable[[Redis], Awaitable[_ResultT]]) -> _ResultT:
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(_client, self._url)
            client = self._client
        from redis.exceptions import RedisError

        failures = self._failures
        async with self._slots:
            if self._failures > failures:  # of those queued before us: waiting as they did is of no use
                raise CacheUnavailable("Redis is unavailable (other calls are failing)")
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    return await command(client)
            except (RedisError, OSError) as error:  # OSError: no server, and TimeoutError
                self._failures += 1
                raise CacheUnavailable(f"Redis does not answer: {type(error).__name__}") from error


def _client(url: str) -> Redis:
    """A client that tries once: calls go on without it."""
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return Redis.from_pool(ConnectionPool.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0)))
