"""Paths of steps, the branches that asyncio tasks make, and the records that a claim writes."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar, Token
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from msgspec.structs import asdict

from meshwright.core import topics
from meshwright.core.encoding import own_json, stable_json
from meshwright.core.errors import HostError
from meshwright.core.messages import Event, trace_id_of
from meshwright.kernel.envelope import ActorRef, Record
from meshwright.kernel.runtime import Runtime
from meshwright.work.earlier import Earlier
from meshwright.work.protocol import StepKey, Work


def hash_of(request: Any) -> str:
    """A short hash of a step's request, the same for the same JSON."""
    return hashlib.sha256(stable_json(request)).hexdigest()[:16]


class ProgressEvent(NamedTuple):
    """An event of a step. Without an `id` it is known by its number in the step."""

    event_type: str
    payload: dict[str, Any]
    id: str | None = None


class _Journal(Protocol):
    async def enter(self, opened: OpenStep) -> None: ...
    def leave(self, opened: OpenStep, error: BaseException | None) -> None: ...


class OpenStep:
    """A step under way: its result, and the events and calls that commit with it when its block ends."""

    def __init__(
        self,
        journal: _Journal,
        scope: Scope,
        key: StepKey,
        request: Any,
        *,
        repeatable: bool,
        costly: bool,
        paid: bool,
    ) -> None:
        self.is_replayed = False
        self.result: Any = None
        self.events: list[ProgressEvent] = []
        self.calls: list[dict[str, Any]] = []
        self.is_error = False
        self.sent: dict[str, Any] | None = None
        """The messages sent to the model, for its record; a replay does without."""
        self.totals: dict[str, Any] = {}
        """The totals of the run when a call of a model ended: its limits go by them."""
        self.key = key
        self.request = request
        self.repeatable = repeatable
        self.costly = costly
        self.paid = paid
        self.cut = 0
        """How many calls of earlier claims were cut off in it, and are still to be recorded."""
        self.was_begun = False
        """Whether the claim before this one may have been in it as its process ended."""
        self.scope = scope
        self.waits = 0
        """How many waits are open within it."""
        self.has_waited = False
        self.outside = False
        """Whether its result may have text from outside."""
        self.started_at: datetime | None = None
        """When this claim began to run it; None for one that is `paid`."""
        self.token: Token[tuple[Paths, Scope] | None] | None = None
        self._journal = journal

    async def __aenter__(self) -> Self:
        await self._journal.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.is_replayed:
            self._journal.leave(self, error)

    @property
    def number(self) -> int:
        """Its number, for people."""
        return self.key.number

    @property
    def runs_once(self) -> bool:
        """Whether it, or a step that it is within, may not be repeated."""
        return not self.repeatable or (self.scope.step is not None and self.scope.step.runs_once)

    def finish(self, result: Any, events: Sequence[ProgressEvent] = (), *, is_error: bool = False) -> None:
        """Set the result, which may be an error that the code gets again, and add events of it."""
        self.result, self.is_error = result, is_error
        self.events += events

    def add_call(self, call: dict[str, Any], event: ProgressEvent) -> None:
        """Record what a call within the step has cost, and publish an event of it: both commit with it."""
        self.calls.append(call)
        self.events.append(event)

    def record(self) -> dict[str, Any]:
        """Returns its record, without its key."""
        value = {"result": self.result}
        if self.started_at is not None:
            value["started_at"] = self.started_at
        if self.calls:
            value["calls"] = self.calls
        if self.sent is not None:
            value["sent"] = self.sent
        if self.totals:
            value["totals"] = self.totals
        if self.is_error:
            value["is_error"] = True
        if self.outside:
            value["outside"] = True
        return value

    def take_cut(self) -> int:
        """Say once how many calls are to be recorded that were cut off."""
        count, self.cut = self.cut, 0
        return count


