"""Models behind any OpenAI-compatible server: a LiteLLM proxy first of all, but also Ollama, vLLM, OpenAI."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from pydantic_core import from_json, to_json

from meshwright.errors import ConfigError, ModelError
from meshwright.models.faults import Fault, error_for, fault_in, read_retry_after, reason_of, words_of
from meshwright.models.port import ModelReply, ModelRequest, ModelTimeout, ModelUnavailable, OnDelta
from meshwright.models.reasons import Discretion
from meshwright.models.stream import DONE, Pieces, TooMuch, events
from meshwright.models.wire import completion_body, not_a_completion, read_completion, read_cost
from meshwright.money import ZERO

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

MAX_REPLY_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
COST_HEADER = "x-litellm-response-cost"
CACHE_HEADER = "x-litellm-cache-key"
DEPLOYMENT_HEADER = "x-litellm-model-id"
TRIES_HEADERS = ("x-litellm-attempted-fallbacks", "x-litellm-attempted-retries")
COUNT = re.compile(r"[0-9]{1,6}")
PROXY_FIELDS = frozenset({"tags", "metadata"})
DRAIN_SECONDS = 0.1
URL_REMEDY = "Write it like http://127.0.0.1:4000"


class HttpModel:
    """Calls `{base_url}/v1/chat/completions`; a base URL that names a version is used as it is.

    `tags`, `user` and `metadata` go along as top-level fields, as a LiteLLM proxy routes by them; a cache of
    its own it has to keep apart for each tenant. With a `model_name` every call is of that model, and has
    no field that is not OpenAI's. One attempt a call, within the request's own deadline,
    which bounds a stream as well. An error holds what the server said of it, without the key and the prompt.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        model_name: str | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        why: str = "",
    ) -> None:
        self.model_name = model_name
        self.url = completions_url(base_url)
        self.max_reply_bytes = max_reply_bytes
        parts = urlsplit(self.url)
        self.server = f"{parts.scheme}://{parts.netloc}"
        self.name = f"http {self.server} ({why})" if why else f"http {self.server}"
        self._discretion = Discretion([api_key or ""])
        self._headers = {"content-type": "application/json", **authorization(api_key)}
        self._session: aiohttp.ClientSession | None = None
        self._target: str | URL = self.url

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make one attempt; cancelling it closes its connection. Raises ModelError."""
        import aiohttp

        begun = time.perf_counter()
        try:
            async with asyncio.timeout(request.timeout_seconds):
                return await self._call(request, on_delta, begun)
        except aiohttp.ClientConnectionError as error:
            raise self._unreachable(error) from None
        except TimeoutError:
            raise ModelTimeout(
                f"{self.server} did not answer model {request.model!r} in {request.timeout_seconds:g} seconds"
            ) from None
        except aiohttp.ClientError as error:  # its text may quote the reply
            raise self._broken_off(type(error).__name__) from None
        except TooMuch:
            raise self._too_much() from None

    async def close(self) -> None:
        """Close the pooled connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _call(self, request: ModelRequest, on_delta: OnDelta | None, begun: float) -> ModelReply:
        session = self._session or self._open()
        body = self._body(request, stream=on_delta is not None)
        async with session.post(self._target, data=to_json(body), allow_redirects=False) as response:
            if response.status != 200:
                raise await self._fault(response, request)
            body = await self._read(response, request, on_delta)
            told = told_of(response.headers, streamed=on_delta is not None and is_a_stream(response))
        if isinstance(body, dict) and body.get("error"):
            raise self._told(body, request)
        took = (time.perf_counter() - begun) * 1000
        return read_completion(body, model=request.model, source=self.server, latency_ms=took, **told)

    def _body(self, request: ModelRequest, *, stream: bool) -> dict[str, Any]:
        body = completion_body(request, stream=stream)
        if self.model_name is None:
            return {**body, "cache": cache_control(request)}
        plain = {name: value for name, value in body.items() if name not in PROXY_FIELDS}
        return {**plain, "model": self.model_name}

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp
        from yarl import URL

        self._target = URL(self.url)  # a text would be parsed at every call
        # How many calls run at once is for the slots of the worker to say, not for the pool.
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )
        return self._session

    async def _read(
        self, response: aiohttp.ClientResponse, request: ModelRequest, on_delta: OnDelta | None
    ) -> Any:
        """The body of a completion, whole or of a stream; of a server that does not stream in one piece."""
        if on_delta is None:
            return await self._whole(response)
        pieces = Pieces(on_delta, self.max_reply_bytes)
        if is_a_stream(response):
            return await self._stream(response, request, pieces)
        body = await self._whole(response)
        with suppress(AttributeError, KeyError, LookupError, TypeError):  # it is told when it is read
            pieces.add({"choices": [{"delta": {"content": body["choices"][0]["message"]["content"]}}]})
        return body

    async def _whole(self, response: aiohttp.ClientResponse) -> Any:
        if "json" not in response.headers.get("content-type", "").lower():
            raise not_a_completion(self.server)
        data = await read_limited(response, self.max_reply_bytes)
        if data is None:
            raise TooMuch
        return self._parsed(data)

    async def _stream(self, response: aiohttp.ClientResponse, request: ModelRequest, pieces: Pieces) -> Any:
        """Read a stream until it says that it is done; one that merely stops was cut off."""
        async for data in events(response.content.iter_any(), self.max_reply_bytes):
            if data == DONE:
                await drain(response)
                return pieces.body()
            chunk = self._parsed(data)
            if isinstance(chunk, dict) and chunk.get("error"):
                raise self._told(chunk, request)
            try:
                pieces.add(chunk)
            except (AttributeError, TypeError, ValueError):
                raise not_a_completion(self.server) from None  # the cause would quote the reply
        if pieces.finish_reason is None:
            raise self._broken_off("no reason to finish")
        return pieces.body()

    def _parsed(self, data: bytes) -> Any:
        try:
            return from_json(data)
        except ValueError:
            raise not_a_completion(self.server) from None

    def _broken_off(self, how: str) -> ModelUnavailable:
        return ModelUnavailable(f"{self.server} broke off its reply ({how})")

    def _too_much(self) -> ModelError:
        return ModelError(f"{self.server} sent a reply of more than {self.max_reply_bytes:,} bytes")

    async def _fault(self, response: aiohttp.ClientResponse, request: ModelRequest) -> ModelError:
        body = await read_error(response)
        wait, shown = read_retry_after(response.headers), self._discretion.shown(body, request)
        words = "" if isinstance(body, str) else words_of(body)  # a page has none that can be relied on
        fault = Fault(response.status, words, wait, shown)
        return error_for(fault, source=self.server, model=request.model)

    def _told(self, body: dict[str, Any], request: ModelRequest) -> ModelError:
        """The error that a body of status 200 tells of."""
        fault = fault_in(body, self._discretion.shown(body, request))
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


