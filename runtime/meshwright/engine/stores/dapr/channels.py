"""App channels: the two ways in which daprd calls this process. Both do the same, and neither decides.

`grpc` (daprd 1.18 and newer, `--app-protocol grpc`): daprd calls a server of ours with topics, and actors
over a stream that we open, whose end tells it at once that this worker is gone. `http` (any daprd): a web
server. On daprd 1.18 an HTTP call that meets an error of the transport may be reported to its caller as a
success with no body, or a message as acknowledged, that never ran (two at a time share what they note down).
Hence every actor reply has a body, an empty one is no reply, and senders ask again until they hear of a
message.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import itertools
import logging
import re
import socket
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import grpc
import grpc.aio
from dapr.proto import api_service_v1, api_v1
from dapr.proto.runtime.v1 import appcallback_pb2 as wire
from google.protobuf.empty_pb2 import Empty
from grpc import StatusCode
from grpc.aio import EOF  # type: ignore[attr-defined]
from pydantic_core import from_json, to_json

from meshwright.core.clock import Backoff
from meshwright.core.errors import ConfigError, MeshError, StoreUnavailable
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.stores.dapr.callbacks import SEND_BYTES, STOP_SECONDS, Callbacks
from meshwright.engine.stores.dapr.sidecar import NEVER, RAW, RECONNECT_OPTIONS, TOKEN_HEADER

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from meshwright.core.http_limits import LimitedServer

_logger = logging.getLogger("meshwright.dapr")

_STREAMS_SINCE = (1, 18)  # the first daprd that serves actors over a gRPC stream
_LOOPBACK = "127.0.0.1"
_RECEIVE_BYTES = 32 * 1024 * 1024
"""Of what daprd sends to us. A longer call would end the stream of calls, a longer message never be taken:
the limits of daprd and of the broker have to be well below."""
_ANSWER_SECONDS = 1
"""The time that the answers of ended callbacks have to leave."""
_LEAVE_SECONDS = 0.2  # what daprd has to read our last answers on a stream
_HANDSHAKE_SECONDS = 10.0
_MAX_ATTEMPTS = 20  # to learn why daprd refuses our actors
_ATTEMPT_SECONDS = 0.1  # between two of them
_KEEP_ALIVE_SECONDS = 120  # longer than daprd keeps a connection, so that it never writes to a closed one
_JSON_CONTENT = {"content-type": "application/json"}
_SIZES = [("grpc.max_receive_message_length", _RECEIVE_BYTES), ("grpc.max_send_message_length", SEND_BYTES)]
_GROUPED = wire.BulkSubscribeConfig(enabled=True, max_messages_count=100, max_await_duration_ms=1)
"""daprd hands a group over once the one before has been answered, so that a longer wait would win nothing."""
_STREAM_ENDED = (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError)
_NO_STREAM = {
    **NEVER,
    StatusCode.UNIMPLEMENTED: 'run daprd 1.18 or newer, or set dapr.channel = "http"',
    StatusCode.FAILED_PRECONDITION: "start daprd with --app-protocol grpc",
}


def choose(version: str) -> Literal["grpc", "http"]:
    """The faster channel that a sidecar of this version can serve; "http" where the version says nothing.

    daprd must get the same value, in `--app-protocol`.
    """
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return "grpc" if match and (int(match[1]), int(match[2])) >= _STREAMS_SINCE else "http"


def make_channel(
    name: Literal["grpc", "http"],
    *,
    app_port: int,
    sidecar_port: int,
    api_token: str = "",
    app_token: str = "",
) -> Channel:
    """Make a channel on `app_port` (0 takes any free one); nothing is opened yet.

    `sidecar_port` is daprd's gRPC port and `api_token` what it wants of us; `app_token` is what we want
    of it.
    """
    if name == "grpc":
        return _GrpcChannel(app_port, app_token, f"{_LOOPBACK}:{sidecar_port}", api_token)
    return HttpChannel(app_port, app_token)


class Channel(ABC):
    """Carries daprd's calls to a worker; once stopped it stays so.

    `port` is the app port; where 0 was asked for, known once `listen` has returned.
    """

    name: str
    """"grpc" or "http", as `--app-protocol` of daprd has to say."""

    _callbacks: Callbacks

    def __init__(self, port: int, app_token: str) -> None:
        self.port = port
        self._app_token = app_token.encode()

    @abstractmethod
    async def listen(self, callbacks: Callbacks) -> None:
        """Open the app port, on loopback; daprd may be up or not yet. Topics flow from here on.

        Raises ConfigError where the port cannot be had.
        """

    @abstractmethod
    async def serve_actors(self) -> None:
        """Take actor calls and reminders, now that daprd is up: none comes before.

        From then on the channel finds a sidecar that was away by itself, however long it was. Raises
        ConfigError or StoreUnavailable where the sidecar does not take them.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Take nothing new, let the callbacks under way end within STOP_SECONDS, and close the port."""

    def _is_known(self, token: str | bytes) -> bool:
        sent = token.encode() if isinstance(token, str) else token
        return hmac.compare_digest(sent, self._app_token) or not self._app_token

    def _port_taken(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"the app port {self.port} cannot be listened on: {error}",
            remedy="end what uses it, or give the worker and its sidecar another",
            field="APP_PORT",
        )


class _GrpcChannel(Channel):
    """For daprd 1.18 and newer. Only messages carry the token: daprd asks the rest without."""

    name = "grpc"

    def __init__(self, port: int, app_token: str, sidecar: str, api_token: str) -> None:
        super().__init__(port, app_token)
        self._sidecar = sidecar
        self._api_token = api_token
        self._server: grpc.aio.Server | None = None
        self._stream: _ActorStream | None = None

    async def listen(self, callbacks: Callbacks) -> None:
        """Open the app port. gRPC refuses calls of other names."""
        self._callbacks = callbacks
        topics = {
            "ListTopicSubscriptions": _call(self._subscriptions, Empty, wire.ListTopicSubscriptionsResponse),
            "OnTopicEvent": _call(self._message, wire.TopicEventRequest, wire.TopicEventResponse),
            "OnBulkTopicEvent": _call(self._group, wire.TopicEventBulkRequest, wire.TopicEventBulkResponse),
        }
        health = {"HealthCheck": _call(self._health, Empty, wire.HealthCheckResponse)}
        reuse_port = ("grpc.so_reuseport", 0)  # a port that is taken has to be an error
        self._server = grpc.aio.server(options=[*_SIZES, reuse_port])
        for name, methods in (("AppCallback", topics), ("AppCallbackHealthCheck", health)):
            handler = grpc.method_handlers_generic_handler(f"dapr.proto.runtime.v1.{name}", methods)
            self._server.add_generic_rpc_handlers((handler,))
        try:
            self.port = self._server.add_insecure_port(f"{_LOOPBACK}:{self.port}")
        except RuntimeError as error:
            raise self._port_taken(error) from error
        await self._server.start()

    async def serve_actors(self) -> None:
        self._callbacks.served.set()
        self._stream = _ActorStream(self._sidecar, self._api_token, self._callbacks)
        await self._stream.open()

    async def stop(self) -> None:
        """Let callbacks end and their answers leave, then close."""
        await self._callbacks.close()
        if self._stream is not None:
            await self._stream.close()
        if self._server is not None:
            await self._server.stop(_ANSWER_SECONDS)

    async def _subscriptions(self, _: Empty, context: Any) -> wire.ListTopicSubscriptionsResponse:
        subscriptions = [
            wire.TopicSubscription(
                pubsub_name=route.pubsub,
                topic=route.topic,
                metadata=RAW,
                bulk_subscribe=_GROUPED if route.grouped else None,
            )
            for route in self._callbacks.routes
        ]
        return wire.ListTopicSubscriptionsResponse(subscriptions=subscriptions)

    async def _message(self, request: wire.TopicEventRequest, context: Any) -> wire.TopicEventResponse:
        await self._check(context)
        is_taken = await self._callbacks.topic(request.pubsub_name, request.topic, request.data)
        return wire.TopicEventResponse(status=_status(is_taken))

    async def _group(self, request: wire.TopicEventBulkRequest, context: Any) -> wire.TopicEventBulkResponse:
        """Messages that came while others were under way."""
        await self._check(context)
        topic = self._callbacks.topic
        results = await asyncio.gather(
            *(topic(request.pubsub_name, request.topic, entry.bytes) for entry in request.entries)
        )
        statuses = [
            wire.TopicEventBulkResponseEntry(entry_id=entry.entry_id, status=_status(is_taken))
            for entry, is_taken in zip(request.entries, results, strict=True)
        ]
        return wire.TopicEventBulkResponse(statuses=statuses)

    async def _health(self, _: Empty, context: Any) -> wire.HealthCheckResponse:
        """Answering is enough."""
        return wire.HealthCheckResponse()

    async def _check(self, context: Any) -> None:
        if not self._is_known(dict(context.invocation_metadata()).get(TOKEN_HEADER, "")):
            await context.abort(StatusCode.UNAUTHENTICATED, "this is not the token of APP_API_TOKEN")


class _ActorStream:
    """Serves the actors of an app over a stream to daprd, opened again whenever it ends."""

    def __init__(self, address: str, token: str, callbacks: Callbacks) -> None:
        self._address = address
        self._metadata = ((TOKEN_HEADER, token),)
        self._callbacks = callbacks
        self._registered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._serving: asyncio.Task[None] | None = None
        self._stream: Any = None
        self._writing = asyncio.Lock()
        self._is_closing = False
        self._backoff = Backoff(0.5, 30.0, jitter=0)
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Return once daprd has taken the types. Raises ConfigError or StoreUnavailable if it does not."""
        self._serving = asyncio.create_task(self._serve(), name="actor-stream")
        await self._registered

    async def close(self) -> None:
        """Send the answers that are due, then end the stream."""
        self._is_closing = True
        if self._answering:
            await asyncio.wait(self._answering, timeout=STOP_SECONDS)
        if self._stream is not None and self._serving is not None:
            with suppress(*_STREAM_ENDED):
                await self._stream.done_writing()
                await asyncio.wait({self._serving}, timeout=_LEAVE_SECONDS)
        for task in (*self._answering, *filter(None, [self._serving])):
            task.cancel()
        if self._serving is not None:
            await asyncio.wait({self._serving})

    async def _serve(self) -> None:
        async with grpc.aio.insecure_channel(self._address, [*_SIZES, *RECONNECT_OPTIONS]) as channel:
            for attempt in itertools.count(1):
                try:
                    await self._run(api_service_v1.DaprStub(channel))
                    error: Exception = StoreUnavailable("daprd closed it")
                except Exception as caught:  # noqa: BLE001 whatever ended it, the actors have to come back
                    error = caught
                if not self._registered.done():
                    if _is_unexplained(error) and attempt < _MAX_ATTEMPTS:
                        await asyncio.sleep(_ATTEMPT_SECONDS)
                        continue
                    self._registered.set_exception(_refusal(error, self._address))
                    return
                if self._is_closing:
                    return
                pause = self._backoff.next()
                _logger.warning("the stream of actor calls has ended, again in %g s: %s", pause, _said(error))
                await asyncio.sleep(pause)
                await channel.channel_ready()

    async def _run(self, stub: Any) -> None:
        """One stream: register, then answer until it ends."""
        stream = self._stream = stub.SubscribeActorEventsAlpha1(metadata=self._metadata)
        try:
            types = api_v1.SubscribeActorEventsRequestInitialAlpha1(
                entities=sorted(self._callbacks.actor_types)
            )
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                await stream.write(api_v1.SubscribeActorEventsRequestAlpha1(initial_request=types))
                if await stream.read() is EOF:
                    return
            self._backoff.reset()
            if not self._registered.done():
                self._registered.set_result(None)
            while (message := await stream.read()) is not EOF:
                task = asyncio.create_task(self._answer(stream, message))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
        finally:
            self._stream = None
            stream.cancel()

    async def _answer(self, stream: Any, message: Any) -> None:
        """Answer one callback. An error goes to daprd, which returns it to its caller."""
        kind = message.WhichOneof("response_type")
        if kind is None:
            return
        request = getattr(message, kind)
        answer: dict[str, Any]
        try:
            if kind == "invoke_request":
                ref = ActorRef(request.actor_type, request.actor_id)
                data = await self._callbacks.actor(ref, request.method, request.data)
                answer = {"id": request.id, "data": data, "metadata": _JSON_CONTENT}
            else:
                answer = {"id": request.id}
            field = kind.replace("request", "response")
        except Exception as error:  # noqa: BLE001 what a turn raises is its caller's
            message = f"{_wire_name(error)}: {error}"
            answer = {"id": request.id, "code": StatusCode.UNKNOWN.value[0], "message": message}
            field = "request_failed"
        fields: Any = {field: answer}
        reply = api_v1.SubscribeActorEventsRequestAlpha1(**fields)
        with suppress(*_STREAM_ENDED):
            async with self._writing:
                await stream.write(reply)


