"""The client of the llm-service: for what has to say something, also while no model answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from meshwright.errors import ModelError
from meshwright.models.port import ModelRefused

if TYPE_CHECKING:
    import aiohttp

FALLBACK = "I cannot answer just now. Please try again in a few minutes."
TIMEOUT_SECONDS = 130.0  # a little longer than the service itself waits for its models
MAX_REPLY_BYTES = 4 * 1024 * 1024
DOWN = frozenset({429, 502, 503, 504})


class PoolReply(NamedTuple):
    """What to say. `available` is whether a model said it; `model` is empty where none did."""

    content: str
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    available: bool = True


class ModelPool:
    """Calls `POST {url}/complete`. While no provider answers, its replies are the polite `fallback`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        fallback: str = FALLBACK,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._url = f"{url.rstrip('/')}/complete"
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._fallback = PoolReply(fallback, available=False)
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: Literal["quality", "fast"] = "quality",
        tenant_id: str | None = None,
    ) -> PoolReply:
        """Have a model answer, or say the fallback.

        Raises ModelRefused for what would be refused again: a wrong key, a wrong message.
        """
        import aiohttp

        asked: dict[str, Any] = {"model": model, "messages": list(messages)}
        if tenant_id is not None:
            asked["tenant_id"] = tenant_id
        try:
            async with asyncio.timeout(self._timeout_seconds):
                status, text = await self._post(asked)
        except (aiohttp.ClientError, TimeoutError):
            return self._fallback
        if status in DOWN or status >= 500:
            return self._fallback
        return self._read(status, text)

    async def close(self) -> None:
        """Close the pooled connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _post(self, asked: dict[str, Any]) -> tuple[int, bytes]:
        import aiohttp

        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
            self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        async with self._session.post(
            self._url, json=asked, headers=self._headers, allow_redirects=False
        ) as response:
            text = bytearray()
            async for piece in response.content.iter_any():
                text += piece
                if len(text) > MAX_REPLY_BYTES:
                    raise ModelError(f"{self._url} sent more than {MAX_REPLY_BYTES:,} bytes")
            return response.status, bytes(text)

    def _read(self, status: int, text: bytes) -> PoolReply:
        try:
            match json.loads(text):
                case {"content": str(content), "model": str(answered), "usage": dict(usage)}:
                    read, written = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
                    return PoolReply(content, answered, read, written)
                case {"detail": str(detail)}:
                    raise ModelRefused(f"{self._url} answered {status}: {detail[:500]}")
        except (KeyError, ValueError):
            pass  # no answer of the service's: told below, without quoting it
        raise ModelRefused(
            f"{self._url} answered {status} with something else than the llm-service does",
            remedy="check that the address is an llm-service's",
        )
