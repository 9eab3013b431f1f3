"""The client of model servers: one call over HTTP, whole or streamed, in the server's own API."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from io import BytesIO
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic_core import from_json, to_json

from meshwright.core.errors import ConfigError, InvalidInput, ModelError
from meshwright.core.http_calls import open_model_socket, read_bounded
from meshwright.core.messages import Usage
from meshwright.models.errors import ModelRefused, ModelTimeout, ModelUnavailable, Unsupported
from meshwright.models.faults import (
    FASTER,
    RECOVERS,
    Discretion,
    ProviderFault,
    connection_reason,
    error_for,
    fault_in,
    is_error,
    provider_words,
    read_retry_after,
)
from meshwright.models.port import STREAM_RESTART, ModelReply, ModelRequest, OnDelta
from meshwright.models.thinking import Thinking, stream_whole, thinking_callback

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

_logger = logging.getLogger("meshwright.models")
MAX_REPLY_BYTES = 4 * 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_DRAIN_SECONDS = 0.1  # then the connection is closed instead
_CHARS_PER_TOKEN = 3  # rather too many tokens than too few
_SILENT_SECONDS = 10.0  # without a word: the server is away, rather than slow
_MAX_ADAPTATIONS = 3
_COMPLETIONS = "/chat/completions"
_LLAMA_CPP = "llama.cpp"  # the name that its server has in the header
_PROPS_SECONDS = 5.0
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_OWN_HEADERS = frozenset(
    {
        "content-type",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "host",
        "expect",
    }
)
_URL_REMEDY = "Write it like http://127.0.0.1:4000"


class TooMuch(Exception):
    """A reply is over its limit."""


class Pieces(ABC):
    """Puts the chunks of a stream together, at most `max_chars` of them; text goes on to `on_delta`.

    `done` is whether the server has said that the stream ends.
    """

    def __init__(self, on_delta: OnDelta, max_chars: int) -> None:
        self.done = False
        self._on_delta = on_delta
        self._on_thinking = thinking_callback(on_delta)
        self._max_chars = self._room = max_chars

    @property
    def chars(self) -> int:
        """How many characters have come."""
        return self._max_chars - self._room

    @abstractmethod
    def add(self, chunk: Any) -> None:
        """Take the next chunk. Raises TooMuch."""

    @abstractmethod
    def body(self) -> Any:
        """The body that would have come without a stream; None where the stream was cut off."""

    def _take(self, text: str) -> None:
        self._room -= len(text)
        if self._room < 0:
            raise TooMuch

    def _think(self, text: str = "", block: Mapping[str, Any] | None = None) -> None:
        if self._on_thinking is not None:
            self._on_thinking(Thinking(text, block))


class Wire(ABC):
    """An API for chat: how a request is written and a reply is read."""

    pieces: type[Pieces]

    @abstractmethod
    def headers(self, api_key: str | None) -> dict[str, str]:
        """The headers of every call. Raises ConfigError for a key that no header may hold."""

    def request_headers(self, request: ModelRequest) -> dict[str, str]:
        """The headers of one request beside those of every call."""
        return {}

    def called_model(self, request: ModelRequest) -> str:
        """The model that is called for a request."""
        return request.model

    @abstractmethod
    def body(self, request: ModelRequest, *, stream: bool) -> dict[str, Any]:
        """Write a request."""

    @abstractmethod
    def read(self, body: Any, request: ModelRequest, source: str, extra: Mapping[str, Any]) -> ModelReply:
        """Read a whole reply; `extra` are the fields that the headers give it. Raises ModelError."""

    def headers_say(self, headers: Mapping[str, str], *, streamed: bool) -> dict[str, Any]:
        """Read the headers of a reply, as fields of ModelReply."""
        return {}

    def note(self, reply: ModelReply, headers: Mapping[str, str], source: str, *, streamed: bool) -> None:
        """Take notice of a whole reply with its headers."""
        return

    @abstractmethod
    def adapts_to(self, words: str) -> bool:
        """Whether a refusal names a field that requests can do without; later ones then do."""


@dataclass(slots=True)
class _Call:
    """A call made at `since`, and how much of its answer has come; `pieces` are set for a stream."""

    request: ModelRequest
    on_delta: OnDelta | None
    since: float = field(default_factory=time.perf_counter)
    has_begun: bool = False
    pieces: Pieces | None = None

    def lost(self) -> tuple[ModelReply, ...]:
        """The answer that the provider may bill of a stream that broke off, where some of it came."""
        if self.pieces is None:
            return ()
        tokens = min(-(-self.pieces.chars // _CHARS_PER_TOKEN), self.request.output_limit)
        used = Usage(completion_tokens=tokens)
        model = self.request.model
        return (ModelReply(model=model, usage=used, cost_source="estimated", finish_reason="error"),)


class ApiModel:
    """Calls one API at one address: one attempt a call, within the request's own deadline, streams included.

    An error holds what the server said, without keys and without the prompt.
    """

    def __init__(
        self,
        url: str,
        wire: Wire,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        discretion: Discretion | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        remedy: str = "Check the address (api_base) of its deployments",
    ) -> None:
        self.url = url
        self.wire = wire
        self.max_reply_bytes = max_reply_bytes
        parts = urlsplit(url)
        self.server = f"{parts.scheme}://{parts.netloc}"
        self.name = f"http {self.server}"
        self._remedy = remedy
        self._discretion = discretion or Discretion([api_key or ""])
        self._headers = {"content-type": "application/json", **wire.headers(api_key), **(headers or {})}
        self._session: aiohttp.ClientSession | None = None
        self._software = ""  # of the server, as it calls itself
        self._takes_tools: bool | None = None  # None: nothing says so
        self._targets: dict[bool, str | URL] = {False: url}

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make one attempt; cancelling it closes its connection. Raises ModelError."""
        offers_tools = bool(request.tools) and request.tool_choice != "none"
        if offers_tools and self._takes_tools is False:
            raise self._without_tools()
        call = _Call(request, on_delta)
        session = self._session or await self._opened()
        target = self._targets.get(bool(request.inputs))
        if target is None:
            raise ModelRefused(f"{self.server} embeds no texts", remedy="Name a model of embeddings")
        from meshwright.models.connections import StaleConnection  # there by now

        try:
            async with asyncio.timeout(request.timeout_seconds):
                for is_last in (False,) * _MAX_ADAPTATIONS + (True,):  # a refusal may teach the wire a field
                    try:
                        reply = await self._attempt(session, target, call, is_last=is_last)
                    except StaleConnection:  # once more, and not by another of the pool
                        async with self._make_session() as fresh:
                            reply = await self._attempt(fresh, target, call, is_last=is_last)
                    if reply is not None:
                        break
        except Exception as error:
            if (cause := self._model_error(error, call)) is None:
                raise
            cause.lost = cause.lost or call.lost()  # which the provider may bill
            raise cause from None  # the text of another error may quote the reply
        assert reply is not None  # the last refusal is raised
        if offers_tools and not reply.tool_calls and self._takes_tools is None:
            await self._ask_for_tools(session)
            if self._takes_tools is False:
                if on_delta is not None:
                    on_delta(STREAM_RESTART)
                error = self._without_tools()
                error.lost = (reply,)
                raise error
        return reply

    async def _ask_for_tools(self, session: aiohttp.ClientSession) -> None:
        """Ask llama.cpp's server whether its template has tools: without, it ignores them in silence."""
        import aiohttp

        self._takes_tools = True
        if self._software.lower() != _LLAMA_CPP:
            return
        with suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with asyncio.timeout(_PROPS_SECONDS):
                async with session.get(_props_url(self.url), allow_redirects=False) as response:
                    data, is_whole = await read_bounded(response, self.max_reply_bytes)
            properties = from_json(data) if response.status == 200 and is_whole else None
            caps = properties.get("chat_template_caps") if isinstance(properties, dict) else None
            self._takes_tools = not (isinstance(caps, dict) and caps.get("supports_tools") is False)
        if not self._takes_tools:
            _logger.warning("%s ignores tools: they are described in the system message", self.server)

    def _without_tools(self) -> Unsupported:
        what = f"{self.server} ignores tools: the chat template of its model has none"
        return Unsupported(what, what="tools", remedy="Start it with a template that has them (--jinja)")

    async def _attempt(
        self, session: aiohttp.ClientSession, target: str | URL, call: _Call, *, is_last: bool
    ) -> ModelReply | None:
        """Send the request; None where the wire has learned from a refusal."""
        # A file, since aiohttp warns of larger bodies that are bytes.
        data = BytesIO(to_json(self.wire.body(call.request, stream=call.on_delta is not None)))
        headers = self._request_headers(call.request)
        async with session.post(  # no redirects: one would take the key elsewhere
            target, data=data, headers=headers, allow_redirects=False
        ) as response:
            call.has_begun = True  # a timeout from here on is slowness, not silence
            if response.status == 200:
                return self._reply(await self._read(response, call), response, call)
            body = await _read_error(response)
        self._adapt(body, response, call.request, is_last=is_last)
        return None

    @property
    def opened_connections(self) -> int:
        """The connections that were opened for calls so far, without those of repeated requests."""
        connector = None if self._session is None else self._session.connector
        return getattr(connector, "opened", 0)

    async def close(self) -> None:
        """Close the pooled connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _model_error(self, error: Exception, call: _Call) -> ModelError | None:
        """The error of a call as a ModelError; None for one that is not the server's."""
        import aiohttp

        if isinstance(error, ModelError):
            return error
        if isinstance(error, aiohttp.ClientConnectionError):
            return self._unreachable(error)
        if isinstance(error, TimeoutError):
            model, seconds = self.wire.called_model(call.request), call.request.timeout_seconds
            what = f"{self.server} did not answer model {model!r} in {seconds:g} seconds"
            timeout = ModelTimeout(what, remedy=FASTER)
            is_stream = call.on_delta is not None
            timeout.is_silent = is_stream and seconds >= _SILENT_SECONDS and not call.has_begun
            return timeout
        if isinstance(error, TooMuch):
            return ModelError(f"{self.server} sent a reply of more than {self.max_reply_bytes:,} bytes")
        return self._broken_off(type(error).__name__) if isinstance(error, aiohttp.ClientError) else None

    def _reply(self, body: Any, response: aiohttp.ClientResponse, call: _Call) -> ModelReply:
        if is_error(body):
            raise self._error_in(body, call.request)
        self._software = response.headers.get("server", "")
        streamed = call.on_delta is not None and _is_a_stream(response)
        extra = self.wire.headers_say(response.headers, streamed=streamed)
        extra["latency_ms"] = (time.perf_counter() - call.since) * 1000
        reply = self.wire.read(body, call.request, self.server, extra)
        self.wire.note(reply, response.headers, self.server, streamed=streamed)
        if call.on_delta is not None and not streamed:
            stream_whole(reply, call.on_delta)
        return reply

    def _adapt(
        self, body: Any, response: aiohttp.ClientResponse, request: ModelRequest, *, is_last: bool
    ) -> None:
        """Have the wire leave out the field that the server refuses, or raise the error of the refusal."""
        words = "" if isinstance(body, str) else provider_words(body)  # a page has none that can be relied on
        if response.status in (400, 422) and not is_last and self.wire.adapts_to(words):
            return
        wait, masked = read_retry_after(response.headers), self._discretion.shown(body, request)
        fault = ProviderFault(response.status, words, wait, masked)
        error = error_for(fault, source=self.server, model=self.wire.called_model(request))
        deployment = self.wire.headers_say(response.headers, streamed=False).get("deployment")
        if deployment is not None:
            error.failed_at, error.failed_with = (deployment,), (error.code,)
        raise error

    def _request_headers(self, request: ModelRequest) -> Mapping[str, str] | None:
        """The headers of one request, in place of the session's."""
        return self.wire.request_headers(request) or None

    async def _opened(self) -> aiohttp.ClientSession:
        # Its first import takes seconds on a busy machine: on the event loop, leases would expire meanwhile.
        await asyncio.to_thread(import_module, "meshwright.models.connections")
        return self._session or self._open()

    def _open(self) -> aiohttp.ClientSession:
        from yarl import URL

        self._targets = {False: URL(self.url)}  # a text would be parsed at every call
        if self.url.endswith(_COMPLETIONS):
            self._targets[True] = URL(self.url.removesuffix(_COMPLETIONS) + "/embeddings")
        self._session = self._make_session()
        return self._session

    def _make_session(self) -> aiohttp.ClientSession:
        import aiohttp

        from meshwright.models.connections import PoolConnector, PoolResponse

        # How many calls run at once is for the slots of the worker to say, not for the pool.
        return aiohttp.ClientSession(
            headers=self._headers,
            connector=PoolConnector(limit=0, socket_factory=open_model_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=PoolResponse,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),  # the request bounds it
        )

    async def _read(self, response: aiohttp.ClientResponse, call: _Call) -> Any:
        """The body of a reply; a server that does not stream sends it in one piece."""
        if call.on_delta is None:
            return await self._whole(response)
        pieces = self.wire.pieces(call.on_delta, self.max_reply_bytes)
        if _is_a_stream(response):
            return await self._stream(response, call, pieces)
        return await self._whole(response)

    async def _whole(self, response: aiohttp.ClientResponse) -> Any:
        if "json" not in response.headers.get("content-type", "").lower():
            raise not_a_completion(self.server)
        data, is_whole = await read_bounded(response, self.max_reply_bytes)
        if not is_whole:
            raise TooMuch
        return self._parsed(data)

    async def _stream(self, response: aiohttp.ClientResponse, call: _Call, pieces: Pieces) -> Any:
        """Read a stream until it says that it is done; a stream that merely stops was cut off."""
        async for data in _events(response.content.iter_any(), self.max_reply_bytes):
            if data == b"[DONE]":
                pieces.done = True
            else:
                chunk = self._parsed(data)
                if is_error(chunk):
                    raise self._error_in(chunk, call.request)
                with reading(self.server):
                    pieces.add(chunk)
                    call.pieces = pieces
            if pieces.done:
                await _drain(response)
                break
        body = pieces.body()
        if body is None:
            raise self._broken_off("no reason to finish")
        return body

    def _parsed(self, data: bytes) -> Any:
        with reading(self.server):
            return from_json(data)

    def _broken_off(self, how: str) -> ModelUnavailable:
        return ModelUnavailable(f"{self.server} broke off its reply ({how})", remedy=RECOVERS)

    def _error_in(self, body: Any, request: ModelRequest) -> ModelError:
        fault = fault_in(body, self._discretion.shown(body, request))
        return error_for(fault, source=self.server, model=self.wire.called_model(request))

    def _unreachable(self, error: aiohttp.ClientConnectionError) -> ModelUnavailable:
        import aiohttp

        if isinstance(error, aiohttp.ClientSSLError):
            return ModelUnavailable(
                f"No trusted TLS connection to {self.server}", remedy="Check its certificate"
            )
        if isinstance(error, aiohttp.ServerDisconnectedError):
            return ModelUnavailable(f"{self.server} closed the connection before it had answered")
        return ModelUnavailable(
            f"Cannot connect to {self.server}: {connection_reason(error)}", remedy=self._remedy
        )