def _call(method: Any, request: Any, reply: Any) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(method, request.FromString, reply.SerializeToString)


def _status(is_taken: bool) -> Any:
    return wire.TopicEventResponse.SUCCESS if is_taken else wire.TopicEventResponse.RETRY


def _refusal(error: Exception, address: str) -> MeshError:
    message = f"the sidecar on {address} does not take our actors: {_said(error)}"
    if isinstance(error, grpc.aio.AioRpcError) and error.code() in _NO_STREAM:
        return ConfigError(message, remedy=_NO_STREAM[error.code()])
    return StoreUnavailable(message)


def _is_unexplained(error: Exception) -> bool:
    """gRPC knows no reason where daprd ended the stream before the first message was sent: ask again."""
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is StatusCode.INTERNAL


def _said(error: Exception) -> str:
    """An error in one line, where gRPC would take four."""
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or repr(error)


def _wire_name(error: Exception) -> str:
    """The name of an error on the wire."""
    return error.code if isinstance(error, MeshError) else type(error).__name__


class HttpChannel(Channel):
    """For any daprd, with `--app-protocol http`."""

    name = "http"

    def __init__(self, port: int, app_token: str) -> None:
        super().__init__(port, app_token)
        self._server: LimitedServer | None = None

    async def listen(self, callbacks: Callbacks) -> None:
        """Open the app port. daprd asks for the types once, when it sees it."""
        self._callbacks = callbacks
        from meshwright.core.http_limits import LimitedServer  # uvicorn, where it is used

        try:
            listener = socket.create_server((_LOOPBACK, self.port))
        except OSError as error:
            raise self._port_taken(error) from error
        # Its connections inherit it; asyncio would not see that they are TCP, and each answer wait for 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = listener.getsockname()[1]
        self._server = LimitedServer(
            self._serve,
            interface="asgi3",
            keep_alive_seconds=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_ANSWER_SECONDS,
        )
        await self._server.start(listener)

    async def serve_actors(self) -> None:
        """Let actor calls through."""
        self._callbacks.served.set()

    async def stop(self) -> None:
        """Let callbacks end, then close."""
        await self._callbacks.close()
        if self._server is not None:
            await self._server.close()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = dict(scope["headers"]).get(TOKEN_HEADER.encode(), b"")
        if scope["path"] != "/healthz" and not self._is_known(token):
            status, body = 401, b'{"message":"wrong APP_API_TOKEN"}'
        elif (data := await _body(receive)) is None:
            status, body = 413, b'{"message":"more than %d bytes"}' % _RECEIVE_BYTES
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
        if size > _RECEIVE_BYTES:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


