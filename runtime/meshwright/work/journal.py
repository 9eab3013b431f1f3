"""The journal of an attempt: each finished step is kept, so that a resumed run does not repeat it.

A step is known by its number, its kind and a hash of its request. A run that is resumed gets the results
of the steps that its journal holds; one that asks for something else at that number gets ReplayMismatch.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from meshwright.core import topics
from meshwright.core.encoding import Struct, as_json, plain, stable_json
from meshwright.core.errors import AgentError, HostError, ReplayMismatch, ToolFailed
from meshwright.core.messages import Event, Task, trace_id_of
from meshwright.kernel.envelope import ActorRef, Record
from meshwright.kernel.host import RECORD_GAP
from meshwright.kernel.runtime import Runtime
from meshwright.work.protocol import Suspend, Wait, Work


class ProgressEvent(NamedTuple):
    """An event of a step. Without an `id` it is known by its number in the step."""

    event_type: str
    payload: dict[str, Any]
    id: str | None = None


logger = logging.getLogger("meshwright.work")

WITHIN: ContextVar[tuple[Journal, int] | None] = ContextVar("WITHIN", default=None)
"""The step that the code is within. Code that another task runs is within it too."""


class Suspended(BaseException):
    """Unwinds a run that has to wait. Not an Exception, so that no tool can swallow it."""

    def __init__(self, suspend: Suspend) -> None:
        super().__init__(suspend.wait.wait_id)
        self.suspend = suspend


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its number in the attempt, and what tells it from another. It has two records."""

    number: int
    kind: str
    request: Any
    request_hash: str

    @property
    def intent(self) -> int:
        """The number of the record that says that it is about to run."""
        return 2 * self.number

    @property
    def result(self) -> int:
        """The number of the record of what came of it."""
        return 2 * self.number + 1

    @property
    def stamp(self) -> dict[str, Any]:
        """What both records hold, to recognise the step by."""
        return {"kind": self.kind, "hash": self.request_hash}


class _OpenStep:
    """A step under way: its result, and the events and calls that commit with it when its block ends."""

    def __init__(self, journal: Journal, step: Step, *, repeatable: bool = True, costly: bool = True) -> None:
        self.is_replayed = False
        self.result: Any = None
        self.events: list[ProgressEvent] = []
        self.calls: list[dict[str, Any]] = []
        self.told: dict[str, Any] | None = None
        """What the model was told, for its record; a replay does without."""
        self.step = step
        self.repeatable = repeatable
        self.costly = costly
        self.outer: tuple[int, _OpenStep | None] = (0, None)
        self.token: Token[tuple[Journal, int] | None] | None = None
        self._journal = journal

    async def __aenter__(self) -> Self:
        await self._journal.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.is_replayed:
            self._journal.leave(self, error)

    def finish(self, result: Any, events: Sequence[ProgressEvent] = ()) -> None:
        """Set the result, and add events of it."""
        self.result = result
        self.events += events


_LEAVE = Step(0, "begin anew", None, "")
"""Before the first step: a person's leave to repeat what may not be."""