def not_a_completion(source: str) -> ModelUnavailable:
    """The error for a reply that cannot be read."""
    remedy = "Check that the address is the base URL of a model server"
    return ModelUnavailable(f"{source} answered with something that is not a chat completion", remedy=remedy)


class reading:  # noqa: N801 entered for each piece of a stream, where a generator costs twice as much
    """Raise ModelUnavailable for a reply in another form; the error itself would quote the reply."""

    __slots__ = ("_source",)

    def __init__(self, source: str) -> None:
        self._source = source

    def __enter__(self) -> None:
        """Nothing is to be done before."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Replace an error of reading."""
        if isinstance(error, (AttributeError, InvalidInput, LookupError, TypeError, ValueError)):
            raise not_a_completion(self._source) from None


def completions_url(base_url: str) -> str:
    """The address of chat completions below a base URL, with or without `/v1`. Raises ConfigError."""
    problem, remedy = "is not an http or https address", _URL_REMEDY
    with suppress(ValueError):
        parts = urlsplit(base_url.strip())
        host = (parts.hostname or "").encode("idna")
        if parts.scheme in ("http", "https") and host and parts.port != 0:
            if not (parts.username or parts.password or parts.query or parts.fragment):
                path = parts.path.rstrip("/").removesuffix(_COMPLETIONS)
                version = "" if re.search(r"/v\d", path) else "/v1"
                return f"{parts.scheme}://{parts.netloc}{path}{version}{_COMPLETIONS}"
            problem, remedy = "holds more than an address", f"{_URL_REMEDY}, and the key into LITELLM_API_KEY"
    raise ConfigError(f"The model server's base URL {problem}", remedy=remedy, field="litellm_base_url")


