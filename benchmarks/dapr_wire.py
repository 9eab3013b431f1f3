"""What the floor on Dapr needs of gRPC: calls in groups, the app's callbacks, and a stream of actor calls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc
from dapr.proto import api_v1
from dapr.proto.runtime.v1 import appcallback_pb2 as wire
from google.protobuf.empty_pb2 import Empty

SIZE = 64


class Group:
    """Hands on what is added: what waits behind `width` calls under way goes together in the next one.

    `pause` seconds lie between the first that is added and its call, for what comes meanwhile.
    """

    def __init__(
        self, send: Callable[[list[Any]], Awaitable[None]], *, width: int = 2, pause: float = 0.0
    ) -> None:
        self._send = send
        self._free = width
        self._pause = pause
        self._waiting: deque[tuple[Any, asyncio.Future[None]]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._is_due = False

    def add(self, item: Any) -> asyncio.Future[None]:
        """Queue an item; the future is done when it is sent."""
        loop = asyncio.get_running_loop()
        sent: asyncio.Future[None] = loop.create_future()
        self._waiting.append((item, sent))
        if self._free and not self._is_due:
            self._is_due = True
            loop.call_later(self._pause, self._begin) if self._pause else loop.call_soon(self._begin)
        return sent

    def _begin(self) -> None:
        self._is_due = False
        while self._waiting and self._free:
            self._free -= 1
            group = [self._waiting.popleft() for _ in range(min(SIZE, len(self._waiting)))]
            call = asyncio.create_task(self._call(group))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, group: list[tuple[Any, asyncio.Future[None]]]) -> None:
        try:
            await self._send([item for item, _ in group])
        except Exception as error:  # noqa: BLE001 those who wait are told
            for _, sent in group:
                sent.set_exception(error)
        else:
            for _, sent in group:
                sent.set_result(None)
        self._free += 1
        if self._waiting:
            self._begin()


def app_callback(
    topics: Mapping[str, str],
    grouped: Sequence[str],
    on_topic: Callable[[str, bytes], Awaitable[None]],
    metadata: Mapping[str, str],
) -> tuple[grpc.GenericRpcHandler, ...]:
    """What daprd calls on the app port: which topics we want, and their messages; what raises comes again.

    `topics` are names by what to subscribe to; messages of a `grouped` one come together.
    """
    together = wire.BulkSubscribeConfig(enabled=True, max_messages_count=100, max_await_duration_ms=1)

    async def subscriptions(_: Empty, context: Any) -> wire.ListTopicSubscriptionsResponse:
        routes = wire.TopicRoutes(default="/")
        return wire.ListTopicSubscriptionsResponse(
            subscriptions=[
                wire.TopicSubscription(
                    pubsub_name="bus",
                    topic=pattern,
                    metadata=metadata,
                    routes=routes,
                    bulk_subscribe=together if topic in grouped else None,
                )
                for pattern, topic in topics.items()
            ]
        )

    async def message(request: wire.TopicEventRequest, context: Any) -> wire.TopicEventResponse:
        await on_topic(request.topic, request.data)
        return wire.TopicEventResponse(status=wire.TopicEventResponse.SUCCESS)

    async def messages(request: wire.TopicEventBulkRequest, context: Any) -> wire.TopicEventBulkResponse:
        topic, entries = topics[request.topic], request.entries
        await asyncio.gather(*(on_topic(topic, entry.bytes) for entry in entries))
        success = wire.TopicEventResponse.SUCCESS
        statuses = [
            wire.TopicEventBulkResponseEntry(entry_id=each.entry_id, status=success) for each in entries
        ]
        return wire.TopicEventBulkResponse(statuses=statuses)

    def unary(method: Any, request: Any, reply: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(method, request.FromString, reply.SerializeToString)

    handlers = {
        "ListTopicSubscriptions": unary(subscriptions, Empty, wire.ListTopicSubscriptionsResponse),
        "OnTopicEvent": unary(message, wire.TopicEventRequest, wire.TopicEventResponse),
        "OnBulkTopicEvent": unary(messages, wire.TopicEventBulkRequest, wire.TopicEventBulkResponse),
    }
    return (grpc.method_handlers_generic_handler("dapr.proto.runtime.v1.AppCallback", handlers),)


async def actor_calls(
    stub: Any,
    token: Sequence[tuple[str, str]],
    types: Sequence[str],
    on_call: Callable[[str, str, bytes], Awaitable[bytes]],
) -> None:
    """Host actors over a stream that we open: run each call that comes, side by side."""
    stream = stub.SubscribeActorEventsAlpha1(metadata=token)
    initial = api_v1.SubscribeActorEventsRequestInitialAlpha1(entities=types)
    await stream.write(api_v1.SubscribeActorEventsRequestAlpha1(initial_request=initial))
    writing, running = asyncio.Lock(), set()

    async def run(call: Any) -> None:
        data = await on_call(call.actor_id, call.method, call.data)
        reply = api_v1.SubscribeActorEventsRequestInvokeResponseAlpha1(id=call.id, data=data)
        async with writing:
            with suppress(asyncio.InvalidStateError):  # the stream has ended
                await stream.write(api_v1.SubscribeActorEventsRequestAlpha1(invoke_response=reply))

    async for event in stream:
        if event.HasField("invoke_request"):
            task = asyncio.create_task(run(event.invoke_request))
            running.add(task)
            task.add_done_callback(running.discard)
