"""Ends streams and WebSockets when the credentials that opened them expire or are revoked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime

from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from meshwright.core.encoding import encode
from meshwright.core.errors import HostError, MeshError, Overloaded
from meshwright.core.http_limits import max_connections
from meshwright.core.messages import Caller
from meshwright.edges.bodies import describe_problem
from meshwright.edges.http.errors import CALLER, router_kind
from meshwright.edges.http.routing import EVENT_STREAM
from meshwright.mesh.identity.auth import Authenticators, Credentials, Unauthenticated
from meshwright.mesh.orchestration.tenants import Tenants
from meshwright.models.wire.errors import anthropic_error, openai_error

CREDENTIALS = "meshwright.credentials"
"""The key of a request's credentials in its scope, if it had to show some."""
_STREAM_ENDED = "stream.ended"
"""The name of the last event of a stream whose credentials have ended; its data is the problem."""
_CHECK_SECONDS = 1.0
_ASK_SECONDS = 10.0  # that a store has to say who a caller is
_MAX_FAILURES = 30  # of a store in a row, until nothing vouches for the caller any more
_LAST_SECONDS = 5.0  # that a slow reader has to take the last event


@dataclass(slots=True)
class _Session:
    """The connections of one set of credentials, and the caller that these were."""

    caller: Caller
    expires_at: datetime | None
    open: set[asyncio.Future[MeshError]] = field(default_factory=set)
    failures: int = 0


class Sessions:
    """All open connections of a server, by their credentials, which are checked again every second.

    So what another process revokes counts here too, and all connections of one key cost one look-up. One
    caller has at most `max_streams` event streams and WebSockets, and a tenant as many as `tenants` says.
    """

    def __init__(
        self,
        authenticator: Authenticators,
        now: Callable[[], datetime],
        *,
        tenants: Tenants,
        max_streams: int,
    ) -> None:
        self._authenticator = authenticator
        self._now = now
        self._tenants = tenants
        self._max_streams = max_streams
        self._open_streams: Counter[tuple[str, str | None]] = Counter()
        self._held: Counter[tuple[str, str]] = Counter()
        self._sessions: dict[Credentials, _Session] = {}
        self._checking: asyncio.Task[None] | None = None

    @contextmanager
    def watch(self, scope: Scope) -> Iterator[asyncio.Future[MeshError]]:
        """A future that gets the reason once the connection has to end, while the block lasts.

        Raises Overloaded where the caller or its tenant has too many.
        """
        with self._counting(scope), self._watching(scope) as end:
            yield end

    @contextmanager
    def _counting(self, scope: Scope) -> Iterator[None]:
        """Count an event stream or a WebSocket, where its router does."""
        caller: Caller = scope[CALLER]
        counted: list[tuple[str, str | None]] = []
        if not caller.all_tenants and router_kind(scope).counts_streams:
            counted.append((caller.tenant_id, None))
            self._tenants.require_streams(caller.tenant_id, self._open_streams[counted[0]])
            if not caller.is_proxy:  # others connect through it
                counted.append((caller.tenant_id, caller.requested_by))
                if self._open_streams[counted[1]] >= self._max_streams:
                    raise Overloaded(
                        f"{caller.requested_by} has {self._max_streams:,} open event streams and WebSockets, "
                        "which is the most for one caller",
                        remedy="Close some, or have http.max_streams raised",
                    )
        self._open_streams.update(counted)
        try:
            yield
        finally:
            self._open_streams -= Counter(counted)  # forgets those that are at 0

    @contextmanager
    def hold(self, scope: Scope) -> Iterator[asyncio.Future[MeshError]]:
        """As `watch`, for a request that waits for its answer: half of the server's connections may.

        Half of these may be of one caller; one of all tenants may be many. Raises Overloaded.
        """
        caller: Caller = scope[CALLER]
        key, share = (caller.tenant_id, caller.requested_by), max_connections() // 4
        is_one = not caller.all_tenants and not caller.is_proxy
        if self._held.total() >= 2 * share or (is_one and self._held[key] >= share):
            raise Overloaded(
                "Too many requests wait for their answers", remedy="Ask again in a moment, or without wait"
            )
        self._held[key] += 1
        try:
            with self._watching(scope) as end:
                yield end
        finally:
            self._held -= Counter([key])  # forgets those that are at 0

    @contextmanager
    def _watching(self, scope: Scope) -> Iterator[asyncio.Future[MeshError]]:
        end: asyncio.Future[MeshError] = asyncio.get_running_loop().create_future()
        credentials: Credentials = scope[CREDENTIALS]
        caller: Caller = scope[CALLER]
        session = self._sessions.setdefault(credentials, _Session(caller, caller.expires_at))
        session.open.add(end)
        if self._checking is None:
            self._checking = asyncio.create_task(self._check(), name="open sessions")
        try:
            yield end
        finally:
            session.open.discard(end)
            if not session.open and self._sessions.get(credentials) is session:
                del self._sessions[credentials]
            if not self._sessions and self._checking is not None:
                self._checking.cancel()
                self._checking = None

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            await asyncio.gather(*(self._check_one(*item) for item in [*self._sessions.items()]))

    async def _check_one(self, credentials: Credentials, session: _Session) -> None:
        problem = self._expired(session)
        if problem is None:
            try:
                async with asyncio.timeout(_ASK_SECONDS):
                    caller = await self._authenticator.authenticate(credentials)
                session.expires_at, session.failures = caller.expires_at, 0
                problem = self._expired(session) or _changed(session.caller, caller)
            except (HostError, TimeoutError):  # it cannot be known now, which ends no stream at once
                session.failures += 1
                if session.failures >= _MAX_FAILURES:
                    problem = HostError("The store cannot be asked whether the credentials still count")
            except MeshError as error:
                problem = error
        if problem is not None and self._sessions.get(credentials) is session:
            del self._sessions[credentials]  # a connection with them is another session from now on
            for end in session.open:
                if not end.done():
                    end.set_result(problem)

    def _expired(self, session: _Session) -> MeshError | None:
        if session.expires_at is None or self._now() < session.expires_at:
            return None
        return Unauthenticated(
            f"The credentials expired at {session.expires_at:%Y-%m-%d %H:%M:%S} UTC",
            remedy="Connect again with new ones",
        )


