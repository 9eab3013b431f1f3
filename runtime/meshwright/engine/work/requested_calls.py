"""The calls of a run that are known by what they ask for: handed out, and given up, in one order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from meshwright.core.errors import HostError
from meshwright.engine.work.cancels import HeldCancels
from meshwright.engine.work.paths import OpenStep, Paths, Scope
from meshwright.engine.work.records import ClaimRecords
from meshwright.engine.work.replay import Replay
from meshwright.engine.work.results import ResultOrder
from meshwright.engine.work.waits import Waits


class _PendingCall(NamedTuple):
    """A call under way, and how often its caller had been cancelled before."""

    task: asyncio.Task[Any]
    name: str | None
    order: ResultOrder | None
    started: float
    cancels_before: int
    streamed: Callable[[], Sequence[Any]]
    reads_on: bool


class RequestedCalls:
    """Makes the calls of a framework, which may come in any asyncio task, and in threads."""

    def __init__(
        self, paths: Paths, waits: Waits, records: ClaimRecords, replay: Replay, cancels: HeldCancels
    ) -> None:
        self._paths = paths
        self._waits = waits
        self._records = records
        self._replay = replay
        self._cancels = cancels

    async def make(
        self,
        work: Callable[[], Coroutine[Any, Any, Any]],
        streamed: Callable[[], Sequence[Any]] = lambda: (),
        *,
        reads_on: bool = False,
    ) -> Any:
        """Do work in an asyncio task of its own, whose steps are known by what they ask for.

        So the code of a framework may take them in any asyncio task. Equal ones are counted in the order in
        which the code asks; a resumed run hands the results out in the order in which they were handed out
        before, so that it asks in the same order. A call that its caller cancels is given up: it is not made
        again when the run is resumed, but given up again. `streamed` has the pieces that its caller has; if
        it has none, the code does not wait for the end of work that `reads_on`.
        """
        self._replay.check_goes_on()
        started, caller = time.monotonic(), asyncio.current_task()
        cancels_before = 0 if caller is None else caller.cancelling()
        with self._paths.by_request() as scope:
            task = asyncio.create_task(work())
        self._cancels.follow(task)
        self._paths.open_calls += 1
        result: Any = None
        name: str | None = None
        failure: BaseException | None = None
        try:
            await asyncio.wait((task,))
            try:
                result = task.result()
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - it is raised below, in its turn
                failure = error
            name = self._paths.branch_name(task)  # forgotten soon
            await self._hand_out(scope, name)
        except asyncio.CancelledError:
            name = name or self._paths.branch_name(task)
            call = _PendingCall(task, name, scope.order, started, cancels_before, streamed, reads_on)
            if await self._is_given_up(call):
                raise
            return task.result()
        finally:
            self._paths.open_calls -= 1
        if failure is not None:
            raise failure
        return result

    async def _hand_out(self, scope: Scope, name: str | None) -> None:
        """Return once the result of a branch may reach the code."""
        order = scope.order
        if order is None or name is None or self._replay.is_ending:
            return
        if name in order.recorded.given_up:
            await self._replay.wait_given_up(order, name)
        with self._waits.busy():
            await order.hand_out(name)

    async def _is_given_up(self, call: _PendingCall) -> bool:
        """Whether a call ends that its caller cancels: not if the code had its result before."""
        task, name, order = call.task, call.name, call.order
        seconds = round(time.monotonic() - call.started, 3)
        has_ended = self._replay.is_ending or self._paths.is_stopping
        if not task.done():
            task.cancel()
            if not call.reads_on or has_ended or order is None or name is None or call.streamed():
                await self._until_ended(task)
            else:
                order.reading_on.add(name)
        if order is None or name is None or self._replay.is_ending:
            return True
        has_result = order.has_result(name) and task.done() and not task.cancelled()
        if has_result and not self._paths.is_stopping:
            # Calls that are given up before it take their time again: that of its caller ends early.
            await self._though_cancelled(order.hand_out(name))
            self._cancels.hold(call.cancels_before)
            return False
        await self.give_up(order, name, seconds, call.streamed())
        return True

    async def give_up(
        self, order: ResultOrder, name: str, seconds: float, streamed: Sequence[Any] = ()
    ) -> None:
        """Record that the caller of a branch, or of a step, gave it up after so many seconds, in its turn."""
        try:
            if not self._paths.is_stopping:
                await self._though_cancelled(order.turn_to_give_up(name))
        finally:
            order.give_up(name, seconds, streamed)
            asyncio.get_running_loop().call_soon(self._write_given_up)

    async def _until_ended(self, task: asyncio.Task[Any]) -> None:
        """Wait for the end of a call that is being cancelled, though its caller is cancelled once more."""
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                if self._replay.is_ending:
                    raise
        if not task.cancelled():
            task.exception()  # it is nobody's any more

    async def _though_cancelled(self, turn: Coroutine[Any, Any, None]) -> None:
        """Wait for the turn of a call whose caller cancels it, perhaps again and again."""
        waiting = asyncio.create_task(turn)
        with self._waits.busy():
            while not waiting.done():
                try:
                    await asyncio.wait([waiting])
                except asyncio.CancelledError:
                    if self._replay.is_ending or self._paths.is_stopping:
                        waiting.cancel()
                        raise

    def _write_given_up(self) -> None:
        """Queue which calls were given up, else a run that then waits, or stops, would make them again."""
        if not self._replay.is_ending and (news := self._paths.order_news(given_up=True)):
            with suppress(HostError):  # the work is another's by now
                self._records.write_order(news)

    def reads_on(self, opened: OpenStep) -> bool:
        """Whether the caller of a step gave it up, whose call is read on for its cost."""
        order = opened.scope.order
        if order is None or opened.scope.branch not in order.reading_on or self._replay.is_ending:
            return False
        self._records.write_cut(opened.key, opened.cut)  # else the end of the process would lose it
        return True

    async def pieces_before(self, opened: OpenStep) -> Sequence[Any]:
        """The pieces that had been streamed when the caller of a step gave it up before, in their turn."""
        scope = opened.scope
        given_up = None if scope.order is None else scope.order.recorded.given_up.get(scope.branch)
        if given_up is None or scope.order is None or not given_up.pieces:
            return ()
        with self._waits.busy():
            await scope.order.turn(scope.branch)
        return given_up.pieces
