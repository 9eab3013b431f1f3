"""Shared by the suites of the stores of answers."""

from urllib.parse import quote

from meshwright.models.cache import CachedModel, CacheStore, RedisCache
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest, OnDelta
from meshwright.testing import ManualClock
from tests.support.services import Services

PATIENCE_SECONDS = 60  # with a Redis on a machine that has much else to do
ROOM = 400_000  # bytes of the stores that have a limit of their own


def redis(services: Services) -> RedisCache:
    url = f"redis://:{quote(services.redis_password)}@{services.redis_host}/0"
    return RedisCache(url, timeout_seconds=PATIENCE_SECONDS)


class Once:
    """A model that can be asked once."""

    name = "once"

    def __init__(self, reply: ModelReply) -> None:
        self.replies = [reply]

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        return self.replies.pop()

    async def close(self) -> None:
        """Nothing to give back."""


def caching(model: Once, store: CacheStore) -> CachedModel:
    return CachedModel(model, store, ttl_seconds=60, clock=ManualClock(), identity="it")


def ask(text: str) -> ModelRequest:
    messages = (ChatMessage(role="user", content=text),)
    return ModelRequest(messages=messages, user="tester")