def cache_control(request: ModelRequest) -> dict[str, Any]:
    """What a LiteLLM proxy that caches has to heed: its key knows neither tenant nor tags."""
    if not request.cache:
        return {"no-cache": True, "no-store": True}
    return {"namespace": ":".join([request.context.tenant_id, *sorted(request.tags)])}


def is_a_stream(response: aiohttp.ClientResponse) -> bool:
    """Whether a reply comes in events."""
    return "event-stream" in response.headers.get("content-type", "").lower()


def told_of(headers: Mapping[str, str], *, streamed: bool = False) -> dict[str, Any]:
    """What a LiteLLM proxy tells of a call in its headers.

    An answer from its cache cost nothing, though it still says the full price. The header of a stream is
    written before anybody knows what it will cost.
    """
    cached = CACHE_HEADER in headers
    cost = None if streamed else read_cost(headers.get(COST_HEADER))
    tries = [headers.get(name, "") for name in TRIES_HEADERS]
    told: dict[str, Any] = {
        "deployment": headers.get(DEPLOYMENT_HEADER) or None,
        "attempts": 1 + sum(int(each) for each in tries if COUNT.fullmatch(each)),
        "cache_hit": cached,
    }
    if cached:
        return {**told, "cost_usd": ZERO, "cost_source": "reported", "saved_usd": cost}
    return told if cost is None else {**told, "cost_usd": cost, "cost_source": "reported"}


async def read_error(response: aiohttp.ClientResponse) -> Any:
    """An error reply's body, of JSON or text, where it is of a reasonable size."""
    data = await read_limited(response, MAX_ERROR_BYTES) or b""
    try:
        return from_json(data)
    except ValueError:
        return data.decode(errors="replace")


async def drain(response: aiohttp.ClientResponse) -> None:
    """Read what follows the last event, which is nothing: the connection can then serve another call."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in response.content.iter_any():
                pass


async def read_limited(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """Read a body, or None as soon as it is over the limit."""
    if "content-length" in response.headers and "content-encoding" not in response.headers:
        return await response.read() if (response.content_length or 0) <= max_bytes else None
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > max_bytes:
            return None
        pieces.append(piece)
    return b"".join(pieces)
