"""Models behind any OpenAI-compatible server: a LiteLLM proxy first of all, but also Ollama, vLLM, OpenAI."""

from __future__ import annotations

import asyncio
import os
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from pydantic_core import from_json, to_json

from meshwright.errors import ConfigError, ModelError
from meshwright.models.faults import Fault, error_for, read_retry_after, words_of
from meshwright.models.port import ModelReply, ModelRequest, ModelTimeout, ModelUnavailable, OnDelta
from meshwright.models.wire import completion_body, not_a_completion, read_completion, read_cost

if TYPE_CHECKING:
    import aiohttp

MAX_REPLY_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
COST_HEADER = "x-litellm-response-cost"
CACHE_HEADER = "x-litellm-cache-key"
URL_REMEDY = "Write it like http://127.0.0.1:4000"


class HttpModel:
    """Calls `{base_url}/v1/chat/completions`; a base URL that names a version is used as it is.

    `tags`, `user` and `metadata` go along as top-level fields, as a LiteLLM proxy routes by them. One
    attempt a call, within the request's own deadline. No error holds the key, a prompt or a reply.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        why: str = "",
    ) -> None:
        self.url = completions_url(base_url)
        self.max_reply_bytes = max_reply_bytes
        parts = urlsplit(self.url)
        self.server = f"{parts.scheme}://{parts.netloc}"
        self.name = f"http {self.server} ({why})" if why else f"http {self.server}"
        self._headers = {"content-type": "application/json", **authorization(api_key)}
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make one attempt; cancelling it closes its connection. Raises ModelError."""
        import aiohttp

        try:
            async with asyncio.timeout(request.timeout_seconds):
                return await self._call(request)
        except aiohttp.ClientConnectionError as error:
            raise self._unreachable(error) from None
        except TimeoutError:
            raise ModelTimeout(
                f"{self.server} did not answer model {request.model!r} in {request.timeout_seconds:g} seconds"
            ) from None
        except aiohttp.ClientError as error:  # its text may quote the reply
            raise ModelUnavailable(f"{self.server} broke off its reply ({type(error).__name__})") from None

    async def close(self) -> None:
        """Close the pooled connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _call(self, request: ModelRequest) -> ModelReply:
        session = self._session or self._open()
        body = to_json(completion_body(request))
        async with session.post(
            self.url, data=body, headers=self._headers, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise await self._fault(response, request)
            return await self._read(response, request)

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        # How many calls run at once is for the slots of the worker to say, not for the pool.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )
        return self._session

    async def _read(self, response: aiohttp.ClientResponse, request: ModelRequest) -> ModelReply:
        if "json" not in response.headers.get("content-type", "").lower():
            raise not_a_completion(self.server)
        data = await read_limited(response, self.max_reply_bytes)
        if data is None:
            raise ModelError(f"{self.server} sent a reply of more than {self.max_reply_bytes:,} bytes")
        try:
            body = from_json(data)
        except ValueError:
            raise not_a_completion(self.server) from None
        return read_completion(body, model=request.model, cost_usd=cost_of(response), source=self.server)

    async def _fault(self, response: aiohttp.ClientResponse, request: ModelRequest) -> ModelError:
        fault = Fault(response.status, await read_words(response), read_retry_after(response.headers))
        return error_for(fault, source=self.server, model=request.model)

    def _unreachable(self, error: aiohttp.ClientConnectionError) -> ModelUnavailable:
        import aiohttp

        if isinstance(error, aiohttp.ClientSSLError):
            return ModelUnavailable(
                f"No trusted TLS connection to {self.server}", remedy="Check its certificate"
            )
        if isinstance(error, aiohttp.ServerDisconnectedError):
            return ModelUnavailable(f"{self.server} closed the connection before it had answered")
        return ModelUnavailable(
            f"Cannot connect to {self.server}: {reason_of(error)}",
            remedy="Start the server, or correct LITELLM_BASE_URL",
        )


def reason_of(error: aiohttp.ClientConnectionError) -> str:
    """Why there is no connection, in the words of the system: `connection refused`."""
    if not isinstance(error, OSError):
        return type(error).__name__
    known = error.errno is not None and error.errno > 0  # below are those of the look-up of names
    reason = os.strerror(error.errno or 0) if known else error.strerror or type(error).__name__
    return reason[:1].lower() + reason[1:]


def completions_url(base_url: str) -> str:
    """The address of chat completions below a base URL, with or without `/v1`. Raises ConfigError."""
    parts = address(base_url)
    if parts is None:
        raise ConfigError(
            "The model server's base URL is not an http or https address",
            remedy=URL_REMEDY,
            field="litellm_base_url",
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            "The model server's base URL holds more than an address",
            remedy=f"{URL_REMEDY}, and the key into LITELLM_API_KEY",
            field="litellm_base_url",
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    version = "" if re.search(r"/v\d", path) else "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}{version}/chat/completions"


def address(url: str) -> SplitResult | None:
    """The parts of an http or https URL that names a host; None for anything else."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").encode("idna")
        return parts if parts.scheme in ("http", "https") and host and parts.port != 0 else None
    except ValueError:
        return None


def authorization(api_key: str | None) -> dict[str, str]:
    """The header that shows the key, if there is one. Raises ConfigError without quoting it."""
    key = (api_key or "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError(
            "The model server's key holds characters that no header may hold",
            remedy="Set LITELLM_API_KEY to the key alone",
            field="litellm_api_key",
        )
    return {"authorization": f"Bearer {key}"} if key else {}


def cost_of(response: aiohttp.ClientResponse) -> Decimal | None:
    """What a LiteLLM proxy says the call cost; an answer from its cache cost nothing, whatever it says."""
    if CACHE_HEADER in response.headers:
        return Decimal(0)
    return read_cost(response.headers.get(COST_HEADER))


async def read_words(response: aiohttp.ClientResponse) -> str:
    """The provider's words in an error reply, as far as it is JSON and of a reasonable size."""
    data = await read_limited(response, MAX_ERROR_BYTES)
    try:
        body: Any = from_json(data or b"")
    except ValueError:
        return ""
    return words_of(body)


async def read_limited(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """Read a body, or None as soon as it is over the limit."""
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > max_bytes:
            return None
        pieces.append(piece)
    return b"".join(pieces)