class Journal:
    """The steps of one claimed attempt: those done before, and those that this run adds.

    A step's record is queued when the step ends and known durable before the next one starts, so the last
    shares the commit that ends the attempt. Steps may nest: a tool that delegates is one, with one inside.
    Side by side they would be numbered as it happens, and not be found again: AgentError refuses that.

    `suspended` is what unwinds the run once it has to wait, also where the agent's code catches it.
    """

    def __init__(
        self, host: Runtime, ref: ActorRef, work: Work, records: list[Record], orphans: list[Record]
    ) -> None:
        self.suspended: Suspended | None = None
        self._earlier = [record.value for record in (*records, *orphans)]
        self._last_orphan = len(orphans)
        self._opened: _OpenStep | None = None
        self._host = host
        self._ref = ref
        self._work = work
        self._known = {record.n: record.value for record in records}
        self._last_record = max(self._known, default=0)
        self._step = 0
        self._under_way = 0
        self._running_once = False
        self._costly = False
        self._queued: Awaitable[None] | None = None

    @classmethod
    async def open(cls, host: Runtime, ref: ActorRef, work: Work) -> Journal:
        """Read what earlier claims of the attempt left."""
        if not work.journaled:
            return cls(host, ref, work, [], [])
        records = await host.records(ref, work.stream)
        return cls(host, ref, work, records, await host.records(ref, work.orphaned_calls))

    @property
    def step_number(self) -> int:
        """The number of the step that ran last; the first is 1."""
        return self._step

    async def step(
        self,
        kind: str,
        request: Any,
        run: Callable[[], Awaitable[Any]],
        *,
        shape: type[BaseModel | Struct] | None = None,
        repeatable: bool = True,
        costly: bool = True,
        tell: Callable[[Any], Sequence[ProgressEvent]] = lambda result: (),
    ) -> Any:
        """Run a step, or return what it gave before: plain JSON data, or a model of the given `shape`.

        `tell` makes progress events of the result, which commit with it. See `open_step`.
        """
        async with self.open_step(kind, request, repeatable=repeatable, costly=costly) as step:
            if not step.is_replayed:
                result = await (run() if repeatable else self._run_once(run))
                if shape is None:
                    result = from_json(to_json(result, fallback=plain))
                step.finish(result, tell(result))
            elif shape is not None:
                return shape.model_validate(step.result)
        return step.result

    def open_step(
        self, kind: str, request: Any, *, repeatable: bool = True, costly: bool = True
    ) -> _OpenStep:
        """Begin a step: one that was journaled before has its result, another gets it by `finish`.

        A step that is not `repeatable` journals its intent first. Found with an intent and no result it is
        not run again, since it may have happened: the run waits for a person to say what came of it.
        One that is not `costly` need not be durable before the next starts: it is run again for nothing.
        Where the block raises there is no step; only the calls that were made in it are recorded.
        """
        return _OpenStep(self, self._next(kind, request), repeatable=repeatable, costly=costly)

    async def enter(self, opened: _OpenStep) -> None:
        """Begin the step that was opened, or give it the result that it had."""
        step = opened.step
        if step.result in self._known:
            opened.is_replayed, opened.result = True, self._replayed(step)
            return
        if _is_intent(self._known.get(step.intent)):
            self._check_road(step, self._known[step.intent])
            raise self._waits(self._ask_person(step))
        opened.outer = self._under_way, self._opened
        self._under_way, self._opened = step.number, opened
        opened.token = WITHIN.set((self, step.number))
        try:
            if opened.repeatable:
                self._fill_gap(step)
            else:
                self._write(step.intent, step.stamp, (), costly=True)
            if opened.costly and self._costly:
                await self.confirm()
        except BaseException as error:
            self.leave(opened, error)
            raise

    def leave(self, opened: _OpenStep, error: BaseException | None) -> None:
        """Journal the step, or what its calls have cost where it failed; also cancelled, since it is paid."""
        step = opened.step
        try:
            if error is None:
                events = [
                    self._event(step.number, n, event) for n, event in enumerate(opened.events, start=1)
                ]
                result = opened.result
                if isinstance(result, Struct):  # at half the cost of the encoder's asking for it
                    result = result.model_dump()
                value = {**step.stamp, "result": result, "last": self._step}
                if opened.calls:
                    value["calls"] = opened.calls
                if opened.told is not None:
                    value["told"] = opened.told
                self._write(step.result, value, events, costly=opened.costly or bool(opened.calls))
        except BaseException as lost:
            error = lost
            raise
        finally:
            if error is not None and opened.calls:
                self._write_orphans(step.number, opened.calls, opened.events)
            if opened.token is not None:
                WITHIN.reset(opened.token)
            self._under_way, self._opened = opened.outer

    def add_call(self, call: dict[str, Any], event: ProgressEvent) -> None:
        """Record what a call of the step under way has cost, and publish an event of it.

        Both commit with the step, or at once where there is none, or it fails.
        """
        if self._opened is None:
            self._write_orphans(self._step, [call], [event])
        else:
            self._opened.calls.append(call)
            self._opened.events.append(event)

    @property
    def earlier(self) -> list[dict[str, Any]]:
        """The records of earlier claims: those of steps, and of calls whose step was never journaled."""
        return self._earlier

    async def wait(self, kind: str, request: Any, child: Task | None = None, *, reason: str = "") -> Any:
        """Return the answer to a question, or suspend the run until there is one.

        Raises ToolFailed within a step that is not repeatable: it could not be taken up again.
        """
        step = self._next(kind, request)
        if step.result in self._known:
            return self._replayed(step)
        if self._running_once:
            raise ToolFailed("only a tool that is declared idempotent may wait for somebody else")
        self._under_way = step.number  # the run is at its end
        await self.confirm()
        raise self._waits(self._suspend(step, reason, {}, child))

    def _waits(self, suspend: Suspend) -> Suspended:
        self.suspended = Suspended(suspend)
        return self.suspended

    def _next(self, kind: str, request: Any) -> Step:
        if self.suspended is not None:  # the agent's code has caught it
            raise self.suspended
        journal, within = WITHIN.get() or (None, 0)
        if self._under_way != (within if journal is self else 0):
            raise AgentError(
                f"step {kind!r} of task {self._work.task.task_id} starts while another is under way",
                remedy="steps go one after another: await each before the next",
            )
        self._step += 1
        return Step(self._step, kind, request, hash_of(request))

    def _write_orphans(
        self, step: int, calls: Sequence[dict[str, Any]], told: Sequence[ProgressEvent]
    ) -> None:
        self._last_orphan += 1
        record = Record(self._ref, self._work.orphaned_calls, self._last_orphan, {"calls": calls})
        events = [self._event(step, n, event) for n, event in enumerate(told, start=1) if event.id]
        try:
            self._queued = self._host.append(record, events)
        except HostError as lost:  # the work is another's by now, or nobody's: the error itself matters more
            logger.warning("Task %s does not pay for a call broken off: %s", self._work.task.task_id, lost)

    async def _run_once(self, run: Callable[[], Awaitable[Any]]) -> Any:
        outer, self._running_once = self._running_once, True
        try:
            return await run()
        finally:
            self._running_once = outer

    async def confirm(self) -> None:
        """Return once every step so far is durable."""
        queued, self._queued = self._queued, None
        self._costly = False
        if queued is not None:
            await queued

    def _write(self, n: int, value: dict[str, Any], events: Sequence[Event], *, costly: bool) -> None:
        self._queued = self._host.append(
            Record(self._ref, self._work.stream, n, as_json(self._ref, value)), events
        )
        self._last_record = max(self._last_record, n)
        self._costly = self._costly or costly

    def _fill_gap(self, step: Step) -> None:
        """Leave a note where so many steps before raised that another could make the gap too long."""
        if step.intent - self._last_record >= RECORD_GAP - 2:
            self._write(step.intent, {**step.stamp, "repeatable": True}, (), costly=True)

    def _event(self, step: int, n: int, event: ProgressEvent) -> Event:
        task = self._work.task
        return Event(
            id=f"{self._ref}/{event.id or f'{self._work.stream}/{step}.{n}'}",
            event_type=event.event_type,
            topic=topics.TASK_PROGRESS,
            time=self._host.clock.now(),
            tenant_id=task.tenant_id,
            task_id=task.task_id,
            agent_id=self._work.dispatch.agent_id,
            trace_id=trace_id_of(task.traceparent),
            traceparent=task.traceparent,
            aggregate_id=str(self._ref),
            payload=as_json(
                self._ref, {"step": step, "attempt": self._work.dispatch.attempt, **event.payload}
            ),
        )

    def _replayed(self, step: Step) -> Any:
        known = self._known[step.result]
        self._check_road(step, known)
        self._step = known.get("last", step.number)  # steps within this one are not run again
        return known["result"]

    def _check_road(self, step: Step, known: dict[str, Any]) -> None:
        """Raise ReplayMismatch where the run left its road; ask a person first where that may do harm."""
        if (known["kind"], known["hash"]) == (step.kind, step.request_hash):
            return
        intents = [value for n, value in self._known.items() if n > _LEAVE.result and n % 2 == 0]
        once = [value["kind"] for value in intents if _is_intent(value)]
        if once and _LEAVE.result not in self._known:
            asked = (
                "The agent's code has changed since this task started. Restart it from the beginning and "
                "repeat these steps? Otherwise cancel it."
            )
            raise self._waits(self._suspend(_LEAVE, asked, {"kind": _LEAVE.kind, "steps": once}))
        raise ReplayMismatch(
            f"step {step.number} of task {self._work.task.task_id} was {known['kind']!r} before, "
            f"and is {step.kind!r} or asks for something else now",
            remedy="a new attempt starts with an empty journal",
        )

    def _ask_person(self, step: Step) -> Suspend:
        what = step.kind.removeprefix("tool ")
        asked = (
            f"The mesh stopped while {what} was running. Check whether it took effect, then answer with its "
            "result."
        )
        suspend = self._suspend(step, asked, {"kind": step.kind, "request": step.request})
        return suspend.model_copy(update={"last": max(self._known) // 2})

    def _suspend(
        self, step: Step, reason: str, subject: dict[str, Any], child: Task | None = None
    ) -> Suspend:
        wait = Wait(
            wait_id=f"{self._work.stream}/{step.number}",
            kind="person" if child is None else "task",
            reason=reason,
            subject=subject,
            child_task_id=None if child is None else child.task_id,
            since=self._host.clock.now(),
        )
        return Suspend(
            task_id=self._work.task.task_id,
            fence=self._work.fence,
            wait=wait,
            step=step.number,
            kind=step.kind,
            request_hash=step.request_hash,
            child=child,
        )


def _is_intent(record: dict[str, Any] | None) -> bool:
    """Whether a record says that a step which may not be repeated was about to run."""
    return record is not None and not record.get("repeatable", False)


def hash_of(request: Any) -> str:
    """A short hash of a step's request, the same for the same JSON."""
    return hashlib.sha256(stable_json(request)).hexdigest()[:16]
