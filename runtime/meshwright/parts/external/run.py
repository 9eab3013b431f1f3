"""A run whose program is outside: the mesh has its journal, and answers the requests of the program."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextvars import copy_context
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from meshwright import File, MeshError, Run, ToolFailed
from meshwright.core.errors import LimitReached, ReplayMismatch, RestartDenied
from meshwright.engine.work import LifeCall
from meshwright.kit import Conflict, HostError, InvalidInput, Overloaded
from meshwright.parts.external.errors import ExternalTaskFailed
from meshwright.parts.external.steps import ExternalState, StepKind, read_work

if TYPE_CHECKING:
    from meshwright.parts.external.runs import ExternalRuns

_logger = logging.getLogger("meshwright.external")
_PATIENCE_SECONDS = 1.0
"""How long a run waits for a program before it gives up its slot."""
_RESERVED_SECONDS = 5.0
_MAX_OPEN_CALLS = 64
_FAILED = "meshwright.failed"
"""The field of a recorded result that has the failure which the program reported."""
_ENDING = (HostError, LimitReached, ReplayMismatch, RestartDenied)
"""The errors that end the run."""
_STOPPED = ("stopped",)


class Life(NamedTuple):
    """The work of one program on a run, from its claim to its end, or to its last request."""

    number: int
    token: str
    worker: str


class _OpenStep:
    """A step that a program asked for, until it has its result."""

    def __init__(self, kind: StepKind) -> None:
        loop = asyncio.get_running_loop()
        self.kind = kind
        self.begun: asyncio.Future[str] = loop.create_future()
        """Has the step's id once the program is to do it."""
        self.result: asyncio.Future[Any] = loop.create_future()
        """The result that the program reports."""
        self.task: asyncio.Task[Any]


