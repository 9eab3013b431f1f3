"""Those who wait in this process for the outcomes of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from meshwright.errors import HostError
from meshwright.messages import Outcome
from meshwright.work.protocol import TaskKey


class Waiters:
    """For each task, known by tenant and id, the futures of those who wait for its outcome."""

    def __init__(self) -> None:
        self._futures: dict[TaskKey, list[asyncio.Future[Outcome]]] = {}

    def __contains__(self, task: TaskKey) -> bool:
        return task in self._futures

    @contextmanager
    def waiting(self, task: TaskKey) -> Iterator[asyncio.Future[Outcome]]:
        """A future of a task's outcome, known for as long as somebody waits for it."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        futures = self._futures.setdefault(task, [])
        futures.append(future)
        try:
            yield future
        finally:
            futures.remove(future)
            if not futures:
                del self._futures[task]

    def tell(self, task: TaskKey, outcome: Outcome) -> None:
        """Give a task's outcome to all that wait for it."""
        for future in self._futures.get(task, ()):
            if not future.done():
                future.set_result(outcome)

    def end(self, error: HostError) -> None:
        """Tell all that they wait in vain."""
        for future in chain.from_iterable(self._futures.values()):
            if not future.done():
                future.set_exception(error)
