"""JSON-RPC, a message a line: the requests of an editor, and those to it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from meshwright import MeshError
from meshwright.kit import InvalidInput, NotFound

_logger = logging.getLogger("meshwright.acp")
Handler = Callable[[str, Any], Awaitable[Any]]
MAX_LINE_BYTES = 32_000_000
"""Bytes that a message may have."""
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
_INTERNAL_ERROR, _AUTH_REQUIRED, _TOO_MANY, RESOURCE_NOT_FOUND = -32603, -32000, -32001, -32002
_MAX_OPEN_REQUESTS = 64


class RpcError(MeshError):
    """A request that the protocol has an error for, or one that the editor refused."""

    def __init__(self, number: int, message: str, *, remedy: str = "", field: str = "") -> None:
        super().__init__(message, remedy=remedy, field=field)
        self.number = number


def _error_number(error: MeshError) -> int:
    if isinstance(error, RpcError):
        return error.number
    if isinstance(error, NotFound):
        return RESOURCE_NOT_FOUND
    if isinstance(error, InvalidInput):
        return INVALID_PARAMS
    return _AUTH_REQUIRED if error.status == 401 else _INTERNAL_ERROR


def _error_object(error: MeshError) -> dict[str, Any]:
    data = {"type": error.code, "field": error.field, "remedy": error.remedy}
    data = {name: text for name, text in data.items() if text}
    return {"code": _error_number(error), "message": str(error), "data": data}


class EditorPeer:
    """The other end of a connection. `write` takes a line, and returns once it has all of it."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last_id = 0
        self._open: dict[str, asyncio.Task[None]] = {}
        self._notices: set[asyncio.Task[Any]] = set()

    async def run(self, reader: asyncio.StreamReader, handle: Handler) -> None:
        """Answer requests by `handle` until the other end closes; then those that are open are given up."""
        try:
            async for line in _lines(reader):
                if line is None:
                    problem = f"A message has over {MAX_LINE_BYTES:,} bytes"
                    self._fail(None, RpcError(PARSE_ERROR, problem))
                elif line.strip():
                    self._take(line, handle)
        finally:
            tasks = [*self._open.values(), *self._notices]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a notification."""
        self._send({"method": method, "params": params})

    async def call(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a request; returns its result. Cancelled, its reply is ignored. Raises RpcError."""
        self._last_id = number = self._last_id + 1
        reply = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"id": number, "method": method, "params": params})
            message = await reply
        finally:
            self._calls.pop(number, None)
        error = message.get("error")
        if isinstance(error, dict):
            code = error.get("code")
            number = code if isinstance(code, int) else _INTERNAL_ERROR
            raise RpcError(number, f"The editor refused {method}: {str(error.get('message'))[:500]}")
        result = message.get("result")
        return result if isinstance(result, dict) else {}

    def _take(self, line: bytes, handle: Handler) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return self._fail(None, RpcError(PARSE_ERROR, "A line is not JSON"))
        if not isinstance(message, dict):
            return self._fail(None, RpcError(INVALID_REQUEST, "A message is an object"))
        method, request_id = message.get("method"), message.get("id")
        if "method" not in message and "id" in message:
            reply = self._calls.get(request_id) if isinstance(request_id, int) else None
            if reply is not None and not reply.done():  # else it is late
                reply.set_result(message)
            return None
        if not isinstance(method, str):
            return self._fail(request_id, RpcError(INVALID_REQUEST, "method is not a text"))
        if "id" not in message:
            notice = asyncio.create_task(self._receive(method, message.get("params", {}), handle))
            self._notices.add(notice)
            notice.add_done_callback(self._notices.discard)
            return None
        key = json.dumps(request_id)
        if key in self._open:
            return self._fail(request_id, RpcError(INVALID_REQUEST, "id is that of an open request"))
        if len(self._open) >= _MAX_OPEN_REQUESTS:
            problem = f"{_MAX_OPEN_REQUESTS} requests are open: wait for the answer of one"
            return self._fail(request_id, RpcError(_TOO_MANY, problem))
        task = asyncio.create_task(self._answer(request_id, method, message.get("params", {}), handle))
        self._open[key] = task
        task.add_done_callback(lambda _: self._open.pop(key, None))
        return None

    async def _receive(self, method: str, params: Any, handle: Handler) -> None:
        with suppress(MeshError):  # a notification has no answer
            await handle(method, params)

    async def _answer(self, request_id: Any, method: str, params: Any, handle: Handler) -> None:
        try:
            result = await handle(method, params)
        except MeshError as error:
            self._fail(request_id, error)
        except OSError:  # the editor has gone
            raise
        except Exception:
            _logger.exception("%s failed", method[:100])
            self._fail(request_id, RpcError(_INTERNAL_ERROR, f"{method[:100]} failed: stderr says why"))
        else:
            self._send({"id": request_id, "result": result})

    def _fail(self, request_id: Any, error: MeshError) -> None:
        self._send({"id": request_id, "error": _error_object(error)})

    def _send(self, message: Mapping[str, Any]) -> None:
        self._write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


async def _lines(reader: asyncio.StreamReader) -> AsyncGenerator[bytes | None]:
    """The lines until the end; None in the place of one that is too long."""
    is_too_long = False
    while True:
        try:
            line = await reader.readuntil()
        except asyncio.LimitOverrunError as error:
            await reader.readexactly(error.consumed)
            is_too_long = True
            continue
        except asyncio.IncompleteReadError as error:
            if not error.partial:
                return
            line = error.partial
        yield None if is_too_long else line
        is_too_long = False
