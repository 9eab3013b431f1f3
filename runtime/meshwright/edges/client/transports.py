"""Requests to a mesh: over connections, or straight into the HTTP API of a mesh in this process.

They are sent again where that is safe, their answers read as models, their streams resumed; problem documents
become errors.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlencode

from pydantic import BaseModel

from meshwright.core import __version__
from meshwright.core.clock import Backoff
from meshwright.core.encoding import Struct
from meshwright.core.errors import Draining, HostError, MeshError, NotFound, StoreUnavailable, error_of_code
from meshwright.core.events import Event

if TYPE_CHECKING:
    import aiohttp

ResultT = TypeVar("ResultT")
ModelT = TypeVar("ModelT", bound=BaseModel | Struct)
DEFAULT_URL = "http://127.0.0.1:8000"
CALL_SECONDS = 60.0
RETRY_SECONDS = 30.0
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 2.0
_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 60.0  # a stream that sends nothing for so long, not even a comment, is dead
_STREAM_ENDED = b"stream.ended"  # the last event of a stream whose credentials do not count any more
_MAX_CONNECTIONS = 512  # twice as many as requests that wait for an outcome
_MAX_AHEAD = 16  # parts of an answer that wait for their reader, in process


class MeshUnreachable(HostError):
    """No mesh answers at the address, or the connection to it broke."""

    was_connected = False
    """Whether the connection broke once the mesh had taken it, and perhaps the request."""


class ClientClosed(HostError):
    """A client was used after its end."""


class Request(NamedTuple):
    """One request. `timeout` bounds the whole answer in seconds; None is for a stream."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    timeout: float | None


class Response(NamedTuple):
    """The status of an answer, and its body in the pieces in which it arrives."""

    status: int
    chunks: AsyncIterable[bytes]


class HttpTransport:
    """Requests over HTTP, on connections that stay open; over a Unix socket where one is given."""

    def __init__(self, url: str, socket_path: str | os.PathLike[str] | None = None) -> None:
        self.url = "http://localhost" if socket_path else url.rstrip("/")
        self._socket_path = None if socket_path is None else os.fspath(socket_path)
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Response]:
        """Send it; leaving the block gives up what has not come. Raises MeshUnreachable, ClientClosed."""
        import aiohttp  # a client in process does without

        method, path, params, headers, body, limit = request
        if self._is_closed:
            raise closed_client(self.url)
        if self._session is None:
            there = self._socket_path
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(there, limit=_MAX_CONNECTIONS)
                if there
                else aiohttp.TCPConnector(limit=_MAX_CONNECTIONS)
            )
        session = self._session
        silence = _SILENCE_SECONDS if limit is None else None
        timeout = aiohttp.ClientTimeout(total=limit, sock_connect=_CONNECT_SECONDS, sock_read=silence)
        sending = session.request(
            method,
            self.url + path,
            params=params,
            headers=headers,
            data=BytesIO(body) if body else None,
            timeout=timeout,
        )
        try:
            async with sending as response:
                yield Response(response.status, response.content.iter_any())
        except aiohttp.ClientConnectorCertificateError as error:
            raise MeshUnreachable(
                f"the certificate of {self.url} is not to be trusted: {error.certificate_error}",
                remedy="name its authority's PEM file in SSL_CERT_FILE, or use --data on the mesh's machine",
            ) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            unreachable = MeshUnreachable(
                f"no mesh answers at {self.url} ({_reason(error)})", remedy="start one with: mesh up"
            )
            broken = aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError
            is_refused = isinstance(error, aiohttp.ClientConnectorError)
            unreachable.was_connected = isinstance(error, broken) and not is_refused
            raise unreachable from error

    async def close(self) -> None:
        """Close the connections; no request is sent any more."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()


def closed_client(url: str) -> ClientClosed:
    """The error of a client that is used after its end."""
    problem = f"The client of {url} is closed"
    return ClientClosed(problem, remedy="Use it within its `with` block, before `close()`, or make another")


def _reason(error: Exception) -> str:
    """Why a connection failed, in the system's words rather than a library's."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error) or "no reply in time"