def _changed(before: Caller, now: Caller) -> MeshError | None:
    def shown(caller: Caller) -> tuple[object, ...]:
        return caller.tenant_id, caller.requested_by, caller.all_tenants, caller.roles

    if shown(before) == shown(now):
        return None
    return Unauthenticated("The roles of these credentials have changed", remedy="Connect again")


class ServerSentEvents(StreamingResponse):
    """Frames as server-sent events. Once the client has gone, the frames are closed and `end` is called.

    Credentials that end also end the stream: its last event says why.
    """

    media_type = EVENT_STREAM

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        end: Callable[[], Awaitable[None]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._frames = frames
        self._end = end
        super().__init__(
            frames, headers={**(headers or {}), "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            sessions: Sessions = scope["app"].state.sessions
            with sessions.watch(scope) as refusal:
                sending = asyncio.ensure_future(super().__call__(scope, receive, send))
                try:
                    await asyncio.wait({sending, refusal}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    sending.cancel()
                    if not sending.done():
                        await asyncio.wait({sending})
                if sending.cancelled():
                    await self._send_last(scope, send, refusal.result())
                else:
                    sending.result()
        finally:
            await self._frames.aclose()
            if self._end is not None:
                await self._end()

    def last_frame(self, scope: Scope, problem: MeshError) -> bytes:
        """Returns the last event of a stream whose credentials have ended."""
        shape = router_kind(scope).errors
        if shape == "openai":
            return format_sse_event(data_str=encode(openai_error(problem)).decode())
        if shape == "anthropic":
            return format_sse_event(event="error", data_str=encode(anthropic_error(problem)).decode())
        text = describe_problem(problem).model_dump_json(exclude_none=True)
        return format_sse_event(event=_STREAM_ENDED, data_str=text)

    async def _send_last(self, scope: Scope, send: Send, problem: MeshError) -> None:
        frame = self.last_frame(scope, problem)
        with suppress(TimeoutError):  # it reads nothing: the server cuts it off
            async with asyncio.timeout(_LAST_SECONDS):
                await send({"type": "http.response.body", "body": frame, "more_body": False})
