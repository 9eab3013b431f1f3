"""Slots: which waiting task runs next on this worker.

Topics only fill inboxes; nothing that waits holds a slot or a claim. Tenants take turns, so that one with
a thousand tasks delays another by one; within a tenant the higher priority goes first, and waiting raises
it: a step of priority for each `AGEING_SECONDS`.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from meshwright.engine.kernel.envelope import ActorRef

AGEING_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Offer:
    """A task that its thread could run now. `since` is the unix time at which it was queued.

    If an `owner` runs it: the `stream` of records of that claim, the `stalled_claims` (see `Entry`), and
    whether the claim ended with its process (`has_crashed`) rather than by a fault of the mesh; `reason`
    says why it ended, where that is known.
    """

    ref: ActorRef
    task_id: str
    tenant_id: str
    priority: int
    since: float
    owner: str | None = None
    traceparent: str | None = None
    stream: str = ""
    stalled_claims: int = 0
    has_crashed: bool = True
    reason: str = ""

    @property
    def key(self) -> tuple[ActorRef, str]:
        """The thread and the task."""
        return self.ref, self.task_id


@dataclass(frozen=True, slots=True)
class Watch:
    """A task that runs, to be offered once its owner is gone."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Review:
    """A thread that has recovered, and may have missed messages about its tasks."""

    ref: ActorRef


@dataclass(frozen=True, slots=True)
class Withdraw:
    """A task that is no longer to be had."""

    ref: ActorRef
    task_id: str


@dataclass(slots=True)
class _Lane:
    """The offers to one agent: a heap per tenant, the tenants in turn."""

    free: int
    heaps: dict[str, list[tuple[float, int, Offer]]] = field(default_factory=dict)
    turns: deque[str] = field(default_factory=deque)


class SlotTable:
    """The slots of this worker, so many for each agent (`slots_of` is asked once an agent)."""

    def __init__(self, slots_of: Callable[[str], int]) -> None:
        self._slots_of = slots_of
        self._lanes: dict[str, _Lane] = {}
        self._waiting: dict[tuple[ActorRef, str], Offer] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def waiting(self) -> Collection[tuple[ActorRef, str]]:
        """The thread and the task of each offer that waits."""
        return self._waiting.keys()

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents that were offered a task."""
        return tuple(self._lanes)

    def offer(self, offer: Offer) -> None:
        """Queue a task; an offer of the same task replaces the one before."""
        if self._waiting.get((offer.ref, offer.task_id)) == offer:
            return  # offered again meanwhile
        lane = self._lane(offer.ref.type)
        if offer.tenant_id not in lane.heaps:
            lane.heaps[offer.tenant_id] = []
            lane.turns.append(offer.tenant_id)
        self._count += 1
        self._waiting[(offer.ref, offer.task_id)] = offer
        # All waiting tasks age alike, so their order never changes and can be fixed now.
        heapq.heappush(
            lane.heaps[offer.tenant_id], (offer.since / AGEING_SECONDS - offer.priority, self._count, offer)
        )

    def withdraw(self, ref: ActorRef, task_id: str) -> None:
        """Take an offer back."""
        self._waiting.pop((ref, task_id), None)

    def clear(self) -> None:
        """Forget all that waits. Slots that are taken stay taken until they are released."""
        self._waiting.clear()
        for lane in self._lanes.values():
            lane.heaps.clear()
            lane.turns.clear()

    def grant(self, agent_id: str) -> Offer | None:
        """Give a free slot of an agent to the task whose turn it is; None where either is missing."""
        lane = self._lane(agent_id)
        if lane.free <= 0 or (offer := self._next(lane)) is None:
            return None
        lane.free -= 1
        return offer

    def reserve(self, agent_id: str) -> bool:
        """Take a slot of an agent, if one is free: then none of its tasks waits for one."""
        lane = self._lane(agent_id)
        if lane.free <= 0:
            return False
        lane.free -= 1
        return True

    def take(self, agent_id: str) -> Offer | None:
        """Take the next task of an agent out, without a slot."""
        return self._next(self._lane(agent_id))

    def _next(self, lane: _Lane) -> Offer | None:
        while lane.turns:
            tenant = lane.turns.popleft()
            offer = self._best(lane.heaps[tenant])
            if offer is None:
                del lane.heaps[tenant]
                continue
            lane.turns.append(tenant)  # behind the other tenants
            return offer
        return None

    def release(self, agent_id: str) -> None:
        """Give a slot back."""
        self._lane(agent_id).free += 1

    def _best(self, heap: list[tuple[float, int, Offer]]) -> Offer | None:
        while heap:
            offer = heapq.heappop(heap)[2]
            if self._waiting.get((offer.ref, offer.task_id)) is offer:  # else withdrawn, or offered anew
                del self._waiting[(offer.ref, offer.task_id)]
                return offer
        return None

    def _lane(self, agent_id: str) -> _Lane:
        lane = self._lanes.get(agent_id)
        if lane is None:
            lane = self._lanes[agent_id] = _Lane(free=self._slots_of(agent_id))
        return lane


logger = logging.getLogger("meshwright.work")

SUSPECT_CLAIMS = 2  # in a row that ended with their process
PAUSE_SECONDS = 5.0  # of the process without a suspect: others that end it show by then


class Suspects:
    """The suspects that this worker is to start."""

    def __init__(self, start: Callable[[Offer], None]) -> None:
        self._start = start
        self._waiting: dict[tuple[ActorRef, str], Offer] = {}
        self._alone: Offer | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, offer: Offer) -> None:
        """Start a task when its turn comes; an offer of the same task replaces the one before."""
        if offer == self._alone:
            return
        if offer.key not in self._waiting:
            logger.warning(
                "Task %s of %s ran each of the last %d times that its process ended. It starts again alone, "
                "in %g s or later; if its process ends once more, it fails as BrokeOff. "
                "To end it now: mesh cancel %s",
                offer.task_id,
                offer.ref.type,
                offer.stalled_claims,
                PAUSE_SECONDS,
                offer.task_id,
            )
        self._waiting[offer.key] = offer
        if self._alone is None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._next)

    def passed(self, key: tuple[ActorRef, str]) -> None:
        """Start the next one if this was alone: it has finished a step, waits or has ended."""
        if self._alone is not None and key == self._alone.key:
            self._alone = None
            self._next()

    def withdraw(self, key: tuple[ActorRef, str]) -> None:
        """Take a task back that need not start."""
        self._waiting.pop(key, None)
        self.passed(key)

    def start_now(self, key: tuple[ActorRef, str]) -> None:
        """Start a task out of turn: it was cancelled, and its claim ends it."""
        if (offer := self._waiting.pop(key, None)) is not None:
            self._start(offer)

    def clear(self) -> None:
        """Start nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
        self._alone = self._timer = None

    def _next(self) -> None:
        self._timer = None
        if self._waiting:
            self._alone = self._waiting.pop(next(iter(self._waiting)))
            self._start(self._alone)
