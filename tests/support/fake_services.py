"""A base of fakes of services that speak JSON over HTTP, on a real socket of this machine, and their faults.

A fake speaks the documented wire of a service that tests cannot reach; each says which. `faults` are answered
first, one for each request, in order, and `faults_of_changes` for each but a GET; `requests` keeps what came.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from aiohttp import web
from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parent / "schemas"

ENDED = web.AppKey("ENDED", asyncio.Event)
Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Received(NamedTuple):
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]
    body: Any


class FakeService:
    """Subclasses add routes to `app`. Paths are as they came, still quoted. A `port` of 0 is any free one."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.app = web.Application(middlewares=[self._answer])
        self.app[ENDED] = asyncio.Event()
        self.faults: deque[Fault] = deque()
        self.faults_of_changes: deque[Fault] = deque()
        self.requests: list[Received] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._runner = web.AppRunner(self.app, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self.app[ENDED].set()
        await self._runner.cleanup()

    @property
    def asked(self) -> list[str]:
        """Method and path of each request."""
        return [f"{request.method} {request.path}" for request in self.requests]

    @web.middleware
    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        query = [*request.query.items()]
        self.requests.append(Received(request.method, request.raw_path, query, request.headers.copy(), body))
        if self.faults:
            return await self.faults.popleft()(request)
        if self.faults_of_changes and request.method != "GET":
            return await self.faults_of_changes.popleft()(request)
        return await handler(request)


class Published:
    """The schemas that the project of a service has published, of `tests/support/schemas`."""

    def __init__(self, name: str) -> None:
        whole = json.loads((SCHEMAS / name).read_text())
        self._definitions = {"definitions": whole["definitions"]}
        self._kinds = whole["kinds"]

    def checked(self, kind: str, data: Any) -> Any:
        """The data, if it is of a kind. Fails the test where a fake would say something else."""
        Draft202012Validator(self._kinds[kind] | self._definitions).validate(data)
        return data

    def fits(self, kind: str, data: Any) -> bool:
        return Draft202012Validator(self._kinds[kind] | self._definitions).is_valid(data)


def answering(status: int, text: str = "", **headers: str) -> Fault:
    """A status with a body, and headers (`Retry_After="1"`)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=text, headers=named)

    return answer


def redirecting(to: str) -> Fault:
    return answering(302, Location=to)


async def cut_off(request: web.Request) -> web.StreamResponse:
    """A body that ends before its length."""
    response = web.StreamResponse(headers={"Content-Length": "100", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"data": ')
    assert request.transport is not None
    request.transport.close()
    return response


async def hung_up(request: web.Request) -> web.StreamResponse:
    """No answer: the connection is closed once the request is there."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def silent(request: web.Request) -> web.StreamResponse:
    """No answer until the fake ends."""
    await request.app[ENDED].wait()
    return web.Response()


async def endless(request: web.Request) -> web.StreamResponse:
    """A body without an end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b'"' + b"x" * 65_536)