class AsgiTransport:
    """Requests straight to an ASGI application, without a socket."""

    def __init__(self, app: Any) -> None:
        self.url = "http://localhost"
        self._app = app

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Response]:
        """Run the application for this request. Raises what it does not catch."""
        from anyio import create_memory_object_stream  # a client over HTTP does without

        put, parts = create_memory_object_stream[dict[str, Any]](_MAX_AHEAD)
        unread = [{"type": "http.request", "body": request.body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if not unread:
                await asyncio.Event().wait()  # until the caller leaves
            return unread.pop()

        running = asyncio.create_task(self._app(_asgi_scope(request), receive, put.send))
        running.add_done_callback(lambda _: put.close())
        try:
            start = await anext(parts, {"status": 500})
            yield Response(start["status"], _bodies(parts))
        finally:
            running.cancel()
            [result] = await asyncio.gather(running, return_exceptions=True)
            put.close()
            parts.close()
        if isinstance(result, Exception):
            raise result

    async def close(self) -> None:
        """Nothing is open."""


async def _bodies(parts: AsyncIterable[dict[str, Any]]) -> AsyncGenerator[bytes]:
    async for message in parts:
        yield message.get("body", b"")


def _asgi_scope(request: Request) -> dict[str, Any]:
    path, _, query = request.path.partition("?")
    headers = {"host": "localhost", "content-length": str(len(request.body)), **request.headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": "&".join(filter(None, (query, urlencode(request.params)))).encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 80),
    }


class Retries:
    """The pauses between tries, until the first failure is too long ago."""

    def __init__(self) -> None:
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, jitter=0.5)
        self._until: float | None = None

    async def pause_after(self, error: MeshError) -> None:
        """Wait before the next try, or raise the error if time is up."""
        now = asyncio.get_running_loop().time()
        if self._until is None:  # the request itself may have waited long for an outcome
            self._until = now + RETRY_SECONDS
        if now > self._until:
            raise error
        await asyncio.sleep(self._backoff.next())


async def server_events(chunks: AsyncIterable[bytes]) -> AsyncGenerator[Event]:
    """The events of a stream, however it is cut into chunks. Their data names id and type as well.

    Raises the error that ended the stream: that the credentials do not count any more.
    """
    rest, kind, data = b"", b"", list[bytes]()
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.rstrip(b"\r").partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif name == b"event":
                kind = value.strip()
            elif not name and not value and data:
                if kind == _STREAM_ENDED:
                    raise parse_error("the stream", 401, b"\n".join(data))
                yield Event.model_validate_json(b"\n".join(data))
                data.clear()


def parse_error(url: str, status: int, text: bytes) -> MeshError:
    """The error that a problem document describes."""
    try:
        problem = json.loads(text)
        message = problem.get("detail") or problem["title"]
    except (ValueError, AttributeError, KeyError):
        return _no_mesh(url, status)
    kind = error_of_code(problem.get("code"), MeshError) or MeshError
    error = _made(kind, str(message), {name: problem.get(name) or "" for name in ("remedy", "field")})
    error.status = status
    for name in ("retry_after_seconds", "budget"):
        if problem.get(name) is not None and hasattr(error, name):
            setattr(error, name, problem[name])
    return error


def _no_mesh(url: str, status: int) -> MeshError:
    return MeshError(
        f"{url} answered {status} in no way that a mesh does",
        remedy="Check that --url or MESH_URL is the address of a mesh",
    )


def _version_error(error: MeshError, route: str) -> MeshError:
    """The error itself; for a route that the mesh does not have, that its version may be another."""
    if not isinstance(error, NotFound) or error.message != f"{route}: not found":
        return error
    return NotFound(
        f"This mesh has no {route}",
        remedy=f"It may be older or newer than this program ({__version__}): upgrade the older one",
    )


def _made(kind: type[MeshError], message: str, advice: Mapping[str, str]) -> MeshError:
    """An error of a kind, or of its nearest base where the kind needs more than a problem document says."""
    try:
        return kind(message, **advice)
    except TypeError:
        return _made(kind.__bases__[0], message, advice)


_TRANSIENT = (MeshUnreachable, Draining, StoreUnavailable)


class RequestSender:
    """Sends the requests of a client. `timeout` bounds a call, in seconds."""

    def __init__(
        self,
        transport: HttpTransport | AsgiTransport,
        api_key: str | None,
        timeout: float,
        tenant: str | None = None,
    ) -> None:
        self._transport = transport
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        if tenant is not None:
            self._headers["Mesh-Tenant"] = tenant
        self._timeout = timeout
        self._reached = False

    async def close(self) -> None:
        """Close the transport."""
        await self._transport.close()

    async def is_alive(self) -> bool:
        """Whether a mesh answers."""
        try:
            async with self._transport.send(self._request("GET", "/healthz")) as response:
                return response.status == 200
        except MeshUnreachable:
            return False

    async def get(self, kind: type[ModelT], path: str, method: str = "GET", **options: Any) -> ModelT:
        """The model that an answer is."""
        return self.read(kind.model_validate, path, await self.call(method, path, **options))

    async def get_list(
        self, kind: type[ModelT], path: str, params: Mapping[str, Any] | None = None, **pages: int
    ) -> list[ModelT]:
        """The models that a route lists; `pages` are the options of `items`."""
        return [
            self.read(kind.model_validate, path, item) async for item in self.items(path, params, **pages)
        ]

    async def items(
        self, path: str, params: Mapping[str, Any] | None = None, *, limit: int = 0, page: int = 0
    ) -> AsyncGenerator[dict[str, Any]]:
        """The items that a route lists, page by page: all, or `limit` of them, `page` in each request."""
        count, cursor = 0, None
        while True:
            size = min(limit - count, page) if limit else page
            answer = await self.page(path, {**(params or {}), "limit": size or None, "cursor": cursor})
            items = answer["items"]
            for item in items:
                yield item
            count, cursor = count + len(items), answer.get("cursor")
            if cursor is None or (limit and count >= limit):
                return

    async def page(self, path: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """One page of a list: its `items`, and where the next one begins."""
        answer = await self.call("GET", path, params=params)
        if not isinstance(answer, dict) or not isinstance(answer.get("items"), list):
            raise _no_mesh(self._transport.url + path, 200)
        return answer

    async def field(self, name: str, method: str, path: str, **options: Any) -> Any:
        """One field of an answer."""
        answer = await self.call(method, path, **options)
        if not isinstance(answer, dict) or name not in answer:
            raise _no_mesh(self._transport.url + path, 200)
        return answer[name]

    def read(self, make: Callable[[Any], ResultT], path: str, answer: Any) -> ResultT:
        """The result of `make` for an answer. Raises MeshError where it is no mesh's."""
        try:
            return make(answer)
        except (ValueError, TypeError) as error:  # ValueErrors are those of pydantic and msgspec
            raise _no_mesh(self._transport.url + path, 200) from error

    async def call(self, method: str, path: str, *, repeats: bool = False, **options: Any) -> Any:
        """The JSON of an answer. Reads, and what `repeats` without harm, are sent again after a failure."""
        request, tries = self._request(method, path, **options), Retries()
        while True:
            try:
                async with self._transport.send(request) as response:
                    self._reached = True
                    text = b"".join([chunk async for chunk in response.chunks])
                    if response.status < 400:
                        return _json(text, self._transport.url + path, response.status)
                    error = parse_error(self._transport.url + path, response.status, text)
                    raise _version_error(error, f"{method} {path}")
            except _TRANSIENT as error:
                self._note_connection(error)
                if not self._reached or not (repeats or method == "GET"):
                    raise
                await tries.pause_after(error)

    @asynccontextmanager
    async def open(self, method: str, path: str, **options: Any) -> AsyncIterator[Response]:
        """One request, and its answer as it comes. Nothing of it is sent again."""
        async with self._transport.send(self._request(method, path, timeout=None, **options)) as response:
            self._reached = True
            yield response

    async def events(self, path: str, fields: Mapping[str, Any], after_seq: int) -> AsyncGenerator[Event]:
        """The events of a stream, resumed after the last one seen when the connection breaks."""
        tries, problem = Retries(), MeshError(f"{path} ends at once")
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after_seq)}
            request = self._request("GET", path, params=fields, headers=headers, timeout=None)
            try:
                async with self._transport.send(request) as response:
                    self._reached = True
                    if response.status == 204:  # nothing follows
                        return
                    if response.status != 200:
                        text = b"".join([chunk async for chunk in response.chunks])
                        raise parse_error(self._transport.url + path, response.status, text)
                    async with aclosing(server_events(response.chunks)) as received:
                        async for event in received:
                            tries = Retries()
                            after_seq = event.seq or after_seq
                            yield event
            except _TRANSIENT as error:
                self._note_connection(error)
                if not self._reached:
                    raise
                problem = error
            await tries.pause_after(problem)

    def _note_connection(self, error: MeshError) -> None:
        """Count a mesh as reached that took a connection: its first answer may come after its restart."""
        self._reached |= isinstance(error, MeshUnreachable) and error.was_connected

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        timeout: float | None = CALL_SECONDS,
        wait_seconds: float = 0.0,
    ) -> Request:
        query = {
            name: value.isoformat() if isinstance(value, datetime) else str(value)
            for name, value in (params or {}).items()
            if value is not None
        }
        content = b"" if body is None else json.dumps(body, default=str).encode()
        kind = {"Content-Type": "application/json"} if content else {}
        limit = self._timeout if timeout == CALL_SECONDS else timeout
        limit = None if limit is None else limit + wait_seconds
        return Request(method, path, query, {**self._headers, **kind, **(headers or {})}, content, limit)


def _json(text: bytes, url: str, status: int) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError as error:
        raise _no_mesh(url, status) from error
