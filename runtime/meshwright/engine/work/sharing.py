"""How workers of a mesh share the tasks that wait."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from meshwright.core.errors import HostError
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.timers import Duty
from meshwright.engine.work.worker import Worker

logger = logging.getLogger("meshwright.work")

SHARE_SECONDS = 0.5
"""Between two looks: longer than the other workers take to publish what they were handed."""


class Sharing(Duty):
    """Publishes the loads of this worker, and hands over what others can begin sooner."""

    def __init__(self, runtime: Runtime, worker: Worker) -> None:
        super().__init__(runtime.clock, SHARE_SECONDS, self._look, name="shared tasks")
        self._runtime, self._worker = runtime, worker

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
                logger.warning("task %s stays here: %s", offer.task_id, error)
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
