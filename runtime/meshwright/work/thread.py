"""The actor behind every agent: one thread of tasks, taken one at a time, in the order of arrival.

Its id is `{tenant}:{thread}`. It holds the inbox, the fence and who works; the work itself runs outside.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from meshwright.core import topics
from meshwright.core.encoding import Struct, encode
from meshwright.core.errors import Overloaded
from meshwright.core.messages import Dispatch, Event, Fault, Identifier, Outcome
from meshwright.kernel.actor import Actor, Turn, turn
from meshwright.kernel.envelope import ActorRef
from meshwright.work.conversation import Said, conversation_of
from meshwright.work.protocol import (
    Accept,
    Answer,
    Cancel,
    Claim,
    Completed,
    Grant,
    Stop,
    Suspend,
    TaskKey,
    tenant_of,
)
from meshwright.work.record import Entry, ThreadState
from meshwright.work.slots import Offer, Withdraw

HISTORY = "history"
"""The stream in which threads of earlier versions keep their own conversation."""
MAX_TASKS = 1_000  # in the inbox, all of which every turn writes
_MAX_REMEMBERED_BYTES = 32 * 1024  # of their results: the state is written with every turn
MAX_REMEMBERED_ENDS = 8  # attempts whose outcome a repeated dispatch gets again


class AgentThread(Actor[ThreadState]):
    """One thread of an agent: queues, grants claims, and commits only what the fence allows."""

    def __init__(self, ref: ActorRef, max_tasks: int = MAX_TASKS) -> None:
        super().__init__(ref)
        self._max_tasks = max_tasks

    @property
    def has_pending_work(self) -> bool:
        """Whether a task is in the inbox."""
        return bool(self.state.inbox)

    @turn
    def enqueue(self, turn: Turn, dispatch: Dispatch) -> None:
        """Take a task from the agent's topic. A repeat is driven on, or its task is told the outcome."""
        self._take(turn, Entry.of(dispatch, turn.now))

    @turn
    def enqueue_again(self, turn: Turn, dispatch: Dispatch) -> None:
        """Take a dispatch from a task that has heard nothing since the first: one of both may be lost.

        An attempt that is not known here may have ended so long ago that it is forgotten. What it did is
        in its journal.
        """
        self._take(turn, Entry.of(dispatch, turn.now, redriven=True))

    @turn
    def claim(self, turn: Turn, claim: Claim) -> Grant | None:
        """Grant a task to a worker and raise the fence, or None where it is not to be had."""
        entry = self._entry(claim.task_id)
        if entry is None or not self._may_claim(entry, claim):
            return None
        if entry.status == "running":  # its journal, which no turn reads, may hold calls that nobody told of
            entry.cost_usd = None
        if entry.cancelled is not None:
            self._end(turn, entry, self._cancelled(entry, turn.now))
            return None
        again = entry.fence > 0
        self.state.fence += 1
        entry.fence, entry.owner = self.state.fence, claim.owner
        entry.status, entry.suspended = "running", None
        self._tell(turn, entry, "task.resumed" if again else "task.started", {"owner": claim.owner})
        return Grant(
            task_id=entry.task_id,
            generation=entry.generation,
            attempt=entry.attempt,
            capability=entry.capability,
            fence=entry.fence,
            owner=claim.owner,
            journaled=again or entry.redriven,
            history=self.state.history,
            seconds=entry.seconds,
            usage=entry.usage,
            cost_usd=entry.cost_usd,
        )

    @turn
    def complete(self, turn: Turn, completed: Completed) -> bool:
        """End an attempt; False, and a record of it, when the fence is another by now."""
        entry = self._fenced(turn, completed.task_id, completed.fence)
        if entry is None:
            return False
        if completed.history:
            turn.send(conversation_of(self.ref), "add", Said(messages=completed.history))
        self._end(turn, entry, completed.outcome)
        return True

    @turn
    def suspend(self, turn: Turn, suspend: Suspend) -> bool:
        """Put a task aside until its question is answered; the thread takes its next one meanwhile."""
        entry = self._fenced(turn, suspend.task_id, suspend.fence)
        if entry is None:
            return False
        entry.usage, entry.cost_usd = suspend.usage, suspend.cost_usd
        if entry.cancelled is not None:
            self._end(turn, entry, self._cancelled(entry, turn.now))
            return True
        if suspend.child is not None:
            accept = Accept.of(suspend.child)
            turn.send(self._task(suspend.child.task_id), "accept", accept)
        entry.status, entry.owner, entry.seconds = "waiting", None, suspend.seconds
        entry.suspended = suspend.model_copy(update={"child": None})
        self._tell(turn, entry, "task.waiting", suspend.wait.event_fields)
        self._offer_next(turn)
        return True

    @turn
    def resume(self, turn: Turn, answer: Answer) -> bool:
        """Give a waiting task its answer, as the result of the step that asked. False if none waits."""
        entry = self._entry(answer.task_id)
        if entry is None or entry.suspended is None or entry.suspended.wait.wait_id != answer.key:
            return False
        if entry.cancelled is not None:  # what it delegated has ended, and says what it cost
            entry.add(answer.value)
            self._end(turn, entry, self._cancelled(entry, turn.now))
            return True
        asked = entry.suspended
        result = {"kind": asked.kind, "hash": asked.request_hash, "result": answer.value}
        if asked.last is not None:
            result["last"] = asked.last
        turn.append(entry.steps, 2 * asked.step + 1, result)
        entry.status, entry.suspended = "queued", None
        self._offer_next(turn)
        return True

    @turn
    def cancel(self, turn: Turn, cancel: Cancel) -> None:
        """End a task: at once where it is queued or waits for a person, through its worker where it runs.

        One that waits for a task that it delegated ends with that, whose cost is a part of its own.
        """
        entry = self._entry(cancel.task_id)
        if entry is None:
            return
        entry.cancelled = entry.cancelled or cancel.reason
        if entry.status == "running":
            turn.signal_after_commit(self._stop(entry))
            return
        child = entry.child_task_id
        if child is not None:
            turn.send(self._task(child), "cancel", Cancel(task_id=child, reason=cancel.reason))
            return
        turn.signal_early(Withdraw(self.ref, entry.task_id))
        self._end(turn, entry, self._cancelled(entry, turn.now))

    def recover(self, turn: Turn) -> None:
        """Offer again what was queued or running when the worker went; the claim makes sure it is gone.

        Where it is not gone after all, and had to stop, it is told again: that signal may be lost.
        """
        running = [entry for entry in self.state.inbox if entry.status == "running"]
        for entry in running:
            turn.signal_early(self._offer(entry))
            if entry.cancelled is not None:
                turn.signal_after_commit(self._stop(entry))
        if not running:
            self._offer_next(turn)

    def redrive(self, turn: Turn) -> None:
        """Offer again what is queued or running, since a worker may have lost it or died."""
        self.recover(turn)

    def _take(self, turn: Turn, new: Entry) -> None:
        ended = next((end for end in self.state.ended if _attempt_ended(end) == new.identity), None)
        known = next((entry for entry in self.state.inbox if entry.identity == new.identity), None)
        if ended is not None:
            turn.send(self._task(ended.task_id), "settle", ended)
            self._tell(turn, new, "task.redriven", {"lost": "outcome"})
        elif known is None and len(self.state.inbox) >= self._max_tasks:
            self._refuse(turn, new)
        elif known is None:
            if new.redriven:
                self._tell(turn, new, "task.redriven", {"lost": "dispatch"})
            self.state.inbox.append(new)
            self._offer_next(turn)
        else:
            self.redrive(turn)
            if known.child_task_id is not None:
                turn.send(self._task(known.child_task_id), "redrive")

    @property
    def _tenant(self) -> str:
        return tenant_of(self.ref)

    def _task(self, task_id: str) -> ActorRef:
        """The actor of a task of the thread's tenant."""
        return TaskKey(self._tenant, task_id).ref

    def _entry(self, task_id: str) -> Entry | None:
        return next((entry for entry in self.state.inbox if entry.task_id == task_id), None)

    def _may_claim(self, entry: Entry, claim: Claim) -> bool:
        if entry.status == "running":
            return claim.gone is not None and claim.gone == entry.owner
        return entry.status == "queued" and entry is self._next()

    def _next(self) -> Entry | None:
        """The task that the thread may run now: its oldest that is not waiting, unless one runs."""
        if any(entry.status == "running" for entry in self.state.inbox):
            return None
        return next((entry for entry in self.state.inbox if entry.status == "queued"), None)

    def _offer_next(self, turn: Turn) -> None:
        entry = self._next()
        if entry is not None:
            turn.signal_early(self._offer(entry))

    def _offer(self, entry: Entry) -> Offer:
        since = entry.queued_at.timestamp()
        return Offer(
            self.ref, entry.task_id, self._tenant, entry.priority, since, entry.owner, entry.traceparent
        )

    def _stop(self, entry: Entry) -> Stop:
        return Stop(task_id=entry.task_id, fence=entry.fence, owner=entry.owner)

    def _fenced(self, turn: Turn, task_id: str, fence: int) -> Entry | None:
        entry = self._entry(task_id)
        if entry is not None and entry.status == "running" and entry.fence == fence:
            return entry
        turn.publish(
            topics.MESH, "work.discarded", {"fence": fence, "current": self.state.fence}, task_id=task_id
        )
        return None

    def _end(self, turn: Turn, entry: Entry, outcome: Outcome) -> None:
        self.state.inbox.remove(entry)
        self._remember_end(turn, outcome)
        self._offer_next(turn)

    def _refuse(self, turn: Turn, new: Entry) -> None:
        """End an attempt that finds the inbox full: its task may go to another agent."""
        held = len(self.state.inbox)
        message = f"Thread {self.ref} has {held:,} open tasks, and may have {self._max_tasks:,}"
        fault = Fault(type=Overloaded.__name__, message=message)
        self._remember_end(turn, unsuccessful("failed", new, self.ref.type, fault, turn.now))

    def _remember_end(self, turn: Turn, outcome: Outcome) -> None:
        self.state.ended = _last_ends([*self.state.ended, outcome])
        self._publish_end(turn, outcome)

    def _cancelled(self, entry: Entry, now: datetime) -> Outcome:
        fault = Fault(type="Cancelled", message=entry.cancelled or "cancelled")
        return unsuccessful("cancelled", entry, self.ref.type, fault, now)

    def _publish_end(self, turn: Turn, outcome: Outcome) -> None:
        turn.publish(
            topics.TASK_RESULTS,
            "attempt.ended",
            outcome,
            task_id=outcome.task_id,
            agent_id=outcome.agent_id,
            tenant_id=self._tenant,
        )

    def _tell(self, turn: Turn, entry: Entry, event_type: str, payload: dict[str, object]) -> None:
        turn.publish(
            topics.TASK_PROGRESS,
            event_type,
            {"attempt": entry.attempt, "fence": entry.fence, **payload},
            task_id=entry.task_id,
            agent_id=self.ref.type,
            tenant_id=self._tenant,
        )


