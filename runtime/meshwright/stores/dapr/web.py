"""The HTTP channel: daprd calls a web server of ours with topics and actors. See `channels`."""

from __future__ import annotations

import base64
import socket

from pydantic_core import from_json, to_json
from starlette.types import Receive, Scope, Send

from meshwright.envelope import ActorRef
from meshwright.http_limits import LimitedServer
from meshwright.stores.dapr.channels import (
    ANSWER_SECONDS,
    LOOPBACK,
    RECEIVE_BYTES,
    Callbacks,
    Channel,
    ChannelApp,
    name_of,
)
from meshwright.stores.dapr.sidecar import RAW, TOKEN_HEADER

_KEEP_ALIVE_SECONDS = 120  # longer than daprd keeps a connection, so that it never writes to a closed one
_Answer = tuple[int, bytes]


class HttpChannel(Channel):
    """For any daprd, with `--app-protocol http`."""

    name = "http"

    def __init__(self, port: int, app_token: str) -> None:
        super().__init__(port, app_token)
        self._callbacks: Callbacks | None = None
        self._server: LimitedServer | None = None

    async def listen(self, app: ChannelApp) -> None:
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
            self._serve,
            interface="asgi3",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
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

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http" and self._callbacks is not None
        token = dict(scope["headers"]).get(TOKEN_HEADER.encode(), b"")
        if scope["path"] != "/healthz" and not self._is_known(token):
            status, body = 401, b'{"message":"wrong APP_API_TOKEN"}'
        elif (data := await _body(receive)) is None:
            status, body = 413, b'{"message":"more than %d bytes"}' % RECEIVE_BYTES
        else:
            status, body = await _answer(self._callbacks, scope["method"], scope["path"].split("/")[1:], data)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers, "trailers": False})
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _body(receive: Receive) -> bytes | None:
    """A body, read whole; None where it is too long, whatever its header says."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > RECEIVE_BYTES:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


async def _answer(callbacks: Callbacks, method: str, path: list[str], body: bytes) -> _Answer:
    """What daprd asks for: health, the types, the topics, a path for each topic, and actors."""
    match method, path:
        case "GET", ["healthz"]:
            return 200, b'{"status":"ok"}'
        case "GET", ["dapr", "config"]:
            return 200, to_json({"entities": sorted(callbacks.app.actor_types)})
        case "GET", ["dapr", "subscribe"]:
            wanted = [
                {"pubsubname": route.pubsub, "topic": route.topic, "route": f"/topics/{n}", "metadata": RAW}
                for n, route in enumerate(callbacks.app.routes)
            ]
            return 200, to_json(wanted)
        case "POST", ["topics", _]:
            event = from_json(body)
            data = base64.b64decode(event["data_base64"])
            taken = await callbacks.topic(event["pubsubname"], event["topic"], data)
            return 200, b'{"status":"SUCCESS"}' if taken else b'{"status":"RETRY"}'
        case "PUT", ["actors", kind, name, "method", turn]:
            try:
                return 200, await callbacks.actor(ActorRef(kind, name), turn, body)
            except Exception as error:  # noqa: BLE001 what a turn raises is its caller's
                code = name_of(error)
                return 500, to_json({"message": f"{code}: {error}", "errorCode": code})
        case (
            ("DELETE" | "PUT"),
            ["actors", *_],
        ):  # it deactivates one, or a timer or reminder of others rings
            return 200, b"{}"
    return 404, b'{"message":"Not Found"}'
