"""The gRPC channel: daprd calls a server of ours with topics, and actors over a stream that we open."""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

import grpc
import grpc.aio
from dapr.proto.runtime.v1 import appcallback_pb2 as wire
from google.protobuf.empty_pb2 import Empty
from grpc import StatusCode

from meshwright.hosts.dapr.channels.actors import register
from meshwright.hosts.dapr.channels.callbacks import Callbacks
from meshwright.hosts.dapr.channels.port import (
    ANSWER_SECONDS,
    LOOPBACK,
    RAW,
    RECEIVE_BYTES,
    SEND_BYTES,
    TOKEN_HEADER,
    App,
    port_taken,
)
from meshwright.hosts.dapr.channels.stream import ActorStream

TOPICS = "dapr.proto.runtime.v1.AppCallback"
HEALTH = "dapr.proto.runtime.v1.AppCallbackHealthCheck"
GROUPED = wire.BulkSubscribeConfig(enabled=True, max_messages_count=100, max_await_duration_ms=1)
"""daprd hands a group over once the one before has been answered, so that a longer wait would win nothing."""
OPTIONS = [
    ("grpc.max_receive_message_length", RECEIVE_BYTES),
    ("grpc.max_send_message_length", SEND_BYTES),
    ("grpc.so_reuseport", 0),  # a port that is taken has to be an error
]


class GrpcChannel:
    """For daprd 1.18 and newer, with `--app-protocol grpc`."""

    name = "grpc"

    def __init__(self, port: int, sidecar_port: int, *, api_token: str = "", app_token: str = "") -> None:
        self.port = port
        self._sidecar = f"{LOOPBACK}:{sidecar_port}"
        self._api_token = api_token
        self._app_token = app_token
        self._callbacks: Callbacks | None = None
        self._server: grpc.aio.Server | None = None
        self._actors: ActorStream | None = None

    async def listen(self, app: App) -> None:
        """Open the app port."""
        await register(app.actor_types)
        self._callbacks = Callbacks(app)
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers(AppCallback(app, self._callbacks, self._app_token).handlers())
        try:
            self.port = self._server.add_insecure_port(f"{LOOPBACK}:{self.port}")
        except RuntimeError as error:
            raise port_taken(self.port, error) from error
        await self._server.start()

    async def serve_actors(self) -> None:
        """Open the stream."""
        assert self._callbacks is not None, "listen comes first"
        self._callbacks.serve_actors()
        self._actors = ActorStream(self._sidecar, self._api_token, self._callbacks)
        await self._actors.open()

    async def stop(self) -> None:
        """Let callbacks end and their answers leave, then close."""
        if self._callbacks is not None:
            await self._callbacks.close()
        if self._actors is not None:
            await self._actors.close()
        if self._server is not None:
            await self._server.stop(ANSWER_SECONDS)


class AppCallback:
    """What daprd may call on the app port: which topics we want, their messages, and whether we live.

    Only messages carry the token: daprd asks the rest without.
    """

    def __init__(self, app: App, callbacks: Callbacks, token: str) -> None:
        self._app = app
        self._callbacks = callbacks
        self._token = token.encode()

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """The calls by their names on the wire; gRPC refuses all others."""
        topics = {
            "ListTopicSubscriptions": _call(self.subscriptions, Empty, wire.ListTopicSubscriptionsResponse),
            "OnTopicEvent": _call(self.message, wire.TopicEventRequest, wire.TopicEventResponse),
            "OnBulkTopicEvent": _call(self.messages, wire.TopicEventBulkRequest, wire.TopicEventBulkResponse),
        }
        health = {"HealthCheck": _call(self.health, Empty, wire.HealthCheckResponse)}
        generic = grpc.method_handlers_generic_handler
        return generic(TOPICS, topics), generic(HEALTH, health)

    async def subscriptions(self, _: Empty, context: Any) -> wire.ListTopicSubscriptionsResponse:
        """The topics that daprd is to subscribe to."""
        wanted = [
            wire.TopicSubscription(
                pubsub_name=route.pubsub,
                topic=route.topic,
                metadata=RAW,
                bulk_subscribe=GROUPED if route.grouped else None,
            )
            for route in self._app.routes
        ]
        return wire.ListTopicSubscriptionsResponse(subscriptions=wanted)

    async def message(self, request: wire.TopicEventRequest, context: Any) -> wire.TopicEventResponse:
        """A message of one of them."""
        await self._check(context)
        taken = await self._callbacks.topic(request.pubsub_name, request.topic, request.data)
        answer = wire.TopicEventResponse
        return answer(status=answer.SUCCESS if taken else answer.RETRY)

    async def messages(
        self, request: wire.TopicEventBulkRequest, context: Any
    ) -> wire.TopicEventBulkResponse:
        """Messages of one of them that came while others were under way."""
        await self._check(context)
        entries = request.entries
        taken = await asyncio.gather(
            *(self._callbacks.topic(request.pubsub_name, request.topic, entry.bytes) for entry in entries)
        )
        answer = wire.TopicEventResponse
        statuses = [
            wire.TopicEventBulkResponseEntry(
                entry_id=entry.entry_id, status=answer.SUCCESS if each else answer.RETRY
            )
            for entry, each in zip(entries, taken, strict=True)
        ]
        return wire.TopicEventBulkResponse(statuses=statuses)

    async def _check(self, context: Any) -> None:
        sent = dict(context.invocation_metadata()).get(TOKEN_HEADER, "")
        if not hmac.compare_digest(sent.encode(), self._token) and self._token:
            await context.abort(StatusCode.UNAUTHENTICATED, "this is not the token of APP_API_TOKEN")

    async def health(self, _: Empty, context: Any) -> wire.HealthCheckResponse:
        """Answering is enough."""
        return wire.HealthCheckResponse()


def _call(method: Any, request: Any, reply: Any) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(method, request.FromString, reply.SerializeToString)
