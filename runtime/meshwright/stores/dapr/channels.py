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
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import grpc
import grpc.aio
from dapr.proto import api_service_v1, api_v1
from dapr.proto.runtime.v1 import appcallback_pb2 as wire
from google.protobuf.empty_pb2 import Empty
from grpc import StatusCode
from grpc.aio import EOF  # type: ignore[attr-defined]
from pydantic_core import from_json, to_json

from meshwright.clock import Backoff
from meshwright.envelope import ActorRef
from meshwright.errors import ConfigError, Draining, MeshError, NotFound, StoreUnavailable, TooLarge
from meshwright.stores.dapr.sidecar import (
    CALL,
    DELIVER,
    NEVER,
    RAW,
    RECONNECT_OPTIONS,
    TOKEN_HEADER,
    encode_error,
    encode_result,
)

logger = logging.getLogger("meshwright.dapr")

_STREAMS_SINCE = (1, 18)  # the first daprd that serves actors over a gRPC stream
LOOPBACK = "127.0.0.1"
_SEND_BYTES = 4 * 1024 * 1024
"""Of what we send to daprd: its own limit, where it is started without `--max-body-size`."""
RECEIVE_BYTES = 32 * 1024 * 1024
"""Of what daprd sends to us. A longer call would end the stream of calls, a longer message never be taken:
the limits of daprd and of the broker have to be well below."""
MAX_REPLY_BYTES = _SEND_BYTES - 64 * 1024  # something is wrapped around it
STOP_SECONDS = 10.0
"""What callbacks under way have to end, once a channel stops."""
ANSWER_SECONDS = 1
"""What the answers of callbacks that have ended have to leave."""
LEAVE_SECONDS = 0.2  # what daprd has to read our last answers on a stream
_HANDSHAKE_SECONDS = 10.0
_MAX_ATTEMPTS = 3  # to learn why daprd refuses our actors
_JSON_CONTENT = {"content-type": "application/json"}
_SIZES = [("grpc.max_receive_message_length", RECEIVE_BYTES), ("grpc.max_send_message_length", _SEND_BYTES)]
_GROUPED = wire.BulkSubscribeConfig(enabled=True, max_messages_count=100, max_await_duration_ms=1)
"""daprd hands a group over once the one before has been answered, so that a longer wait would win nothing."""
_STREAM_ENDED = (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError)
_NO_STREAM = {
    **NEVER,
    StatusCode.UNIMPLEMENTED: 'run daprd 1.18 or newer, or set dapr.channel = "http"',
    StatusCode.FAILED_PRECONDITION: "start daprd with --app-protocol grpc",
}


@dataclass(frozen=True, slots=True)
class TopicRoute:
    """A topic of a pub/sub component that daprd is to deliver to this app.

    `topic` is as the component's broker wants it: `$share/mesh/bus/default/task-results`, `bus/default/#`;
    `pattern` is our own name of it.
    Over grpc, messages of one that is `grouped` come together that arrive while others are under way, which
    costs half as much; each is still acknowledged for itself, once all of its group have an end.
    """

    pubsub: str
    topic: str
    pattern: str = ""
    grouped: bool = False


