"""`mesh mcp serve`: the server for clients that start a program and speak over its stdin and stdout."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from typing import Any

import click

from meshwright import MeshError
from meshwright.client import Client, MeshUnreachable
from meshwright.kit import Backoff, Connection, Target, mesh_options, new_id, talk

_PATH = "/mcp"
_VERSION, _KEY = "io.modelcontextprotocol/protocolVersion", "meshwright/idempotencyKey"
_NAMES = ("name", "uri", "taskId")
"""The parameters of a request that the header Mcp-Name repeats."""
_PARSE_ERROR, _INVALID_REQUEST, _INTERNAL_ERROR = -32700, -32600, -32603
_MAX_LINE_BYTES = 32_000_000
_RETRY_SECONDS = 60.0  # that a mesh has to come back


@click.command("serve")
@mesh_options
def mcp_serve(target: Target) -> None:
    """Serve the mesh to an MCP client over stdin and stdout.

    For clients that start a program: mesh mcp serve --url URL, with a key in MESH_ADMIN_TOKEN, or in the
    folder of a project. Uses a running mesh if there is one; otherwise the command runs a mesh of its own. A
    mesh that restarts meanwhile gets each call again, which makes one task.
    """
    talk(target, _serve, need="work", begins=True)


async def _serve(mesh: Connection) -> None:
    reader = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
    with (
        os.fdopen(os.dup(sys.stdin.fileno()), "rb", 0) as stdin,
        os.fdopen(os.dup(sys.stdout.fileno()), "wb", 0) as stdout,
    ):
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), stdin
        )
        try:
            await Bridge(mesh.client, stdout.write).run(reader)
        finally:
            transport.close()


class Bridge:
    """Passes each request of a client on to `/mcp`, and writes its answers as lines."""

    def __init__(self, client: Client, write: Callable[[bytes], Any]) -> None:
        self._client = client
        self._write = write
        self._version = ""
        self._open: dict[str, asyncio.Task[None]] = {}

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Serve until the client closes its end; then what it has not waited for is given up."""
        try:
            while True:
                try:
                    line = await reader.readline()
                except ValueError:  # longer than any message may be: the reader has dropped it
                    self._refuse(None, _PARSE_ERROR, f"A message has over {_MAX_LINE_BYTES:,} bytes")
                    continue
                if not line:
                    return
                if line.strip():
                    self._take(line)
        finally:
            for task in [*self._open.values()]:
                task.cancel()
            await asyncio.gather(*self._open.values(), return_exceptions=True)

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return self._refuse(None, _PARSE_ERROR, "Parse error")
        if not isinstance(message, dict):
            return self._refuse(None, _INVALID_REQUEST, "A message is an object")
        params = message.get("params")
        if "id" not in message:
            is_cancel = message.get("method") == "notifications/cancelled" and isinstance(params, dict)
            if is_cancel and (task := self._open.get(json.dumps(params.get("requestId")))):
                task.cancel()
            return None
        key = json.dumps(message["id"])
        if "method" not in message or key in self._open:
            return self._refuse(
                message["id"], _INVALID_REQUEST, "Not a request, or its id is of one that is open"
            )
        task = asyncio.create_task(self._answer(message), name=f"mcp {key:.40}")
        self._open[key] = task
        task.add_done_callback(lambda _: self._open.pop(key, None))
        return None

    async def _answer(self, message: dict[str, Any]) -> None:
        params = message.get("params")
        if message["method"] == "tools/call" and isinstance(params, dict):  # so that it may be sent again
            meta = params.get("_meta")
            meta = meta if isinstance(meta, dict) else {}
            message = {**message, "params": {**params, "_meta": {_KEY: new_id(), **meta}}}
        pauses, loop = Backoff(0.2, 2.0, jitter=0.5), asyncio.get_running_loop()
        ends_at: float | None = None
        while True:
            try:
                return await self._send(message)
            except MeshUnreachable as error:
                ends_at = ends_at or loop.time() + _RETRY_SECONDS
                if loop.time() > ends_at:
                    return self._refuse(message["id"], _INTERNAL_ERROR, str(error))
            except MeshError as error:
                return self._refuse(message["id"], _INTERNAL_ERROR, str(error))
            await asyncio.sleep(pauses.next())

    async def _send(self, message: Mapping[str, Any]) -> None:
        headers = self._headers(message)
        async with self._client.open("POST", _PATH, body=message, headers=headers) as response:
            has_answer = False
            async for answer in _answers(response.chunks):
                if "jsonrpc" not in answer:  # a problem document of the API
                    detail = (
                        f"{answer.get('detail') or response.status}. {answer.get('remedy') or ''}".strip()
                    )
                    return self._refuse(message["id"], _INTERNAL_ERROR, detail)
                has_answer = has_answer or "method" not in answer
                if message["method"] == "initialize":
                    result = answer.get("result")
                    self._version = result.get("protocolVersion", "") if isinstance(result, dict) else ""
                self._write(json.dumps(answer).encode() + b"\n")
            if not has_answer:
                raise MeshUnreachable("The mesh ended before it had answered", remedy="Start it: mesh up")

    def _headers(self, message: Mapping[str, Any]) -> dict[str, str]:
        headers = {"Accept": "application/json, text/event-stream"}
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        meta = params.get("_meta")
        version = meta.get(_VERSION) if isinstance(meta, dict) else None
        if not isinstance(version, str):
            return {**headers, "MCP-Protocol-Version": self._version} if self._version else headers
        headers |= {"MCP-Protocol-Version": version, "Mcp-Method": str(message["method"])}
        name = next((params[field] for field in _NAMES if field in params), None)
        headers |= {"Mcp-Name": name} if isinstance(name, str) else {}
        return {name: value for name, value in headers.items() if value.isascii() and value.isprintable()}

    def _refuse(self, request_id: Any, code: int, text: str) -> None:
        answer = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}
        self._write(json.dumps(answer).encode() + b"\n")


async def _answers(chunks: AsyncIterable[bytes]) -> AsyncGenerator[dict[str, Any]]:
    """The messages of an answer: those of a stream of events as they come, or the one of a document."""
    rest, is_stream = b"", False
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            is_stream = is_stream or line.startswith((b"event:", b"data:", b":"))
            if line.startswith(b"data:"):
                yield json.loads(line[5:])
            elif line.strip() and not is_stream:
                yield json.loads(line)
    if rest.strip() and not is_stream:
        yield json.loads(rest)
