"""A connection to one MCP server: a program that it starts and ends, or an address.

Its messages are bounded: over stdin and stdout a line each, and answers over HTTP. The library's own
transports keep a line, or an answer, until it ends, however long it gets: one server could fill the memory of
the mesh.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from meshwright import MeshError, ToolFailed
from meshwright.core import __version__
from meshwright.core.plugins import install_command
from meshwright.core.redaction import foreign_words
from meshwright.core.streams import PEER_GONE
from meshwright.kit import ConfigError
from meshwright.parts.mcp.listing import readable_tools
from meshwright.parts.mcp.settings import McpServer
from meshwright.parts.mcp.sign_in import only_safe

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from httpx2 import AsyncHTTPTransport, Auth, Response
    from mcp import Client
    from mcp.types import CallToolResult, InputRequiredResult, Tool

    from meshwright.parts.mcp.task_wire import CreatedTask, RemoteTask


_logger = logging.getLogger("meshwright.mcp")
_MIN_LISTEN_SECONDS, _MAX_LISTEN_SECONDS = 1.0, 60.0  # before changes are listened for again
LIST_SECONDS = 60.0  # between lists of a server that does not tell of changes
_MAX_PAGES = 50
_MAX_TOOLS = 1_000
_MAX_ERROR_LINES, _MAX_ERROR_CHARS = 10, 500  # of what a server that ended has said
_ANSWER_SECONDS = 30.0  # of a handshake or a list; calls have the time of their tool
_HTTP_SECONDS, _HTTP_READ_SECONDS = 30.0, 300.0  # a stream may be silent for a while
_CLOSE_SECONDS = 8.0  # the library ends a program within six
_WANTS_OURS = re.compile(r"back-channel|\bsampling\b|\bcreate_?message\b|\blist_?roots\b", re.IGNORECASE)
NOTHING_OF_OURS = (
    "Servers get neither a model (sampling) nor folders (roots) here, however often you call: use another "
    "tool, or do that part yourself"
)


class TaskRefused(Exception):
    """The server has refused a request about a task, and would do so again."""


class ServerConnection:
    """A connection to a server, which one asyncio task holds: the library's scopes are bound to it.

    `on_end` is called with the reason where it ends by itself, `on_change` where the server says that it has
    other tools. `auth` adds tokens to the requests to an address.
    """

    def __init__(
        self,
        server: McpServer,
        project: Path,
        on_end: Callable[[str], None],
        on_change: Callable[[], None],
        auth: Auth | None = None,
    ) -> None:
        self._server = server
        self._auth = auth
        self._project = project
        self._on_end = on_end
        self._on_change = on_change
        self.left_out: Mapping[str, str] = {}
        """The tools of the last list that could not be read, by name, with the reason."""
        self._unreadable: dict[str, str] = {}  # of the list that is read now
        self._listing = asyncio.Lock()
        self._said: deque[str] = deque(maxlen=_MAX_ERROR_LINES)
        self._ending = asyncio.Event()
        self._reason = ""
        self._holder: asyncio.Task[None] | None = None
        self._client: Client | None = None

    async def open(self) -> None:
        """Connect. Raises ConfigError without the library, MeshError for a server that does not answer."""
        _require_library()
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._holder = asyncio.create_task(self._hold(ready), name=f"mcp {self._server.where}")
        await ready

    async def close(self) -> None:
        """Disconnect, and end the program. Idempotent."""
        self._ending.set()
        holder, self._holder = self._holder, None
        if holder is not None:
            _, running = await asyncio.wait([holder], timeout=_CLOSE_SECONDS)
            for task in running:
                task.cancel()
                await asyncio.wait(running)

    @property
    def is_modern(self) -> bool:
        """Whether calls may be answered by a request for input, which they then repeat with the answer."""
        from mcp.types.version import MODERN_PROTOCOL_VERSIONS

        return self._open_client().protocol_version in MODERN_PROTOCOL_VERSIONS

    @property
    def has_tasks(self) -> bool:
        """Whether the server may answer a call by a task, as the extension has it."""
        from meshwright.parts.mcp.task_wire import TASKS

        return self.is_modern and TASKS in (self._open_client().server_capabilities.extensions or {})

    async def tools(self) -> list[Tool]:
        """All tools of the server that can be read; the others are `left_out`. Raises MeshError."""
        async with self._listing:
            self._unreadable.clear()
            tools = await self._list()
            self.left_out = dict(self._unreadable)
            return tools

    async def _list(self) -> list[Tool]:
        client, tools, cursor = self._open_client(), list["Tool"](), None
        for _ in range(_MAX_PAGES):
            with _Failures(self):
                page = await client.list_tools(cursor=cursor, cache_mode="refresh")
            tools += page.tools
            cursor = page.next_cursor
            if cursor is None or len(tools) > _MAX_TOOLS:
                break
        if cursor is not None or len(tools) > _MAX_TOOLS:
            raise ConfigError(f"it lists over {_MAX_TOOLS:,} tools, or over {_MAX_PAGES} pages of them")
        return tools

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        answers: Mapping[str, Any] | None = None,
        state: str | None = None,
        key: str = "",
        report: Callable[[str], None] = lambda text: None,
    ) -> CallToolResult | InputRequiredResult | CreatedTask:
        """Call a tool; `answers` and `state` go with a call that is repeated as its server asked for input.

        By its `key` a mesh makes one task of a call that is sent twice. `report` gets what the server says of
        its progress. The result is not held to the schema that its server names. Raises ToolFailed.
        """
        from mcp import types
        from pydantic import TypeAdapter

        from meshwright.parts.mcp.task_wire import IDEMPOTENCY_KEY, CreatedTask

        params = types.CallToolRequestParams(
            name=name,
            arguments=dict(arguments),
            input_responses=None if answers is None else dict(answers),
            request_state=state,
            _meta={IDEMPOTENCY_KEY: key} if key else None,
        )
        adapter = TypeAdapter[Any](CreatedTask | types.CallToolResult | types.InputRequiredResult)

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            count = f"{progress:g}" if total is None else f"{progress:g} of {total:g}"
            text = f"{message} ({count})" if message else count
            report(foreign_words(self._server.masked(f"{name}: {text}"), max_chars=_MAX_ERROR_CHARS))

        session, request = self._open_client().session, types.CallToolRequest(params=params)
        with _Failures(self):
            return await session.send_request(request, adapter, math.inf, progress_callback=on_progress)

    async def task(
        self, method: str, task_id: str, *, input_responses: Mapping[str, Any] | None = None
    ) -> RemoteTask:
        """Send a request about a task. Raises TaskRefused; ToolFailed where the server may be away."""
        from mcp import MCPError, types
        from pydantic import ValidationError

        from meshwright.parts.mcp.task_wire import RemoteTask, RemoteTaskParams, RemoteTaskRequest

        final = (types.INVALID_PARAMS, types.METHOD_NOT_FOUND, types.MISSING_REQUIRED_CLIENT_CAPABILITY)
        params = RemoteTaskParams(
            task_id=task_id, input_responses=None if input_responses is None else dict(input_responses)
        )
        session = self._open_client().session
        with _Failures(self):
            try:
                return await session.send_request(RemoteTaskRequest(method=method, params=params), RemoteTask)
            except MCPError as error:
                if error.code not in final:
                    raise
                refusal = self.in_words(error)
            except ValidationError:
                refusal = "its server sent what is no task"
        raise TaskRefused(refusal)

    def in_words(self, error: BaseException) -> str:
        """An error as a sentence, without secrets of the server."""
        return self._server.masked(_in_words(error))

    @property
    def ended_by(self) -> str:
        """Why it does not work any more; "" while it does, or where it was closed."""
        return self._reason

    def end(self, reason: str) -> None:
        """Note that it does not work any more, and why; the first reason counts."""
        if not self._ending.is_set():
            self._reason = reason
            self._ending.set()

    def _open_client(self) -> Client:
        if self._client is None or self._ending.is_set():
            raise ToolFailed("the connection to the server is closed", remedy="Call it again in a moment")
        return self._client

    async def _hold(self, ready: asyncio.Future[None]) -> None:
        reason = ""
        try:
            async with AsyncExitStack() as stack:
                self._client = await stack.enter_async_context(await self._connect(stack))
                if not ready.done():
                    ready.set_result(None)
                listening = asyncio.create_task(self._listen(), name=f"mcp changes {self._server.where}")
                stack.callback(listening.cancel)
                await self._ending.wait()
                reason = self._reason
        # The library and the transport below it raise what they like, in groups as well.
        except Exception as error:
            reason = self._reason or f"{self.in_words(error)}{self._last_words()}"
            _logger.debug("the connection to %s failed", self._server.where, exc_info=error)
        finally:
            self._client = None
            self._ending.set()
            if not ready.done():
                ready.set_exception(MeshError(reason or "the connection was given up"))
                ready.exception()  # it is read here: the caller of open() may have left
            elif reason:
                self._on_end(reason)

    async def _connect(self, stack: AsyncExitStack) -> Client:
        from httpx2 import AsyncClient, Timeout
        from mcp import Client, types
        from mcp.client.streamable_http import streamable_http_client

        from meshwright.parts.mcp.task_wire import TasksExtension

        server = self._server
        transport: AbstractAsyncContextManager[Any]
        if server.command:
            errors = await stack.enter_async_context(self._read_errors())
            transport = running(server, self._project, errors, self.end)
        else:
            timeout = Timeout(_HTTP_SECONDS, read=_HTTP_READ_SECONDS)
            hooks = {"request": [only_safe(server.url)]} if self._auth else {"response": [self._note_refusal]}
            http = await stack.enter_async_context(
                AsyncClient(
                    headers={**server.headers, "Accept-Encoding": "identity"},
                    timeout=timeout,
                    auth=self._auth,
                    event_hooks=hooks,
                    transport=bounded_transport(),
                )
            )
            transport = streamable_http_client(server.url, http_client=http)
        return Client(
            readable_tools(transport, self._unreadable),
            client_info=types.Implementation(name="meshwright", version=__version__),
            elicitation_callback=_decline,
            message_handler=self._hear,
            extensions=[TasksExtension()],
            read_timeout_seconds=_ANSWER_SECONDS,
            cache=None,
        )

    async def _note_refusal(self, response: Response) -> None:
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            self._said.append("401 Unauthorized: sign in by mesh mcp login, or set headers")

    async def _hear(self, message: Any) -> None:
        from mcp import types

        if isinstance(message, types.ToolListChangedNotification):
            self._on_change()

    async def _listen(self) -> None:
        """Hear of changes of tools as the protocol since 2026-07-28 has it: by a stream that is asked for."""
        from mcp import MCPError
        from mcp.client.subscriptions import SubscriptionLost

        client, pause = self._open_client(), _MIN_LISTEN_SECONDS
        tools = client.server_capabilities.tools
        if tools is None or not tools.list_changed:
            return await self._look_for_changes()
        if not self.is_modern:
            return  # it notifies
        while True:
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    async for _ in changes:
                        pause = _MIN_LISTEN_SECONDS
                        self._on_change()
            except SubscriptionLost:
                self._on_change()  # one may have been missed
            except MCPError as error:
                _logger.warning(
                    "%s does not tell of changes of its tools (%s): they are listed every %g s",
                    self._server.where,
                    self.in_words(error),
                    LIST_SECONDS,
                )
                return await self._look_for_changes()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_LISTEN_SECONDS)

    async def _look_for_changes(self) -> None:
        """Notice changes of tools of a server that does not tell of them: list them again and again."""
        before: Any = None
        while True:
            with suppress(MeshError):  # it may be busy; calls say where it has ended
                now = [tool.model_dump_json() for tool in await self.tools()], self.left_out
                if before is not None and now != before:
                    self._on_change()
                before = now
            await asyncio.sleep(LIST_SECONDS)

    @asynccontextmanager
    async def _read_errors(self) -> AsyncIterator[TextIO]:
        """The file for what the program says on stderr; its end is that of the program."""
        receiver, sender = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(receiver, "rb", 0)
        )
        reading = asyncio.create_task(self._keep_errors(reader))
        try:
            with os.fdopen(sender, "w") as errors:
                yield errors
        finally:
            reading.cancel()
            await asyncio.wait([reading])
            transport.close()

    async def _keep_errors(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # a line over 64 KiB, of which the reader has dropped the beginning
                continue
            if not line:
                break
            text = foreign_words(
                self._server.masked(line.decode(errors="replace")), max_chars=_MAX_ERROR_CHARS
            )
            if text:
                self._said.append(text)
                _logger.debug("%s: %s", self._server.where, text)
        self.end(f"the server has ended{self._last_words()}")

    def _last_words(self) -> str:
        text = " | ".join(self._said)
        return f"; it said: {text[-_MAX_ERROR_CHARS:]}" if text else ""


async def _decline(context: Any, params: Any) -> Any:
    """Decline what a server of an older protocol asks in the middle of a call: no wait could outlive it."""
    from mcp import types

    return types.ElicitResult(action="decline")


class _Failures:
    """Turns the library's errors into ToolFailed; one that says that the connection is gone ends it."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, MeshError):
            return
        from anyio import BrokenResourceError, ClosedResourceError
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        text = self._connection.in_words(error)
        is_closed = isinstance(error, MCPError) and error.code == CONNECTION_CLOSED
        if is_closed or isinstance(error, (OSError, ClosedResourceError, BrokenResourceError)):
            text = self._connection.ended_by or text
            self._connection.end(text)
        raise ToolFailed(text, remedy=call_remedy(text)) from error


