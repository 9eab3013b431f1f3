"""The HTTP channel: daprd calls a web server of ours with topics and actors. See `channels`."""

from __future__ import annotations

import base64
import socket

from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshwright.envelope import ActorRef
from meshwright.errors import MeshError
from meshwright.http_limits import LimitedServer
from meshwright.stores.dapr.channels import (
    ANSWER_SECONDS,
    KEEP_ALIVE_SECONDS,
    LOOPBACK,
    RECEIVE_BYTES,
    App,
    Callbacks,
    Channel,
)
from meshwright.stores.dapr.sidecar import RAW, TOKEN_HEADER

_HEALTH = "/healthz"


class HttpChannel(Channel):
    """For any daprd, with `--app-protocol http`."""

    name = "http"

    def __init__(self, port: int, app_token: str) -> None:
        super().__init__(port, app_token)
        self._callbacks: Callbacks | None = None
        self._server: LimitedServer | None = None

    async def listen(self, app: App) -> None:
        """Open the app port. daprd asks for the types once, when it sees it."""
        self._callbacks = Callbacks(app)
        try:
            listener = socket.create_server((LOOPBACK, self.port))
        except OSError as error:
            raise self._port_taken(error) from error
        # Its connections inherit it; asyncio would not see that they are TCP, and each answer wait for 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = listener.getsockname()[1]
        self._server = LimitedServer(
            self._guarded(_web(self._callbacks)),
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=ANSWER_SECONDS,
        )
        await self._server.start(listener)

    async def serve_actors(self) -> None:
        """Let actor calls through."""
        assert self._callbacks is not None, "listen comes first"
        self._callbacks.served.set()

    async def stop(self) -> None:
        """Let callbacks end, then close."""
        if self._callbacks is not None:
            await self._callbacks.close()
        if self._server is not None:
            await self._server.close()

    def _guarded(self, web: ASGIApp) -> ASGIApp:
        """Let in who has the token and no more than a message's bytes; /healthz is open."""

        async def guard(scope: Scope, receive: Receive, send: Send) -> None:
            token = dict(scope["headers"]).get(TOKEN_HEADER.encode(), b"")
            if scope["path"] != _HEALTH and not self._is_known(token):
                await JSONResponse({"message": "wrong APP_API_TOKEN"}, 401)(scope, receive, send)
            else:
                await web(scope, _bounded(receive), send)

        return guard


def _web(callbacks: Callbacks) -> Starlette:
    """The routes that daprd asks for: health, the types, the topics, a path for each topic, and actors."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def types(request: Request) -> Response:
        return JSONResponse({"entities": sorted(callbacks.app.actor_types)})

    async def subscriptions(request: Request) -> Response:
        routes = enumerate(callbacks.app.routes)
        return JSONResponse(
            [
                {"pubsubname": route.pubsub, "topic": route.topic, "route": f"/topics/{n}", "metadata": RAW}
                for n, route in routes
            ]
        )

    async def message(request: Request) -> Response:
        event = from_json(await request.body())
        data = base64.b64decode(event["data_base64"])
        taken = await callbacks.topic(event["pubsubname"], event["topic"], data)
        return JSONResponse({"status": "SUCCESS" if taken else "RETRY"})

    async def turn(request: Request) -> Response:
        where = request.path_params
        try:
            reply = await callbacks.actor(_ref(request), where["method"], await request.body())
        except Exception as error:  # noqa: BLE001 what a turn raises is its caller's
            name = error.code if isinstance(error, MeshError) else type(error).__name__
            return JSONResponse({"message": f"{name}: {error}", "errorCode": name}, 500)
        return Response(reply, media_type="application/json")

    async def reminder(request: Request) -> Response:
        await callbacks.reminder(_ref(request), request.path_params["name"])
        return JSONResponse({})

    async def deactivate(request: Request) -> Response:
        return JSONResponse({})

    actor = "/actors/{type}/{id}"
    return Starlette(
        routes=[
            Path(_HEALTH, health),
            Path("/dapr/config", types),
            Path("/dapr/subscribe", subscriptions),
            Path("/topics/{n:int}", message, methods=["POST"]),
            Path(f"{actor}/method/remind/{{name}}", reminder, methods=["PUT"]),
            Path(f"{actor}/method/timer/{{name}}", deactivate, methods=["PUT"]),
            Path(f"{actor}/method/{{method}}", turn, methods=["PUT"]),
            Path(actor, deactivate, methods=["DELETE"]),
        ]
    )


def _ref(request: Request) -> ActorRef:
    return ActorRef(request.path_params["type"], request.path_params["id"])


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
