"""Entries in the inbox of a thread: the attempts that it has, and the ends that it remembers."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

from msgspec import field

from meshwright.core.encoding import Struct, encode
from meshwright.core.events import Event
from meshwright.core.ids import Identifier
from meshwright.core.messages import Fault, Outcome, Usage
from meshwright.core.money import ZERO, Amount, exact
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work.protocol import (
    Enqueue,
    Grant,
    Wait,
    WaitKind,
    claim_stream,
    steps_stream,
    thread_tenant,
)
from meshwright.engine.work.slots import Offer

_HOLDING = frozenset[WaitKind]({"provider", "money", "timer", "program"})
_UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)


class Entry(Struct, frozen=False, dict=True, omit_defaults=True):
    """One attempt in the inbox of its thread; a `redriven` one may have been here before.

    Every turn of the thread writes its whole inbox, so an entry names its task and does not hold it;
    defaults are not written. `claims` is how often it was claimed, `code` the
    digest of its agent's code at the first of them, `waits` what it waits for (changed by `add_wait`,
    `replace_wait` and `remove_wait`),
    `answers` how many answers its journal has; `has_news` that one came while it ran, or of a task that it
    delegated, and that no run has read it. `seconds`, `usage`, `cost_usd` and `changed` are as of its last
    wait; the cost is None once a worker that is gone may have made calls since, and was open then
    (`is_cost_open`) where the ledger had estimated such calls. `gave_up_tasks` says that its code gave up
    waiting for a task that it delegated: no run reads what that costs. `stalled_claims` counts the
    claims in a row, the one that runs included, that have neither finished a step nor ended otherwise than
    with their process.
    """

    task_id: str = ""
    generation: int = 1
    attempt: int = 1
    capability: str = ""
    priority: int = 5
    traceparent: str | None = None
    queued_at: datetime = _UNKNOWN_TIME
    status: Literal["queued", "running", "waiting"] = "queued"
    fence: int = 0
    redriven: bool = False
    owner: str | None = None
    claims: int = 0
    code: str | None = None
    stalled_claims: int = 0
    waits: list[Wait] = field(default_factory=list)
    answers: int = 0
    has_news: bool = False
    is_paused: bool = False
    pauses: int = 0
    seconds: float = 0.0
    usage: Usage = Usage()
    cost_usd: Amount | None = ZERO
    changed: bool = False
    is_cost_open: bool = False
    cancelled: str | None = None
    gave_up_tasks: bool = False

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)

    @classmethod
    def from_dispatch(cls, dispatch: Enqueue, queued_at: datetime, *, redriven: bool = False) -> Entry:
        """The entry of an attempt that has just been dispatched."""
        task = dispatch.task
        return cls(
            task_id=task.task_id,
            generation=task.generation,
            attempt=dispatch.attempt,
            capability=task.capability,
            priority=task.priority,
            traceparent=task.traceparent,
            queued_at=queued_at,
            redriven=redriven,
        )

    def add(self, outcome: Any) -> None:
        """Count what a delegated task has cost; unknown if a person answered in its place."""
        try:
            child = Outcome.model_validate(outcome)
        except ValueError:
            self.cost_usd = None
            return
        self.changed |= child.changed
        self.usage = self.usage + child.usage
        before, more = self.cost_usd, child.cost_usd
        self.cost_usd = None if before is None or more is None else before + more

    @property
    def identity(self) -> tuple[str, int, int]:
        """The key of this attempt within the thread."""
        return self.task_id, self.generation, self.attempt

    @property
    def steps(self) -> str:
        """The stream of records that holds the attempt's steps."""
        return steps_stream(*self.identity)

    @cached_property
    def _waits_by_id(self) -> dict[str, Wait]:
        return {wait.wait_id: wait for wait in self.waits}

    @cached_property
    def _group_sizes(self) -> Counter[str]:
        return Counter(wait.group for wait in self.waits)

    def wait(self, wait_id: str) -> Wait | None:
        """The wait of that name, if there is one."""
        return self._waits_by_id.get(wait_id)

    def add_wait(self, wait: Wait) -> None:
        """Add a wait."""
        self._waits_by_id[wait.wait_id] = wait
        self._group_sizes[wait.group] += 1
        self.waits.append(wait)

    def replace_wait(self, wait: Wait, changed: Wait) -> None:
        """Put a changed wait in the place of it."""
        self._waits_by_id[wait.wait_id] = changed
        self.waits[self.waits.index(wait)] = changed

    def remove_wait(self, wait: Wait) -> bool:
        """Remove a wait. Returns whether the run can go on: no other wait of its group is open."""
        del self._waits_by_id[wait.wait_id]
        self._group_sizes[wait.group] -= 1
        self.waits.remove(wait)
        return not wait.group or not self._group_sizes[wait.group]

    def grant(
        self,
        owner: str,
        claims: int,
        *,
        was_cut: bool = True,
        journaled: bool = True,
        is_over: bool = False,
        is_same_code: bool = False,
    ) -> Grant:
        """The grant of the task to a worker, once it was claimed so many times before."""
        return Grant(
            task_id=self.task_id,
            generation=self.generation,
            attempt=self.attempt,
            capability=self.capability,
            fence=self.fence,
            owner=owner,
            journaled=journaled,
            claim=claims,
            stalled_claims=self.stalled_claims,
            waits=tuple(wait.step for wait in self.waits),
            was_cut=was_cut,
            is_cost_open=self.is_cost_open,
            pauses=self.pauses,
            seconds=self.seconds,
            usage=self.usage,
            cost_usd=self.cost_usd,
            changed=self.changed,
            is_over=is_over,
            is_same_code=is_same_code,
        )

    def offer(self, ref: ActorRef) -> Offer:
        """The offer of it by its thread to a worker."""
        since = self.queued_at.timestamp()
        return Offer(
            ref,
            self.task_id,
            thread_tenant(ref),
            self.priority,
            since,
            self.owner,
            self.traceparent,
            claim_stream(self.steps, self.claims - 1) if self.claims else "",
            self.stalled_claims,
        )

    @property
    def holds_thread(self) -> bool:
        """Whether the tasks behind it wait: it waits itself, and for nothing but what ends without people."""
        return self.status == "waiting" and all(wait.kind in _HOLDING for wait in self.waits)

    @property
    def has_children(self) -> bool:
        """Whether it waits for a task."""
        return bool(self.waits) and any(wait.child_task_id is not None for wait in self.waits)

    @property
    def children(self) -> list[str]:
        """The tasks that it waits for."""
        return [wait.child_task_id for wait in self.waits if wait.child_task_id is not None]


