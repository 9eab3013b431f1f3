"""Runs turns, in the same way for both executors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace
from pydantic import TypeAdapter

from meshwright.core.clock import Clock
from meshwright.core.encoding import as_json
from meshwright.core.errors import StoreFailed
from meshwright.core.tracing import NoTracing, Tracing
from meshwright.kernel.cells import Cell, Cells
from meshwright.kernel.envelope import ActorRecord, ActorRef, Message
from meshwright.kernel.guarantees import Bus
from meshwright.kernel.store import Delivery
from meshwright.kernel.timers import Timers
from meshwright.kernel.turns import Commit, take_turn


@dataclass(slots=True, eq=False)
class Surroundings:
    """The surroundings of turns: the parts of a runtime that an executor uses.

    `strict`: replies go through JSON, as they do between processes.
    """

    cells: Cells
    bus: Bus
    timers: Timers
    clock: Clock
    tracing: Tracing | NoTracing | None
    max_record_bytes: int
    strict: bool
    signal: Callable[[ActorRef, Sequence[Any]], None]
    fail: Callable[[StoreFailed], None]
    recover: Callable[[ActorRef], None]
    incarnation: Callable[[], str]

    def run(self, cell: Cell, record: ActorRecord, delivery: Delivery) -> Commit:
        """Run one turn on a record. Whatever it raises is passed on, and its half-changed state forgotten."""
        message = delivery.message
        if not (delivery.is_call or message.sender) and self._is_outdated(message.method, record):
            return Commit(cell.ref, message, record, changed=False)
        if self.tracing is None or message.traceparent is None:
            return self._run(cell, record, delivery, message.traceparent)
        name = f"turn {cell.ref.type}.{message.method}"
        with self.tracing.span(name, parent=message.traceparent) as span:
            return self._run(cell, record, delivery, span.traceparent)

    def _run(self, cell: Cell, record: ActorRecord, delivery: Delivery, traceparent: str | None) -> Commit:
        try:
            if cell.actor is None:
                cell.actor = cell.kind.activate(cell.ref, record)
            commit = take_turn(
                cell.kind,
                cell.actor,
                record,
                delivery.message,
                self.clock.now(),
                remember=delivery.remember,
                traceparent=traceparent,
                max_bytes=self.max_record_bytes,
            )
            if self.strict and delivery.is_call:
                commit.reply = _through_json(commit.reply)
        except BaseException:  # passed on: the next turn begins with what the last one left
            cell.actor = None
            raise
        return commit

    def _is_outdated(self, method: str, record: ActorRecord) -> bool:
        """Whether an alarm was moved or cleared after it rang, or pending work was done meanwhile.

        Turns that another actor asks for run all the same: it may wait for an outcome that it has missed.
        """
        if method == "wake":
            return record.wake_at is None or record.wake_at > self.clock.now()
        return method in ("recover", "redrive") and not record.has_pending_work


def without_alarm(record: ActorRecord, message: Message, ref: ActorRef) -> Commit:
    """The commit of an alarm whose turn raised: it must not ring for ever."""
    return Commit(ref, message, replace(record, revision=record.revision + 1, wake_at=None))


def settle(future: asyncio.Future[Any] | None, result: Any, error: BaseException | None) -> None:
    """Resolve the caller's future, unless it has stopped waiting."""
    if future is None or future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _through_json(reply: Any) -> Any:
    """A reply as it would come from another process. Raises InvalidInput where it cannot be JSON."""
    if reply is None:
        return None
    return TypeAdapter(type(reply)).validate_json(as_json("a reply", reply))
