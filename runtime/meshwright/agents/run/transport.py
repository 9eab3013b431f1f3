"""A run's wire as a transport of httpx or httpx2: SDKs and frameworks take it as their network."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from functools import cache, partial
from importlib import import_module
from typing import Any, Literal, TypeVar

from meshwright.agents.run.wire import RunWire, WireAnswer
from meshwright.core.errors import AgentError

_ResultT = TypeVar("_ResultT")
HttpPackage = Literal["httpx", "httpx2"]
"""The two packages that SDKs make requests with."""
_EXTRAS = {"httpx": "openai", "httpx2": "anthropic"}


def run_transport(wire: RunWire, package: HttpPackage) -> Any:
    """A transport for async clients, and for sync ones in threads, of a package.

    Raises AgentError where the package is not installed, and in another thread than the run's.
    """
    library = import_library(package, _EXTRAS[package])
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError as error:
        remedy = "Make it before asyncio.to_thread(...), and use it in the thread"
        raise AgentError("A client or transport of a run is made in a thread", remedy=remedy) from error
    return _transport_class(library)(wire, library, loop)


def import_library(name: str, extra: str) -> Any:
    """A package that an extra installs. Raises AgentError, which names the extra, where it is missing."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        remedy = f"uv pip install 'meshwright[{extra}]'"
        raise AgentError(f"The package {name} is not installed", remedy=remedy) from error


@cache
def _transport_class(library: Any) -> Any:
    return type("RunTransport", (_RunTransport, library.AsyncBaseTransport, library.BaseTransport), {})


@cache
def _stream_class(library: Any) -> Any:
    return type("RunStream", (_RunStream, library.AsyncByteStream, library.SyncByteStream), {})


class _RunTransport:
    """Answers the requests of a client by steps of a run."""

    def __init__(self, wire: RunWire, library: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._wire, self._library, self._loop = wire, library, loop

    async def handle_async_request(self, request: Any) -> Any:
        return self._response(request, await self._answer(request, await request.aread()))

    def handle_request(self, request: Any) -> Any:
        body = request.read()
        answer = partial(self._answer_thread, request, body, threading.get_native_id())
        return self._response(request, _from_thread(self._loop, answer))

    async def _answer(self, request: Any, body: bytes) -> WireAnswer:
        return await self._wire.answer(request.method, request.url.path, request.headers, body)

    async def _answer_thread(self, request: Any, body: bytes, native_id: int) -> WireAnswer:
        self._wire.note_thread(native_id)
        return await self._answer(request, body)

    def _response(self, request: Any, answer: WireAnswer) -> Any:
        content: dict[str, Any] = {"content": answer.body}
        if not isinstance(answer.body, bytes):
            content = {"stream": _stream_class(self._library)(answer.body, self._loop)}
        return self._library.Response(answer.status, headers=answer.headers, request=request, **content)


class _RunStream:
    """The pieces of a streamed answer."""

    def __init__(self, pieces: AsyncGenerator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._pieces, self._loop = pieces, loop

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        await self._pieces.aclose()

    def __iter__(self) -> Iterator[bytes]:
        while (piece := _from_thread(self._loop, partial(anext, self._pieces, None))) is not None:
            yield piece

    def close(self) -> None:
        _from_thread(self._loop, self._pieces.aclose)


def _from_thread(loop: asyncio.AbstractEventLoop, work: Callable[[], Awaitable[_ResultT]]) -> _ResultT:
    """The result of work on the loop of a run, for code in another thread."""

    async def awaited() -> _ResultT:
        return await work()

    if asyncio._get_running_loop() is loop:
        raise AgentError(
            "A sync client is called on the event loop of its run, which would wait for itself",
            remedy="Call it in a thread, `await asyncio.to_thread(...)`, or take an async client",
        )
    return asyncio.run_coroutine_threadsafe(awaited(), loop).result()
