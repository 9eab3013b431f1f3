"""The size that an answer of an MCP server at an address may have: the library reads any answer whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from meshwright.core.errors import MeshError
from meshwright.mcp.stdio import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from httpx2 import AsyncHTTPTransport


def bounded_transport() -> AsyncHTTPTransport:
    """A transport whose answers fail where they get over the limit, but for streams of events.

    The library bounds each event itself. A packed answer fails: a small one may unpack to anything.
    """
    from httpx2 import AsyncByteStream, AsyncHTTPTransport, Request, Response

    class Bounded(AsyncByteStream):
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
                response.stream = Bounded(response.stream)
            return response

    return Transport()
