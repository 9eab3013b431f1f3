"""A provider that counts its calls and can be held up, and the cache before it."""

import asyncio
from decimal import Decimal
from typing import Any

from meshwright.core.messages import Usage
from meshwright.models.cache import CachedModel, CacheStore, MemoryCache
from meshwright.models.port import CallContext, ChatMessage, ModelReply, ModelRequest, OnDelta
from meshwright.testing import ManualClock

TTL_SECONDS = 60.0
COST = Decimal("0.0000084")
USAGE = Usage(prompt_tokens=12, completion_tokens=3, cached_tokens=4)


class Provider:
    """A model that answers what it is asked, and can be held up or made to fail; it counts its calls."""

    name = "provider"

    def __init__(self, **reply: Any) -> None:
        self.reply = reply
        self.errors: list[Exception] = []
        self.requests: list[ModelRequest] = []
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Semaphore(0)
        self.closed = False

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.requests.append(request)
        self.asked.release()
        await self.open.wait()
        if self.errors:
            raise self.errors.pop(0)
        fields = {
            "content": f"answer {len(self.requests)}",
            "cost_usd": COST,
            "cost_source": "priced",
            "usage": USAGE,
            "attempts": 2,
            "latency_ms": 4321.0,
        }
        reply = ModelReply(**{"model": "m", "deployment": "m-1", **fields, **self.reply})
        if on_delta is not None:
            for piece in reply.content.split(" "):
                on_delta(piece)
        return reply

    async def close(self) -> None:
        self.closed = True


def caching(
    provider: Any, clock: ManualClock, store: CacheStore | None = None, identity: str = "it"
) -> CachedModel:
    store = store or MemoryCache(clock, 10_000_000)
    return CachedModel(provider, store, ttl_seconds=TTL_SECONDS, clock=clock, identity=identity)


def request(text: str = "Hello", tenant: Any = "default", **fields: Any) -> ModelRequest:
    known = {"user": "tester", "context": CallContext(tenant_id=tenant, task_id="t1")}
    return ModelRequest(**{"messages": (ChatMessage(role="user", content=text),), **known, **fields})