def _props_url(url: str) -> str:
    """The address at which llama.cpp's server says what it is."""
    return f"{re.sub(r'/v[0-9]+$', '', url.removesuffix(_COMPLETIONS))}/props"


def gateway_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers of an operator's own, their names in lower case. Raises ConfigError without quoting a value."""
    checked: dict[str, str] = {}
    for name, value in headers.items():
        problem = ""
        if not _HEADER_NAME.fullmatch(name):
            problem = "is no name of a header"
        elif name.lower() in _OWN_HEADERS:
            problem = "is set by the mesh itself"
        elif not (value.isascii() and value.isprintable()):
            problem = "holds characters that no header may hold"
        if problem:
            remedy = 'Write them like { "x-portkey-provider" = "openai" }'
            raise ConfigError(f"models.headers: {name!r} {problem}", remedy=remedy, field="headers")
        checked[name.lower()] = value.strip()
    return checked


def header_key(api_key: str | None) -> str:
    """A key as a header may hold it, or nothing. Raises ConfigError without quoting it."""
    key = (api_key or "").strip()
    if key and not (key.isascii() and key.isprintable()):
        problem = "The model server's key holds characters that no header may hold"
        remedy = "Set its variable (of a server LITELLM_API_KEY) to the key alone"
        raise ConfigError(problem, remedy=remedy, field="litellm_api_key")
    return key


