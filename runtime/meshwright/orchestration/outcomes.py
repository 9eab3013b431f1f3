"""Callers that wait for the outcomes of tasks."""

from __future__ import annotations

import asyncio

from meshwright.core.encoding import Struct, encode
from meshwright.core.errors import HostError
from meshwright.core.messages import Event, Outcome
from meshwright.kernel.runtime import Runtime
from meshwright.work.protocol import TaskKey
from meshwright.work.reading import unknown_task


class _Owner(Struct):
    tenant_id: str = "default"


class _Ending(Struct):
    """What of a task's record who waits for its outcome reads."""

    task: _Owner | None = None
    outcome: Outcome | None = None


class OutcomeWaiters:
    """Who waits in this process, task by task."""

    def __init__(self, host: Runtime) -> None:
        self._host = host
        self._waiting: dict[TaskKey, set[asyncio.Future[Outcome]]] = {}

    async def wait(self, task_id: str, tenant_id: str) -> Outcome:
        """Wait for the outcome of a task. Raises NotFound, and the error by which the wait is ended."""
        key = TaskKey(tenant_id, task_id)
        waiters = self._waiting.setdefault(key, set())
        waiter = asyncio.get_running_loop().create_future()
        waiters.add(waiter)
        try:
            ending = await self._host.read(key.ref, _Ending)
            if ending is None or ending.task is None or ending.task.tenant_id != tenant_id:
                raise unknown_task(task_id)
            return ending.outcome or await waiter
        finally:
            waiters.discard(waiter)
            if not waiters:
                self._waiting.pop(key, None)

    def end(self, error: HostError) -> None:
        """End every wait by an error."""
        for waiter in [waiter for waiters in self._waiting.values() for waiter in waiters]:
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()  # seen: what it waits for may have been read meanwhile

    def tell(self, event: Event) -> None:
        """Give the outcome of a task to those who wait for it; `event` is the task's last."""
        waiters = self._waiting.get(TaskKey(event.tenant_id, event.task_id or ""))
        if waiters:
            outcome = Outcome.model_validate_json(encode(event.payload))
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(outcome)