class ExternalRun:
    """Relays between a run and its program, which may die and begin again as often as it takes.

    A step is known by its key and its request. A program that begins again asks for the same steps and gets
    their recorded results.
    """

    def __init__(self, run: Run, runs: ExternalRuns) -> None:
        self.run, self._runs = run, runs
        self.task_id, self.tenant_id = run.task.task_id, run.task.tenant_id
        self.life: Life | None = None
        """The life of its program. None: a program may claim it."""
        self._reserved_until = 0.0
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._due = 0.0
        self._lives = 0
        self._is_parking = False
        self._steps: dict[str, _OpenStep] = {}
        self._context = copy_context()
        self._end: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._over: asyncio.Future[str] = loop.create_future()

        self.report_progress = run.progress_reporter()
        """Publishes how far the program is."""
        self.lease_seconds = runs.table.lease_seconds

    @property
    def is_free(self) -> bool:
        """Whether a program may claim it."""
        is_reserved = self._loop.time() < self._reserved_until
        return self.life is None and not (is_reserved or self._is_parking or self._end.done())

    def reserve(self) -> None:
        """Keep it for a program that is about to claim it, for some seconds: that may go away."""
        self._reserved_until = self._loop.time() + _RESERVED_SECONDS

    def release(self) -> None:
        """Reserve it no longer."""
        self._reserved_until = 0.0

    async def finish(self) -> dict[str, Any]:
        """The result that its program reports. Raises ToolFailed, ExternalTaskFailed for its failures."""
        state = "moved"
        with self.run.program():
            self._runs.open(self)
            try:
                result = await self._until_complete()
                state = "complete"
                return result
            except asyncio.CancelledError as error:
                if error.args == _STOPPED:
                    is_late = datetime.now(UTC) >= self.run.task.deadline_at
                    state = "late" if is_late else "cancelled"
                elif self.run.is_waiting:
                    state = "waiting"
                raise
            except (ToolFailed, ExternalTaskFailed):
                state = "complete"
                raise
            finally:
                self._over.set_result(state)
                self._runs.close(self, state)
                if not self._end.done():
                    self._end.cancel()

    async def _until_complete(self) -> dict[str, Any]:
        patient_until = self._loop.time() + _PATIENCE_SECONDS
        while not self._end.done():
            due = max(patient_until, self._reserved_until) if self.life is None else self._due
            if (seconds := due - self._loop.time()) > 0:
                await asyncio.wait([self._end], timeout=seconds)
            elif self.life is not None:
                await self._end_life()
                self._runs.offer(self)
                patient_until = self._loop.time() + _PATIENCE_SECONDS
            else:
                self._is_parking = True
                await asyncio.wait([self._end, self._spawn(self._park())])
        return await self._end

    def claim(self, worker: str) -> Life:
        """Begin a life of a program."""
        self._lives += 1
        self.release()
        self.life = Life(self._lives, secrets.token_urlsafe(24), worker)
        self.renew()
        return self.life

    def renew(self) -> None:
        """Note that the program lives."""
        self._due = self._loop.time() + self._runs.table.lease_seconds

    async def _end_life(self) -> None:
        """Let go of the steps that a program has not ended: it is gone."""
        assert self.life is not None
        _logger.warning(
            "program %s of %s sent nothing for %g seconds: task %s is free for another claim",
            self.life.worker or "without a name",
            self._runs.name,
            self._runs.table.lease_seconds,
            self.task_id,
        )
        own = [step for step in self._steps.values() if step.begun.done() and not step.task.done()]
        for step in own:
            step.result.cancel()
        if own:
            await asyncio.wait([step.task for step in own])
        self.life = None

    async def _park(self) -> None:
        run = self.run
        with run.program_block():
            run.begin_life_call(LifeCall(1))
            await run.park(
                "program",
                self._runs.account,
                f"Nobody works for {self._runs.name}: no program has claimed the task",
                run.task.deadline_at,
            )

    # Steps

    async def step(
        self,
        key: str,
        kind: StepKind,
        request: Mapping[str, Any],
        *,
        idempotent: bool,
        seconds: float,
        left: Collection[asyncio.Future[Any]],
    ) -> ExternalState:
        """Begin a step, or look at it: its state, after so many seconds at most.

        Raises InvalidInput for a wrong request, Overloaded where too many steps are open, Conflict where the
        program lost the run meanwhile.
        """
        step_id = json.dumps([key, kind, request], sort_keys=True)
        life, step = self.life, self._steps.get(step_id)
        if step is None:
            if len(self._steps) >= _MAX_OPEN_CALLS:
                raise Overloaded(
                    f"The run has {_MAX_OPEN_CALLS} steps under way", remedy="End some, then begin others"
                )
            step = self._begin(step_id, key, kind, request, idempotent=idempotent)
        futures = [step.task, step.begun, self._over, *left]
        await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if step.task.done() and not step.task.cancelled():
            error = step.task.exception()
            if isinstance(error, MeshError) and not isinstance(error, _ENDING):
                return ExternalState(state="failed", error={"type": error.code, "message": str(error)})
            if error is None:
                return _read_result(step.task.result())
        if not self._over.done() and (step.task.done() or self._end.done()):
            await asyncio.wait([self._over], timeout=seconds)
        if self._over.done():
            return ExternalState(state=self._over.result())
        if life is not self.life or step.task.done():
            raise Conflict("Another claim of the run began meanwhile", remedy="Leave it, and claim again")
        if step.begun.done():
            return ExternalState(state="yours", step_id=step.begun.result())
        return ExternalState(state="working")

    def _begin(
        self, step_id: str, key: str, kind: StepKind, request: Mapping[str, Any], *, idempotent: bool
    ) -> _OpenStep:
        step = _OpenStep(kind)
        run = self.run

        async def own_work() -> Any:
            step.begun.set_result(run.step_id)
            return await step.result

        work: Callable[[], Awaitable[Any]] = own_work
        if kind != "step":
            mesh_work = read_work(kind, request)
            idempotent = True

            async def work() -> Any:
                return await mesh_work(run)

        async def do() -> Any:
            with run.program_block():
                run.begin_life_call(LifeCall(1))
                return await run.step(key, work, request={"kind": kind, **request}, repeatable=idempotent)

        self._steps[step_id] = step
        step.task = self._spawn(do())
        step.task.add_done_callback(lambda _: self._steps.pop(step_id, None))
        return step

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin work in an asyncio task of its own, as a branch of the run."""
        task = asyncio.create_task(work, context=self._context.copy())
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        """End the run with an error that is no failure of a step."""
        if task.cancelled() or (error := task.exception()) is None or self._end.done():
            return
        if isinstance(error, _ENDING) or not isinstance(error, MeshError):
            self._end.set_exception(error)

    async def report(
        self, key: str, request: Mapping[str, Any], value: Any, error: Mapping[str, str] | None
    ) -> ExternalState:
        """Record the result of a step that the program did. Durable when this returns.

        Raises Conflict for a step that is not the program's to do.
        """
        step = self._steps.get(json.dumps([key, "step", request], sort_keys=True))
        if step is None or not step.begun.done():
            raise Conflict(
                f"The step {key!r} with this request is not under way",
                remedy="Ask for it by POST steps: it may have its result already",
                field="key",
            )
        if not step.result.done():
            step.result.set_result(value if error is None else {_FAILED: dict(error)})
        await asyncio.wait([step.task])
        if step.task.cancelled():
            return ExternalState(state=self._over.result() if self._over.done() else "moved")
        state = _read_result(step.task.result())
        await self.run.until_durable()
        return state

    # The end

    def complete(self, result: dict[str, Any], files: Collection[Mapping[str, Any]]) -> None:
        """End the run with a result."""
        read = [_read_file(fields) for fields in files]

        async def attach() -> None:
            with self.run.program_block():
                for file in read:
                    await self.run.attach(file)
            if not self._end.done():
                self._end.set_result(result)

        if read:
            self._spawn(attach())
        elif not self._end.done():
            self._end.set_result(result)

    def fail(self, message: str, *, is_declined: bool) -> None:
        """End the run with a failure: the agent says no, or its program broke."""
        if not self._end.done():
            self._end.set_exception(ToolFailed(message) if is_declined else ExternalTaskFailed(message))

    async def until_over(self, seconds: float, left: Collection[asyncio.Future[Any]]) -> str:
        """How the run ended, after so many seconds at most; `working` before."""
        await asyncio.wait([self._over, *left], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return self._over.result() if self._over.done() else "working"


def _read_result(result: Any) -> ExternalState:
    if isinstance(result, dict) and result.keys() == {_FAILED}:
        return ExternalState(state="failed", error=result[_FAILED])
    return ExternalState(state="done", value=result)


def _read_file(fields: Mapping[str, Any]) -> File:
    try:
        data = base64.b64decode(fields["data"], validate=True)
    except ValueError:
        raise InvalidInput(
            f"The file {fields['name']!r} has bytes that are no base64", field="files"
        ) from None
    return File(name=fields["name"], media_type=fields["media_type"], data=data)