def call_remedy(problem: str) -> str:
    """The remedy for a call that failed, as far as its words tell."""
    return NOTHING_OF_OURS if _WANTS_OURS.search(problem) else ""


def _require_library() -> None:
    with suppress(ImportError):
        import mcp.client  # noqa: F401 - whether it is there

        # It logs each line that is no message with a traceback and a part of it: of no use, and not ours.
        logging.getLogger("mcp.client").setLevel(logging.CRITICAL)
        return
    raise ConfigError("MCP servers take the package mcp", remedy=f"Run: {install_command('mcp')}")


def _in_words(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"there is no program {os.fspath(error.filename)!r}"
    text = " ".join(str(error).split())
    is_ours = isinstance(error, MeshError) or type(error).__name__ == "MCPError"
    words = text if is_ours and text else f"{type(error).__name__}: {text}".rstrip(": ")
    return foreign_words(words, max_chars=_MAX_ERROR_CHARS)


# Transports

MAX_MESSAGE_BYTES = 32_000_000
_CHUNK_BYTES = 65_536
_GRACE_SECONDS = 2.0  # that a program has to end by itself, and then by a signal


@asynccontextmanager
async def running(
    server: McpServer, folder: Path, errors: TextIO, lose: Callable[[str], None]
) -> AsyncIterator[Any]:
    """Run the program of a server; gives the streams of messages from it and to it.

    `lose` is called with the reason where it sends a message over the limit. Raises OSError where it cannot
    be started.
    """
    import anyio
    from mcp.client.stdio import get_default_environment

    try:
        process = await asyncio.create_subprocess_exec(
            server.command,
            *server.args,
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            env={**get_default_environment(), **server.env},
            cwd=folder,
            start_new_session=True,
            limit=MAX_MESSAGE_BYTES,
        )
    except FileNotFoundError as error:  # that of uvloop does not say what was not found
        raise FileNotFoundError(error.errno, error.strerror, server.command) from error
    errors.close()  # the program alone has it open: its end is that of the program
    incoming, received = anyio.create_memory_object_stream[Any](0)
    sent, outgoing = anyio.create_memory_object_stream[Any](0)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_read, process, incoming, lose)
            group.start_soon(_write, process, outgoing, incoming)
            yield received, sent
            group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process)


