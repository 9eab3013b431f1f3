"""Points on the protocol's arrows where the process kills itself: wrapped around doors, not built in.

Of each turn, by the names `task.accept`, `thread.claim` and so on: `.before` and `.after` it ran (in
memory), `.uncommitted` (its rows are written, the transaction is open), `.committed` (durable, and nobody
has been told) and, of one that was called, `.replied`. `journal.*` are the same of a step's record.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from meshwright.core.clock import Clock
from meshwright.core.errors import StoreFailed
from meshwright.core.events import Event
from meshwright.core.tracing import NoTracing, Tracing
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.envelope import ActorRef, Record
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind, Method
from meshwright.engine.sql.database import Database, Session
from meshwright.engine.stores.sqlite import SqliteStore, write_batch
from meshwright.engine.work.protocol import ORCHESTRATOR


class Failpoints:
    """Kills the process, as kill -9 does, at the n-th passage of one point."""

    def __init__(self, point: str = "", nth: int = 1) -> None:
        self._point = point
        self._nth = nth
        self._lock = threading.Lock()
        self.passed = Counter[str]()

    def passes(self, point: str) -> None:
        """Be at a point."""
        with self._lock:
            self.passed[point] += 1
            if point == self._point and self.passed[point] == self._nth:
                os.kill(os.getpid(), signal.SIGKILL)


def name_of(ref: ActorRef, method: str) -> str:
    """How a turn is called here."""
    kinds = {ORCHESTRATOR: "task", "context-service": "context"}
    return f"{kinds.get(ref.type, 'thread')}.{method}"


class FailingHost(Runtime):
    """A runtime on SQLite with failpoints at its doors."""

    def __init__(
        self,
        failpoints: Failpoints,
        database: Database,
        log: EventLog,
        clock: Clock,
        tracing: Tracing | NoTracing,
        *,
        apart: bool = False,
    ) -> None:
        self._failpoints = failpoints
        self._apart = apart  # a process writes: no point is reached in an open transaction
        self._under_way: list[str] = []  # turns and records of the group that is being filled
        self._submit_to_database = database.submit
        setattr(database, "submit", self._submit)  # noqa: B010 a door of an instance, replaced for this process
        super().__init__(SqliteStore(database, log), clock=clock, tracing=tracing)

    def register(self, kind: ActorKind) -> None:
        methods = {
            name: method._replace(call=self._around(name, method)) for name, method in kind.methods.items()
        }
        super().register(replace(kind, methods=methods))

    async def start(self) -> None:
        self._failpoints.passes("start.before")
        await super().start()
        self._failpoints.passes("start.after")

    async def call(
        self, ref: ActorRef, method: str, body: Any = None, *, traceparent: str | None = None
    ) -> Any:
        reply = await super().call(ref, method, body, traceparent=traceparent)
        self._failpoints.passes(f"{name_of(ref, method)}.replied")
        return reply

    def append(self, record: Record, events: Sequence[Event] = (), **options: Any) -> Awaitable[None]:
        self._failpoints.passes("journal.before")
        queued = super().append(record, events, **options)
        self._under_way.append("journal")
        self._failpoints.passes("journal.after")
        return queued

    def _around(self, name: str, method: Method) -> Callable[..., Any]:
        def run(actor: Any, *arguments: Any) -> Any:
            turn = name_of(actor.ref, name)
            self._failpoints.passes(f"{turn}.before")
            reply = method.call(actor, *arguments)
            self._under_way.append(turn)
            self._failpoints.passes(f"{turn}.after")
            return reply

        return run

    def _submit(self, function: Callable[..., Any], args: tuple[Any, ...], done: Callable[..., None]) -> None:
        if function is write_batch:
            names = tuple(self._under_way)
            self._under_way.clear()
            if not self._apart:
                function = partial(self._write, names)
            done = partial(self._done, names, done)
        self._submit_to_database(function, args, done)

    def _write(self, names: Sequence[str], session: Session, *rows: Any) -> Any:
        result = write_batch(session, *rows)
        for name in names:
            self._failpoints.passes(f"{name}.uncommitted")
        return result

    def _done(
        self, names: Sequence[str], done: Callable[..., None], result: Any, error: StoreFailed | None
    ) -> None:
        for name in names:
            self._failpoints.passes(f"{name}.committed")
        done(result, error)
