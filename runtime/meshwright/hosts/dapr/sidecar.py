"""The sidecar: what the host asks of daprd, over its gRPC API.

Every failure is StoreUnavailable, since nearly none tells whether the request had been carried out: who
must know looks again (see `state`). What daprd can never do is ConfigError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import grpc.aio
from dapr.proto import api_service_v1, api_v1, common_v1
from grpc import ChannelConnectivity, StatusCode

from meshwright.envelope import ActorRef
from meshwright.errors import ConfigError, StoreUnavailable

STATE, BUS, VIEWS = "state", "bus", "views"  # the names of the components
MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # of one gRPC message, either way; daprd has to allow as much
CALL_SECONDS = 10.0
READY_RETRY_SECONDS = 0.05
LOOK_SECONDS = 0.2
JSON = "application/json"
RAW = {"rawPayload": "true"}
TOKEN = "dapr-api-token"
FIRST_WRITE = common_v1.StateOptions(concurrency=common_v1.StateOptions.CONCURRENCY_FIRST_WRITE)
LAST_WRITE = common_v1.StateOptions(concurrency=common_v1.StateOptions.CONCURRENCY_LAST_WRITE)
NEVER = {
    StatusCode.UNAUTHENTICATED: "give the worker and its sidecar the same DAPR_API_TOKEN",
    StatusCode.PERMISSION_DENIED: "give the worker and its sidecar the same DAPR_API_TOKEN",
    StatusCode.UNIMPLEMENTED: "run daprd 1.17 or newer",
}
"""What will not get better by asking again, and what to do about it."""
ReplyT = TypeVar("ReplyT")


class Stored(NamedTuple):
    """A value of the store with its etag."""

    value: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Write:
    """One key to write: with `etag` only over that version, without only where the key is new.

    `blind` writes over whatever is there. `ttl_seconds` lets the store forget it.
    """

    key: str
    value: bytes
    etag: str | None = None
    blind: bool = False
    ttl_seconds: int | None = None


class Facts(NamedTuple):
    """What a sidecar says of itself: its version, its components by name, and whether actors can run."""

    version: str
    components: dict[str, str]
    actors_ready: bool


class Sidecar:
    """daprd's API. Opened by `connect`; calls wait for a sidecar that restarts, up to `CALL_SECONDS`."""

    def __init__(self, port: int, token: str = "") -> None:
        self._address = f"127.0.0.1:{port}"
        self._metadata = ((TOKEN, token),) if token else ()
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    def connect(self) -> None:
        """Open the connection; daprd may come up later."""
        size = MAX_MESSAGE_BYTES
        options = [
            ("grpc.max_receive_message_length", size),
            ("grpc.max_send_message_length", size),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.use_local_subchannel_pool", 1),  # several hosts of a process do not share a broken one
        ]
        self._channel = grpc.aio.insecure_channel(self._address, options=options)
        self._stub = api_service_v1.DaprStub(self._channel)

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def facts(self) -> Facts:
        """Ask the sidecar about itself."""
        reply = await self._call(self._stub.GetMetadata, api_v1.GetMetadataRequest())
        components = {each.name: each.type for each in reply.registered_components}
        return Facts(reply.runtime_version, components, reply.actor_runtime.host_ready)

    async def has_come_back(self) -> None:
        """Return when the connection has been lost and is there again."""
        assert self._channel is not None
        lost = False
        while not lost or self._channel.get_state() is not ChannelConnectivity.READY:
            lost = lost or self._channel.get_state() is ChannelConnectivity.TRANSIENT_FAILURE
            await asyncio.sleep(LOOK_SECONDS)

    async def wait_until_ready(self, seconds: float) -> Facts:
        """Return once the sidecar answers. Raises StoreUnavailable after that time, ConfigError at once."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self.facts()
                    except StoreUnavailable:
                        await asyncio.sleep(READY_RETRY_SECONDS)
        except TimeoutError:
            raise StoreUnavailable(
                f"no sidecar answered on {self._address} within {seconds:g} s",
                remedy="start daprd with --dapr-grpc-port set to that port, or run `mesh up --host dapr`",
            ) from None

    # State

    async def get(self, keys: Sequence[str]) -> dict[str, Stored]:
        """The values of those keys that have one."""
        request = api_v1.GetBulkStateRequest(store_name=STATE, keys=keys, parallelism=16)
        reply = await self._call(self._stub.GetBulkState, request)
        for item in reply.items:
            if item.error:
                raise StoreUnavailable(f"key {item.key} cannot be read: {item.error}")
        return {item.key: Stored(item.data, item.etag) for item in reply.items if item.data}

    async def save(self, writes: Sequence[Write]) -> None:
        """Write several keys, each for itself: an error leaves open which of them are written."""
        items = [_state_item(write) for write in writes]
        await self._call(self._stub.SaveState, api_v1.SaveStateRequest(store_name=STATE, states=items))

    async def delete(self, key: str) -> None:
        """Forget a key. Only for keys that nobody guards a commit by."""
        await self._call(self._stub.DeleteState, api_v1.DeleteStateRequest(store_name=STATE, key=key))

    # Topics

    async def publish(self, pubsub: str, topic: str, bodies: Sequence[bytes], *, raw: bool = False) -> None:
        """Give messages of a topic to the broker, as CloudEvents unless `raw`.

        After an error some may have been taken.
        """
        metadata = RAW if raw else {}
        if len(bodies) == 1:
            request = api_v1.PublishEventRequest(
                pubsub_name=pubsub, topic=topic, data=bodies[0], data_content_type=JSON, metadata=metadata
            )
            await self._call(self._stub.PublishEvent, request)
            return
        entries = [
            api_v1.BulkPublishRequestEntry(entry_id=str(n), event=body, content_type=JSON)
            for n, body in enumerate(bodies)
        ]
        bulk = api_v1.BulkPublishRequest(pubsub_name=pubsub, topic=topic, entries=entries, metadata=metadata)
        reply = await self._call(self._stub.BulkPublishEvent, bulk)
        if reply.failedEntries:
            failed = reply.failedEntries[0].error
            raise StoreUnavailable(f"{len(reply.failedEntries)} messages on {topic} were not taken: {failed}")

    # Actors

    async def invoke(self, ref: ActorRef, method: str, body: bytes, *, seconds: float = 60.0) -> bytes:
        """Call a method of an actor, wherever placement has it."""
        request = api_v1.InvokeActorRequest(actor_type=ref.type, actor_id=ref.id, method=method, data=body)
        reply = await self._call(self._stub.InvokeActor, request, seconds)
        return reply.data

    async def remind(self, ref: ActorRef, name: str, *, due_seconds: float, period_seconds: float) -> None:
        """Have an actor called by the scheduler, again and again. A second one of the name replaces it."""
        request = api_v1.RegisterActorReminderRequest(
            actor_type=ref.type,
            actor_id=ref.id,
            name=name,
            due_time=f"{round(due_seconds * 1000)}ms",
            period=f"{round(period_seconds * 1000)}ms",
            data=b'""',
        )
        await self._call(self._stub.RegisterActorReminder, request)

    async def forget_reminder(self, ref: ActorRef, name: str) -> None:
        """End a reminder."""
        request = api_v1.UnregisterActorReminderRequest(actor_type=ref.type, actor_id=ref.id, name=name)
        await self._call(self._stub.UnregisterActorReminder, request)

    async def _call(self, method: Any, request: Any, seconds: float = CALL_SECONDS) -> Any:
        asked = type(request).__name__.removesuffix("Request")
        try:
            return await method(request, timeout=seconds, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise _translated(error, asked, self._address) from None
        except grpc.aio.UsageError:  # the connection was closed by a stop
            raise StoreUnavailable(f"{asked} comes when the mesh has stopped") from None


def _state_item(write: Write) -> common_v1.StateItem:
    item = common_v1.StateItem(
        key=write.key, value=write.value, options=LAST_WRITE if write.blind else FIRST_WRITE
    )
    if write.etag is not None:
        item.etag.value = write.etag
    if write.ttl_seconds is not None:
        item.metadata["ttlInSeconds"] = str(write.ttl_seconds)
    return item


def _translated(error: grpc.aio.AioRpcError, asked: str, address: str) -> Exception:
    code = error.code()
    said = " ".join((error.details() or "").split())[:300]
    if code in NEVER:
        return ConfigError(f"the sidecar on {address} refused {asked}: {said}", remedy=NEVER[code])
    return StoreUnavailable(f"{asked} by the sidecar on {address} failed: {code.name}: {said}")