async def _answer(callbacks: Callbacks, method: str, path: list[str], body: bytes) -> tuple[int, bytes]:
    """Serves what daprd asks for: health, the types, the topics, a path for each topic, and actors."""
    match method, path:
        case "GET", ["healthz"]:
            return 200, b'{"status":"ok"}'
        case "GET", ["dapr", "config"]:
            return 200, to_json({"entities": sorted(callbacks.actor_types)})
        case "GET", ["dapr", "subscribe"]:
            subscriptions = [
                {"pubsubname": route.pubsub, "topic": route.topic, "route": f"/topics/{n}", "metadata": RAW}
                for n, route in enumerate(callbacks.routes)
            ]
            return 200, to_json(subscriptions)
        case "POST", ["topics", _]:
            try:
                event = from_json(body)
                component, topic = str(event["pubsubname"]), str(event["topic"])
                data = base64.b64decode(event["data_base64"])
            except (ValueError, KeyError, TypeError):
                return 400, b'{"message":"this is not how daprd hands on a message"}'
            is_taken = await callbacks.topic(component, topic, data)
            return 200, b'{"status":"SUCCESS"}' if is_taken else b'{"status":"RETRY"}'
        case "PUT", ["actors", kind, name, "method", turn]:
            try:
                return 200, await callbacks.actor(ActorRef(kind, name), turn, body)
            except Exception as error:  # noqa: BLE001 what a turn raises is its caller's
                code = _wire_name(error)
                return 500, to_json({"message": f"{code}: {error}", "errorCode": code})
        case "DELETE" | "PUT", ["actors", *_]:
            return 200, b"{}"  # it deactivates one, or a timer or reminder of others rings
    return 404, b'{"message":"Not Found"}'
