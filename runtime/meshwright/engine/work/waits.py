"""Tracks the waits of a run; a run with only waits left gives up its slot."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, NoReturn, TypedDict

from msgspec.structs import asdict

from meshwright.core.errors import HostError, MailboxFull
from meshwright.core.messages import Task
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.earlier_records import Earlier
from meshwright.engine.work.paths import OpenStep, Paths, Scope
from meshwright.engine.work.people import Approval
from meshwright.engine.work.protocol import StepKey, Suspend, Wait, Waiting, WaitKind, Work
from meshwright.engine.work.records import ClaimRecords

logger = logging.getLogger("meshwright.work")

_SETTLING_SECONDS = 0.02  # without a step under way, until a run counts as only waiting


class RunSuspended(BaseException):
    """Unwinds a run that has to wait. Not an Exception, so that no tool can swallow it."""

    trace_name = "Suspended"

    def __init__(self, suspend: Suspend, waits: Sequence[Wait] = ()) -> None:
        super().__init__(", ".join(wait.wait_id for wait in suspend.waits))
        self.suspend = suspend
        self.waits = waits
        """All that it waits for, also what its thread knows already."""


class RunInterrupted(BaseException):
    """Unwinds a run that has ended, past code that catches every Exception; `Journal.ended` says why."""


class WaitFields(TypedDict, total=False):
    """The fields of a `Wait` that the code which waits may set."""

    kind: WaitKind
    reason: str
    subject: dict[str, Any]
    answer_schema: dict[str, Any] | None
    binds: str
    may_answer: tuple[str, ...]
    remind_seconds: float | None
    then: tuple[str, ...]
    sealed: tuple[str, ...]
    due_at: datetime | None
    expires_at: datetime | None


class WaitGroup:
    """Waits that the code of a run needs the answers of all of: the run is resumed with the last."""

    def __init__(self) -> None:
        self.name = ""
        """The path of its first wait that is not recorded: unique in the attempt."""


class Waits:
    """The waits of a run. Once every step under way waits, the run is suspended.

    A run that waits in its own asyncio task alone is unwound by `RunSuspended`. If it has branches, its
    asyncio task is cancelled; meanwhile its thread records the waits, so that answers can come.
    """

    def __init__(
        self,
        runtime: Runtime,
        ref: ActorRef,
        work: Work,
        earlier: Earlier,
        paths: Paths,
        records: ClaimRecords,
    ) -> None:
        self.suspended: RunSuspended | None = None
        self.cancelled_run = False
        self._runtime = runtime
        self._ref = ref
        self._work = work
        self._earlier = earlier
        self._paths = paths
        self._records = records
        self._open: dict[str, Wait] = {}
        self._waiters = defaultdict[str, int](int)
        """How many calls wait at a path: those beside one another may wait for one answer."""
        self._unsent: dict[str, tuple[Wait, Task | None]] = {}
        self._given_up: dict[str, None] = {}
        """The ids of waits that their callers gave up, as far as the thread has not been told."""
        self._sending: asyncio.Task[None] | None = None
        self._check: asyncio.TimerHandle | None = None
        self._is_over = False
        self._busy = 0
        self._begins = 0

    @property
    def pauses(self) -> int:
        """How often in a row the run was parked at where it is."""
        return 0 if self._records.has_steps else self._work.pauses

    def step_begins(self) -> None:
        """Note that a step is under way."""
        self._busy += 1
        self._begins += 1  # tells `_look` that a step came, even if it has ended since

    def step_ends(self, step: OpenStep) -> None:
        """Note that a step has ended, however it did."""
        if not step.waits:
            self._busy -= 1
        if self._open or self._given_up:
            self._check_soon()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """A block in which the run does not count as only waiting."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            if self._open:
                self._check_soon()

    async def wait(self, scope: Scope, wait: Wait, child: Task | None = None) -> NoReturn:
        """Wait; the run is resumed with the answer in its journal."""
        path = wait.step.path
        self._write_order()  # else the wait has a branch that nobody asked for
        self._open[path] = wait
        # Else its thread has it from an earlier claim.
        if path not in self._earlier.waits:
            self._unsent[path] = (wait, child)
        if self._paths.is_alone:
            await self._records.confirm()
            raise self._suspend()
        around = list(scope.steps_around())
        for step in around:
            step.waits += 1
            self._busy -= step.waits == 1
        self._check_soon()
        self._waiters[path] += 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:  # cancelled
            self._given_up[wait.wait_id] = None
            self._check_soon()
            for step in around:
                step.waits -= 1
                self._busy += step.waits == 0
            self._waiters[path] -= 1
            if not self._waiters[path]:
                self._open.pop(path, None)
                self._unsent.pop(path, None)
        raise AssertionError("a run that waits is resumed from its start")

    def _write_order(self) -> None:
        if self._paths.has_requests and (news := self._paths.order_news()):
            self._records.write_order(news)

    def stop(self) -> set[asyncio.Task[None]]:
        """Look no more; returns the asyncio tasks that the caller cancels."""
        self._is_over = True
        if self._check is not None:
            self._check.cancel()
        return set() if self._sending is None else {self._sending}

    def _check_soon(self) -> None:
        if self._check is None and self.suspended is None and not self._is_over:
            self._check = asyncio.get_running_loop().call_later(_SETTLING_SECONDS, self._look, self._begins)

    def _look(self, begins: int) -> None:
        self._check = None
        main = self._paths.main
        if self.suspended is not None or main is None:
            return
        if self._busy or not self._open:
            is_given_up = (
                bool(self._given_up) and not main.cancelling()
            )  # else a stop may have ended the wait
            if (self._unsent or is_given_up) and self._sending is None:
                self._sending = asyncio.create_task(self._send())
        elif begins != self._begins:  # a step began since: others may follow
            self._check_soon()
        elif not main.cancelling():  # else a stop is ahead of us
            with suppress(HostError):  # the work is another's by now
                self._write_order()
            self._suspend()
            self.cancelled_run = main.cancel()

    def _suspend(self) -> RunSuspended:
        is_parked = any(wait.again for wait in self._open.values())
        pauses = self.pauses + 1 if is_parked else 0
        suspend = Suspend(**asdict(self._waiting()), pauses=pauses)
        self.suspended = RunSuspended(suspend, tuple(self._open.values()))
        return self.suspended

    def _waiting(self) -> Waiting:
        return Waiting(
            task_id=self._work.task.task_id,
            fence=self._work.fence,
            waits=tuple(wait for wait, _ in self._unsent.values()),
            children=tuple(child for _, child in self._unsent.values() if child is not None),
            answers=self._earlier.answers,
            once=len(self._earlier.intents),
            given_up=() if self._paths.is_stopping else tuple(self._given_up),
        )

    async def _send(self) -> None:
        waiting = self._waiting()
        try:
            await self._records.confirm()  # an answer may resume the run behind these steps
            await self._runtime.call(self._ref, "wait_for", waiting, traceparent=self._work.task.traceparent)
            for wait in waiting.waits:
                self._earlier.waits[wait.step.path] = wait.step
                self._unsent.pop(wait.step.path, None)
            for wait_id in waiting.given_up:
                self._given_up.pop(wait_id, None)
        except (MailboxFull, HostError) as lost:  # they are sent again, at the latest when the run suspends
            logger.warning("task %s does not wait yet: %s", self._work.task.task_id, lost)
        finally:
            self._sending = None
            if self._open or self._given_up:
                self._check_soon()

    def question(self, key: StepKey, reason: str, subject: dict[str, Any], answer: type[Approval]) -> Wait:
        """A wait for a person, whose answer has that shape."""
        schema = answer.model_json_schema()
        return self.make_wait(key, reason=reason, subject=subject, answer_schema=schema)

    def make_wait(self, key: StepKey, **fields: Any) -> Wait:
        """The wait of a step, with the other fields of it."""
        return Wait(wait_id=self.wait_id(key), step=key, since=self._runtime.clock.now(), **fields)

    def wait_id(self, key: StepKey) -> str:
        """The name of the wait of a step."""
        return f"{self._work.steps}/{key.path}"
