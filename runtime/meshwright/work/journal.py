"""The journal of an attempt: each finished step is kept, so that a resumed run does not repeat it.

A step is known by its path, its kind and a hash of its request. Its path is its number among its siblings,
given when it starts: `3` is the third step of the run, `3.1` the first within it. Steps that start in an
asyncio task of their own, as gather and TaskGroup make them, belong to a branch: `b2.1` is the first step of
the second. A branch that is resumed is found by its first step, whatever the order in which they start.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar, Token
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

from msgspec.structs import asdict
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from meshwright.core import topics
from meshwright.core.encoding import Struct, own_json, plain, stable_json
from meshwright.core.errors import HostError, MailboxFull, ReplayMismatch, ToolFailed, WaitExpired
from meshwright.core.messages import Event, Task, trace_id_of
from meshwright.kernel.envelope import ActorRef, Record
from meshwright.kernel.runtime import Runtime
from meshwright.work.protocol import (
    StepKey,
    Suspend,
    Wait,
    Waiting,
    WaitKind,
    Work,
    answers_stream,
    claim_stream,
)


class ProgressEvent(NamedTuple):
    """An event of a step. Without an `id` it is known by its number in the step."""

    event_type: str
    payload: dict[str, Any]
    id: str | None = None


logger = logging.getLogger("meshwright.work")

_SETTLING_SECONDS = 0.02  # without a step under way, until a run counts as only waiting
_LETTING_GO_SECONDS = 1.0  # for branches that a run has left behind


class Suspended(BaseException):
    """Unwinds a run that has to wait. Not an Exception, so that no tool can swallow it."""

    def __init__(self, suspend: Suspend) -> None:
        super().__init__(", ".join(wait.wait_id for wait in suspend.waits))
        self.suspend = suspend


class _Scope:
    """Where steps are numbered: the run, the inside of a step, or a branch."""

    __slots__ = ("branches", "claimed", "prefix", "step", "steps", "task")

    def __init__(self, prefix: str, task: asyncio.Task[Any] | None, step: OpenStep | None) -> None:
        self.prefix = prefix
        self.task = task
        self.step = step
        self.steps = 0
        self.branches = 0
        self.claimed: set[int] = set()


_SCOPE: ContextVar[tuple[Journal, _Scope] | None] = ContextVar("_SCOPE", default=None)
"""Where the code is. An asyncio task begins where it was made."""


class OpenStep:
    """A step under way: its result, and the events and calls that commit with it when its block ends."""

    def __init__(
        self,
        journal: Journal,
        scope: _Scope,
        key: StepKey,
        request: Any,
        *,
        repeatable: bool,
        costly: bool,
        earlier: Callable[[], Any] | None = None,
    ) -> None:
        self.is_replayed = False
        self.result: Any = None
        self.events: list[ProgressEvent] = []
        self.calls: list[dict[str, Any]] = []
        self.told: dict[str, Any] | None = None
        """What the model was told, for its record; a replay does without."""
        self.key = key
        self.request = request
        self.earlier = earlier
        self.repeatable = repeatable
        self.costly = costly
        self.scope = scope
        self.waits = 0
        self.has_waited = False
        self.token: Token[tuple[Journal, _Scope] | None] | None = None
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

    def finish(self, result: Any, events: Sequence[ProgressEvent] = ()) -> None:
        """Set the result, and add events of it."""
        self.result = result
        self.events += events

    def add_call(self, call: dict[str, Any], event: ProgressEvent) -> None:
        """Record what a call within the step has cost, and publish an event of it: both commit with it."""
        self.calls.append(call)
        self.events.append(event)


_RESTART_PATH = "0"
"""The path of a question that comes before the first step: may the run start over?"""


class Journal:
    """The steps of one claimed attempt: those done before, and those that this run adds.

    A step's record is queued when the step ends and known durable before the next one that is costly starts,
    so the last shares the commit that ends the attempt. Each claim writes a stream of its own, so that a
    worker which goes on without knowing that it lost its claim overwrites nothing. Steps may nest, and run
    side by side.

    `suspended` is what unwinds the run once all that is left is waiting.
    """

    def __init__(
        self,
        host: Runtime,
        ref: ActorRef,
        work: Work,
        records: Sequence[Record] = (),
        answers: Sequence[Record] = (),
    ) -> None:
        self.suspended: Suspended | None = None
        self.cancelled_run = False
        """Whether it has cancelled the asyncio task of the run, so that it lets go."""
        self._host = host
        self._ref, self._name = ref, str(ref)
        self._work = work
        self._trace_id = trace_id_of(work.task.traceparent)
        self._records = [record.value for record in (*records, *answers)]
        self._results: dict[str, dict[str, Any]] = {}
        self._intents: dict[str, dict[str, Any]] = {}
        self._branches: dict[str, dict[int, tuple[str, str] | None]] = {}
        self._counter = 0
        self._known_steps = 0
        for record in (*records, *answers):
            self._index(record)
        self._open_waits = {key.path for key in work.waits}
        for key in work.waits:
            self._index_branch(key.path, (key.kind, key.hash))
        own = (record.n for record in records if record.stream == work.stream)
        self._next_record = max(own, default=0) + 1
        self._answers = max((record.n for record in answers), default=0)
        self._costly = False
        self._has_written = False
        self._queued: Awaitable[None] | None = None
        self._main = asyncio.current_task()
        self._root = _Scope("", self._main, None)
        self._branch_tasks: set[asyncio.Task[Any]] = set()
        self._busy = 0
        self._waits: dict[str, Wait] = {}
        self._unsent: dict[str, tuple[Wait, Task | None]] = {}
        self._sending: asyncio.Task[None] | None = None
        self._check: asyncio.TimerHandle | None = None
        self._activity = 0

    @classmethod
    async def open(cls, host: Runtime, ref: ActorRef, work: Work) -> Journal:
        """Read what earlier claims of the attempt left."""
        if not work.journaled:
            return cls(host, ref, work)
        return cls(host, ref, work, *await read_steps(host, ref, work.steps, work.claim))

    @property
    def earlier(self) -> list[dict[str, Any]]:
        """The records of earlier claims: those of steps, and of calls whose step was never journaled."""
        return self._records

    @property
    def step_number(self) -> int | None:
        """The number that the next step will have; None in a branch, where it is not always the same."""
        return None if "b" in self._scope().prefix else self._counter + 1

    @property
    def inside(self) -> OpenStep | None:
        """The step that the code is within."""
        return self._scope().step

    @property
    def pauses(self) -> int:
        """How often in a row the run was parked at where it is."""
        return 0 if self._has_written else self._work.pauses

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
                result = await run()
                if shape is None:
                    result = from_json(to_json(result, fallback=plain))
                step.finish(result, tell(result))
            elif shape is not None:
                return shape.model_validate(step.result)
        return step.result

    def open_step(
        self,
        kind: str,
        request: Any,
        *,
        repeatable: bool = True,
        costly: bool = True,
        earlier: Callable[[], Any] | None = None,
    ) -> OpenStep:
        """Begin a step: one that was journaled before has its result, another gets it by `finish`.

        A step that is not `repeatable` journals its intent first. Found with an intent and no result it is
        not run again, since it may have happened: the run waits for a person to say what happened.
        One that is not `costly` need not be durable before the next starts: it is run again for nothing.
        Where the block raises there is no step; only the calls that were made in it are recorded.
        `earlier` makes the request as earlier versions hashed it.
        """
        scope, key = self._next(kind, request)
        return OpenStep(self, scope, key, request, repeatable=repeatable, costly=costly, earlier=earlier)

    async def enter(self, opened: OpenStep) -> None:
        """Begin the step that was opened, or give it the result that it had."""
        key = opened.key
        if opened.earlier is not None and self._is_of_earlier_version(key, opened.earlier):
            key = key.model_copy(update={"hash": self._results[key.path]["hash"]})
        if key.path in self._results:
            opened.is_replayed, opened.result = True, await self._replayed(opened.scope, key)
            return
        if key.path in self._intents:
            await self._check_replay(opened.scope, key, self._intents[key.path])
            await self._wait(opened.scope, self._what_happened(opened), None)
        self._busy += 1
        self._activity += 1
        inside = _Scope(f"{key.path}.", asyncio.current_task(), opened)
        opened.token = _SCOPE.set((self, inside))
        try:
            if not opened.repeatable:
                self._write({**asdict(key), "intent": True}, (), costly=True)
            if opened.costly and self._costly:
                await self.confirm()
        except BaseException as error:
            self.leave(opened, error)
            raise

    def leave(self, opened: OpenStep, error: BaseException | None) -> None:
        """Journal the step, or what its calls have cost where it failed; also cancelled, since it is paid."""
        try:
            if error is None:
                value = {**asdict(opened.key), "result": opened.result, "last": self._counter}
                if opened.calls:
                    value["calls"] = opened.calls
                if opened.told is not None:
                    value["told"] = opened.told
                events = [self._event(opened.key, n, event) for n, event in enumerate(opened.events, start=1)]
                self._write(value, events, costly=opened.costly or bool(opened.calls))
        except BaseException as lost:
            error = lost
            raise
        finally:
            if error is not None and opened.calls:
                self._write_calls(opened.key, opened.calls, opened.events)
            if opened.token is not None:
                _SCOPE.reset(opened.token)
                if not opened.waits:
                    self._busy -= 1
                if self._waits:
                    self._check_soon()

    def add_call(self, call: dict[str, Any], event: ProgressEvent) -> None:
        """Record what a call of a model has cost, and publish an event of it.

        Both commit with the step under way, or at once where there is none, or it fails.
        """
        step = self._scope().step
        if step is None:
            key = StepKey(path="", number=self._counter, kind="", hash="")
            self._write_calls(key, [call], [event])
        else:
            step.add_call(call, event)

    async def wait(
        self,
        step_kind: str,
        request: Any,
        *,
        kind: WaitKind = "person",
        reason: str = "",
        subject: dict[str, Any] | None = None,
        answer_schema: dict[str, Any] | None = None,
        binds: str = "",
        may_answer: tuple[str, ...] = (),
        due_at: datetime | None = None,
        expires_at: datetime | None = None,
        child: Callable[[str], Task] | None = None,
    ) -> Any:
        """Return the answer to a question, or let the run wait for it. See `Wait` for what it is told.

        A `child` makes the task to wait for, of the wait's path. The run gives up its slot once all that is
        left of it is waiting. Raises WaitExpired where there is no answer by `expires_at`, and ToolFailed
        within a step that is not repeatable: it could not be resumed.
        """
        scope, key = self._next(step_kind, request)
        if key.path in self._results:
            for step in _steps_around(scope):
                step.has_waited = True
            return await self._replayed(scope, key)
        if scope.step is not None and scope.step.runs_once:
            raise ToolFailed("only a tool that is declared idempotent may wait for something")
        task = None if child is None else child(key.path)
        wait = Wait(
            wait_id=f"{self._work.steps}/{key.path}",
            kind=kind,
            reason=reason,
            subject=subject or {},
            answer_schema=answer_schema,
            binds=binds,
            may_answer=may_answer,
            child_task_id=None if task is None else task.task_id,
            step=key,
            since=self._host.clock.now(),
            due_at=due_at,
            expires_at=expires_at,
        )
        return await self._wait(scope, wait, task)

    async def park(
        self,
        kind: WaitKind,
        reason: str,
        due_at: datetime,
        subject: dict[str, Any] | None = None,
    ) -> NoReturn:
        """Let the run wait in the step under way, which is run again at `due_at`, on any worker.

        Raises ToolFailed within a step that is not repeatable.
        """
        scope = self._scope()
        opened = scope.step
        if opened is None:
            raise ValueError("a run is parked within a step")
        if opened.runs_once:
            raise ToolFailed("only a tool that is declared idempotent may wait for something")
        wait = Wait(
            wait_id=f"{self._work.steps}/{opened.key.path}",
            kind=kind,
            reason=reason,
            subject=subject or {},
            step=opened.key,
            since=self._host.clock.now(),
            due_at=due_at,
            again=True,
        )
        await self._wait(scope, wait, None)
        raise AssertionError("a run that is parked is run again")

    async def confirm(self) -> None:
        """Return once every step so far is durable."""
        queued = self._queued
        if queued is not None:
            await queued
        if self._queued is queued:  # steps that start side by side wait for it, all of them
            self._queued, self._costly = None, False

    async def close(self) -> None:
        """End the branches that the run has left behind."""
        if self._check is not None:
            self._check.cancel()
        left = {task for task in self._branch_tasks if not task.done()}
        if self._sending is not None:
            left.add(self._sending)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_LETTING_GO_SECONDS)

    # Where steps are

    def _scope(self) -> _Scope:
        journal, scope = _SCOPE.get() or (None, self._root)
        return scope if journal is self else self._root

    def _next(self, kind: str, request: Any) -> tuple[_Scope, StepKey]:
        """The path of the next step where the code is."""
        if self.suspended is not None:  # the agent's code has caught it
            raise self.suspended
        scope, request_hash = self._scope(), hash_of(request)
        task = asyncio.current_task()
        if scope.task is not task:
            scope = self._branch(scope, kind, request_hash, task)
        scope.steps += 1
        path = f"{scope.prefix}{scope.steps}"
        known = self._results.get(path)
        if known is None:
            self._counter = number = max(self._counter, self._known_steps) + 1
        else:
            number = known["number"]
            self._counter = max(self._counter, known.get("last", number))
        return scope, StepKey(path=path, number=number, kind=kind, hash=request_hash)

    def _branch(self, scope: _Scope, kind: str, request_hash: str, task: asyncio.Task[Any] | None) -> _Scope:
        """The branch that an asyncio task begins by this step: one that began so before, or a new one."""
        before = self._branches.setdefault(scope.prefix, {})
        free = [n for n in sorted(before) if n not in scope.claimed]
        like_this = [n for n in free if before[n] == (kind, request_hash)]
        number = next(iter(like_this or [n for n in free if before[n] is None]), 0)
        if not number:
            number = max([*before, *scope.claimed], default=0) + 1
        scope.claimed.add(number)
        branch = _Scope(f"{scope.prefix}b{number}.", task, scope.step)
        _SCOPE.set((self, branch))
        if task is not None:
            self._branch_tasks.add(task)
            task.add_done_callback(self._branch_tasks.discard)
        return branch

    def _index(self, record: Record) -> None:
        """Note what a record of an earlier claim says."""
        value = record.value
        if "kind" not in value:
            return  # calls whose step was never journaled, or the beginning of a claim
        if "path" not in value:  # as the first versions wrote steps: numbered, and twice as many records
            number, is_result = divmod(record.n, 2)
            value = {**value, "path": str(number), "number": number, "siblings": value.get("last", number)}
            if not is_result and not value.get("repeatable", False):
                value["intent"] = True
            elif not is_result:
                return
        known = self._intents if "intent" in value else self._results
        known[value["path"]] = value
        self._known_steps = max(self._known_steps, value["number"])
        self._index_branch(value["path"], (value["kind"], value["hash"]))

    def _index_branch(self, path: str, step: tuple[str, str]) -> None:
        """Note how the branches began that a path is in."""
        parts = path.split(".")
        for i, part in enumerate(parts):
            if part.startswith("b"):
                prefix = "".join(f"{before}." for before in parts[:i])
                begins = step if parts[i + 1 :] == ["1"] else None
                before = self._branches.setdefault(prefix, {})
                before[int(part[1:])] = before.get(int(part[1:])) or begins

    async def _replayed(self, scope: _Scope, key: StepKey) -> Any:
        known = self._results[key.path]
        await self._check_replay(scope, key, known)
        scope.steps = known.get("siblings", scope.steps)
        if known.get("expired"):
            raise WaitExpired(f"there was no answer to {key.kind} in time")
        return known["result"]

    async def _check_replay(self, scope: _Scope, key: StepKey, known: dict[str, Any]) -> None:
        """Raise ReplayMismatch where the run does something else now; ask first where that may do harm."""
        if (known["kind"], known["hash"]) == (key.kind, key.hash):
            return
        once = [intent["kind"] for intent in self._intents.values()]
        if once and _RESTART_PATH not in self._results:
            reason = (
                "The agent's code has changed since this task started. Restart it from the beginning and "
                "repeat these steps? Otherwise cancel it."
            )
            restart = StepKey(path=_RESTART_PATH, number=0, kind="restart", hash="")
            await self._wait(scope, self._question(restart, reason, {"kind": "restart", "steps": once}), None)
        raise ReplayMismatch(
            f"step {key.path} of task {self._work.task.task_id} was {known['kind']!r} before, "
            f"and is {key.kind!r} or asks for something else now",
            remedy="a new attempt starts with an empty journal",
        )

    def _is_of_earlier_version(self, key: StepKey, earlier: Callable[[], Any]) -> bool:
        known = self._results.get(key.path)
        return known is not None and known["hash"] != key.hash and known["hash"] == hash_of(earlier())

    def _what_happened(self, opened: OpenStep) -> Wait:
        what = opened.key.kind.removeprefix("tool ")
        reason = (
            f"The mesh stopped while {what} was running. Check whether it took effect, then answer with its "
            "result."
        )
        return self._question(opened.key, reason, {"kind": opened.key.kind, "request": opened.request})

    def _question(self, key: StepKey, reason: str, subject: dict[str, Any]) -> Wait:
        return Wait(
            wait_id=f"{self._work.steps}/{key.path}",
            reason=reason,
            subject=subject,
            step=key,
            since=self._host.clock.now(),
        )

    # Waiting

    async def _wait(self, scope: _Scope, wait: Wait, child: Task | None) -> NoReturn:
        """Wait; the run is resumed with the answer in its journal."""
        path = wait.step.path
        self._waits[path] = wait
        if path not in self._open_waits:
            self._unsent[path] = (wait, child)
        if not self._branch_tasks and asyncio.current_task() is self._main:  # nothing else is under way
            await self.confirm()
            raise self._suspend()
        around = list(_steps_around(scope))
        for step in around:
            step.waits += 1
            self._busy -= step.waits == 1
        self._check_soon()
        try:
            await asyncio.get_running_loop().create_future()
        finally:  # cancelled
            for step in around:
                step.waits -= 1
                self._busy += step.waits == 0
            self._waits.pop(path, None)
            self._unsent.pop(path, None)
        raise AssertionError("a run that waits is resumed from its start")

    def _check_soon(self) -> None:
        """Look soon whether all that is left of the run is waiting."""
        if self._check is None and self.suspended is None:
            loop = asyncio.get_running_loop()
            self._check = loop.call_later(_SETTLING_SECONDS, self._look, self._activity)

    def _look(self, activity: int) -> None:
        self._check = None
        if self.suspended is not None or not self._waits:
            return
        if self._busy:
            if self._unsent and self._sending is None:
                self._sending = asyncio.create_task(self._send_waits())
        elif activity != self._activity:
            self._check_soon()
        elif self._main is not None and not self._main.cancelling():
            self._suspend()
            self.cancelled_run = self._main.cancel()

    def _suspend(self) -> Suspended:
        waits, children = self._to_send()
        is_parked = any(wait.again for wait in self._waits.values())
        self.suspended = Suspended(
            Suspend(
                task_id=self._work.task.task_id,
                fence=self._work.fence,
                waits=waits,
                children=children,
                answers=self._answers,
                pauses=self.pauses + 1 if is_parked else 0,
            )
        )
        return self.suspended

    def _to_send(self) -> tuple[tuple[Wait, ...], tuple[Task, ...]]:
        waits = tuple(wait for wait, _ in self._unsent.values())
        return waits, tuple(child for _, child in self._unsent.values() if child is not None)

    async def _send_waits(self) -> None:
        """Let the thread know what the run waits for, while another branch of it works."""
        waits, children = self._to_send()
        await self.confirm()
        waiting = Waiting(
            task_id=self._work.task.task_id,
            fence=self._work.fence,
            waits=waits,
            children=children,
            answers=self._answers,
        )
        try:
            await self._host.call(self._ref, "wait_for", waiting, traceparent=self._work.task.traceparent)
            for wait in waits:
                self._open_waits.add(wait.step.path)
                self._unsent.pop(wait.step.path, None)
        except (MailboxFull, HostError) as lost:  # they are sent again, at the latest when the run suspends
            logger.warning("task %s does not wait yet: %s", self._work.task.task_id, lost)
        finally:
            self._sending = None
            if self._waits:
                self._check_soon()

    # Records

    def _write_calls(
        self, key: StepKey, calls: Sequence[dict[str, Any]], told: Sequence[ProgressEvent]
    ) -> None:
        events = [self._event(key, n, event) for n, event in enumerate(told, start=1) if event.id]
        try:
            self._append({"calls": calls}, events)
        except HostError as lost:  # the work is another's by now, or is over: the error itself matters more
            logger.warning("Task %s does not pay for a call broken off: %s", self._work.task.task_id, lost)

    def _write(self, value: dict[str, Any], events: Sequence[Event], *, costly: bool) -> None:
        self._append(own_json(self._ref, value), events)
        self._has_written = True
        self._costly = self._costly or costly

    def _append(self, value: Any, events: Sequence[Event]) -> None:
        record = Record(self._ref, self._work.stream, self._next_record, value)
        self._queued = self._host.append(record, events)
        self._next_record += 1
        self._activity += 1

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


async def read_steps(
    host: Runtime, ref: ActorRef, steps: str, claims: int = 0
) -> tuple[list[Record], list[Record]]:
    """What the claims of an attempt wrote, at least so many, and the answers to what it waited for."""
    records: list[Record] = []
    claim = 0
    while (found := await host.records(ref, claim_stream(steps, claim))) or claim < claims:
        records += found
        claim += 1
    return records, await host.records(ref, answers_stream(steps))


async def streams_of(host: Runtime, ref: ActorRef, steps: str) -> list[str]:
    """The streams in which the steps of an attempt are."""
    records, _ = await read_steps(host, ref, steps, 1)  # the first claim may have left nothing
    return [steps, *dict.fromkeys(record.stream for record in records), answers_stream(steps)]


def _steps_around(scope: _Scope) -> Iterator[OpenStep]:
    """The steps that the code is within, from the inside."""
    step = scope.step
    while step is not None:
        yield step
        step = step.scope.step


def hash_of(request: Any) -> str:
    """A short hash of a step's request, the same for the same JSON."""
    return hashlib.sha256(stable_json(request)).hexdigest()[:16]
