"""The journal of an attempt: each finished step is kept, so that a resumed run does not repeat it.

A step is known by its number, its kind and a hash of its request. A run that is resumed gets the results
of the steps that its journal holds; one that asks for something else at that number gets ReplayMismatch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from meshwright import topics
from meshwright.actor import ActorRef, Record
from meshwright.errors import ReplayMismatch
from meshwright.host import Host
from meshwright.messages import Event, Task, trace_id_of
from meshwright.work.protocol import Suspend, Work

Told = tuple[str, dict[str, Any]]
"""A progress event: its type and its payload."""


class Suspended(BaseException):
    """Unwinds a run that has to wait. Not an Exception, so that no tool can swallow it."""

    def __init__(self, suspend: Suspend) -> None:
        super().__init__(suspend.key)
        self.suspend = suspend


class Journal:
    """The steps of one claimed attempt: those done before, and those that this run adds.

    A step's record is queued when the step ends and known durable before the next one starts, so the last
    shares the commit that ends the attempt. Record 2n is what step n intends, 2n + 1 what came of it.
    """

    def __init__(self, host: Host, ref: ActorRef, work: Work, records: list[Record]) -> None:
        self._host = host
        self._ref = ref
        self._work = work
        self._known = {record.n: record.value for record in records}
        self._step = 0
        self._unconfirmed: Awaitable[None] | None = None

    @classmethod
    async def open(cls, host: Host, ref: ActorRef, work: Work) -> Journal:
        """Read what earlier claims of the attempt left."""
        return cls(host, ref, work, await host.records(ref, work.stream) if work.journaled else [])

    @property
    def step_number(self) -> int:
        """The number of the step that ran last; the first is 1."""
        return self._step

    @property
    def replaying(self) -> bool:
        """Whether the next step's result is in the journal already."""
        return 2 * (self._step + 1) + 1 in self._known

    async def step(
        self,
        kind: str,
        request: Any,
        run: Callable[[], Awaitable[Any]],
        *,
        shape: type[BaseModel] | None = None,
        repeatable: bool = True,
        costly: bool = True,
        tell: Callable[[Any], Sequence[Told]] = lambda result: (),
    ) -> Any:
        """Run a step, or return what it gave before: plain JSON data, or a model of the given `shape`.

        A step that is not `repeatable` journals its intent first. Found with an intent and no result it is
        not run again, since it may have happened: the run waits for a person to say what came of it.
        One that is not `costly` need not be durable before the next starts: it is run again for nothing.
        `tell` makes progress events of the result, which commit with it.
        """
        self._step += 1
        number, request_hash = self._step, hash_of(request)
        if 2 * number + 1 in self._known:
            known = self._replayed(number, kind, request_hash)
            return shape.model_validate(known) if shape else known
        if 2 * number in self._known:
            raise Suspended(self._ask_person(number, kind, request, request_hash))
        if not repeatable:
            self._write(2 * number, {"kind": kind, "hash": request_hash}, (), costly=True)
        if costly:
            await self._confirm()
        result = await run()
        if shape is None:
            result = from_json(to_json(result))
        events = [self._event(2 * number + 1, n, told) for n, told in enumerate(tell(result), start=1)]
        self._write(
            2 * number + 1, {"kind": kind, "hash": request_hash, "result": result}, events, costly=costly
        )
        return result

    async def wait(self, kind: str, request: Any, child: Task | None = None, **known: Any) -> Any:
        """Return the answer to a question, or suspend the run until there is one."""
        self._step += 1
        number, request_hash = self._step, hash_of(request)
        if 2 * number + 1 in self._known:
            return self._replayed(number, kind, request_hash)
        await self._confirm()
        raise Suspended(self._suspend(number, kind, request_hash, child, known))

    async def _confirm(self) -> None:
        unconfirmed, self._unconfirmed = self._unconfirmed, None
        if unconfirmed is not None:
            await unconfirmed

    def _write(self, n: int, value: dict[str, Any], events: Sequence[Event], *, costly: bool) -> None:
        queued = self._host.append(Record(self._ref, self._work.stream, n, value), events)
        if costly or self._unconfirmed is not None:
            self._unconfirmed = queued

    def _event(self, record: int, n: int, told: Told) -> Event:
        event_type, payload = told
        task = self._work.task
        return Event(
            id=f"{self._ref}/{self._work.stream}/{record}.{n}",
            event_type=event_type,
            topic=topics.TASK_PROGRESS,
            time=self._host.clock.now(),
            tenant_id=task.tenant_id,
            task_id=task.task_id,
            agent_id=self._work.dispatch.agent_id,
            trace_id=trace_id_of(task.traceparent),
            traceparent=task.traceparent,
            aggregate_id=str(self._ref),
            payload={"step": record // 2, "attempt": self._work.dispatch.attempt, **payload},
        )

    def _replayed(self, number: int, kind: str, request_hash: str) -> Any:
        known = self._known[2 * number + 1]
        if known["kind"] != kind or known["hash"] != request_hash:
            raise ReplayMismatch(
                f"step {number} of task {self._work.task.task_id} was {known['kind']!r}, now it is {kind!r}",
                remedy="a new attempt starts with an empty journal",
            )
        return known["result"]

    def _ask_person(self, number: int, kind: str, request: Any, request_hash: str) -> Suspend:
        known = {"asked": "did this happen, and what came of it?", "kind": kind, "request": request}
        return self._suspend(number, kind, request_hash, None, known)

    def _suspend(
        self, number: int, kind: str, request_hash: str, child: Task | None, known: dict[str, Any]
    ) -> Suspend:
        return Suspend(
            task_id=self._work.task.task_id,
            fence=self._work.fence,
            key=f"{self._work.stream}/{number}",
            step=number,
            kind=kind,
            request_hash=request_hash,
            child=child,
            known=known,
        )


def hash_of(request: Any) -> str:
    """A short hash of a step's request, the same for the same JSON."""
    return hashlib.sha256(to_json(request)).hexdigest()[:16]
