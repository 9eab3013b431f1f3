"""The journal of an attempt: each finished step is kept, so that a resumed run does not repeat it.

A step is known by its path, its kind and a hash of its request. Its path is its number among its siblings,
given when it starts: `3` is the third step of the run, `3.1` the first within it. Steps that start in an
asyncio task of their own, as gather and TaskGroup make them, belong to a branch, which is named by the
request that it begins with: `b5f2c8x2.1` is the first step of the second branch that begins so. So the
order in which siblings end changes no path. The products of a step (its `step_id`, a delegated task, a
memory) are named by its kind, its hash and which of these it is, whatever branch it is in.

The hash is of the request of the run's code alone: what a model or a tool gave stands, whatever prompts and
tools say now. If the code asks for something else, the journal cannot be followed: the attempt ends, and
the next one gets the answers of this one. A person decides before a step is repeated that may not be.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, NoReturn, Unpack
from weakref import WeakMethod

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from meshwright.core.checks import CheckResult, StepCheck
from meshwright.core.encoding import Struct, plain
from meshwright.core.errors import Conflict, MeshError, NotFound, ToolFailed, WaitExpired
from meshwright.core.messages import Task
from meshwright.core.patience import be_patient
from meshwright.core.step_events import AnswerKept
from meshwright.engine.kernel.envelope import ActorRef, Record
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.cancels import HeldCancels
from meshwright.engine.work.cut_calls import CutCalls
from meshwright.engine.work.doubts import CheckStep, Doubts, JournaledStep, is_end
from meshwright.engine.work.earlier_records import (
    Earlier,
    changes_before,
    read_continued,
    read_forked,
    read_steps,
    unspent_answers,
)
from meshwright.engine.work.paths import LifeCall, OpenStep, Paths, Scope, step_identity
from meshwright.engine.work.people import QUESTIONS, repeat_key
from meshwright.engine.work.protocol import Answer, StepKey, WaitKind, Work, hash_request
from meshwright.engine.work.records import ClaimRecords, ProgressEvent
from meshwright.engine.work.replay import Replay
from meshwright.engine.work.requested_calls import RequestedCalls
from meshwright.engine.work.waits import RunInterrupted, RunSuspended, WaitFields, WaitGroup, Waits

_LETTING_GO_SECONDS = 1.0  # for branches that a run has left behind


class Journal:
    """The steps of one claimed attempt: of earlier claims, and of this run.

    A step's record is queued when the step ends and known durable before the next costly step starts,
    so the last shares the commit that ends the attempt. Each claim writes a stream of its own, so that a
    worker which goes on without knowing that it lost its claim overwrites nothing. Steps may nest, and run
    side by side.
    """

    def __init__(
        self,
        runtime: Runtime,
        ref: ActorRef,
        work: Work,
        records: Sequence[Record] = (),
        answers: Sequence[Record] = (),
        unspent: Sequence[Record] = (),
        on_step: Callable[[], None] = lambda: None,
        *,
        continued: Sequence[Record] = (),
    ) -> None:
        self.outside = work.task.outside
        """Whether the run has read text from outside by now."""
        self._runtime = runtime
        self._ref = ref
        self._work = work
        self._earlier = Earlier(records, answers, work.waits, work.stream, unspent, continued)
        self._paths = Paths(self._earlier, was_cut=work.was_cut, is_same_code=work.is_same_code)
        self._records = ClaimRecords(runtime, ref, work, self._earlier.last_record, on_step)
        self._waits = Waits(runtime, ref, work, self._earlier, self._paths, self._records)
        self._doubts = Doubts(runtime, ref, work, self._earlier, self._waits)
        self._checked: dict[str, OpenStep] = {}
        """The steps of this run that may not be repeated and have a check, by their paths."""
        self._once: set[OpenStep] = set()
        """The steps under way that may not be repeated."""
        cancels = HeldCancels()
        self.replay = Replay(
            work,
            self._earlier,
            self._paths,
            self._waits,
            cancels,
            self._once,
            WeakMethod(self._check_recorded),
        )
        self.requested_calls = RequestedCalls(self._paths, self._waits, self._records, self.replay, cancels)
        self.cut_calls = CutCalls(work, self._earlier, self._paths, self._records)
        self.recorded_check: Callable[[str, Any], StepCheck | None] = _no_check
        """The check of a recorded step that the code has not come to, by its kind and request."""
        self._repeats: list[str] = []
        self._under_way: dict[str, asyncio.Future[None]] = {}
        """The steps of programs outside that are under way, by their paths."""
        self._is_lost = False
        """Whether another has the work by now, or may have."""
        self._end: Callable[[], object] | None = None
        """Ends the run, once its claim is lost."""
        self._ended: list[StepKey] = []
        """The steps of this claim that may not be repeated and have ended, since records were durable."""
        self._withdrawals: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls, runtime: Runtime, ref: ActorRef, work: Work, on_step: Callable[[], None] = lambda: None
    ) -> Journal:
        """Read what earlier claims of the attempt left. `on_step` is called once a step is finished."""
        replaced = [
            await read_steps(runtime, ref, steps, 1)  # its first claim may have left none
            for steps in work.replaced
        ]
        unspent = unspent_answers(replaced)
        continued: list[Record] = []
        failure: MeshError | None = None
        try:
            continued += await read_forked(runtime, work.task)
        except (Conflict, NotFound) as error:  # its steps were deleted since, or its task
            failure = error
        for steps in work.continued:
            continued += await read_continued(runtime, ref, steps)
        # A first claim need not look for records.
        own = await read_steps(runtime, ref, work.steps, work.claim) if work.journaled else ([], [])
        journal = cls(runtime, ref, work, *own, unspent, on_step, continued=continued)
        journal.replay.ended = failure
        if work.must_ask:
            journal._repeats = await changes_before(runtime, ref, work.taken_over)
        return journal

    async def begin(self) -> None:
        """Ask before the first step whether what attempts before may have changed is repeated.

        Only if the work begins at the start without a request for that. Raises RestartDenied.
        """
        if self._repeats:
            why = "This task failed, and would start over"
            await self.replay.ask_restart(self._paths.here(), self._repeats, f"{QUESTIONS}.0", why)

    @property
    def earlier(self) -> list[dict[str, Any]]:
        """The records of earlier claims: steps, and calls whose step was never journaled."""
        return self._earlier.values

    @property
    def answers(self) -> int:
        """How many answers to its waits the attempt has read."""
        return self._earlier.answers

    @property
    def is_closed(self) -> bool:
        """Whether the run is over: nothing more can be a step of it."""
        return self.replay.is_closed

    @property
    def suspended(self) -> RunSuspended | None:
        """The exception that unwinds the run, once it has only waits left."""
        return self._waits.suspended

    def interrupt(self, error: MeshError) -> RunInterrupted:
        """End the run with an error, whatever its code makes of it; returns the exception that unwinds it."""
        self.replay.ended = self.replay.ended or error
        return RunInterrupted(str(error))

    @property
    def is_of_caller(self) -> bool:
        """Whether the code that runs now may be the run's: that of another run is not."""
        return self._paths.is_of_caller

    @property
    def is_on_loop(self) -> bool:
        """Whether the code runs on the event loop of the run, where alone it may take a step."""
        return self._paths.is_on_loop

    @property
    def inside(self) -> OpenStep | None:
        """The step that the code is within."""
        return self._paths.here().step

    def read_outside(self) -> None:
        """Note that the run has read text from outside: a fact of the steps that the code is within."""
        self.outside = True
        if self.inside is not None:
            for step in (self.inside, *self.inside.scope.steps_around()):
                step.outside = True

    @property
    def pauses(self) -> int:
        """How often in a row the run was parked at where it is."""
        return self._waits.pauses

    def upcoming(self) -> str | None:
        """The kind of the step that an earlier claim made where the code is, None where there was none.

        It is no text where that step began and left none.
        """
        return self._paths.upcoming()

    def join(self, kind: str, request: Any, begins: Mapping[str, Any]) -> None:
        """Name the branch of the code by a request, where one begins here, whatever its first step will be.

        `begins` are the requests, by kind, of the steps that it may begin with.
        """
        self.replay.check_goes_on()
        self._paths.join(kind, request, begins)

    @property
    def has_orders(self) -> bool:
        """Whether the order of any results matters, or did to an earlier claim."""
        return self._paths.has_orders

    def note_thread(self, native_id: int) -> None:
        """Note that code of the run in a thread takes steps. Call it on the event loop."""
        self._paths.note_thread(native_id)

    @contextmanager
    def program_block(self) -> Iterator[None]:
        """A block of calls of a program outside, which need not come again, whatever their order was.

        A call of a model that it repeats, word for word, has its recorded reply.
        """
        with self._paths.program_block():
            yield

    def begin_life(self) -> None:
        """Note that a program outside begins a life: it has the results of what it asks for again."""
        self._paths.begin_life()

    def end_life(self) -> None:
        """Note, right behind a step that records it, that a program outside has ended its work.

        Programs that begin behind that step ask for calls of their own, though they may be equal.
        """
        self._paths.end_life()

    def begin_life_call(self, call: LifeCall) -> None:
        """Number the branch that the asyncio task begins as a call of a program outside."""
        self._paths.begin_life_call(call)

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
        check: StepCheck | None = None,
    ) -> Any:
        """Run a step, or return what it gave before: plain JSON data, or a model of the given `shape`.

        `tell` makes progress events of the result, which commit with it. See `open_step`.
        """
        opened = self.open_step(kind, request, repeatable=repeatable, costly=costly, check=check)
        async with opened as step:
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
        paid: bool = False,
        check: StepCheck | None = None,
        request_hash: str = "",
    ) -> OpenStep:
        """Begin a step. If it was journaled before, it has its result; else `finish` sets it.

        A step that is not `repeatable` journals its intent first. Found with an intent and no result it is
        not run again, since it may have happened: its `check` says whether it has, and where there is none,
        or it cannot tell, the run waits until a person decides. A repeatable step that may have been cut off
        is checked too, and runs again unless it has happened. A step that is not
        `costly` need not be durable before the next starts: it is run again for nothing. A step that is
        `paid` calls a model: it counts the calls that earlier claims did not live to record. A caller that
        has the `request_hash` already spares the step a second one. If the block raises, the error and the
        calls that were made in it are recorded, for people: a resumed run runs the step again.
        """
        scope, key = self._next(kind, request, request_hash)
        opened = OpenStep(
            self, scope, key, request, repeatable=repeatable, costly=costly, paid=paid, check=check
        )
        if not paid:  # the event of a call has its end and how long it took
            opened.started_at = self._runtime.clock.now()
        return opened

    def lose_claim(self, end: Callable[[], object]) -> None:
        """Call `end` once no step is under way that may not be repeated: the claim is lost.

        Until then no other step begins. The result of such a step is journaled still, so that whoever has
        taken the work over need not repeat it.
        """
        self._is_lost, self._end = True, end
        for key in self._ended:
            self._withdraw_question(key)
        self._end_if_lost()

    def _end_if_lost(self) -> None:
        if self._end is not None and not self._once:
            end, self._end = self._end, None
            end()

    async def enter(self, opened: OpenStep) -> None:
        """Begin the step that was opened, or give it the result that it had."""
        key, scope = opened.key, opened.scope
        if self._paths.has_orders and (order := self._paths.order_around(scope, key.path)) is not None:
            order.begin_step(key.path)
        if self._end is not None and self._once.isdisjoint(scope.steps_around()):
            await asyncio.get_running_loop().create_future()  # until it is cancelled
        await self._give_up_again(scope, key)
        try:
            if key.path in self._earlier.results:
                await self._take_result(opened)
            else:
                await self._begin(opened)
        except asyncio.CancelledError:
            await self._give_up(scope, key, opened.begun)
            raise

    async def _begin(self, opened: OpenStep) -> None:
        key, scope = opened.key, opened.scope
        await self.replay.check_begins(scope, key)
        if opened.costly:
            self.cut_calls.take_begun(opened)
        if self._doubts.is_open(opened) and (record := await self._doubts.settle(opened)) is not None:
            opened.is_replayed, opened.result = True, record["result"]
            self._paths.end_begun(scope)
            self._records.write(key, record)
            if scope.is_of_life:  # else an equal call of its session took the one that has ended
                self._earlier.results[key.path] = {**key.model_dump(), **record}
            await self.hand_out(scope, key)
            return
        if scope.is_of_life and await self._is_joined(opened):
            await self._take_result(opened)
            return
        if self.replay.is_mismatched and not opened.repeatable:
            await self.replay.until_decided(scope)
        self._waits.step_begins()
        self._paths.enter(opened)
        try:
            if opened.paid or not opened.repeatable:
                self._note_begin(opened)
            # Else a crash in this step would lose those before it, and pay for them twice.
            if opened.costly and self._records.is_costly:
                await self.confirm()
        except BaseException as error:
            self.leave(opened, error)
            raise

    def _note_begin(self, opened: OpenStep) -> None:
        if opened.paid and self._earlier.values:
            self.cut_calls.count(opened)
        if not opened.repeatable:  # before it runs: after a crash the intent says that it may have happened
            self._note_intent(opened)

    def _note_intent(self, opened: OpenStep) -> None:
        key, scope = opened.key, opened.scope
        by_check = {} if opened.check is None else self._note_check(opened)
        order = self._order_fields(scope)  # else the intent has a branch that nobody asked for
        process = self._runtime.process
        place = f"{socket.gethostname()}:{os.getpid()}"
        by_process = {"process": process, "place": place} if process else {}
        intent = {"intent": True, "started_at": opened.started_at, **by_check, **by_process, **order}
        self._records.write(key, intent)
        self._once.add(opened)
        self._earlier.intents[key.path] = key.model_dump()
        if scope.is_of_life:  # its program may die, and ask again in this claim
            self._earlier.begun[key.path] = self._earlier.begun.get(key.path, 0) + 1

    async def hand_out(self, scope: Scope, key: StepKey) -> None:
        """Return once the result of a numbered step may reach the code: see `ResultOrder`."""
        order = self._paths.order_around(scope, key.path) if self._paths.has_orders else None
        if order is None or self.replay.is_ending:
            return
        is_ordered = key.path in order.recorded.handed_out
        if is_ordered or not (self._paths.is_alone or key.path in order.recorded.before):
            with self._waits.busy():
                await order.hand_out(key.path)

    async def hand_out_end(self, opened: OpenStep) -> None:
        """The same for a step that has ended, and that its caller may give up until then."""
        try:
            await self.hand_out(opened.scope, opened.key)
        except asyncio.CancelledError:
            await self._give_up(opened.scope, opened.key, opened.begun)
            raise

    async def break_off(self, opened: OpenStep, error: BaseException) -> None:
        """Journal a step whose block raises, as `leave` does, and that its caller gave it up."""
        self.leave(opened, error)
        if isinstance(error, asyncio.CancelledError):
            await self._give_up(opened.scope, opened.key, opened.begun)

    async def _give_up(self, scope: Scope, key: StepKey, begun: float) -> None:
        """Record that the caller of a numbered step, which began at a time, gave it up: it is not made again.

        Calls that are known by their requests record that themselves.
        """
        if (
            self.replay.is_ending
            or self._is_lost
            or (order := self._paths.order_from(scope, key.path)) is None
            or order.has_result(key.path)
        ):
            return
        order.begin(key.path, key.number)
        await self.requested_calls.give_up(order, key.path, round(time.monotonic() - begun, 3))

    async def _give_up_again(self, scope: Scope, key: StepKey) -> None:
        """Wait where the caller of a numbered step gave it up before, until it does again.

        Returns where it did not: then the code has changed, and needs its result.
        """
        order = self._paths.order_around(scope, key.path) if self._paths.has_orders else None
        if order is None or key.path not in order.recorded.given_up:
            return
        begun = time.monotonic()
        order.begin_step(key.path)
        try:
            await self.replay.wait_given_up(order, key.path)
        except asyncio.CancelledError:
            await self._give_up(scope, key, begun)
            raise

    async def _is_joined(self, opened: OpenStep) -> bool:
        """Whether a step of a program has a result by the call of a life before that was under way."""
        path = opened.key.path
        while (under_way := self._under_way.get(path)) is not None:
            await asyncio.wait([under_way])
            if path in self._earlier.results:
                return True
        self._under_way[path] = asyncio.get_running_loop().create_future()
        return False

    def leave(self, opened: OpenStep, error: BaseException | None) -> None:
        """Journal the step; where it failed its error, and what its calls have cost, also when cancelled."""
        try:
            if error is None:
                value = opened.record()
                value["last"] = self._paths.counter
                value |= {} if opened.scope.order is None else self._order_fields(opened.scope)
                if not opened.events:  # the time of the last is that of the end
                    value["ended_at"] = self._runtime.clock.now()
                costly = opened.costly or bool(opened.calls)
                if costly:
                    self._paths.end_begun(opened.scope)
                if opened.scope.is_of_life:
                    result = from_json(to_json(opened.result, fallback=plain))
                    self._earlier.results[opened.key.path] = {
                        **opened.key.model_dump(),
                        **value,
                        "result": result,
                    }
                is_once = opened in self._once
                self._records.write(opened.key, value, opened.events, costly=costly, outlives_lease=is_once)
                if is_once:
                    self._ended.append(opened.key)
        except BaseException as lost:
            error = lost
            raise
        finally:
            if opened.scope.is_of_life and (under_way := self._under_way.pop(opened.key.path, None)):
                under_way.set_result(None)
            if error is not None:
                calls, events, started_at = opened.calls, opened.events, opened.started_at
                self._records.write_calls(
                    opened.key,
                    calls,
                    events,
                    error,
                    opened.cut,
                    started_at,
                    changed=opened.changed,
                    has_intent=opened in self._once,
                )
            elif self._is_lost and opened in self._once:
                self._withdraw_question(opened.key)
            if self._paths.leave(opened):
                self._waits.step_ends(opened)
            if self._once:
                self._once.discard(opened)
                self._end_if_lost()

    def _withdraw_question(self, key: StepKey) -> None:
        """Answer the question whether a step may run again, if another worker has asked it meanwhile."""
        question = repeat_key(key, self._earlier.begun.get(key.path, 0) + 1)
        answer = Answer(
            task_id=self._work.task.task_id,
            key=self._waits.wait_id(question),
            value={"approve": False, "reason": "It has ended, and its result is known."},
        )

        async def withdraw() -> None:
            be_patient()
            records = await self._runtime.records(self._ref, self._work.stream)
            if any(is_end(record.value, key.path) for record in records):
                await self._runtime.call(self._ref, "resume", answer)

        withdrawal = asyncio.create_task(withdraw(), name=f"late result of {key.kind}")
        self._withdrawals.add(withdrawal)
        withdrawal.add_done_callback(self._withdrawals.discard)

    def teller(self) -> Callable[[ProgressEvent], None]:
        """Publishes events of the step under way that are no part of its record, from any asyncio task."""
        step = self.inside
        key = StepKey(path="", number=self._paths.counter, kind="", hash="") if step is None else step.key
        return partial(self._records.tell, key)

    def add_call(self, call: dict[str, Any], event: ProgressEvent) -> None:
        """Record what a call of a model has cost, and publish an event of it.

        Both commit with the step under way, or at once where there is none, or it fails.
        """
        step = self.inside
        if step is None:
            key = StepKey(path="", number=self._paths.counter, kind="", hash="")
            self._records.write_calls(key, [call], [event])
        else:
            step.add_call(call, event)

    async def wait(
        self,
        step_kind: str,
        request: Any,
        *,
        check: Callable[[], None] | None = None,
        child: Callable[[str, str], Task] | None = None,
        group: WaitGroup | None = None,
        **fields: Unpack[WaitFields],
    ) -> Any:
        """Return the answer to a question, or let the run wait for it. See `Wait` for the fields.

        A `check` may refuse a wait that is not recorded. A `child` makes the task to wait for, of the wait's
        id and the identity of its step. The code goes on once all waits of a `group` are answered. The run
        gives up its slot once all that is left of it is waiting.
        Raises WaitExpired where there is no answer by `expires_at`, and ToolFailed within a step that is not
        repeatable: it could not be resumed.
        """
        scope, key = self._next(step_kind, request)
        await self._give_up_again(scope, key)
        if key.path in self._earlier.results:
            for step in scope.steps_around():
                step.has_waited = True
            if (order := self._paths.order_around(scope, key.path)) is not None:
                order.begin_step(key.path)
            await self.hand_out(scope, key)
            return await self._result_at(scope, key)
        if scope.step is not None and scope.step.runs_once:
            raise ToolFailed("only a tool that is declared idempotent may wait for something")
        await self.replay.check_begins(scope, key)
        task: Task | None = None
        if key.path not in self._earlier.waits:
            if (unspent := self._earlier.take_unspent(key)) is not None:
                return self._keep(key, *unspent)
            if check is not None:  # a recorded wait passed it when it began
                check()
            if child is not None:
                task = child(self._waits.wait_id(key), step_identity(scope, key))
            if group is not None:
                group.name = group.name or key.path
        wait = self._waits.make_wait(
            key,
            **fields,
            child_task_id=None if task is None else task.task_id,
            group="" if group is None else group.name,
        )
        begun = time.monotonic()
        try:
            await self._waits.wait(scope, wait, task)
        except asyncio.CancelledError:
            await self._give_up(scope, key, begun)
            raise

    async def park(
        self, kind: WaitKind, reason: str, due_at: datetime, subject: dict[str, Any] | None = None
    ) -> NoReturn:
        """Let the run wait in the step under way, which is run again at `due_at`, on any worker.

        Raises ToolFailed within a step that is not repeatable.
        """
        scope = self._paths.here()
        opened = scope.step
        if opened is None:
            raise ValueError("a run is parked within a step")
        if opened.runs_once:
            raise ToolFailed("only a tool that is declared idempotent may wait for something")
        fields = {"kind": kind, "reason": reason, "subject": subject or {}, "due_at": due_at}
        await self._waits.wait(scope, self._waits.make_wait(opened.key, **fields, again=True))

    async def confirm(self) -> None:
        """Return once every step so far is durable."""
        await self._records.confirm()
        self._ended.clear()

    def let_go(self) -> bool:
        """Take back that it cancelled the asyncio task of the run, if it did; whether only it had."""
        task, cancelled = self._paths.main, self._waits.cancelled_run
        self._waits.cancelled_run = False
        return cancelled and task is not None and task.uncancel() == 0

    async def close(self) -> None:
        """End the branches that the run has left behind."""
        self.replay.is_closed = True
        # They lead back to the journal: garbage collection costs more than this.
        self._checked.clear()
        self.recorded_check = _no_check
        remaining = self._waits.stop() | {task for task in self._paths.branch_tasks if not task.done()}
        for task in remaining:
            task.cancel()
        if remaining:
            await asyncio.wait(remaining, timeout=_LETTING_GO_SECONDS)

    def _next(self, kind: str, request: Any, request_hash: str = "") -> tuple[Scope, StepKey]:
        self.replay.check_goes_on()
        if self._paths.has_requests and (news := self._paths.order_news(given_up=True)):
            self._records.write_order(news)  # the code goes on behind a call that it gave up
        return self._paths.next(kind, request_hash or hash_request(request))

    def _order_fields(self, scope: Scope) -> dict[str, Any]:
        """The field of a record for what is new of the order of results."""
        news = None if scope.order is None else self._paths.order_news()
        return {"order": news} if news else {}

    def _note_check(self, opened: OpenStep) -> dict[str, Any]:
        """The fields of an intent by which its check can be asked when other code has taken over."""
        self._checked[opened.key.path] = opened
        return {"request": opened.request, "identity": opened.identity}

    async def _check_recorded(self, intent: Mapping[str, Any]) -> CheckResult | None:
        """Ask the check of a step that a new attempt would repeat; None if there is none to ask."""
        if "kept" in intent:  # of a fork's origin, whose steps have other ids
            return None
        opened, check = self._checked.get(intent["path"]), None
        if opened is not None:
            check = opened.check
        elif "identity" in intent:
            check = self.recorded_check(intent["kind"], intent["request"])
        if check is None:
            return None
        key = StepKey(**{name: intent[name] for name in StepKey.__struct_fields__ if name in intent})
        identity = intent["identity"] if opened is None else opened.identity
        step = JournaledStep(self, self._paths.new_scope(), key, identity)
        return await CheckStep(step, f"r{self._work.claim}").run(check)

    async def _take_result(self, opened: OpenStep) -> None:
        record = self._earlier.results[opened.key.path]
        if opened.check is not None and opened.key.path in self._earlier.intents:
            self._checked[opened.key.path] = opened
        opened.is_replayed, opened.result = True, await self._result_at(opened.scope, opened.key)
        opened.totals = record.get("totals", {})
        if record.get("outside"):
            self.read_outside()
        await self.hand_out(opened.scope, opened.key)

    async def _result_at(self, scope: Scope, key: StepKey) -> Any:
        record = self._earlier.results[key.path]
        await self.replay.check(scope, key, record)
        if record.get("expired"):
            raise WaitExpired(f"there was no answer to {key.kind} in time")
        return record["result"]

    def _keep(self, key: StepKey, name: str, answer: dict[str, Any]) -> Any:
        """Take over the answer to the same question that an attempt before got."""
        names = ("result", "answered_by", "started_at", "answered_at")
        fields = {name: answer[name] for name in names if name in answer}
        event = ProgressEvent.from_payload(AnswerKept(asked=key.kind, answered_by=answer.get("answered_by")))
        self._records.write(key, {**fields, "kept": name}, [event])
        return answer["result"]


def _no_check(kind: str, request: Any) -> StepCheck | None:
    """No step has a check."""
