"""The actor behind every agent: one thread of tasks, taken one at a time, in the order of arrival.

A task that waits for a provider, money or a time holds up the tasks behind it; a task that waits for a
person, an event or another task does not.

Its id is `{tenant}:{thread}`. It holds the inbox, the fence and who works; the work itself runs outside.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec.structs import replace

from meshwright.core import topics
from meshwright.core.errors import Overloaded
from meshwright.core.events import parse_trace_id
from meshwright.core.messages import Fault, Outcome
from meshwright.core.task_events import (
    AttemptEnded,
    QuestionReminded,
    TaskRedriven,
    TaskStarted,
    WaitEnded,
    WorkBrokeOff,
    WorkDiscarded,
    WorkPayload,
)
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work.conversation import conversation_ref
from meshwright.engine.work.entry import (
    MAX_STALLED_CLAIMS,
    PROCESS_ENDED,
    Entry,
    ThreadState,
    attempt_ended,
    broke_off,
    last_ends,
    unsuccessful,
)
from meshwright.engine.work.people import approval_ended, approval_requested, counted, read_decision
from meshwright.engine.work.protocol import (
    Accept,
    Answer,
    Cancel,
    Claim,
    Complete,
    Enqueue,
    Grant,
    HoldReminder,
    Pause,
    Release,
    Reminder,
    Stop,
    Suspend,
    TaskKey,
    Wait,
    Waiting,
    answers_stream,
    claim_stream,
    thread_tenant,
)
from meshwright.engine.work.slots import Review, Watch, Withdraw

MAX_TASKS = 1_000  # in the inbox, which every turn writes whole
_STOPS_DEADLINE = ("person", "money")
_NO_REMINDER = Reminder()
_NOT_NEEDED = "its result is no longer needed"


class AgentThread(Actor[ThreadState]):
    """One thread of an agent: queues, grants claims, and commits only what the fence allows."""

    def __init__(self, ref: ActorRef, max_tasks: int = MAX_TASKS, reminder: Reminder = _NO_REMINDER) -> None:
        super().__init__(ref)
        self._reminder = reminder
        self._tenant = thread_tenant(ref)
        self._max_tasks = max_tasks

    @property
    def has_pending_work(self) -> bool:
        """Whether a task is in the inbox."""
        return bool(self.state.inbox)

    @turn
    def enqueue(self, turn: Turn, dispatch: Enqueue) -> None:
        """Take a task from the agent's topic. A repeat is driven on, or its task gets the outcome."""
        self._take(turn, Entry.from_dispatch(dispatch, turn.now))

    @turn
    def enqueue_again(self, turn: Turn, dispatch: Enqueue) -> None:
        """Take a dispatch from a task that got no reply to the first: one of both may be lost.

        An attempt that is not known here may have ended so long ago that it is forgotten. Its steps
        are in its journal.
        """
        self._take(turn, Entry.from_dispatch(dispatch, turn.now, redriven=True))

    @turn
    def claim(self, turn: Turn, claim: Claim) -> Grant | None:
        """Grant a task to a worker and raise the fence; None if the worker may not have it.

        If the task ends here and its owner is gone, it is granted as over first, to settle its calls.
        """
        entry = self.state.entry(claim.task_id)
        if entry is None or not self._may_claim(entry, claim):
            return None
        was_cut = entry.status == "running"
        if was_cut:  # its journal may hold calls that were not reported
            entry.cost_usd = claim.cost_usd
            entry.usage = claim.usage or entry.usage
            entry.changed |= claim.changed
        is_broken = claim.has_stalled and entry.stalled_claims >= MAX_STALLED_CLAIMS
        if was_cut and not claim.is_settled and (is_broken or entry.cancelled is not None):
            return entry.grant(claim.owner, entry.claims, is_over=True)
        if entry.cancelled is not None:
            self._let_go(turn, entry)
            return None
        self._count_stalled(turn, entry, claim)
        if entry.stalled_claims >= MAX_STALLED_CLAIMS:
            self._end(turn, entry, broke_off(entry, self.ref.type, claim.reason, turn.now))
            return None
        again = entry.fence > 0
        self.state.fence += 1  # from here on the claim before commits nothing
        entry.fence, entry.owner = self.state.fence, claim.owner
        if entry.has_news:  # the cost of a delegated task that has ended, until the run has read it
            entry.cost_usd = None
        entry.status, entry.has_news = "running", False
        if again:
            # A record in each stream but the first: `read_steps` ends at the first one that is empty.
            turn.append(claim_stream(entry.steps, entry.claims), 1, {"fence": entry.fence})
        entry.claims += 1
        entry.code = claim.code if entry.code is None else entry.code  # as the attempt began
        entry.stalled_claims += 1  # counted ahead: a process that ends cannot do it
        payload = TaskStarted(owner=claim.owner, code=claim.code)
        self._record(turn, entry, payload, "task.resumed" if again else "task.started")
        journaled = again or entry.redriven
        is_same_code = claim.code is not None and entry.code == claim.code
        return entry.grant(
            claim.owner, entry.claims - 1, was_cut=was_cut, journaled=journaled, is_same_code=is_same_code
        )

    @turn
    def complete(self, turn: Turn, completion: Complete) -> bool:
        """End an attempt; False, and a record of it, when the fence is another by now."""
        entry = self._fenced(turn, completion.task_id, completion.fence)
        if entry is None:
            return False
        if entry.cancelled is None and entry.answers <= completion.answers:
            entry.has_news = False  # it was read as the run began
        self._end(turn, entry, completion.outcome)
        return True

    @turn
    def release(self, turn: Turn, release: Release) -> None:
        """Do not count the claim of a worker that stops. The task stays its own until it is gone."""
        entry = self.state.entry(release.task_id)
        if entry is not None and entry.fence == release.fence:
            entry.stalled_claims = 0  # a stop ends the process, and not this work

    @turn
    def forget(self, turn: Turn, task_id: str) -> None:
        """Drop the ends of a task that are remembered."""
        self.state.ends = [outcome for outcome in self.state.ends if outcome.task_id != task_id]

    @turn
    def wait_for(self, turn: Turn, waiting: Waiting) -> bool:
        """Note the waits of a run that still works on something else."""
        entry = self._fenced(turn, waiting.task_id, waiting.fence)
        if entry is None:
            return False
        if entry.cancelled is None:
            self._take_waits(turn, entry, waiting)
        return True

    @turn
    def suspend(self, turn: Turn, suspend: Suspend) -> bool:
        """Put a task aside until one of its waits is answered."""
        entry = self._fenced(turn, suspend.task_id, suspend.fence)
        if entry is None:
            return False
        entry.usage, entry.cost_usd, entry.seconds = suspend.usage, suspend.cost_usd, suspend.seconds
        if entry.answers > suspend.answers:  # an answer that the run has not read has a cost, too
            entry.cost_usd = None
        entry.changed = suspend.changed
        entry.is_cost_open = suspend.cost_usd is None  # calls that are estimated until they are made again
        if entry.cancelled is not None:
            self._let_go(turn, entry)
            return True
        entry.status, entry.owner, entry.pauses = "waiting", None, suspend.pauses
        entry.stalled_claims = 0  # the claim ends by itself
        if not self._take_waits(turn, entry, suspend) and entry.waits:
            self._record(turn, entry, entry.waits[0].event(repeated=True))
        # An answer came while it ran: there is no other that would wake it.
        if entry.has_news or not entry.waits:
            entry.status = "queued"
        self._offer_next(turn)
        return True

    @turn
    def resume(self, turn: Turn, answer: Answer) -> bool:
        """Give a task an answer, as the result of the step that asked. False if it does not wait for it."""
        entry = self.state.entry(answer.task_id)
        wait = None if entry is None else entry.wait(answer.key)
        if entry is None or wait is None:
            return False
        if entry.cancelled is not None:  # a task that it delegated has ended, and says what it cost
            entry.remove_wait(wait)
            if entry.status == "running":  # its worker, or the next claim, ends it
                entry.has_news = True
            else:
                entry.add(answer.value)
                self._end_cancelled(turn, entry)
            return True
        event = approval_ended(wait, answer.value, answer.answered_by)
        if event is not None and counted(wait, answer.value, answer.answered_by):
            self._record(turn, entry, *event, idempotency_key=answer.idempotency_key)
            return True
        self._answer(turn, entry, wait, {"result": answer.value}, answer)
        self._offer_next(turn)
        return True

    @turn
    def hold_reminder(self, turn: Turn, hold: HoldReminder) -> None:
        """Remind of a question not before its claim is over, or as before once it is released."""
        entry = self.state.entry(hold.task_id)
        wait = None if entry is None else entry.wait(hold.key)
        if entry is not None and wait is not None:
            entry.replace_wait(wait, replace(wait, claimed_until=hold.until))
            self._set_alarm(turn)

    @turn
    def cancel(self, turn: Turn, cancel: Cancel) -> None:
        """End a task: at once where it is queued or waits for a person, through its worker where it runs.

        A task that waits for delegated tasks ends with them: their cost is a part of its own. A task whose
        dispatch is still to come ends now, and is not begun then.
        """
        entry = self.state.entry(cancel.task_id, cancel.attempt) or self._entry_ahead(cancel)
        if entry is None:
            return
        entry.cancelled = entry.cancelled or cancel.reason
        if entry.status == "running":
            # After the commit: a run that ends by the stop has to find its cancel here.
            turn.signal_after_commit(self._stop(entry))
            return
        turn.signal_early(Withdraw(self.ref, entry.task_id))  # before it gets a slot in vain
        self._let_go(turn, entry)

    def wake(self, turn: Turn) -> None:
        """A wait has come to its time: a timer has its answer, a question has none, a step is run again.

        Or a question is reminded of.
        """
        for entry in self.state.inbox:
            for wait in [*entry.waits]:
                if wait.ends_at is not None and wait.ends_at <= turn.now:
                    is_due = wait.due_at is not None and wait.due_at <= turn.now
                    self._answer(turn, entry, wait, {"result": None} if is_due else {"expired": True})
                elif wait.reminds_at is not None and wait.reminds_at <= turn.now:
                    self._remind(turn, entry, wait)
        self._set_alarm(turn)
        self._offer_next(turn)

    def recover(self, turn: Turn) -> None:
        """Offer queued and running tasks again after a restart; the claim makes sure that the worker is gone.

        A review then sees whether it has missed a cancel, or the end of a delegated task.
        """
        self._offer_again(turn)
        turn.signal_after_commit(Review(self.ref))

    def redrive(self, turn: Turn) -> None:
        """Offer queued and running tasks again, since a worker may have lost them or died."""
        self._offer_again(turn)

    def _offer_again(self, turn: Turn) -> None:
        """Offer queued and running tasks. Stops are signalled again, as a signal may be lost."""
        running = [entry for entry in self.state.inbox if entry.status == "running"]
        for entry in running:
            turn.signal_early(entry.offer(self.ref))
            if entry.cancelled is not None:
                turn.signal_after_commit(self._stop(entry))
        if not running:
            self._offer_next(turn)

    def _take(self, turn: Turn, new: Entry) -> None:
        former_end = next((end for end in self.state.ends if attempt_ended(end) == new.identity), None)
        open_entry = next((entry for entry in self.state.inbox if entry.identity == new.identity), None)
        if former_end is not None:
            turn.send(self._task(former_end.task_id), "settle", former_end)
            self._record(turn, new, TaskRedriven(lost="outcome"))
        elif open_entry is None and len(self.state.inbox) >= self._max_tasks:
            self._refuse(turn, new)
        elif open_entry is None:
            if new.redriven:
                self._record(turn, new, TaskRedriven(lost="dispatch"))
            self.state.inbox.append(new)
            if new.redriven or not self._begin(turn, new):
                self._offer_next(turn)
        else:
            self.redrive(turn)  # a repeat: the offer may have been lost
            # So may the ends of the tasks that it waits for.
            for child in open_entry.children:
                turn.send(self._task(child), "redrive")

    def _task(self, task_id: str) -> ActorRef:
        return TaskKey(self._tenant, task_id).ref

    def _entry_ahead(self, cancel: Cancel) -> Entry | None:
        """Take a cancel that has come before its dispatch: that finds the end then."""
        if cancel.attempt is None:
            return None
        entry = Entry(
            task_id=cancel.task_id,
            generation=cancel.generation,
            attempt=cancel.attempt,
            capability=cancel.capability,
        )
        if any(attempt_ended(end) == entry.identity for end in self.state.ends):
            return None
        self.state.inbox.append(entry)
        return entry

    def _may_claim(self, entry: Entry, claim: Claim) -> bool:
        if entry.status == "running":
            return claim.ended_owner is not None and claim.ended_owner == entry.owner
        return entry.status == "queued" and entry is self.state.next_entry()

    def _offer_next(self, turn: Turn) -> None:
        """Offer the task that the thread may run next, or have this worker watch the running one.

        The worker that commits a turn of a thread recovers it from then on.
        """
        if (running := self.state.running) is not None:
            turn.signal_early(Watch(running.offer(self.ref)))
        elif (entry := self.state.next_entry()) is not None:
            turn.signal_early(entry.offer(self.ref))

    def _begin(self, turn: Turn, entry: Entry) -> bool:
        """Grant a new task to this worker in the turn that queues it, if the worker has a free slot."""
        if entry is not self.state.next_entry() or parse_trace_id(entry.traceparent) != turn.trace_id:
            return False  # its start is an event of its own trace
        reservation = turn.reserve(entry.offer(self.ref))
        if reservation is None:
            return False
        reservation.grant = self.claim(turn, reservation.claim)
        return True

    def _stop(self, entry: Entry) -> Stop:
        return Stop(task_id=entry.task_id, fence=entry.fence, owner=entry.owner)

    def _fenced(self, turn: Turn, task_id: str, fence: int) -> Entry | None:
        entry = self.state.entry(task_id)
        if entry is not None and entry.status == "running" and entry.fence == fence:
            return entry
        turn.publish(WorkDiscarded(fence=fence, current=self.state.fence), task_id=task_id)
        return None

    def _take_waits(self, turn: Turn, entry: Entry, waiting: Waiting) -> list[Wait]:
        """Add the waits that are new, and give their children to the orchestrator."""
        entry.answers = max(entry.answers, waiting.answers)  # a redriven entry has not counted those before
        for wait_id in waiting.given_up:
            self._withdraw(turn, entry, wait_id)
        # A run whose report got no reply makes it again.
        new = [
            wait.remind_from(turn.now, self._reminder)
            for wait in waiting.waits
            if entry.wait(wait.wait_id) is None
        ]
        children = {child.task_id: child for child in waiting.children}
        for wait in new:
            entry.add_wait(wait)
            if wait.child_task_id is not None:
                accept = Accept.wrap(children[wait.child_task_id], request_hash=wait.step.hash)
                turn.send(self._task(wait.child_task_id), "accept", accept)
            self._record(turn, entry, wait.event(once=waiting.once, running=entry.status == "running"))
            if (approval := approval_requested(wait)) is not None:
                self._record(turn, entry, approval)
        if any(wait.ends_at is not None or wait.reminds_at is not None for wait in new):
            self._set_alarm(turn)
        self._pause(turn, entry)
        return new

    def _withdraw(self, turn: Turn, entry: Entry, wait_id: str) -> None:
        """End a wait that its caller gave up, if it has not ended by itself."""
        if (wait := entry.wait(wait_id)) is None:
            return
        entry.remove_wait(wait)
        if (child := wait.child_task_id) is not None:
            self._cancel_child(turn, child, wait, _NOT_NEEDED)
            entry.gave_up_tasks = True
        self._record(turn, entry, WaitEnded(key=wait_id, kind=wait.kind, how="withdrawn", answered_by=None))

    def _answer(
        self, turn: Turn, entry: Entry, wait: Wait, answer: dict[str, Any], reply: Answer | None = None
    ) -> None:
        answered_by = None if reply is None else reply.answered_by
        can_go_on = entry.remove_wait(wait)
        if not wait.again:  # a parked step is run again, and records itself
            entry.answers += 1
            by = {} if answered_by is None else {"answered_by": answered_by}
            times = {"started_at": wait.since, "answered_at": turn.now}
            value = {**wait.step.model_dump(), **answer, **by, **times}
            turn.append(answers_stream(entry.steps), entry.answers, value)
        if not can_go_on:  # an end of its group resumes it; meanwhile it has this one's cost
            if wait.child_task_id is not None and entry.status != "running":
                entry.add(answer.get("result"))
        elif entry.status == "waiting":
            entry.status, entry.has_news = "queued", wait.child_task_id is not None
        else:
            entry.has_news = True
        how = "expired" if "expired" in answer else "due" if wait.due_at is not None else "answered"
        wait_ended = WaitEnded(
            key=wait.wait_id,
            kind=wait.kind,
            how=how,
            answered_by=answered_by,
            decision=read_decision(wait, answer.get("result")),
        )
        idempotency_key = None if reply is None else reply.idempotency_key
        self._record(turn, entry, wait_ended, idempotency_key=idempotency_key)
        if (event := approval_ended(wait, answer.get("result"), answered_by)) is not None:
            self._record(turn, entry, *event)
        if wait.kind in _STOPS_DEADLINE:
            self._pause(turn, entry)

    def _pause(self, turn: Turn, entry: Entry) -> None:
        """Stop the task's deadline while it waits for people or money, and let it go on afterwards."""
        stops = any(wait.kind in _STOPS_DEADLINE for wait in entry.waits)
        if stops != entry.is_paused:
            entry.is_paused = stops
            turn.send(self._task(entry.task_id), "pause", Pause(key=str(self.ref), on=stops))

    def _remind(self, turn: Turn, entry: Entry, wait: Wait) -> None:
        """Remind of a question that nobody has answered; the second time, ask the next person as well."""
        changed = wait.remind(turn.now)
        entry.replace_wait(wait, changed)
        reminded = QuestionReminded(
            key=wait.wait_id,
            since=wait.since or turn.now,
            reminders=changed.reminders,
            may_answer=changed.may_answer,
            escalated_to=changed.escalated_to,
        )
        self._record(turn, entry, reminded)

    def _set_alarm(self, turn: Turn) -> None:
        waits = [wait for entry in self.state.inbox for wait in entry.waits]
        times = [at for wait in waits for at in (wait.ends_at, wait.reminds_at)]
        turn.wake_at(min((at for at in times if at is not None), default=None))

    def _let_go(self, turn: Turn, entry: Entry) -> None:
        """Cancel what a cancelled task has delegated; it ends with that."""
        for wait in [wait for wait in entry.waits if wait.child_task_id is None]:
            entry.remove_wait(wait)
        self._cancel_children(turn, entry, entry.cancelled or "cancelled")
        self._end_cancelled(turn, entry)

    def _end_cancelled(self, turn: Turn, entry: Entry) -> None:
        if entry.has_children:
            entry.status, entry.owner = "waiting", None
            self._offer_next(turn)
        else:
            self._end(turn, entry, self._cancelled(entry, turn.now))

    def _cancel_children(self, turn: Turn, entry: Entry, reason: str) -> None:
        for wait in entry.waits:
            if (child := wait.child_task_id) is not None:
                self._cancel_child(turn, child, wait, reason)

    def _cancel_child(self, turn: Turn, child: str, wait: Wait, reason: str) -> None:
        cancel = Cancel(task_id=child, reason=reason, parent_key=wait.wait_id)
        turn.send(self._task(child), "cancel", cancel)

    def _end(self, turn: Turn, entry: Entry, outcome: Outcome) -> None:
        self.state.inbox.remove(entry)
        if entry.claims and not outcome.success and self.ref.id != f"{self._tenant}:{entry.task_id}":
            turn.send(conversation_ref(self.ref), "forget", entry.task_id)  # it may stand there as open
        if entry.has_news or entry.has_children or entry.gave_up_tasks:  # what they cost, no run has read
            outcome = outcome.model_copy(update={"cost_usd": None})
        if entry.waits:
            self._cancel_children(turn, entry, _NOT_NEEDED)
            entry.waits = []
            self._set_alarm(turn)
        self._pause(turn, entry)
        self._remember_end(turn, outcome)
        self._offer_next(turn)

    def _refuse(self, turn: Turn, new: Entry) -> None:
        """End an attempt that finds the inbox full: its task may go to another agent."""
        count = len(self.state.inbox)
        message = f"Thread {self.ref} has {count:,} open tasks, and may have {self._max_tasks:,}"
        fault = Fault(type=Overloaded.__name__, message=message)
        self._remember_end(turn, unsuccessful("failed", new, self.ref.type, fault, turn.now))

    def _remember_end(self, turn: Turn, outcome: Outcome) -> None:
        self.state.ends = last_ends([*self.state.ends, outcome])  # a repeated dispatch gets it again
        self._publish_end(turn, outcome)

    def _count_stalled(self, turn: Turn, entry: Entry, claim: Claim) -> None:
        """Count the claim before, unless it got further or ended by no fault of the work."""
        if not claim.has_stalled:
            entry.stalled_claims = 0
        elif entry.stalled_claims:
            error = claim.reason or PROCESS_ENDED
            payload = WorkBrokeOff(error=error, breaks=entry.stalled_claims, most=MAX_STALLED_CLAIMS)
            self._record(turn, entry, payload)

    def _cancelled(self, entry: Entry, now: datetime) -> Outcome:
        fault = Fault(type="Cancelled", message=entry.cancelled or "cancelled")
        return unsuccessful("cancelled", entry, self.ref.type, fault, now)

    def _publish_end(self, turn: Turn, outcome: Outcome) -> None:
        turn.publish(
            AttemptEnded.event_topic,
            AttemptEnded.event_type,
            outcome,
            task_id=outcome.task_id,
            agent_id=outcome.agent_id,
            tenant_id=self._tenant,
        )

    def _record(
        self,
        turn: Turn,
        entry: Entry,
        payload: WorkPayload,
        event_type: str = "",
        idempotency_key: str | None = None,
    ) -> None:
        turn.publish(
            topics.TASK_PROGRESS,
            event_type or payload.event_type,
            replace(payload, attempt=entry.attempt, fence=entry.fence),
            task_id=entry.task_id,
            agent_id=self.ref.type,
            tenant_id=self._tenant,
            idempotency_key=idempotency_key,
        )
