"""Paths of steps, and the branches that asyncio tasks make."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from meshwright.core.checks import StepCheck
from meshwright.engine.work.earlier_records import PROGRAM, PROGRAM_REQUEST, Earlier, is_branch, is_of_program
from meshwright.engine.work.people import is_doubt
from meshwright.engine.work.protocol import StepKey, hash_request
from meshwright.engine.work.records import ProgressEvent
from meshwright.engine.work.results import RecordedOrder, ResultOrder
from meshwright.engine.work.threads import CodeThreads

_BEGINNING_TURNS = 20
_NAME_CHARS = 6  # of a branch: two requests that share them are counted together
_REQUEST_CHARS = 10  # of a branch that is known by its request alone
_PATIENCE_SECONDS = 5.0  # without a recorded step that is taken up, for the code between two of them
_LOOK_SECONDS = 0.02


class _Journal(Protocol):
    @property
    def has_orders(self) -> bool: ...
    async def enter(self, opened: OpenStep) -> None: ...
    def leave(self, opened: OpenStep, error: BaseException | None) -> None: ...
    async def break_off(self, opened: OpenStep, error: BaseException) -> None: ...
    async def hand_out_end(self, opened: OpenStep) -> None: ...


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
        check: StepCheck | None = None,
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
        self.check = check
        self.is_ruled_out = False
        """Whether its check knows that it did not happen before."""
        self.scope = scope
        self.waits = 0
        """How many waits are open within it."""
        self.has_waited = False
        self.outside = False
        """Whether its result may have text from outside."""
        self.changed = False
        """Whether it may have changed something, though it may fail."""
        self.started_at: datetime | None = None
        """When this claim began to run it; None if it is `paid`."""
        self.begun = time.monotonic()
        """The same, for how long it took until its caller gave it up."""
        self.token: Token[tuple[Paths, Scope] | None] | None = None
        self.journal = journal

    async def __aenter__(self) -> Self:
        await self.journal.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_replayed:
            return
        if error is not None:
            await self.journal.break_off(self, error)
        else:
            self.journal.leave(self, None)
        if self.journal.has_orders and (error is None or isinstance(error, Exception)):
            await self.journal.hand_out_end(self)

    @property
    def number(self) -> int:
        """Its number, for people."""
        return self.key.number

    @property
    def identity(self) -> str:
        """A name that follows from the requests of it and the steps around it, and not from their order."""
        return step_identity(self.scope, self.key)

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
        """The number of calls that were cut off and are still to be recorded; 0 from then on."""
        count, self.cut = self.cut, 0
        return count


class LifeCall(NamedTuple):
    """A call of a program outside, and its number among equal ones.

    A program that begins again asks for its `nth` call of that request, and has its result; `in_life` says
    that it counts its own ones, behind those of programs that have ended their work. One that goes on (None)
    asks for a new one, counted behind all before; with `is_again` for one of these that was begun and has not
    ended. `numbered` gets the number before the call can take effect.
    """

    nth: int | None
    is_again: bool = False
    in_life: bool = False
    numbered: Callable[[int], None] = lambda nth: None


class Scope:
    """A scope in which steps are numbered: the run, the inside of a step, or a branch."""

    __slots__ = (
        "around",
        "branch",
        "branches",
        "by_request",
        "is_of_life",
        "numbered",
        "order",
        "prefix",
        "step",
        "steps",
        "task",
        "was_begun",
    )

    def __init__(
        self,
        prefix: str,
        task: asyncio.Task[Any] | None,
        step: OpenStep | None,
        *,
        was_begun: bool = False,
        around: Scope | None = None,
        by_request: bool = False,
    ) -> None:
        self.prefix = prefix
        self.task = task
        self.step = step
        self.steps = 0
        self.branches: dict[str, int] = {}
        """How many branches began within it, by the name of what they were begun by."""
        self.numbered: set[str] = set()
        """The branches of a former release that have been taken up."""
        self.was_begun = was_begun
        """Whether the claim before this one may have been in its next step as its process ended."""
        self.around = around
        """The scope that it is a branch in; None for the run, or the inside of a step."""
        self.by_request = by_request
        """Whether it has, or is, branches that are named by their requests alone."""
        self.is_of_life = False
        """Whether it is a call of a program outside, numbered by itself."""
        self.branch = ""
        """The name of a branch that is known by its request."""
        self.order: ResultOrder | None = None
        """The order in which results of its branches reach the code; None if it has none such."""

    @property
    def base(self) -> Scope:
        """The run, or the inside of the step, that it is in, whatever the branch."""
        return self if self.around is None else self.around

    def steps_around(self) -> Iterator[OpenStep]:
        """The steps that the code is within, from the inside."""
        step = self.step
        while step is not None:
            yield step
            step = step.scope.step


def step_identity(scope: Scope, key: StepKey) -> str:
    """The identity of a step that is in a scope; see `OpenStep.identity`."""
    around = "" if scope.step is None else f"{scope.step.identity}/"
    return f"{around}{key.kind}:{key.hash}:{key.nth}"


_SCOPE: ContextVar[tuple[Paths, Scope] | None] = ContextVar("_SCOPE", default=None)
"""The scope of the code. An asyncio task begins in the scope of its maker."""
_OF_PROGRAM: ContextVar[bool] = ContextVar("_OF_PROGRAM", default=False)
"""Whether the code works for a program outside."""
_RUN: ContextVar[object] = ContextVar("_RUN", default=None)
"""Marks the run that the code is of."""


class Paths:
    """Gives the steps of a run their paths: the same again when it is resumed."""

    def __init__(self, earlier: Earlier, *, was_cut: bool = False, is_same_code: bool = False) -> None:
        self.main = asyncio.current_task()
        """The asyncio task of the run."""
        self.branch_tasks: set[asyncio.Task[Any]] = set()
        self.counter = 0
        """The number of the step that began last."""
        self._earlier = earlier
        self._root = Scope("", self.main, None, was_begun=was_cut)
        self._is_same_code = is_same_code
        self._begun: set[str] = set()
        """The prefixes of the branches that have begun."""
        self._requests: dict[str, Scope] = {}
        """The scopes in which branches are named by their requests alone, by their prefixes."""
        self._names: dict[asyncio.Task[Any], str] = {}
        """The names of the branches that are known by their requests, by their asyncio tasks."""
        self.has_requests = False
        """Whether any step is known by its request."""
        self.open_calls = 0
        """How many calls known by their requests the code has not got, nor given up."""
        self._life_calls: dict[asyncio.Task[Any], LifeCall] = {}
        self._life_nths: dict[tuple[str, str, str], int] = {}
        """The numbers of steps of programs among equal ones, by path, kind and hash."""
        """The calls of programs outside, by their asyncio tasks."""
        self._live: set[str] = set()
        """The prefixes of their branches that are under way."""
        self._ended_calls: Mapping[str, int] = {}
        """The last number of each of their calls when one of them had ended its work."""
        self._threads = CodeThreads()
        self._unclaimed: dict[str, set[str]] = {}
        """The recorded branches of these that have not begun again."""
        self._last_nths: dict[tuple[str, str, str], int] = {}
        """The last number that this run gave a step, by its place, kind and hash."""
        self._marker = object()  # the paths themselves would be in a circle with the asyncio task
        _RUN.set(self._marker)

    @property
    def is_of_caller(self) -> bool:
        """Whether the code is in this run, or in none: threads of a framework have no context."""
        return _RUN.get() in (self._marker, None)

    @property
    def is_on_loop(self) -> bool:
        """Whether the code runs on the event loop of the run."""
        return self.main is None or self.main.get_loop() is asyncio.get_running_loop()

    @property
    def is_stopping(self) -> bool:
        """Whether the asyncio task of the run is being cancelled."""
        return self.main is not None and self.main.cancelling() > 0

    @property
    def is_alone(self) -> bool:
        """Whether the code is the only one of the run that may be at work."""
        return not (self.branch_tasks or self.open_calls) and asyncio.current_task() is self.main

    def here(self) -> Scope:
        """The scope of the code."""
        paths, scope = _SCOPE.get() or (None, self._root)
        return scope if paths is self else self._root

    def new_scope(self) -> Scope:
        """A scope beside the run, for steps of the journal's own."""
        return Scope("", self.main, None)

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
        scope = self.here()
        if scope.task is not asyncio.current_task():
            scope = self._begin_branch(scope, kind, request_hash, ((kind, request_hash),))
        scope.steps += 1
        path = f"{scope.prefix}{scope.steps}"
        record = self._earlier.results.get(path)
        if record is None:
            self.counter = number = max(self.counter, self._earlier.steps) + 1
        else:  # people see one number for a step in all claims
            number = record["number"]
            self.counter = max(self.counter, record.get("last", number))
        if scope.order is not None and scope.steps == 1:
            scope.order.begin(scope.branch, number)
        nth = self._nth(scope, path, kind, request_hash)
        return scope, StepKey(path=path, number=number, kind=kind, hash=request_hash, nth=nth)

    def join(self, kind: str, request: Any, begins: Mapping[str, Any]) -> None:
        """Name the branch of the code by a request, if one begins here; see `Journal.join`."""
        scope = self.here()
        if scope.task is not asyncio.current_task():
            hashes = [(first, hash_request(first_request)) for first, first_request in begins.items()]
            self._begin_branch(scope, kind, hash_request(request), hashes)

    def _begin_branch(
        self, scope: Scope, kind: str, request_hash: str, begins: Collection[tuple[str, str]]
    ) -> Scope:
        """The scope of an asyncio task of its own.

        It is named by kind and hash of its first request, and counted among branches of the same name in the
        order of their starts; so siblings may end in any order. `begins` are the kinds and hashes of
        steps that it may begin with: a branch that a former release has numbered is found by these.
        """
        task, is_of_life = asyncio.current_task(), _OF_PROGRAM.get() and scope.step is None
        if is_own := scope.by_request and scope.task is None:
            name = self._named_by_request(scope, kind, request_hash, is_of_life=is_of_life)
        elif task is not None and task in self._life_calls:
            name = self._named_in_life(scope, kind, request_hash, task)
        else:
            name = self._numbered(scope, begins) or _named_in_order(scope, kind, request_hash)
        prefix = f"{scope.prefix}{name}."
        branch = Scope(
            prefix, task, scope.step, was_begun=scope.was_begun, around=scope.base, by_request=is_own
        )
        branch.is_of_life = is_of_life or task in self._life_calls
        self._begun.add(prefix)
        if is_own and not is_of_life:
            branch.branch, branch.order = name, scope.order
            self._unclaimed[scope.prefix].discard(name)
            if scope.order is not None and task is not None:
                self._names[task] = name
                task.add_done_callback(self._forget_name)
                scope.order.ask(name)
        _SCOPE.set((self, branch))  # for this asyncio task alone: it has a context of its own
        if task is not None:
            self.branch_tasks.add(task)
            task.add_done_callback(self.branch_tasks.discard)
        return branch

    def begin_life_call(self, call: LifeCall) -> None:
        """Number the branch of the asyncio task by itself."""
        if (task := asyncio.current_task()) is not None:
            self._life_calls[task] = call
            task.add_done_callback(lambda done: self._life_calls.pop(done, None))

    def _named_in_life(self, scope: Scope, kind: str, request_hash: str, task: asyncio.Task[Any]) -> str:
        of_request = f"{PROGRAM}{hash_request([kind, request_hash])[:_NAME_CHARS]}"
        call = self._life_calls[task]
        nth = call.nth
        if nth is not None and call.in_life:
            nth += self._ended_calls.get(f"{scope.prefix}{of_request}", 0)
        if nth is None and call.is_again:
            unended = self._earlier.unended_calls(scope.prefix, of_request)
            free = (n for n in unended if f"{scope.prefix}{of_request}x{n}." not in self._live)
            nth = next(free, None)
        if nth is None:
            last = self._earlier.last_branches_in(scope.prefix).get(of_request, 0)
            scope.branches[of_request] = nth = max(scope.branches.get(of_request, 0), last) + 1
        prefix = f"{scope.prefix}{of_request}x{nth}."
        self._live.add(prefix)
        task.add_done_callback(lambda _: self._live.discard(prefix))
        call.numbered(nth)
        return f"{of_request}x{nth}"

    def begin_life(self) -> None:
        """Count the calls of models of a program from one again: see `Journal.program_block`."""
        for scope in self._requests.values():
            for name in [name for name in scope.branches if is_of_program(name)]:
                del scope.branches[name]

    def end_life(self) -> None:
        """Count the calls of programs to come behind those that were made: see `Journal.end_life`."""
        scope = self.here()
        number = self._earlier.number_at(f"{scope.prefix}{scope.steps}") or self.counter
        self._ended_calls = self._earlier.last_program_calls(number)

    @contextmanager
    def program_block(self) -> Iterator[None]:
        """A block whose branches are those of a program outside."""
        token = _OF_PROGRAM.set(True)
        try:
            yield
        finally:
            _OF_PROGRAM.reset(token)

    def note_thread(self, native_id: int) -> None:
        """Note that code of the run in a thread takes steps that are known by their requests."""
        self._threads.add(native_id)

    def order_news(self, *, given_up: bool = False) -> dict[str, Any]:
        """Takes the news of the orders of results that no record has yet, by the prefixes of their scopes.

        With `given_up` only if a call was given up. While the run is being stopped these stay: that cancels
        calls which their callers have not given up.
        """
        orders = {prefix: scope.order for prefix, scope in self._requests.items() if scope.order is not None}
        if given_up and not any(order.has_news for order in orders.values()):
            return {}
        if given_up and self.is_stopping:
            return {}
        news = {prefix: order.take_news(given_up=not self.is_stopping) for prefix, order in orders.items()}
        return {prefix: fields for prefix, fields in news.items() if fields}

    def branch_name(self, task: asyncio.Task[Any]) -> str | None:
        """The name of the branch of an asyncio task, once it has taken a step known by its request."""
        return self._names.get(task)

    def _forget_name(self, task: asyncio.Task[Any]) -> None:
        asyncio.get_running_loop().call_soon(self._names.pop, task, None)

    @contextmanager
    def by_request(self) -> Iterator[Scope]:
        """Let an asyncio task that is made here take steps that are known by what they ask for.

        Its branch belongs to the run, or to the step around the code, whatever asyncio task makes it. It is
        named by its first request and counted among equal ones: a recorded result is taken first.
        """
        token = _SCOPE.set((self, scope := self._requests_in(self.here().base)))
        try:
            yield scope
        finally:
            _SCOPE.reset(token)

    @property
    def has_orders(self) -> bool:
        """Whether the order of any results matters, or did to an earlier claim."""
        return self.has_requests or bool(self._earlier.orders)

    def order_around(self, scope: Scope, path: str) -> ResultOrder | None:
        """The order in which the result of a numbered step reaches the code; None if that does not matter.

        The checks of steps are the journal's own: they do not come again once their step has a result.
        """
        prefix = scope.base.prefix
        if prefix not in self._requests and prefix not in self._earlier.orders:
            return None
        return self.order_from(scope, path)

    def order_from(self, scope: Scope, path: str) -> ResultOrder | None:
        """The same, which begins here if it has not: with a numbered step that its caller gives up."""
        if scope.by_request or scope.is_of_life or _OF_PROGRAM.get() or is_doubt(path):
            return None
        return self._requests_in(scope.base).order

    def _requests_in(self, base: Scope) -> Scope:
        """The scope of the branches in another that are named by their requests alone."""
        scope = self._requests.get(base.prefix)
        if scope is None or scope.step is not base.step:
            scope = Scope(
                base.prefix, None, base.step, was_begun=base.was_begun, around=base, by_request=True
            )
            self._requests[base.prefix] = scope
            self.has_requests = True
            recorded = self._earlier.requests_in(base.prefix).items()
            names = {f"{name}x{n}" for name, nths in recorded for n in nths if not is_of_program(name)}
            order = self._earlier.orders.get(base.prefix)
            for name in () if order is None else order.given_up:  # one that had no effect may stay away
                if f"{base.prefix}{name}.1" not in self._earlier.intents:
                    names.discard(name)
            self._unclaimed[base.prefix] = names
            if order is not None or not names:  # else a former release has recorded them
                answers = self._earlier.answers if order is None else 0
                scope.order = ResultOrder(
                    order or RecordedOrder(), self._threads, answers, is_same_code=self._is_same_code
                )
        return scope

    def _named_by_request(self, scope: Scope, kind: str, request_hash: str, *, is_of_life: bool) -> str:
        begins = PROGRAM_REQUEST if is_of_life else "by"
        of_request = f"{begins}{hash_request([kind, request_hash])[:_REQUEST_CHARS]}"
        if is_of_life or scope.order is not None:  # the code asks in its recorded order
            ended = self._ended_calls.get(f"{scope.prefix}{of_request}", 0)
            scope.branches[of_request] = nth = scope.branches.get(of_request, ended) + 1
            return f"{of_request}x{nth}"
        recorded = self._earlier.requests_in(scope.prefix).get(of_request, {})
        unclaimed = self._unclaimed[scope.prefix]
        free = [nth for nth in sorted(recorded) if f"{of_request}x{nth}" in unclaimed]
        nth = next((nth for nth in free if kind in recorded[nth]), next(iter(free), 0))
        if not nth:
            nth = max(scope.branches.get(of_request, 0), *recorded, 0) + 1
            scope.branches[of_request] = nth
        return f"{of_request}x{nth}"

    async def unclaimed(self, scope: Scope) -> str | None:
        """The path of a recorded step that the code does not ask for any more, None if there is none.

        Call it for a step that no earlier claim began, known by its request. Steps beside it that are
        recorded may come later: the code between them has some seconds for each.
        """
        base = scope.base.prefix
        if await self._comes(scope.order, lambda: len(self._unclaimed[base])):
            return None
        return min((f"{base}{name}.1" for name in self._unclaimed[base]), key=self._earlier.number_at)

    async def _comes(self, order: ResultOrder | None, remaining: Callable[[], int]) -> bool:
        """Whether nothing remains, sooner or later: it is waited for as long as something happens."""
        turns, count, changes = 0, -1, 0
        loop = asyncio.get_running_loop()
        due = loop.time() + _PATIENCE_SECONDS
        while now := remaining():
            if order is not None and (
                order.changes != changes or order.to_give_up or order.seconds_to_come()
            ):
                changes, due = order.changes, loop.time() + _PATIENCE_SECONDS
            if now != count:
                count, due = now, loop.time() + _PATIENCE_SECONDS
            elif loop.time() >= due:
                return False
            turns += 1
            await asyncio.sleep(0 if turns < _BEGINNING_TURNS else _LOOK_SECONDS)
        return True

    def end_begun(self, scope: Scope) -> None:
        """Note that a costly step of a scope has ended that no earlier claim ended.

        Steps known by their requests that begin from now on are new: no earlier claim was in one of them.
        """
        if (requests := self._requests.get(scope.base.prefix)) is not None:
            requests.was_begun = False

    async def repeats_a_change(self, scope: Scope, key: StepKey) -> bool:
        """Whether an unrecorded step repeats a change made in a branch that has not begun.

        A branch is named by its first request, so changed code may begin it as another one. Branches that
        start side by side have all begun after some turns of the event loop, but for those that begin with
        results which are handed out in their recorded order, or whose code sleeps by itself.
        """
        requests = self._requests.get(scope.base.prefix)
        order = None if requests is None else requests.order
        paths = self._earlier.changed_paths(key)
        return not await self._comes(order, lambda: sum(not self._has_begun(path) for path in paths))

    def _has_begun(self, path: str) -> bool:
        parts = path.split(".")
        ends = [i for i, part in enumerate(parts, start=1) if is_branch(part)]
        return all(f"{'.'.join(parts[:end])}." in self._begun for end in ends)

    def upcoming(self) -> str | None:
        """The kind of the step that the journal has next, "" if it left none; None if there is none."""
        scope = self.here()
        if scope.task is not asyncio.current_task():  # a branch that has not begun
            return None
        return self._earlier.step_at(f"{scope.prefix}{scope.steps + 1}")

    def _nth(self, scope: Scope, path: str, kind: str, request_hash: str) -> int:
        """The number of a step among steps of its kind and hash: as recorded, or the first free one."""
        if (nth := self._earlier.nth_at(path, kind, request_hash)) is not None:
            return nth
        step = (path, kind, request_hash)
        if scope.is_of_life and step in self._life_nths:  # its program died in it, and asks again
            return self._life_nths[step]
        place = "" if scope.step is None else scope.step.key.path
        key = (place, kind, request_hash)
        nth, recorded = self._last_nths.get(key, 0) + 1, self._earlier.nths(key)
        while nth in recorded:
            nth += 1
        self._last_nths[key] = nth
        if scope.is_of_life:
            self._life_nths[step] = nth
        return nth

    def _numbered(self, scope: Scope, begins: Collection[tuple[str, str]]) -> str | None:
        """The branch of a former release that began so, or never ended its first step."""
        before = self._earlier.numbered_branches(scope.prefix)
        free = [name for name in sorted(before, key=lambda name: int(name[1:])) if name not in scope.numbered]
        like_this = [name for name in free if before[name] in begins]
        name = next(iter(like_this or [name for name in free if before[name] is None]), None)
        if name is not None:
            scope.numbered.add(name)
        return name


def _named_in_order(scope: Scope, kind: str, request_hash: str) -> str:
    of_request = hash_request([kind, request_hash])[:_NAME_CHARS]
    scope.branches[of_request] = nth = scope.branches.get(of_request, 0) + 1
    return f"b{of_request}x{nth}"