class _Thread(Struct):
    """What names the thread of a task."""

    tenant_id: Identifier = "default"
    thread_id: Identifier


class _Address(Struct):
    """What of a dispatch says where it goes; its thread checks the rest."""

    agent_id: Identifier
    task: _Thread


def thread_of(event: Event) -> ActorRef | None:
    """Route a dispatched task to the thread of its agent."""
    dispatch = _Address.model_validate_json(encode(event.payload))
    return ActorRef(dispatch.agent_id, f"{dispatch.task.tenant_id}:{dispatch.task.thread_id}")


def unsuccessful(
    status: Literal["cancelled", "failed"],
    attempt: Entry | Grant,
    agent_id: str,
    fault: Fault,
    now: datetime,
) -> Outcome:
    """The outcome of an attempt that its agent did not end itself, with what its calls of models cost."""
    return Outcome(
        task_id=attempt.task_id,
        agent_id=agent_id,
        capability=attempt.capability,
        status=status,
        success=False,
        error=fault,
        usage=attempt.usage,
        cost_usd=attempt.cost_usd,
        completed_at=now,
        generation=attempt.generation,
        attempt=attempt.attempt,
    )


def _last_ends(ends: list[Outcome]) -> list[Outcome]:
    """The last ends, as many as may be remembered, and the very last however large it is."""
    kept = ends[-MAX_REMEMBERED_ENDS:]
    sizes = [len(encode(end.result)) for end in kept]
    while len(kept) > 1 and sum(sizes) > _MAX_REMEMBERED_BYTES:
        del kept[0], sizes[0]
    return kept


def _attempt_ended(outcome: Outcome) -> tuple[str, int, int]:
    return outcome.task_id, outcome.generation, outcome.attempt