def _is_a_stream(response: aiohttp.ClientResponse) -> bool:
    return "event-stream" in response.headers.get("content-type", "").lower()


async def _read_error(response: aiohttp.ClientResponse) -> Any:
    data, is_whole = await read_bounded(response, _MAX_ERROR_BYTES)
    if not is_whole:
        return ""
    try:
        return from_json(data)
    except ValueError:
        return data.decode(errors="replace")


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read what follows the last event, which is nothing: the connection can then serve another call."""
    if response.content.at_eof():  # it came with the event
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in response.content.iter_any():
                pass


async def _events(pieces: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    """Each event's data, however the network cut the stream; comments (keep-alives) are passed over.

    A line of data is an event: no server splits one over lines, and some leave out the empty line after
    it. Raises TooMuch for a line of more than `max_bytes`.
    """
    buffer = bytearray()
    async for piece in pieces:
        buffer += piece
        if b"\n" in piece:
            # A CR at the end stays with its line: its LF may be on its way.
            lines = bytes(buffer).splitlines(keepends=True)
            buffer = bytearray(lines.pop() if not lines[-1].endswith(b"\n") else b"")
            for data in filter(None, map(_event_data, lines)):
                yield data
        if len(buffer) > max_bytes:
            raise TooMuch
    for data in filter(None, map(_event_data, buffer.splitlines())):
        yield data


def _event_data(line: bytes | bytearray) -> bytes:
    return bytes(line[5:]).strip() if line.startswith(b"data:") else b""
