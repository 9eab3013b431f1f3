"""A proxy before a service that a test changes: of one change the service's answer never comes back."""

from __future__ import annotations

import asyncio
import ssl
from typing import Self

import aiohttp
from aiohttp import web

_OF_A_CONNECTION = {"host", "connection", "transfer-encoding", "content-length", "content-encoding"}


class LosingProxy:
    """Passes requests on. The next change after `lose` is made, and its answer lost; `lost` is set then."""

    def __init__(self, target: str, tls: ssl.SSLContext | None = None) -> None:
        self._target, self._tls = target.rstrip("/"), tls
        self._loses = False
        self.lost, self._over = asyncio.Event(), asyncio.Event()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False))
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._over.set()  # a program that outlives the mesh, such as kubectl, waits for the answer until now
        await self._runner.cleanup()
        await self._session.close()

    def lose(self) -> None:
        self._loses = True

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if is_passed_on(name)}
        loses = self._loses and request.method not in ("GET", "HEAD")
        self._loses = self._loses and not loses
        async with self._session.request(
            request.method,
            self._target + request.raw_path,
            headers=headers,
            data=await request.read() or None,  # with an empty body goes a type, which Kubernetes refuses
            allow_redirects=False,
        ) as answer:
            body = await answer.read()
        if loses:
            self.lost.set()
            await self._over.wait()
        passed = {name: value for name, value in answer.headers.items() if is_passed_on(name)}
        return web.Response(status=answer.status, body=body, headers=passed)


def is_passed_on(header: str) -> bool:
    return header.lower() not in _OF_A_CONNECTION