class ChannelApp(Protocol):
    """What a channel calls: see `AppCallbacks`. What it raises reaches daprd, or the caller."""

    @property
    def actor_types(self) -> Mapping[str, Sequence[str]]:
        """The names of the turns of each type of actor. CALL and DELIVER are there besides."""
        ...

    @property
    def routes(self) -> Sequence[TopicRoute]:
        """What daprd is to deliver."""
        ...

    async def on_topic(self, pubsub: str, topic: str, data: bytes) -> bool:
        """Take a message; whether it may be acknowledged."""
        ...

    async def on_actor(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        """Run a turn, or CALL or DELIVER with an encoded message as the body. JSON in, JSON out."""
        ...


def choose(version: str) -> Literal["grpc", "http"]:
    """The faster channel that a sidecar of this version can serve; "http" where the version says nothing.

    daprd has to be told the same, by `--app-protocol`.
    """
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return "grpc" if found and (int(found[1]), int(found[2])) >= _STREAMS_SINCE else "http"


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
        return _GrpcChannel(app_port, app_token, f"{LOOPBACK}:{sidecar_port}", api_token)
    from meshwright.stores.dapr.web import HttpChannel  # uvicorn and Starlette, where they are used

    return HttpChannel(app_port, app_token)


class Callbacks:
    """The app as a channel calls it: counted, and answered in a way that daprd understands.

    Actors wait until they are `served`; after `close` nothing is taken.
    """

    def __init__(self, app: ChannelApp) -> None:
        self.app = app
        self.served = asyncio.Event()
        self._turns = {kind: {*turns, CALL, DELIVER} for kind, turns in app.actor_types.items()}
        self._closed = False
        self._under_way = 0
        self._all_ended = asyncio.Event()
        for kind, turns in app.actor_types.items():
            for name in {CALL, DELIVER} & set(turns):
                raise ValueError(
                    f"{kind} has a turn named {name!r}, which workers on Dapr call one another by"
                )

    async def close(self) -> None:
        """Refuse what comes from now on, and wait STOP_SECONDS at most for what is under way."""
        self._closed = True
        self.served.set()
        if self._under_way:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_ended.wait(), STOP_SECONDS)

    async def topic(self, pubsub: str, topic: str, message: bytes) -> bool:
        """Give a message to the app; whether it may be acknowledged."""
        if self._closed:
            return False
        with self._counted():
            try:
                return await self.app.on_topic(pubsub, topic, _payload(message))
            except Exception as error:  # whatever it was, the message was not taken
                defect = None if isinstance(error, MeshError) else error
                logger.warning("a message on %s has to come again: %r", topic, error, exc_info=defect)
                return False

    async def actor(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        """Run a turn: for another worker, the reply holds what it returned or raised (see `decode_reply`).

        For anybody else it is plain JSON, never empty, and what the turn raises is raised.
        """
        is_between_workers = method in (CALL, DELIVER)
        try:
            reply = await self._turn(ref, method, body)
        except Exception as error:
            if not isinstance(error, MeshError):
                logger.warning("%s.%s has a defect", ref, method, exc_info=error)
            if not is_between_workers:
                raise
            return encode_error(error)
        return encode_result(reply) if is_between_workers else reply

    async def _turn(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        if method not in self._turns.get(ref.type, ()):
            raise NotFound(f"{ref} has no turn named {method!r} here", field="method")
        await self.served.wait()
        with self._counted():
            reply = await self.app.on_actor(ref, method, body or b"null") or b"null"
        if len(reply) > MAX_REPLY_BYTES:
            raise TooLarge(f"the reply of {ref}.{method} has {len(reply)} bytes, over {MAX_REPLY_BYTES}")
        return reply

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._closed:
            raise Draining("this worker is stopping", remedy="try again: another takes its place")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if self._closed and not self._under_way:
                self._all_ended.set()


class Channel(ABC):
    """Carries daprd's calls to an app. One channel, one app; once stopped it stays so.

    `port` is the app port; where 0 was asked for, known once `listen` has returned.
    """

    name: str
    """"grpc" or "http", as `--app-protocol` of daprd has to say."""

    def __init__(self, port: int, app_token: str) -> None:
        self.port = port
        self._app_token = app_token.encode()

    @abstractmethod
    async def listen(self, app: ChannelApp) -> None:
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
        self._callbacks: Callbacks | None = None
        self._server: grpc.aio.Server | None = None
        self._stream: _ActorStream | None = None

    async def listen(self, app: ChannelApp) -> None:
        """Open the app port. gRPC refuses calls of other names."""
        self._callbacks = Callbacks(app)
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
            self.port = self._server.add_insecure_port(f"{LOOPBACK}:{self.port}")
        except RuntimeError as error:
            raise self._port_taken(error) from error
        await self._server.start()

    async def serve_actors(self) -> None:
        """Open the stream."""
        assert self._callbacks is not None, "listen comes first"
        self._callbacks.served.set()
        self._stream = _ActorStream(self._sidecar, self._api_token, self._callbacks)
        await self._stream.open()

    async def stop(self) -> None:
        """Let callbacks end and their answers leave, then close."""
        if self._callbacks is not None:
            await self._callbacks.close()
        if self._stream is not None:
            await self._stream.close()
        if self._server is not None:
            await self._server.stop(ANSWER_SECONDS)

    async def _subscriptions(self, _: Empty, context: Any) -> wire.ListTopicSubscriptionsResponse:
        assert self._callbacks is not None
        wanted = [
            wire.TopicSubscription(
                pubsub_name=route.pubsub,
                topic=route.topic,
                metadata=RAW,
                bulk_subscribe=_GROUPED if route.grouped else None,
            )
            for route in self._callbacks.app.routes
        ]
        return wire.ListTopicSubscriptionsResponse(subscriptions=wanted)

    async def _message(self, request: wire.TopicEventRequest, context: Any) -> wire.TopicEventResponse:
        await self._check(context)
        assert self._callbacks is not None
        taken = await self._callbacks.topic(request.pubsub_name, request.topic, request.data)
        return wire.TopicEventResponse(status=_status(taken))

    async def _group(self, request: wire.TopicEventBulkRequest, context: Any) -> wire.TopicEventBulkResponse:
        """Messages that came while others were under way."""
        await self._check(context)
        assert self._callbacks is not None
        topic = self._callbacks.topic
        taken = await asyncio.gather(
            *(topic(request.pubsub_name, request.topic, entry.bytes) for entry in request.entries)
        )
        statuses = [
            wire.TopicEventBulkResponseEntry(entry_id=entry.entry_id, status=_status(is_taken))
            for entry, is_taken in zip(request.entries, taken, strict=True)
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
        self._backoff = Backoff(0.5, 30.0, jitter=0)
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Return once daprd has taken the types. Raises ConfigError or StoreUnavailable if it does not."""
        self._serving = asyncio.create_task(self._serve(), name="actor-stream")
        await self._registered

    async def close(self) -> None:
        """Send the answers that are due, then end the stream."""
        if self._answering:
            await asyncio.wait(self._answering, timeout=STOP_SECONDS)
        if self._stream is not None and self._serving is not None:
            with suppress(*_STREAM_ENDED):
                await self._stream.done_writing()
                await asyncio.wait({self._serving}, timeout=LEAVE_SECONDS)
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
                        continue
                    self._registered.set_exception(_refusal(error, self._address))
                    return
                pause = self._backoff.next()
                logger.warning("the stream of actor calls has ended, again in %g s: %s", pause, _said(error))
                await asyncio.sleep(pause)
                await channel.channel_ready()

    async def _run(self, stub: Any) -> None:
        """One stream: register, then answer until it ends."""
        stream = self._stream = stub.SubscribeActorEventsAlpha1(metadata=self._metadata)
        try:
            types = api_v1.SubscribeActorEventsRequestInitialAlpha1(
                entities=sorted(self._callbacks.app.actor_types)
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
        """Answer one callback. One that fails is told to daprd, which tells its caller."""
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
            message = f"{name_of(error)}: {error}"
            answer = {"id": request.id, "code": StatusCode.UNKNOWN.value[0], "message": message}
            field = "request_failed"
        fields: Any = {field: answer}
        reply = api_v1.SubscribeActorEventsRequestAlpha1(**fields)
        with suppress(*_STREAM_ENDED):
            async with self._writing:
                await stream.write(reply)


def name_of(error: Exception) -> str:
    """What an error is called on the wire."""
    return error.code if isinstance(error, MeshError) else type(error).__name__


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


def _payload(message: bytes) -> bytes:
    """The data of a CloudEvent, or the whole of a message that is none."""
    if b'"specversion"' not in message or not message.lstrip().startswith(b"{"):
        return message
    try:
        match from_json(message):
            case {"specversion": _, "id": _, "source": _, "type": _, "data_base64": str(data)}:
                return base64.b64decode(data, validate=True)
            case {"specversion": _, "id": _, "source": _, "type": _, "data": data, **rest}:
                is_text = "json" not in str(rest.get("datacontenttype", "json"))
                return data.encode() if isinstance(data, str) and is_text else to_json(data)
    except ValueError:  # neither JSON nor base64 after all
        pass
    return message
