"""The HTTP channel: daprd calls a web server of ours with topics and actors, by the SDK's FastAPI extension.

On daprd 1.18 a call that meets an error of the transport may be reported to its caller as a success with no
body, or a message as acked, that never ran (two at a time share what they note down). Hence every actor
reply has a body, an empty one is no reply, and senders ask again until they hear of a message.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from dapr.ext.fastapi import DaprActor, DaprApp
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshwright.hosts.dapr.channels.actors import hosted, register
from meshwright.hosts.dapr.channels.callbacks import Callbacks
from meshwright.hosts.dapr.channels.port import (
    ANSWER_SECONDS,
    LOOPBACK,
    RAW,
    RECEIVE_BYTES,
    TOKEN_HEADER,
    App,
    port_taken,
)
from meshwright.http_limits import LimitedProtocol

KEEP_ALIVE_SECONDS = 120  # longer than daprd keeps a connection, so that it never writes to a closed one
HEALTH = "/healthz"


class HttpChannel:
    """For any daprd, with `--app-protocol http`."""

    name = "http"

    def __init__(self, port: int, *, app_token: str = "") -> None:
        self.port = port
        self._app_token = app_token
        self._callbacks: Callbacks | None = None
        self._server: Server | None = None
        self._running: asyncio.Task[None] | None = None

    async def listen(self, app: App) -> None:
        """Open the app port. The types are registered first: daprd asks for them once, when it sees it."""
        await register(app.actor_types)
        self._callbacks = Callbacks(app)
        listener = _listen(self.port)
        self.port = listener.getsockname()[1]
        self._server = Server(Guard(make_web(app, self._callbacks), self._callbacks, self._app_token))
        self._running = asyncio.create_task(self._server.serve([listener]), name="app-channel")

    async def serve_actors(self) -> None:
        """Let actor calls through."""
        assert self._callbacks is not None, "listen comes first"
        self._callbacks.serve_actors()

    async def stop(self) -> None:
        """Let callbacks end, then close."""
        if self._callbacks is not None:
            await self._callbacks.close()
        if self._server is not None and self._running is not None:
            self._server.should_exit = True
            await self._running


def make_web(app: App, callbacks: Callbacks) -> FastAPI:
    """The routes that daprd asks for: actors and health by the SDK, and a path for each topic."""
    web = FastAPI(openapi_url=None)
    DaprActor(web)
    topics = DaprApp(web)

    async def take(request: Request) -> Response:
        event = from_json(await request.body())
        message = base64.b64decode(event["data_base64"])
        taken = await callbacks.topic(event["pubsubname"], event["topic"], message)
        return JSONResponse({"status": "SUCCESS" if taken else "RETRY"})

    for n, route in enumerate(app.routes):
        topics.subscribe(route.pubsub, route.topic, metadata=RAW, route=f"/topics/{n}")(take)
    return web


class Guard:
    """Lets in who has the token and no more than a message's bytes, and says whose actors are meant.

    `/healthz` is open, since daprd asks for it without the token.
    """

    def __init__(self, web: ASGIApp, callbacks: Callbacks, token: str) -> None:
        self._web = web
        self._callbacks = callbacks
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request with 401, or pass it on."""
        headers = dict(scope["headers"])
        sent = headers.get(TOKEN_HEADER.encode(), b"")
        if self._token and scope["path"] != HEALTH and not hmac.compare_digest(sent, self._token):
            return await JSONResponse({"message": "wrong APP_API_TOKEN"}, 401)(scope, receive, send)
        hosted.set(self._callbacks)
        await self._web(scope, _bounded(receive), send)


def _bounded(receive: Receive) -> Receive:
    """Stop reading a body that is too long, whatever its header says."""
    read = 0

    async def bounded() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > RECEIVE_BYTES:
            raise HTTPException(413, f"more than {RECEIVE_BYTES} bytes")
        return message

    return bounded


def _listen(port: int) -> socket.socket:
    try:
        listener = socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise port_taken(port, error) from error
    # Its connections inherit it; asyncio would not see that they are TCP, and each answer wait for 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class Server(uvicorn.Server):
    """Uvicorn in our loop: signals are left to whoever runs the process."""

    def __init__(self, web: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                web,
                http=LimitedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=ANSWER_SECONDS,
            )
        )

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone."""
        yield