class ThreadState(Struct, frozen=False, omit_defaults=True):
    """The inbox of a thread in order of arrival, its fence, and the last attempts that ended."""

    version: int = 1
    fence: int = 0
    inbox: list[Entry] = field(default_factory=list)
    ends: list[Outcome] = field(name="ended", default_factory=list)

    def entry(self, task_id: str, attempt: int | None = None) -> Entry | None:
        """The entry of a task, or of one attempt at it."""
        for entry in self.inbox:
            if entry.task_id == task_id and attempt in (None, entry.attempt):
                return entry
        return None

    def next_entry(self) -> Entry | None:
        """The task that the thread may run now: its oldest that is not waiting, unless one runs.

        Behind a task that holds the thread only tasks that earlier ones wait for may run.
        """
        if self.running is not None:
            return None
        awaited: set[str] | None = None
        for place, entry in enumerate(self.inbox):
            if entry.status == "queued" and (awaited is None or entry.task_id in awaited):
                return entry
            if awaited is None and entry.holds_thread:
                awaited = {child for ahead in self.inbox[: place + 1] for child in ahead.children}
        return None

    @property
    def running(self) -> Entry | None:
        """The entry that a worker has claimed."""
        for entry in self.inbox:
            if entry.status == "running":
                return entry
        return None


MAX_STALLED_CLAIMS = 3  # in a row; then the task is a dead letter
PROCESS_ENDED = "its process ended (a crash in native code, too little memory, os._exit, a kill)"
MAX_REMEMBERED_ENDS = 8  # attempts whose outcome a repeated dispatch gets again
_MAX_REMEMBERED_BYTES = 32 * 1024  # of their results: the state is written with every turn


def unsuccessful(
    status: Literal["cancelled", "failed"], attempt: Entry | Grant, agent_id: str, fault: Fault, now: datetime
) -> Outcome:
    """The outcome of an attempt that its agent did not end itself, with its cost and changes."""
    return Outcome(
        task_id=attempt.task_id,
        agent_id=agent_id,
        capability=attempt.capability,
        status=status,
        success=False,
        error=fault,
        usage=attempt.usage,
        cost_usd=attempt.cost_usd,
        changed=attempt.changed,
        completed_at=now,
        generation=attempt.generation,
        attempt=attempt.attempt,
    )


def broke_off(entry: Entry, agent_id: str, reason: str, now: datetime) -> Outcome:
    """The outcome of an attempt whose claims ended one after another without another step."""
    message = (
        f"The work broke off {entry.stalled_claims} times in a row without finishing another step, "
        f"the last time because of this: {reason or PROCESS_ENDED}. The log of the mesh says more. "
        "Repair the cause, then submit the task again"
    )
    return unsuccessful("failed", entry, agent_id, Fault(type="BrokeOff", message=message), now)


def last_ends(ends: list[Outcome]) -> list[Outcome]:
    """The last ends, as many as may be remembered, and the very last however large it is."""
    latest = ends[-MAX_REMEMBERED_ENDS:]
    if len(latest) == 1:
        return latest
    sizes = [len(encode(end.result)) for end in latest]
    while len(latest) > 1 and sum(sizes) > _MAX_REMEMBERED_BYTES:
        del latest[0], sizes[0]
    return latest


def attempt_ended(outcome: Outcome) -> tuple[str, int, int]:
    """The key of the attempt that ended within its thread."""
    return outcome.task_id, outcome.generation, outcome.attempt


class _Thread(Struct, kw_only=True):
    tenant_id: Identifier = "default"
    thread_id: Identifier


class _Address(Struct):
    """The fields of a dispatch that route it; its thread checks the rest."""

    agent_id: Identifier
    task: _Thread


def route_to_thread(event: Event) -> ActorRef | None:
    """Route a dispatched task to the thread of its agent."""
    dispatch = _Address.model_validate_json(encode(event.payload))
    return ActorRef(dispatch.agent_id, f"{dispatch.task.tenant_id}:{dispatch.task.thread_id}")
