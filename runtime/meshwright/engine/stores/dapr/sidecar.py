"""The sidecar: where it is, and what a worker asks of it over its gRPC API.

Every failure is StoreUnavailable, since nearly none tells whether the request was carried out: see `state`
for what has to be certain. A request that daprd can never fulfil raises ConfigError.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import grpc.aio
import msgspec
from dapr.proto import api_service_v1, api_v1, common_v1
from grpc import ChannelConnectivity, StatusCode

from meshwright.core.encoding import decode, encode
from meshwright.core.errors import ConfigError, MeshError, StoreUnavailable, error_of_code
from meshwright.engine.kernel.envelope import ActorRef

STATE, BUS, VIEWS = "state", "bus", "views"  # the names of the components
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # of one gRPC message, either way; daprd has to allow as much
_CALL_SECONDS = 10.0
_INVOKE_SECONDS = 60.0
_READY_RETRY_SECONDS = 0.05
_POLL_SECONDS = 0.2
JSON = "application/json"
RAW = {"rawPayload": "true"}
TOKEN_HEADER = "dapr-api-token"
RECONNECT_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),  # workers of one process do not share a broken connection
]
_FIRST_WRITE = common_v1.StateOptions.CONCURRENCY_FIRST_WRITE
_LAST_WRITE = common_v1.StateOptions.CONCURRENCY_LAST_WRITE
NEVER = {
    StatusCode.UNAUTHENTICATED: "give the worker and its sidecar the same DAPR_API_TOKEN",
    StatusCode.PERMISSION_DENIED: "give the worker and its sidecar the same DAPR_API_TOKEN",
    StatusCode.UNIMPLEMENTED: "run daprd 1.17 or newer",
}
"""Statuses that no retry changes, with what to do about them."""
CALL = "call"
"""The actor method that runs the turn of an encoded message, and answers with such a reply."""
DELIVER = "deliver"
"""The same for a message that may arrive again: its actor drops a repeat."""
_MAX_ERROR_CHARACTERS = 4000
OWN_DATA = b',"meshwright":"1","data":'
"""The text before the data of a CloudEvent of ours: the data is cut out unread."""
ChannelName = Literal["auto", "grpc", "http"]


@dataclass(frozen=True, slots=True)
class Options:
    """One worker's place on Dapr.

    Replicas share an `app_id`, `replica` names one of them, `namespace` the mesh. `grpc_port` is the
    sidecar's, `app_port` the worker's. The sidecar wants `api_token` of the worker, the worker `app_token` of
    the sidecar. `broker_url` is the MQTT broker's, where the bus is one (see `broker.kick`). Times: seconds.
    """

    app_id: str = "mesh"
    replica: str = "mesh-0"
    namespace: str = "default"
    grpc_port: int = 50001
    app_port: int = 0
    channel: ChannelName = "auto"
    api_token: str = field(default="", repr=False)
    app_token: str = field(default="", repr=False)
    broker_url: str | None = field(default=None, repr=False)
    lease_seconds: float = 10.0
    renew_seconds: float = 3.0
    redrive_seconds: float = 5.0
    patience_seconds: float = 20.0
    """How long a call or a commit waits for a sidecar or a store that does not answer."""
    ready_seconds: float = 60.0
    """How long a start waits for the sidecar."""

    @classmethod
    def from_environment(
        cls, *, namespace: str, channel: ChannelName, environment: Mapping[str, str] | None = None
    ) -> Options:
        """Read what Dapr tells its apps: APP_ID, APP_PORT, DAPR_GRPC_PORT, POD_NAME and the tokens.

        Raises ConfigError where a port is missing or not a number.
        """
        variables = os.environ if environment is None else environment
        app_id = variables.get("APP_ID") or "mesh"
        return cls(
            app_id=app_id,
            replica=variables.get("POD_NAME") or f"{app_id}-0",
            namespace=namespace,
            grpc_port=_port(variables, "DAPR_GRPC_PORT", "50001"),
            app_port=_port(variables, "APP_PORT", None),
            channel=channel,
            api_token=variables.get("DAPR_API_TOKEN", ""),
            app_token=variables.get("APP_API_TOKEN", ""),
            broker_url=variables.get("MESH_BROKER_URL"),
        )


def _port(variables: Mapping[str, str], name: str, default: str | None) -> int:
    text = variables.get(name) or default
    if text is None or not text.isdigit():
        raise ConfigError(
            f"{name} has to be a port, not {text!r}",
            remedy="the sidecar sets it: start the worker by `mesh up --store dapr`, or beside a daprd",
            field=name,
        )
    return int(text)


class StoredValue(NamedTuple):
    """A value of the store with its etag."""

    value: bytes
    etag: str


class Write(msgspec.Struct, frozen=True):
    """One key to write: with `etag` only over that version, without only where the key is new.

    `blind` writes over whatever is there. `ttl_seconds` lets the store forget it.
    """

    key: str
    value: bytes
    etag: str | None = None
    blind: bool = False
    ttl_seconds: int | None = None


class Facts(NamedTuple):
    """A sidecar's metadata: its version, its components by name, and whether actors can run."""

    version: str
    components: dict[str, str]
    actors_ready: bool


