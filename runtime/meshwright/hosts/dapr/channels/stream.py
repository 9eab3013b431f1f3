"""The stream by which daprd calls our actors: opened by us, and again whenever it ends."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any, cast

import grpc.aio
from dapr.actor import ActorRuntime
from dapr.actor.runtime.grpc_host import ActorGrpcHost
from dapr.proto import api_v1 as wire
from grpc import StatusCode

from meshwright.errors import ConfigError, MeshError, StoreUnavailable
from meshwright.hosts.dapr.channels.actors import hosted
from meshwright.hosts.dapr.channels.callbacks import Callbacks
from meshwright.hosts.dapr.channels.port import RECEIVE_BYTES, SEND_BYTES, TOKEN_HEADER

logger = logging.getLogger("meshwright.dapr")
OPTIONS = [
    ("grpc.max_receive_message_length", RECEIVE_BYTES),
    ("grpc.max_send_message_length", SEND_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),  # hosts of one process do not share a broken connection
]
LEAVE_SECONDS = 0.2  # what daprd has to read our last answers
CONTENT = {"content-type": "application/json"}
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
NEVER = {
    StatusCode.UNIMPLEMENTED: 'run daprd 1.18 or newer, or set dapr_channel = "http"',
    StatusCode.FAILED_PRECONDITION: "start daprd with --app-protocol grpc",
    StatusCode.UNAUTHENTICATED: "give the worker and its sidecar the same DAPR_API_TOKEN",
    StatusCode.PERMISSION_DENIED: "give the worker and its sidecar the same DAPR_API_TOKEN",
}
"""What will not get better by asking again, and what to do about it."""


class ActorStream:
    """Serves the actors of an app until it is closed, through every absence of the sidecar."""

    def __init__(self, address: str, token: str, callbacks: Callbacks) -> None:
        self._address = address
        self._token = token
        self._callbacks = callbacks
        self._serving: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Return once daprd has taken the types. Raises ConfigError or StoreUnavailable if it does not."""
        registered = asyncio.get_running_loop().create_future()
        self._serving = asyncio.create_task(self._serve(registered), name="actor-stream")
        await registered

    async def close(self) -> None:
        """Send the answers that are due, then end the stream."""
        if self._serving is not None:
            self._serving.cancel()
            [error] = await asyncio.gather(self._serving, return_exceptions=True)
            if isinstance(error, Exception):
                logger.warning("the stream of actor calls did not end well: %s", _said(error))

    async def _serve(self, registered: asyncio.Future[None]) -> None:
        """Open one stream after another: the SDK gives up when daprd stays away, or breaks its stream."""
        hosted.set(self._callbacks)
        pause = FIRST_PAUSE_SECONDS
        while True:
            stream = SdkStream(self._address, self._token, registered)
            try:
                await stream.run_forever()
                error = None
            except Exception as caught:  # noqa: BLE001 - whatever ended it, the actors have to come back
                error = caught
            if not registered.done():
                registered.set_exception(_refusal(error, self._address))
                return
            if stream.has_registered:
                pause = FIRST_PAUSE_SECONDS
            logger.warning("the stream of actor calls has ended, again in %g s: %s", pause, _said(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)


class SdkStream(ActorGrpcHost):
    """The SDK's stream on a connection with our limits and token, which fails calls and stops as we need it.

    That is behind the SDK's public face: the tests of the channels tell when another release differs.
    """

    def __init__(self, address: str, token: str, registered: asyncio.Future[None]) -> None:
        super().__init__(address, app_port=0)
        self._channel = cast(grpc.aio.Channel, Authorized(grpc.aio.insecure_channel(address, OPTIONS), token))
        self._told = registered
        self.has_registered = False

    async def start(self) -> None:
        """Open it, and say so."""
        await super().start()
        self.has_registered = True
        if not self._told.done():
            self._told.set_result(None)

    async def stop(self) -> None:
        """Let the answers reach daprd first: the SDK would drop some, and take back others on their way."""
        self._stopping = True
        await self._drain_dispatch_tasks()
        if self._session is not None and self._run_task is not None:
            self._session.close()
            await self._session._stream.done_writing()
            await asyncio.wait({self._run_task}, timeout=LEAVE_SECONDS)
        await super().stop()

    async def _on_invoke(self, session: Any, request: Any) -> None:
        """Fail a call whose turn raised: the SDK would answer it, and Dapr tell the caller of a success."""
        try:
            data = await ActorRuntime.dispatch(
                request.actor_type, request.actor_id, request.method, request.data
            )
        except Exception as error:  # noqa: BLE001 - what a turn raises is its caller's
            await self._send_request_failed(session, request.id, error)
            return
        reply = wire.SubscribeActorEventsRequestInvokeResponseAlpha1(
            id=request.id, data=data, metadata=CONTENT
        )
        await session.send(wire.SubscribeActorEventsRequestAlpha1(invoke_response=reply))


class Authorized:
    """A connection that shows daprd our token when it opens a stream.

    The SDK's interceptor is not asked about streams, and gRPC loses tasks of streams that are intercepted.
    """

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel = channel
        self._metadata = ((TOKEN_HEADER, token),)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """A stream, with the token."""
        return partial(self._channel.stream_stream(*args, **kwargs), metadata=self._metadata)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


def _refusal(error: Exception | None, address: str) -> MeshError:
    message = f"the sidecar on {address} does not take our actors: {_said(error)}"
    if isinstance(error, grpc.aio.AioRpcError) and error.code() in NEVER:
        return ConfigError(message, remedy=NEVER[error.code()])
    return StoreUnavailable(message)


def _said(error: Exception | None) -> str:
    """An error in one line, where gRPC would take four."""
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return repr(error)
