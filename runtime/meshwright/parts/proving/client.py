"""The client of a run: submits the tasks of a plan, and records what the mesh answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from meshwright.core.errors import Conflict, HostError, NotFound
from meshwright.core.messages import Outcome, Receipt, TaskRequest
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.inbox import Inbox, Question
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.workload import Pass, PlannedTask, pass_by

LOOK_SECONDS = 0.2
_MAX_OPEN = 64
_logger = logging.getLogger("client")


class TaskClient(Protocol):
    """The operations on tasks that a client of a run needs."""

    async def submit(self, request: TaskRequest, *, idempotency_key: str) -> Receipt:
        """Submit a task, once under each key."""

    async def started(self, task_id: str) -> None:
        """Wait until a task has been claimed."""

    async def answer(self, task_id: str, key: str, value: Any, *, digest: str = "") -> None:
        """Answer a question of a task, as its digest names it."""

    async def outcome(self, task_id: str) -> Outcome:
        """Wait for the outcome of a task."""

    async def cancel(self, task_id: str) -> Any:
        """Cancel a task."""


class LocalTasks:
    """The tasks of a mesh in the same process."""

    def __init__(self, mesh: Mesh) -> None:
        tasks, self._log = mesh.get(Tasks), mesh.log
        self.submit, self.outcome = tasks.submit, tasks.outcome
        self.cancel, self.answer = tasks.cancel, tasks.answer

    async def started(self, task_id: str) -> None:
        """Wait until a task has been claimed."""
        async for _ in self._log.tail(EventFilter(task_id=task_id, event_type="task.started", after_seq=0)):
            break


class PatientTasks(LocalTasks):
    """The same; a call is repeated, under the same key, while the mesh cannot answer."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        for name in ("submit", "started", "answer", "outcome", "cancel"):
            setattr(self, name, partial(_repeat, getattr(self, name)))


async def _repeat(call: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
    while True:
        try:
            return await call(*arguments, **options)
        except HostError as error:
            _logger.warning("retrying: %s", error)
            await asyncio.sleep(LOOK_SECONDS)


class PlanClient:
    """Submits each task of a plan until it is accepted, records that, and waits for its outcome."""

    def __init__(
        self,
        tasks: TaskClient,
        plan: Sequence[PlannedTask],
        records: Records,
        *,
        passes: Pass = pass_by,
        ended: Pass = pass_by,
        max_open: int = _MAX_OPEN,
        is_paced: bool = False,
    ) -> None:
        """`ended` is called with the id of each task that has ended. A paced client waits with each task
        until the records allow it."""
        self._tasks, self._plan = tasks, plan
        self.records, self.passes = records, passes
        self._ended, self._is_paced = ended, is_paced
        self._accepted: dict[str, str] = dict(records.accepted.read())
        self._cancelled = set(records.cancelled.read())
        self._reported = {task_id for task_id, _, _ in records.outcomes.read()}
        self._open = asyncio.Semaphore(max_open)

    async def run(self) -> None:
        """Return when each task of the plan has ended."""
        async with asyncio.TaskGroup() as group:
            for item in self._plan:
                while self._is_paced and item.number >= self.records.allowed():  # noqa: ASYNC110 a file
                    await asyncio.sleep(LOOK_SECONDS)
                group.create_task(self._run_task(item))

    async def submit(self, item: PlannedTask) -> str:
        """Submit a task and record its acceptance; returns its id."""
        receipt = await self._tasks.submit(item.request(), idempotency_key=item.key)
        self.records.accepted.write([item.key, receipt.task_id], durable=True)
        self.passes("client.accepted")
        return receipt.task_id

    async def _run_task(self, item: PlannedTask) -> None:
        if self._accepted.get(item.key) in self._reported:
            return
        async with self._open:
            task_id = self._accepted.get(item.key) or await self.submit(item)
            if item.cancel and task_id not in self._cancelled:
                await self._tasks.started(task_id)
                await self._tasks.cancel(task_id)
                self.records.cancelled.write(task_id)
                self.passes("client.cancelled")
            outcome = await self._tasks.outcome(task_id)
            self.records.outcomes.write([task_id, outcome.status, outcome.text])
            self.passes("client.told")
            self._ended(task_id)


class Person:
    """Answers each question about an interrupted charge: it was charged.

    Before, answers as if another question stood there, which has to be refused.
    """

    def __init__(self, tasks: TaskClient, inbox: Inbox, records: Records | None = None) -> None:
        self._tasks, self._inbox, self._records = tasks, inbox, records

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            with suppress(HostError):  # the next round asks again
                for question in (await self._inbox.page("default", limit=500)).items:
                    with suppress(Conflict, NotFound):  # it was answered before
                        await self._answer(question)
            await asyncio.sleep(LOOK_SECONDS)

    async def _answer(self, question: Question) -> None:
        about = question.task_id, question.wait_id, {"approve": False, "reason": "it was charged"}
        if self._records is not None and question.digest:
            with suppress(Conflict):
                await self._tasks.answer(*about, digest=question.digest[::-1])
                self._records.misplaced.write([question.task_id])
        await self._tasks.answer(*about, digest=question.digest or "")
