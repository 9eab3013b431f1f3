"""How requests reach a mesh: over connections, or straight into the HTTP API of a mesh in this process.

And what comes back: events of a stream, and problem documents, which become errors.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlencode

from meshwright.core.clock import Backoff
from meshwright.core.errors import HostError, MeshError
from meshwright.core.messages import Event

if TYPE_CHECKING:
    import aiohttp

RETRY_SECONDS = 30.0
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 2.0
_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 60.0  # a stream that sends nothing for so long, not even a comment, is dead
_STREAM_ENDED = b"stream.ended"  # the last event of a stream whose credentials do not count any more
_MAX_AHEAD = 16  # parts of an answer that wait for their reader, in process


class MeshUnreachable(HostError):
    """No mesh answers at the address, or the connection to it broke."""


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

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Response]:
        """Send it; leaving the block gives up what has not come. Raises MeshUnreachable."""
        import aiohttp  # a client in process does without

        method, path, params, headers, body, limit = request
        if self._session is None:
            there = self._socket_path
            self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(there) if there else None)
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
            raise MeshUnreachable(
                f"no mesh answers at {self.url} ({_reason(error)})", remedy="start one with: mesh up"
            ) from error

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


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

        running = asyncio.create_task(self._app(_scope_of(request), receive, put.send))
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


def _scope_of(request: Request) -> dict[str, Any]:
    headers = {"host": "localhost", "content-length": str(len(request.body)), **request.headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(request.path),
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": urlencode(request.params).encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 80),
    }


class Retries:
    """The pauses between tries, until it has been too long."""

    def __init__(self) -> None:
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, jitter=0.5)
        self._until = asyncio.get_running_loop().time() + RETRY_SECONDS

    async def pause_after(self, error: MeshError) -> None:
        """Wait before the next try, or raise the error if time is up."""
        if asyncio.get_running_loop().time() > self._until:
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
                    raise error_of("the stream", 401, b"\n".join(data))
                yield Event.model_validate_json(b"\n".join(data))
                data.clear()


def error_of(url: str, status: int, text: bytes) -> MeshError:
    """The error that a problem document describes."""
    try:
        problem = json.loads(text)
        message = problem.get("detail") or problem["title"]
    except (ValueError, AttributeError, KeyError):
        return no_mesh(url, status)
    kind = _kinds().get(problem.get("code"), MeshError)
    error = _made(kind, str(message), {name: problem.get(name) or "" for name in ("remedy", "field")})
    error.status = status
    for name in ("retry_after_seconds", "budget"):
        if problem.get(name) is not None and hasattr(error, name):
            setattr(error, name, problem[name])
    return error


def no_mesh(url: str, status: int) -> MeshError:
    """The error of an answer that is no mesh's."""
    return MeshError(
        f"{url} answered {status} in no way that a mesh does",
        remedy="Check that --url or MESH_URL is the address of a mesh",
    )


def _kinds(base: type[MeshError] = MeshError) -> dict[str, type[MeshError]]:
    """The errors that this process knows, by their name on the wire."""
    kinds = {base.__name__: base}
    for kind in base.__subclasses__():
        kinds |= _kinds(kind)
    return kinds


def _made(kind: type[MeshError], message: str, advice: Mapping[str, str]) -> MeshError:
    """An error of a kind, or of its nearest base where the kind needs more than a problem document says."""
    try:
        return kind(message, **advice)
    except TypeError:
        return _made(kind.__bases__[0], message, advice)
