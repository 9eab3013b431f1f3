"""A model that is asked the same thing once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from meshwright.clock import Clock
from meshwright.messages import Plain
from meshwright.models.cache.key import key_of
from meshwright.models.cache.lenient import Lenient
from meshwright.models.cache.port import MAX_VALUE_BYTES, Store
from meshwright.models.port import Model, ModelReply, ModelRequest, ModelTimeout, OnDelta
from meshwright.money import ZERO

KEPT_FINISH_REASONS = ("stop", "tool_calls")


class Kept(Plain):
    """What a store holds: a reply, and the key that it was given to.

    A store that mixed up its answers would show one tenant another's, so the key is read too.
    """

    key: str
    reply: ModelReply


@dataclass(eq=False, slots=True, weakref_slot=True)
class Flight:
    """A call that several wait for: one at a time has its turn, until one of them has a reply for all."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    reply: ModelReply | None = None


class Cached:
    """A model that answers from a store what it was asked before, for `ttl_seconds`.

    Only calls at temperature 0 are looked up, since another answer may be wanted of all others, and none
    whose `cache` is false. Kept is a reply that is whole: not one that was cut off, is empty, or has more
    than a MB. A hit costs 0, and says in `saved_usd` what the reply had cost.

    Identical calls at the same time are made once (in this process): the others wait, each within its own
    `timeout_seconds`, and get a hit. Where the call fails or is cancelled, only its caller hears of it, and
    the next makes its own. A hit's text goes to `on_delta` in one piece.

    `identity` says what answers: an answer of something else is none. A store that fails costs no call.
    """

    def __init__(
        self, model: Model, store: Store, *, ttl_seconds: float, clock: Clock, identity: str
    ) -> None:
        self.name = model.name
        self._model = model
        self._store = Lenient(store, clock)
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._identity = identity
        self._flights: WeakValueDictionary[str, Flight] = WeakValueDictionary()  # each while somebody waits

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Answer from the cache, or else by the model. Raises the model's ModelError."""
        key = key_of(request, self._identity) if request.cache and request.temperature == 0 else None
        if key is None:
            return await self._model.complete(request, on_delta)
        started = time.perf_counter()
        ends = self._clock.now() + timedelta(seconds=request.timeout_seconds)
        flight = self._flights.setdefault(key, Flight())
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
                del self._flights[key]  # who comes now finds it in the store, while its time lasts
            flight.turn.release()
        return _hit(flight.reply, started, on_delta)

    async def close(self) -> None:
        """Close the store and the model."""
        await self._store.close()
        await self._model.close()

    def _in_time(self, request: ModelRequest, ends: datetime) -> ModelRequest:
        """The request with the time that is left of it."""
        left = (ends - self._clock.now()).total_seconds()
        if left <= 0:
            raise _too_late()
        return request.model_copy(update={"timeout_seconds": left})

    async def _read(self, key: str) -> ModelReply | None:
        value = await self._store.get(key)
        if value is None or len(value) > MAX_VALUE_BYTES:
            return None
        try:
            kept = Kept.model_validate_json(value)
        except ValidationError:  # of another version, or not ours: the next reply takes its place
            return None
        return kept.reply if kept.key == key else None

    async def _write(self, key: str, reply: ModelReply) -> None:
        if reply.finish_reason not in KEPT_FINISH_REASONS or not (reply.content or reply.tool_calls):
            return
        try:
            value = Kept(key=key, reply=reply).model_dump_json().encode()
        except PydanticSerializationError:  # half a character, which no JSON can hold
            return
        if len(value) <= MAX_VALUE_BYTES:
            await self._store.put(key, value, self._ttl_seconds)


async def _take(turn: asyncio.Lock, timeout_seconds: float) -> None:
    try:
        async with asyncio.timeout(timeout_seconds):
            await turn.acquire()
    except TimeoutError:
        raise _too_late() from None
    except asyncio.CancelledError:
        raise asyncio.CancelledError from _too_late()  # which says that no call was made


def _too_late() -> ModelTimeout:
    error = ModelTimeout("no answer in time: it waited for a call like it, which took too long")
    error.attempts = 0  # it was never made, so it cost nothing
    return error


def _hit(kept: ModelReply, started: float, on_delta: OnDelta | None) -> ModelReply:
    if on_delta is not None and kept.content:
        on_delta(kept.content)
    return kept.model_copy(
        update={
            "cost_usd": ZERO,
            "cache_hit": True,
            "saved_usd": kept.cost_usd,
            "attempts": 0,
            "latency_ms": (time.perf_counter() - started) * 1000,
        }
    )