class Scope:
    """A scope in which steps are numbered: the run, the inside of a step, or a branch."""

    __slots__ = ("claimed", "prefix", "step", "steps", "task", "was_begun")

    def __init__(
        self, prefix: str, task: asyncio.Task[Any] | None, step: OpenStep | None, *, was_begun: bool = False
    ) -> None:
        self.prefix = prefix
        self.task = task
        self.step = step
        self.steps = 0
        self.claimed: set[int] = set()
        self.was_begun = was_begun
        """Whether the claim before this one may have been in its next step as its process ended."""

    def steps_around(self) -> Iterator[OpenStep]:
        """The steps that the code is within, from the inside."""
        step = self.step
        while step is not None:
            yield step
            step = step.scope.step


_SCOPE: ContextVar[tuple[Paths, Scope] | None] = ContextVar("_SCOPE", default=None)
"""The scope of the code. An asyncio task begins in that of its maker."""


class Paths:
    """Gives the steps of a run their paths: the same again when it is resumed."""

    def __init__(self, earlier: Earlier, *, was_cut: bool = False) -> None:
        self.main = asyncio.current_task()
        """The asyncio task of the run."""
        self.branch_tasks: set[asyncio.Task[Any]] = set()
        self.counter = 0
        """The number of the step that began last."""
        self._earlier = earlier
        self._root = Scope("", self.main, None, was_begun=was_cut)

    @property
    def is_alone(self) -> bool:
        """Whether the code is the only one of the run that may be at work."""
        return not self.branch_tasks and asyncio.current_task() is self.main

    def here(self) -> Scope:
        """The scope of the code."""
        paths, scope = _SCOPE.get() or (None, self._root)
        return scope if paths is self else self._root

    def enter(self, step: OpenStep) -> None:
        """Let the code be within a step."""
        scope = Scope(f"{step.key.path}.", step.scope.task, step, was_begun=step.was_begun)
        step.token = _SCOPE.set((self, scope))

    def leave(self, step: OpenStep) -> bool:
        """Let the code be where it was before the step; whether it was within it."""
        if step.token is None:
            return False
        _SCOPE.reset(step.token)
        return True

    def next(self, kind: str, request_hash: str) -> tuple[Scope, StepKey]:
        """The next step where the code is."""
        scope, task = self.here(), asyncio.current_task()
        if scope.task is not task:
            scope = self._branch(scope, kind, request_hash, task)
        scope.steps += 1
        path = f"{scope.prefix}{scope.steps}"
        known = self._earlier.results.get(path)
        if known is None:
            self.counter = number = max(self.counter, self._earlier.steps) + 1
        else:
            number = known["number"]
            self.counter = max(self.counter, known.get("last", number))
        return scope, StepKey(path=path, number=number, kind=kind, hash=request_hash)

    def upcoming(self, candidates: Mapping[str, Any]) -> str | None:
        """The kind of the step that the journal has next, "" if it began and left none; None if it has none.

        A branch that begins here is found by one of `candidates`: requests by kind.
        """
        scope = self.here()
        if scope.task is asyncio.current_task():
            return self._earlier.step_at(f"{scope.prefix}{scope.steps + 1}")
        before = self._earlier.branches(scope.prefix)
        free = [step for n, step in before.items() if n not in scope.claimed]
        found = (kind for kind, request in candidates.items() if (kind, hash_of(request)) in free)
        return next(found, "" if None in free else None)

    def _branch(self, scope: Scope, kind: str, request_hash: str, task: asyncio.Task[Any] | None) -> Scope:
        """The branch that an asyncio task begins by this step: one that began so before, or a new one."""
        before = self._earlier.branches(scope.prefix)
        free = [n for n in sorted(before) if n not in scope.claimed]
        like_this = [n for n in free if before[n] == (kind, request_hash)]
        number = next(iter(like_this or [n for n in free if before[n] is None]), 0)
        if not number:
            number = max([*before, *scope.claimed], default=0) + 1
        scope.claimed.add(number)
        branch = Scope(f"{scope.prefix}b{number}.", task, scope.step, was_begun=scope.was_begun)
        _SCOPE.set((self, branch))
        if task is not None:
            self.branch_tasks.add(task)
            task.add_done_callback(self.branch_tasks.discard)
        return branch