class Sidecar:
    """daprd's API. Opened by `connect`; calls wait for a sidecar that restarts, up to `CALL_SECONDS`."""

    def __init__(self, port: int, token: str = "") -> None:
        self._address = f"127.0.0.1:{port}"
        self._metadata = ((TOKEN_HEADER, token),) if token else ()
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    def connect(self) -> None:
        """Open the connection; daprd may come up later."""
        sizes = [(f"grpc.max_{way}_message_length", _MAX_MESSAGE_BYTES) for way in ("receive", "send")]
        self._channel = grpc.aio.insecure_channel(self._address, options=[*sizes, *RECONNECT_OPTIONS])
        self._stub = api_service_v1.DaprStub(self._channel)

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def facts(self) -> Facts:
        """Ask the sidecar about itself."""
        reply = await self._call(self._stub.GetMetadata, api_v1.GetMetadataRequest())
        components = {component.name: component.type for component in reply.registered_components}
        return Facts(reply.runtime_version, components, reply.actor_runtime.host_ready)

    async def has_come_back(self) -> None:
        """Return when the connection has been lost and is there again."""
        assert self._channel is not None
        was_lost = False
        while not was_lost or self._channel.get_state() is not ChannelConnectivity.READY:
            was_lost = was_lost or self._channel.get_state() is ChannelConnectivity.TRANSIENT_FAILURE
            await asyncio.sleep(_POLL_SECONDS)

    async def wait_until_ready(self, seconds: float) -> Facts:
        """Return once the sidecar answers. Raises StoreUnavailable after that time, ConfigError at once."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self.facts()
                    except StoreUnavailable:
                        await asyncio.sleep(_READY_RETRY_SECONDS)
        except TimeoutError:
            raise StoreUnavailable(
                f"no sidecar answered on {self._address} within {seconds:g} s",
                remedy="start daprd with --dapr-grpc-port set to that port, or run `mesh up --store dapr`",
            ) from None

    # State

    async def get(self, keys: Sequence[str]) -> dict[str, StoredValue]:
        """The values of those keys that have one."""
        request = api_v1.GetBulkStateRequest(store_name=STATE, keys=keys, parallelism=16)
        reply = await self._call(self._stub.GetBulkState, request)
        for item in reply.items:
            if item.error:
                raise StoreUnavailable(f"key {item.key} cannot be read: {item.error}")
        return {item.key: StoredValue(item.data, item.etag) for item in reply.items if item.data}

    async def save(self, writes: Sequence[Write]) -> None:
        """Write several keys, each for itself: an error leaves open which of them are written."""
        request = api_v1.SaveStateRequest(store_name=STATE)
        for write in writes:
            item = request.states.add(key=write.key, value=write.value)
            item.options.concurrency = _LAST_WRITE if write.blind else _FIRST_WRITE
            if write.etag is not None:
                item.etag.value = write.etag
            if write.ttl_seconds is not None:
                item.metadata["ttlInSeconds"] = str(write.ttl_seconds)
        await self._call(self._stub.SaveState, request)

    async def delete(self, key: str) -> None:
        """Forget a key. Only for keys that no commit is guarded by."""
        await self._call(self._stub.DeleteState, api_v1.DeleteStateRequest(store_name=STATE, key=key))

    # Topics and actors

    async def publish(self, pubsub: str, topic: str, bodies: Sequence[bytes]) -> None:
        """Give messages of a topic to the broker as they are; after an error some may have been taken."""
        fields: dict[str, Any] = {"pubsub_name": pubsub, "topic": topic, "metadata": RAW}
        if len(bodies) == 1:
            request = api_v1.PublishEventRequest(**fields, data=bodies[0], data_content_type=JSON)
            await self._call(self._stub.PublishEvent, request)
            return
        entries = [
            api_v1.BulkPublishRequestEntry(entry_id=str(n), event=body, content_type=JSON)
            for n, body in enumerate(bodies)
        ]
        bulk = api_v1.BulkPublishRequest(**fields, entries=entries)
        failed = (await self._call(self._stub.BulkPublishEvent, bulk)).failedEntries
        if failed:
            raise StoreUnavailable(f"{len(failed)} messages on {topic} were not taken: {failed[0].error}")

    async def invoke(self, ref: ActorRef, method: str, body: bytes) -> bytes:
        """Call a method of an actor, wherever placement has it."""
        request = api_v1.InvokeActorRequest(actor_type=ref.type, actor_id=ref.id, method=method, data=body)
        return (await self._call(self._stub.InvokeActor, request, _INVOKE_SECONDS)).data

    async def _call(self, method: Any, request: Any, seconds: float = _CALL_SECONDS) -> Any:
        try:
            return await method(request, timeout=seconds, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            name = type(request).__name__.removesuffix("Request")
            details = " ".join((error.details() or "").split())[:300]
            if error.code() in NEVER:
                message = f"the sidecar on {self._address} refused {name}: {details}"
                raise ConfigError(message, remedy=NEVER[error.code()]) from None
            message = f"{name} by the sidecar on {self._address} failed: {error.code().name}: {details}"
            raise StoreUnavailable(message) from None
        except grpc.aio.UsageError:  # the connection was closed by a stop
            raise StoreUnavailable("the mesh has stopped") from None


# Replies to calls between workers: an error travels as a reply like any other, so that Dapr neither repeats
# the call nor hides what was wrong, and the caller raises the same error again.


def encode_result(result: bytes) -> bytes:
    """Wrap what a turn replied (JSON)."""
    return b'{"result":%s}' % (result or b"null")


def encode_error(error: Exception) -> bytes:
    """Wrap what a turn raised: an error of ours, or of Python where the turn has a defect."""
    ours = error if isinstance(error, MeshError) else MeshError(str(error))
    fields = {
        "type": type(error).__name__,
        "message": ours.message[:_MAX_ERROR_CHARACTERS],
        "remedy": ours.remedy,
        "field": ours.field,
        "status": ours.status,
    }
    return encode({"error": fields})


def decode_reply(data: bytes) -> Any:
    """The result in a reply, as plain data, or the error in it raised again.

    An error that this process does not know comes as a MeshError that names it. StoreUnavailable where the
    data is no such reply: Dapr's HTTP channel may report success for a call that never ran.
    """
    match decode(data):
        case {"result": result}:
            return result
        case {"error": {"type": str(name), "message": str(message), **details}}:
            error_type = error_of_code(name, MeshError)
            error = error_type(message) if error_type is not None else MeshError(f"{name}: {message}")
            for detail in {"remedy", "field", "status"} & details.keys():
                setattr(error, detail, details[detail])
            raise error
    raise StoreUnavailable(f"the worker that was called sent no reply, but {data[:200]!r}")