async def _read(process: Process, incoming: MemoryObjectSendStream[Any], lose: Callable[[str], None]) -> None:
    from anyio import BrokenResourceError
    from mcp.shared.message import SessionMessage
    from mcp.types import jsonrpc_message_adapter

    assert process.stdout is not None  # a pipe, as asked for
    async with incoming:
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                return lose(f"it sent a message of over {MAX_MESSAGE_BYTES // 1_000_000} MB")
            if not line:
                return
            message: Any
            try:
                message = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
            except ValueError as error:  # the library goes on behind what is no message
                message = error
            with suppress(BrokenResourceError):
                await incoming.send(message)


async def _write(
    process: Process, outgoing: MemoryObjectReceiveStream[Any], incoming: MemoryObjectSendStream[Any]
) -> None:
    assert process.stdin is not None  # a pipe, as asked for
    async with outgoing:
        async for message in outgoing:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            try:
                process.stdin.write(f"{text}\n".encode())
                await process.stdin.drain()
            except PEER_GONE:
                await incoming.aclose()  # calls end instead of waiting for ever
                return


async def _stop(process: Process) -> None:
    """Close its input, and end it with all that it started where that does not end it."""
    assert process.stdin is not None  # a pipe, as asked for
    process.stdin.close()
    draining = asyncio.create_task(_drain(process))  # a process is not over while its pipes hold something
    try:
        for sign in (signal.SIGTERM, signal.SIGKILL, None):
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_SECONDS):
                    await process.wait()
                    return
            if sign is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, sign)
    finally:
        draining.cancel()


async def _drain(process: Process) -> None:
    assert process.stdout is not None  # a pipe, as asked for
    while await process.stdout.read(_CHUNK_BYTES):
        pass


def bounded_transport() -> AsyncHTTPTransport:
    """A transport whose answers fail where they get over the limit, but for streams of events.

    The library bounds each event itself. A packed answer fails: a small one may unpack to anything.
    """
    from httpx2 import AsyncByteStream, AsyncHTTPTransport, Request

    class BoundedStream(AsyncByteStream):
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        async def __aiter__(self) -> AsyncIterator[bytes]:
            count = 0
            async for chunk in self._inner:
                count += len(chunk)
                if count > MAX_MESSAGE_BYTES:
                    raise MeshError(f"it sent an answer of over {MAX_MESSAGE_BYTES // 1_000_000} MB")
                yield chunk

        async def aclose(self) -> None:
            await self._inner.aclose()

    class Transport(AsyncHTTPTransport):
        async def handle_async_request(self, request: Request) -> Response:
            response = await super().handle_async_request(request)
            if response.headers.get("content-encoding", "identity") != "identity":
                await response.aclose()
                raise MeshError("it sent a compressed answer, which was not asked for")
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                response.stream = BoundedStream(response.stream)
            return response

    return Transport()
