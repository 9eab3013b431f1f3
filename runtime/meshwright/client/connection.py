"""Requests to a mesh: sent again where that is safe, their answers read as models, their streams resumed."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel

from meshwright.client.transports import (
    AsgiTransport,
    HttpTransport,
    MeshUnreachable,
    Request,
    Retries,
    error_of,
    no_mesh,
    server_events,
)
from meshwright.core.encoding import Struct
from meshwright.core.errors import Draining, MeshError, StoreUnavailable
from meshwright.core.messages import Event

ModelT = TypeVar("ModelT", bound=BaseModel | Struct)
DEFAULT_URL = "http://127.0.0.1:8000"
CALL_SECONDS = 60.0
_TRANSIENT = (MeshUnreachable, Draining, StoreUnavailable)


class RequestSender:
    """What a client sends through. `timeout` bounds a call, in seconds."""

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
        return self._read(kind, path, await self.call(method, path, **options))

    async def get_list(
        self, kind: type[ModelT], path: str, params: Mapping[str, Any] | None = None, **pages: int
    ) -> list[ModelT]:
        """The models that a route lists; `pages` are the options of `items`."""
        return [self._read(kind, path, item) async for item in self.items(path, params, **pages)]

    async def items(
        self, path: str, params: Mapping[str, Any] | None = None, *, limit: int = 0, page: int = 0
    ) -> AsyncGenerator[dict[str, Any]]:
        """The items that a route lists, page by page: all, or `limit` of them, `page` in each request."""
        count, cursor = 0, None
        while True:
            size = min(limit - count, page) if limit else page
            answer = await self.call(
                "GET", path, params={**(params or {}), "limit": size or None, "cursor": cursor}
            )
            if not isinstance(answer, dict) or not isinstance(items := answer.get("items"), list):
                raise no_mesh(self._transport.url + path, 200)
            for item in items:
                yield item
            count, cursor = count + len(items), answer.get("cursor")
            if cursor is None or (limit and count >= limit):
                return

    def _read(self, kind: type[ModelT], path: str, answer: Any) -> ModelT:
        try:
            return kind.model_validate(answer)
        except ValueError as error:  # of pydantic or msgspec
            raise no_mesh(self._transport.url + path, 200) from error

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
                    raise error_of(self._transport.url + path, response.status, text)
            except _TRANSIENT as error:
                if not self._reached or not (repeats or method == "GET"):
                    raise
                await tries.pause_after(error)

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
                        raise error_of(self._transport.url + path, response.status, text)
                    async with aclosing(server_events(response.chunks)) as received:
                        async for event in received:
                            tries = Retries()
                            after_seq = event.seq or after_seq
                            yield event
            except _TRANSIENT as error:
                if not self._reached:
                    raise
                problem = error
            await tries.pause_after(problem)

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        timeout: float | None = CALL_SECONDS,
    ) -> Request:
        query = {
            name: value.isoformat() if isinstance(value, datetime) else str(value)
            for name, value in (params or {}).items()
            if value is not None
        }
        content = b"" if body is None else json.dumps(body, default=str).encode()
        kind = {"Content-Type": "application/json"} if content else {}
        limit = self._timeout if timeout == CALL_SECONDS else timeout
        return Request(method, path, query, {**self._headers, **kind, **(headers or {})}, content, limit)


def _json(text: bytes, url: str, status: int) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError as error:
        raise no_mesh(url, status) from error