logger = logging.getLogger("meshwright.work")
_MAX_ERROR_CHARS = 2_000


class Records:
    """The stream of records that one claim writes."""

    def __init__(
        self, host: Runtime, ref: ActorRef, work: Work, last: int, on_step: Callable[[], None] = lambda: None
    ) -> None:
        self.is_costly = False
        """Whether it would cost something to lose what is not known durable yet."""
        self.has_steps = False
        """Whether this claim has journaled a step."""
        self._host = host
        self._ref, self._name = ref, str(ref)
        self._work, self._stream = work, work.stream
        self._trace_id = trace_id_of(work.task.traceparent)
        self._last = last
        self._on_step = on_step
        self._queued: Awaitable[None] | None = None

    def write(
        self,
        key: StepKey,
        value: dict[str, Any],
        events: Sequence[ProgressEvent] = (),
        *,
        costly: bool = True,
    ) -> None:
        """Queue the record of a step with its events."""
        data = own_json(self._ref, {**asdict(key), **value})
        self._append(data, [self._event(key, n, event) for n, event in enumerate(events, start=1)])
        self.has_steps = True
        self.is_costly = self.is_costly or costly
        if "result" in value:
            self._on_step()

    def write_cut(self, key: StepKey, count: int) -> None:
        """Queue how many calls of a step were cut off and are recorded nowhere, before it makes another."""
        self._append({"cut": (key.path, count)}, [])
        self.is_costly = True

    def write_calls(
        self,
        key: StepKey,
        calls: Sequence[dict[str, Any]],
        events: Sequence[ProgressEvent],
        error: BaseException | None = None,
        cut: int = 0,
        started_at: datetime | None = None,
    ) -> None:
        """Queue what calls have cost in a step that has no result, with their events, and why it failed.

        A resumed run runs that step again; `cut` of its calls are still to be recorded.
        """
        value: dict[str, Any] = {"calls": calls} if calls else {}
        if calls and key.path:
            value["cut"] = (key.path, cut)
        if isinstance(error, Exception) and not isinstance(error, HostError):
            message = str(error)[:_MAX_ERROR_CHARS].encode(errors="replace").decode()
            times = {"started_at": started_at, "ended_at": self._host.clock.now()}
            value["failed"] = {**asdict(key), "error": type(error).__name__, "message": message, **times}
        if not value:
            return
        published = [self._event(key, n, event) for n, event in enumerate(events, start=1) if event.id]
        try:
            self._append(value, published)
        except HostError as lost:  # the work is another's by now, or is over: the error itself matters more
            logger.warning("Task %s does not pay for a call broken off: %s", self._work.task.task_id, lost)

    async def confirm(self) -> None:
        """Return once every record so far is durable."""
        queued = self._queued
        if queued is not None:
            await queued
        if self._queued is queued:  # steps that start side by side wait for it, all of them
            self._queued, self.is_costly = None, False

    def _append(self, value: Any, events: Sequence[Event]) -> None:
        self._last += 1
        self._queued = self._host.append(Record(self._ref, self._stream, self._last, value), events)

    def _event(self, key: StepKey, n: int, event: ProgressEvent) -> Event:
        task = self._work.task
        place = {"step": key.number, "path": key.path, "attempt": self._work.dispatch.attempt}
        return Event(
            id=f"{self._name}/{event.id or f'{self._work.steps}/{key.path}.{n}'}",
            event_type=event.event_type,
            topic=topics.TASK_PROGRESS,
            time=self._host.clock.now(),
            tenant_id=task.tenant_id,
            task_id=task.task_id,
            agent_id=self._work.dispatch.agent_id,
            trace_id=self._trace_id,
            traceparent=task.traceparent,
            aggregate_id=self._name,
            payload=own_json(self._name, {**place, **event.payload}),
        )
