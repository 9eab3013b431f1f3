"""A model that is asked the same thing once, and the port to the store of its answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from meshwright.clock import Clock
from meshwright.errors import CacheUnavailable
from meshwright.messages import Plain
from meshwright.models.port import Model, ModelReply, ModelRequest, ModelTimeout, OnDelta
from meshwright.money import ZERO

logger = logging.getLogger("meshwright.cache")

ResultT = TypeVar("ResultT")
MAX_VALUE_BYTES = 1024 * 1024
_CACHED_FINISH_REASONS = ("stop", "tool_calls")
_PAUSE = timedelta(seconds=1)  # a store that failed is not asked at once: each call would wait for it
QUIET = timedelta(minutes=1)
FORMAT = 1  # of keys and entries
_WITHOUT_EFFECT = {"user", "context", "timeout_seconds", "cache"}  # on an answer; all other fields count


class CacheStore(Protocol):
    """Keeps bytes under keys, each for a while. It may forget any of them sooner.

    `get` and `put` raise CacheUnavailable where the store cannot do its part now.
    """

    name: str
    """Where it keeps them: `memory`, `disk` or `redis`; never an address or a key."""

    async def get(self, key: str) -> bytes | None:
        """The value of a key, None where there is none, or its time has passed."""
        ...

    async def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep a value for so long, in place of an earlier one; what was used least makes room for it."""
        ...

    async def close(self) -> None:
        """Release files and connections; the store opens again when it is used again."""
        ...


class CacheEntry(Plain):
    """A reply, and the key that it was given to.

    A store that mixed up its answers would show one tenant another's, so the key is read too.
    """

    key: str
    reply: ModelReply


class _FailOpenCache:
    """A store that finds and keeps nothing while the one below it fails; one warning a minute says so."""

    def __init__(self, store: CacheStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._ask_from = self._warn_from = clock.now()

    async def get(self, key: str) -> bytes | None:
        """The value of a key, None where it is not known."""
        return await self._try(lambda: self._store.get(key))

    async def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep a value if that can be done."""
        await self._try(lambda: self._store.put(key, value, ttl_seconds))

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def _try(self, work: Callable[[], Awaitable[ResultT]]) -> ResultT | None:
        now = self._clock.now()
        if now < self._ask_from:
            return None
        try:
            return await work()
        except CacheUnavailable as error:
            now = self._clock.now()
            self._ask_from = now + _PAUSE
            if now >= self._warn_from:
                self._warn_from = now + QUIET
                logger.warning("Calls go on without the cache (%s): %s", self._store.name, error)
            return None


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Flight:
    """A call that several wait for: one at a time makes it, until one of them has a reply for all."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    reply: ModelReply | None = None


class Cached:
    """A model that answers from a store what it was asked before, for `ttl_seconds`.

    It looks up only calls at temperature 0 whose `cache` is true, and keeps a reply that is whole: not one
    that was cut off, is empty, or has more than a MB. A hit costs 0, and says in `saved_usd` what the reply
    had cost; its text goes to `on_delta` in one piece.

    Identical calls at the same time are made once (in this process): the others wait, each within its own
    `timeout_seconds`, and get a hit. Where the call fails or is cancelled, only its caller learns of it, and
    the next makes its own. `identity` says what answers: an answer of something else is none.
    """

    def __init__(
        self, model: Model, store: CacheStore, *, ttl_seconds: float, clock: Clock, identity: str
    ) -> None:
        self.name = model.name
        self._model = model
        self._store = _FailOpenCache(store, clock)
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._identity = identity
        self._flights: WeakValueDictionary[str, _Flight] = WeakValueDictionary()  # while somebody waits

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Answer from the cache, or else by the model. Raises the model's ModelError."""
        key = key_of(request, self._identity) if request.cache and request.temperature == 0 else None
        if key is None:
            return await self._model.complete(request, on_delta)
        started = time.perf_counter()
        ends = self._clock.now() + timedelta(seconds=request.timeout_seconds)
        flight = self._flights.setdefault(key, _Flight())
        await _take(flight.turn, request.timeout_seconds)
        try:
            if flight.reply is None:
                flight.reply = await self._read(key)
            if flight.reply is None:
                flight.reply = await self._model.complete(self._in_time(request, ends), on_delta)
                await self._write(key, flight.reply)
                return flight.reply
        finally:
            if flight.reply is not None and self._flights.get(key) is flight:
                del self._flights[key]  # later callers find it in the store
            flight.turn.release()
        return _hit(flight.reply, started, on_delta)

    async def close(self) -> None:
        """Close the store and the model."""
        await self._store.close()
        await self._model.close()

    def _in_time(self, request: ModelRequest, ends: datetime) -> ModelRequest:
        left = (ends - self._clock.now()).total_seconds()
        if left <= 0:
            raise _too_late()
        return request.model_copy(update={"timeout_seconds": left})

    async def _read(self, key: str) -> ModelReply | None:
        value = await self._store.get(key)
        if value is None or len(value) > MAX_VALUE_BYTES:
            return None
        try:
            entry = CacheEntry.model_validate_json(value)
        except ValidationError:  # of another version, or not ours: the next reply takes its place
            return None
        return entry.reply if entry.key == key else None

    async def _write(self, key: str, reply: ModelReply) -> None:
        if reply.finish_reason not in _CACHED_FINISH_REASONS or not (reply.content or reply.tool_calls):
            return
        try:
            value = CacheEntry(key=key, reply=reply).model_dump_json().encode()
        except PydanticSerializationError:  # half a character, which no JSON can hold
            return
        if len(value) <= MAX_VALUE_BYTES:
            await self._store.put(key, value, self._ttl_seconds)


def key_of(request: ModelRequest, identity: str) -> str | None:
    """The key of a call to what `identity` names: 64 hex digits, or None for what JSON cannot hold.

    Each tenant has keys of its own. The order within a schema counts, since models answer in it.
    """
    try:
        whose = json.dumps([FORMAT, identity, request.context.tenant_id])
        asked = request.model_dump_json(exclude=_WITHOUT_EFFECT)
    except (TypeError, ValueError, RecursionError):  # what is foreign, half a character, a circle
        return None
    return hashlib.sha256(f"{whose}\n{asked}".encode()).hexdigest()


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


def _hit(reply: ModelReply, started: float, on_delta: OnDelta | None) -> ModelReply:
    if on_delta is not None and reply.content:
        on_delta(reply.content)
    latency_ms = (time.perf_counter() - started) * 1000
    hit = {"cost_usd": ZERO, "cache_hit": True, "saved_usd": reply.cost_usd, "attempts": 0}
    return reply.model_copy(update={**hit, "latency_ms": latency_ms})
