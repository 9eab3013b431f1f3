"""Keys of agent configurations, and the WebSocket at /ws that announces their changes.

Tenant and roles are the caller's. The messages of the WebSocket, none with a key:

-> {"subscribe": "agent_config"}                  or {"type": "subscribe", "channel": "agent_config"}
<- {"type": "subscribed", "channel": "agent_config"}
<- {"type": "agent_config_changed", "channel": "agent_config", "agent_id": "helper", "config": {...}, ...}
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic_core import from_json
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from meshwright import Event, MeshError
from meshwright.component import Caller, Mesh, make_router
from meshwright.core.http_limits import PEER_UID
from meshwright.core.operations import get_operation
from meshwright.edges.http.app import is_local
from meshwright.edges.http.routing import CALLER, record_misuse
from meshwright.edges.http.sessions import Sessions
from meshwright.kit import ID_PATTERN, Forbidden, MeshDep, Overloaded, by_rule, encode, problems, topics
from meshwright.parts.agent_config.event_types import AgentConfigChanged, SubscriberDropped
from meshwright.parts.agent_config.operations import CHANGED, CREATED, DELETED, SEE, AgentConfigs
from meshwright.parts.agent_config.records import AgentLLM

router = make_router("agent configuration")
CHANNEL = "agent_config"
_TYPES = {CHANGED: "agent_config_changed", CREATED: "agent_created", DELETED: "agent_deleted"}
_MAX_WAITING = 64  # messages that a subscriber has not read
_SEND_SECONDS = 10.0  # that one message may take
_POLICY, _TRY_LATER = 1008, 1013  # codes of RFC 6455
_UNAUTHENTICATED = 4401  # of ours: the credentials have ended
_MAX_REASON_CHARS = 120
_TOO_SLOW = "messages are not read in time: connect again, and read the configurations again"


_KeyReaderDep = Annotated[Caller, by_rule(get_operation(AgentConfigs.show_llm).rule)]
_AgentId = Annotated[str, Path(pattern=ID_PATTERN, description="`default` is the tenant's default agent.")]


@router.get(
    "/api/agents/{agent_id}/llm",
    summary="Get model, address and key",
    response_description="With the key in plain text.",
    responses=problems(
        {
            403: "The caller is no backend, or the connection is open to others.",
            404: "The agent has no configuration.",
        }
    ),
)
async def _show_llm(
    mesh: MeshDep, request: Request, caller: _KeyReaderDep, agent_id: _AgentId, response: Response
) -> AgentLLM:
    """Get provider, address, model and key, for a backend that calls the model itself.

    Only for an administrator who has shown a key or the admin token, over TLS or on the mesh's machine.
    """
    if not _is_private(request.scope):
        raise Forbidden(
            "A key leaves the mesh over TLS only, or on its own machine",
            remedy="Call the mesh by https://, or from its own machine without a proxy",
        )
    response.headers["Cache-Control"] = "no-store"
    return await mesh.get(AgentConfigs).show_llm(caller, agent_id)


def _is_private(scope: Scope) -> bool:
    return scope["scheme"] == "https" or PEER_UID in scope.get("state", {}) or is_local(scope)


class _Subscribers:
    """The WebSocket clients of this process; each gets the messages of its own tenant."""

    def __init__(self, mesh: Mesh, max_subscribers: int) -> None:
        self._mesh = mesh
        self._max = max_subscribers
        self._open: set[_Subscriber] = set()
        mesh.runtime.listen(topics.MESH, self._tell, tuple(_TYPES))

    async def serve(self, socket: WebSocket) -> None:
        """Serve one client until either side ends the connection."""
        caller: Caller = socket.scope[CALLER]
        refusal = self._refusal(caller, socket.scope)
        await socket.accept()
        if refusal is not None:
            return await socket.close(*refusal)
        subscriber = _Subscriber(socket, caller.tenant_id, self._dropped)
        self._open.add(subscriber)
        sessions: Sessions = socket.app.state.sessions
        try:
            with sessions.watch(socket.scope) as session_end:
                session_end.add_done_callback(subscriber.refuse)
                await subscriber.serve()
        except Overloaded as error:
            await socket.close(_TRY_LATER, error.message[:_MAX_REASON_CHARS])
        finally:
            self._open.discard(subscriber)

    def _refusal(self, caller: Caller, scope: Scope) -> tuple[int, str] | None:
        try:
            SEE.check(caller)
        except MeshError as error:
            record_misuse(self._mesh, scope, error)
            return _POLICY, error.message[:_MAX_REASON_CHARS]
        if len(self._open) >= self._max:
            return _TRY_LATER, f"the mesh has {self._max} subscribers, and takes no more"
        return None

    def _tell(self, event: Event) -> None:
        change = AgentConfigChanged.from_payload(event.payload)
        message = {
            "type": _TYPES[event.event_type],
            "channel": CHANNEL,
            "agent_id": event.agent_id,
            "is_default": change.is_default,
            "changed": change.changed,
            "config": change.config or None,
            "timestamp": event.time.isoformat(),
        }
        for subscriber in self._open:
            if subscriber.tenant_id == event.tenant_id and subscriber.is_subscribed:
                subscriber.put(message)

    def _dropped(self, tenant_id: str, reason: str) -> None:
        self._mesh.tell(SubscriberDropped(channel=CHANNEL, reason=reason), tenant_id=tenant_id)


class _Subscriber:
    def __init__(self, socket: WebSocket, tenant_id: str, dropped: Callable[[str, str], None]) -> None:
        self.tenant_id = tenant_id
        self.is_subscribed = False
        self._socket = socket
        self._dropped = dropped
        self._waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_MAX_WAITING)
        self._sending = asyncio.Lock()
        self._end: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    async def serve(self) -> None:
        """Read and write until either side ends the connection."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        try:
            await asyncio.wait([*tasks, self._end], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._end.done() and self._socket.application_state is WebSocketState.CONNECTED:
            with suppress(RuntimeError, TimeoutError):  # it is gone, or reads nothing: the server cuts it off
                async with asyncio.timeout(_SEND_SECONDS):
                    await self._socket.close(*self._end.result())

    def drop(self, code: int, reason: str) -> None:
        """End the connection."""
        if not self._end.done():
            self._end.set_result((code, reason))

    def refuse(self, session_end: asyncio.Future[MeshError]) -> None:
        """End the connection: its credentials have expired or are revoked."""
        self.drop(_UNAUTHENTICATED, session_end.result().message[:_MAX_REASON_CHARS])

    def put(self, message: dict[str, Any]) -> None:
        """Send a message after those before it; a client that does not read is dropped."""
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            self._drop_slow()

    def _drop_slow(self) -> None:
        if not self._end.done():
            self._dropped(self.tenant_id, _TOO_SLOW)
            self.drop(_TRY_LATER, _TOO_SLOW)

    async def _read(self) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):  # the client has gone
            while True:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                await self._send(self._answer(message.get("text")))

    def _answer(self, text: str | None) -> dict[str, Any]:
        try:
            body = from_json(text or "")
            [(kind, channel)] = body.items() if len(body) == 1 else [(body["type"], body["channel"])]
        except (ValueError, KeyError, TypeError, AttributeError):
            return _error(f'expected {{"subscribe": "{CHANNEL}"}} as text')
        if kind not in ("subscribe", "unsubscribe"):
            return _error(f"there is no type {str(kind)[:80]!r}: known are subscribe and unsubscribe")
        if channel != CHANNEL:
            return _error(f"there is no channel {str(channel)[:80]!r}: known is {CHANNEL}")
        self.is_subscribed = kind == "subscribe"
        return {"type": f"{kind}d", "channel": CHANNEL}

    async def _write(self) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):
            while True:
                await self._send(await self._waiting.get())

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(_SEND_SECONDS), self._sending:
                await self._socket.send_text(encode(message).decode())
        except TimeoutError:
            self._drop_slow()


def _error(message: str) -> dict[str, Any]:
    return {"type": "error", "message": message}


def subscriber_routes(mesh: Mesh, max_subscribers: int) -> APIRouter:
    """Makes the route of the WebSocket, with the subscribers of this process."""
    socket_router = APIRouter()
    socket_router.add_api_websocket_route("/ws", _Subscribers(mesh, max_subscribers).serve)
    return socket_router
