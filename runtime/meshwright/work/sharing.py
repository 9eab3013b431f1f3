"""Shares tasks between workers: a worker with more than its slots hands waiting tasks to others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress

from meshwright.core.errors import HostError
from meshwright.kernel.runtime import Runtime
from meshwright.kernel.timers import every
from meshwright.work.worker import Worker

SHARE_SECONDS = 0.5
"""Between two looks: longer than the other workers take to publish what they were handed."""
_logger = logging.getLogger("meshwright.work")


class Sharing:
    """Publishes the loads of this worker, and hands over what others can begin sooner."""

    def __init__(self, runtime: Runtime, worker: Worker) -> None:
        self._runtime, self._worker = runtime, worker
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look every half second."""
        self._looking = asyncio.create_task(
            every(self._runtime.clock, SHARE_SECONDS, self._look), name="shared tasks"
        )

    async def stop(self) -> None:
        """Look no more."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking

    async def _look(self) -> None:
        loads, waiting = self._worker.loads(), self._worker.waiting_by_agent()
        self._runtime.publish_loads(loads)
        others = self._runtime.loads() if waiting else {}
        for agent_id, count in waiting.items():
            if agent_id in loads:
                theirs = {name: load[agent_id] for name, load in others.items() if agent_id in load}
                for name, share in shares(loads[agent_id], theirs, self._worker.slots_of(agent_id)).items():
                    await self._hand_over(agent_id, name, min(share, count))
                    count -= min(share, count)

    async def _hand_over(self, agent_id: str, name: str, count: int) -> None:
        for offer in self._worker.take_waiting(agent_id, count):
            try:
                await self._runtime.hand_over(offer.ref, name)
            except HostError as error:
                _logger.warning("task %s stays here: %s", offer.task_id, error)
                self._worker.signal(offer.ref, offer)  # back into the slots here


def shares(own: int, others: Mapping[str, int], slots: int) -> dict[str, int]:
    """How many tasks of an agent each of the other workers gets, by its name, of one with `own` tasks.

    Only those with a free slot get some, up to the average; workers above it divide that among themselves.
    """
    average = (own + sum(others.values())) / (len(others) + 1)
    surplus = own - average
    total = surplus + sum(load - average for load in others.values() if load > average)
    gaps = {name: average - load for name, load in others.items() if load < min(average, slots)}
    counts = {name: int(gap * surplus / total) for name, gap in gaps.items()} if surplus > 0 else {}
    return {name: count for name, count in counts.items() if count}
