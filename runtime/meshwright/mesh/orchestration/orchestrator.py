"""The orchestrator: an actor per task, from acceptance to its one outcome."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from meshwright.core import topics
from meshwright.core.errors import Conflict, IdempotencyConflict, MeshError, NoAgentAvailable, NotFound
from meshwright.core.events import Event
from meshwright.core.messages import ENDED, Dispatch, Fault, Outcome, Parent, Receipt, ScoreCard, Task
from meshwright.core.payloads import Payload
from meshwright.core.task_events import (
    AttemptFailed,
    TaskAccepted,
    TaskCancelling,
    TaskDeadLettered,
    TaskDispatched,
    TaskRetried,
)
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work.protocol import (
    ORCHESTRATOR,
    Accept,
    Answer,
    Cancel,
    Follow,
    Pause,
    Retry,
    TaskKey,
)
from meshwright.engine.work.record import NO_TASK, Attempt, TaskRecord
from meshwright.mesh.orchestration.registry import Registry
from meshwright.mesh.orchestration.reruns import ERASED_HASH, check_again, choose_begin
from meshwright.mesh.orchestration.scoring import classify_fault, may_retry, rules_out
from meshwright.mesh.orchestration.task_spans import TaskEnding

_MAX_WITHDRAWN = 8
_BEGIN_RETRY = timedelta(seconds=5)  # where no agent is there for a task that waited for another


class Orchestrator(Actor[TaskRecord]):
    """One task, known by its tenant and its id. Every accepted task gets one outcome per generation."""

    def __init__(self, ref: ActorRef, registry: Registry, max_attempts: int = 3) -> None:
        super().__init__(ref)
        self._task_id = TaskKey.from_ref(ref).task_id
        self._registry = registry
        self._max_attempts = max_attempts

    @property
    def has_pending_work(self) -> bool:
        """Whether the task is open."""
        return self.state.is_open

    @turn
    def accept(self, turn: Turn, accept: Accept) -> Receipt:
        """Take a task and dispatch it, or let it wait for the one it comes after; a repeat gets the same
        receipt.

        Raises IdempotencyConflict for another request under the same id, NoAgentAvailable and NotFound
        where no agent can do it, and InvalidInput for a payload that none takes. A
        delegated task is never refused: it fails, as its parent's call does.
        """
        if self.state.task_json != NO_TASK:
            return self._repeat(turn, accept)
        task = accept.task
        if self._is_withdrawn(task):
            self._take(accept, task.capability)
            self._end(turn, self._cancelled(turn))
            return self._receipt()
        try:
            card = self._registry.choose(task)
        except MeshError as error:
            if task.parent is None:
                raise
            self._take(accept, task.capability)
            self._end(turn, self._failure(turn, "orchestrator", error.code, str(error)))
            return self._receipt()
        card = self._variant(task, card)
        self._take(accept, card.capability)
        deadline = self._registry.find(card.agent_id).deadline
        if deadline is not None and not accept.has_deadline:
            self.state.change(deadline_at=task.created_at + timedelta(seconds=deadline))
        self._publish_accepted(turn, card)
        if task.after is None:
            self._dispatch(turn, card)
        else:
            self._follow(turn, task.after)
        turn.wake_at(self.task.deadline_at)
        return self._receipt()

    @turn
    def follow(self, turn: Turn, follow: Follow) -> None:
        """Let another task begin once this one has ended: at once where it has."""
        if self.state.is_open:
            if follow.task_id not in self.state.followers:
                self.state.followers = [*self.state.followers, follow.task_id]
        else:
            self._begin(turn, follow.task_id)

    @turn
    def begin(self, turn: Turn) -> None:
        """Dispatch the task: the task before it has ended."""
        if not self.state.is_open or self.state.attempts:
            return
        turn.wake_at(self.task.deadline_at)
        try:
            card = self._variant(self.task, self._choose(self.task.agent_id))
        except (NoAgentAvailable, NotFound):  # it was accepted, so it waits for one
            turn.wake_at(min(self.task.deadline_at, turn.now + _BEGIN_RETRY))
        except MeshError as error:
            self._end(turn, self._failure(turn, ORCHESTRATOR, error.code, str(error)))
        else:
            self._dispatch(turn, card)

    @turn
    def settle(self, turn: Turn, outcome: Outcome) -> None:
        """Take the end of an attempt: the task's outcome, or a reason to try another agent."""
        attempt = self.state.open_for(outcome)
        if attempt is None or self.state.status in ENDED:
            return
        attempt.ended_at, attempt.error = turn.now, outcome.error
        attempt.usage, attempt.cost_usd, attempt.changed = outcome.usage, outcome.cost_usd, outcome.changed
        if outcome.success or outcome.status == "cancelled" or self.state.cancelling:
            self._end(turn, outcome)
            return
        fault = classify_fault(outcome)
        self._publish(turn, AttemptFailed(attempt=attempt.attempt, error=outcome.error, fault=fault))
        card = self._next_choice(turn) if may_retry(outcome) else None
        if card is not None:
            self._dispatch(turn, card)
        else:
            self._dead_letter(turn, outcome)
            self._end(turn, outcome)

    @turn
    def cancel(self, turn: Turn, cancel: Cancel) -> None:
        """End the task before its time: when its agent has let go, and at once where that is absent."""
        if cancel.parent_key and not self._is_waited_for(cancel.parent_key):
            self.state.withdrawn = (*self.state.withdrawn, cancel.parent_key)[-_MAX_WITHDRAWN:]
            return
        attempt = self.state.open_attempt
        self.state.again = False
        if attempt is None:
            if self.state.is_open:  # it has not begun
                self._end(turn, self._cancelled(turn, cancel.reason))
            return
        self.state.cancelling = True
        self._publish(turn, TaskCancelling(reason=cancel.reason))
        if cancel.is_absent:
            self._leave(turn, attempt, cancel.reason)
            self._end(turn, self._cancelled(turn, cancel.reason))
        else:
            self._cancel(turn, attempt, cancel.reason)

    @turn
    def repeat_end(self, turn: Turn) -> None:
        """Answer the task above once more, where this one has ended."""
        if self.state.outcome is not None:
            self._answer_parent(turn, self.state.outcome)

    @turn
    def retry(self, turn: Turn, retry: Retry) -> Receipt:
        """Work again on a task that has failed, as its next generation.

        Raises what `check_again` raises, NoAgentAvailable and NotFound as `accept`.
        """
        self._work_again(turn, retry)
        return self._receipt()

    @turn
    def erase(self, turn: Turn) -> None:
        """Drop request and result; when, by whom and at what cost stays.

        Raises Conflict while the task is open.
        """
        if self.state.is_open:
            raise Conflict(f"Task {self._task_id} is still open", remedy="Cancel it, or wait for its end")
        self.state.erase()
        self.state.request_hash = ERASED_HASH

    @turn
    def pause(self, turn: Turn, pause: Pause) -> None:
        """Stop or resume the deadline, here and of the task above, as a person is waited for."""
        was_paused = bool(self.state.pauses)
        keys = [key for key in self.state.pauses if key != pause.key]
        self.state.pauses = [*keys, pause.key] if pause.on else keys
        if not self.state.is_open or bool(self.state.pauses) == was_paused:
            return
        if not was_paused:
            self.state.paused_at = turn.now
            turn.wake_at(None)
        else:
            waited = turn.now - (self.state.paused_at or turn.now)
            self.state.change(deadline_at=self.task.deadline_at + waited)
            turn.wake_at(self.task.deadline_at)
        self._pause_parent(turn, on=not was_paused)

    def wake(self, turn: Turn) -> None:
        """The deadline has passed: the task has timed out, whatever its agent does; or no agent was there."""
        attempt = self.state.open_attempt
        if self.state.task is None or self.state.status in ENDED:
            return
        if attempt is None and turn.now < self.state.task.deadline_at:
            self.begin(turn)
            return
        agent_id = attempt.agent_id if attempt else ORCHESTRATOR
        if attempt is not None:
            self._leave(turn, attempt, "the task's deadline passed")
        message = (
            f"The task had no outcome by its deadline, {self.state.task.deadline_at}. Raise the deadline of "
            "the task, of its agent, or deadline_seconds in [agents] of mesh.toml"
        )
        outcome = self._failure(turn, agent_id, "DeadlineExceeded", message)
        self._dead_letter(turn, outcome)
        self._end(turn, outcome.model_copy(update={"status": "timed_out"}))

    def redrive(self, turn: Turn) -> None:
        """Ask the agent at work again: its dispatch may have been lost, or the end of the attempt."""
        attempt = self.state.open_attempt
        if self.state.is_open and attempt is None and self.task.after is not None:
            self._follow(turn, self.task.after)
        if attempt is None or not self.has_pending_work:
            return
        turn.send(self._thread(attempt), "enqueue_again", self._make_dispatch(attempt))
        if self.state.cancelling:
            self._cancel(turn, attempt)

    @property
    def task(self) -> Task:
        """The task, once accepted."""
        assert self.state.task is not None
        return self.state.task

    def _repeat(self, turn: Turn, accept: Accept) -> Receipt:
        is_same = accept.request_hash == self.state.request_hash
        if not is_same and accept.task.parent is not None:
            error = f"task {self._task_id} was delegated with another request, or its contents were erased"
            refused = self._failure(turn, ORCHESTRATOR, IdempotencyConflict.__name__, error)
            self._answer(turn, accept.task.parent, refused)
            return self._receipt()
        if accept.task.parent is None and accept.task.requested_by != self.task.requested_by:
            raise _foreign_conflict(accept.task)
        if not is_same:
            raise IdempotencyConflict(
                f"task {self._task_id} was accepted with another body",
                remedy="repeat a key only with the same body, or use a new Idempotency-Key",
                field="Idempotency-Key",
            )
        parent = accept.task.parent
        if parent is not None and parent != self.task.parent:
            self._join(turn, accept.task)
        elif parent is not None and self.state.outcome is not None:
            self._answer_parent(turn, self.state.outcome)
        return self._receipt()

    def _join(self, turn: Turn, again: Task) -> None:
        """Work on what the task above asks for again, as it works again itself."""
        self.state.change(parent=again.parent)
        if self._is_withdrawn(again):
            self._answer_parent(turn, self.state.outcome or self._cancelled(turn))
        elif self.state.outcome is None:
            self.state.again = self.state.cancelling
        elif self.state.outcome.success or not self._has_begun_again(turn, again.deadline_at):
            self._answer_parent(turn, self.state.outcome)

    def _has_begun_again(self, turn: Turn, deadline_at: datetime) -> bool:
        """Work again for the task above; False where that can't be."""
        try:
            self._work_again(turn, Retry(deadline_at=deadline_at))
        except MeshError:  # the failure that it has stands, and says more
            return False
        return True

    def _work_again(self, turn: Turn, retry: Retry) -> None:
        """Begin the next generation, behind the finished steps or at the start."""
        state = self.state
        outcome = check_again(self._task_id, state)
        begin = choose_begin(outcome, retry.begin, state.attempts)
        continues = state.attempts[-1] if begin == "journal" else None
        agent_id = self.task.agent_id if continues is None else continues.agent_id
        card = self._variant(self.task, self._choose(agent_id))
        must_ask = retry.begin is None if continues is None else continues.must_ask
        deadline_at = retry.deadline_at or turn.now + (self.task.deadline_at - self._began_at)
        state.change(generation=self.task.generation + 1, deadline_at=deadline_at)
        if retry.traceparent is not None:
            state.change(traceparent=retry.traceparent, span_above=retry.span_above)
        state.outcome = None
        state.cancelling = False
        state.pauses.clear()
        payload = TaskRetried(
            generation=self.task.generation, begin=begin, thread_id=self.task.thread_id, error=outcome.error
        )
        self._publish(turn, payload, agent_id=card.agent_id)
        self._dispatch(turn, card, continues, must_ask=must_ask)
        turn.wake_at(self.task.deadline_at)

    @property
    def _began_at(self) -> datetime:
        """When its generation began."""
        task = self.task
        return self.state.tried[0].started_at if task.generation > 1 else task.created_at

    def _take(self, accept: Accept, capability: str) -> None:
        self.state.take(accept, capability)
        self.state.request_hash = accept.request_hash

    def _receipt(self) -> Receipt:
        first = next(iter(self.state.tried), None)
        return Receipt(
            task_id=self._task_id,
            status=self.state.status,
            dispatched_to=first.agent_id if first else "",
            score=first.score_card.score if first else 0.0,
        )

    def _dispatch(
        self, turn: Turn, card: ScoreCard, continued: Attempt | None = None, *, must_ask: bool = False
    ) -> None:
        task = self.task
        attempt = Attempt(
            attempt=len(self.state.attempts) + 1,
            agent_id=card.agent_id,
            score_card=card,
            started_at=turn.now,
            generation=task.generation,
            continues=None if continued is None else continued.attempt,
            others=self._registry.others(card) if task.agent_id is None and continued is None else (),
            must_ask=must_ask,
        )
        self.state.attempts.append(attempt)
        self.state.status = "dispatched"
        turn.publish(
            topics.tasks(card.agent_id),
            TaskDispatched.event_type,
            self._make_dispatch(attempt),
            task_id=self._task_id,
            agent_id=card.agent_id,
            tenant_id=task.tenant_id,
        )

    def _make_dispatch(self, attempt: Attempt) -> Dispatch:
        return Dispatch(
            task_json=self.state.task_json,
            attempt=attempt.attempt,
            agent_id=attempt.agent_id,
            score_card=attempt.score_card,
            others=attempt.others,
        )

    def _next_choice(self, turn: Turn) -> ScoreCard | None:
        attempts = self.state.tried
        if len(attempts) >= self._max_attempts or turn.now >= self.task.deadline_at:
            return None
        failed = frozenset(attempt.agent_id for attempt in attempts if rules_out(attempt.error))
        if self.task.agent_id in failed:
            return None
        try:
            return self._choose(self.task.agent_id, exclude=failed)
        except (NoAgentAvailable, NotFound):
            return None

    def _choose(self, agent_id: str | None, exclude: Collection[str] = ()) -> ScoreCard:
        """The card of the agent for the accepted task. If no agent is named, it fits the payload."""
        payload = self.task.payload if agent_id is None else None
        capability = self.task.capability or None
        return self._registry.best(capability, exclude=exclude, agent_id=agent_id, payload=payload)

    def _variant(self, task: Task, card: ScoreCard) -> ScoreCard:
        """The card of the agent that a variant has in place of the chosen one, if that is there."""
        variant = task.variant_for(card.agent_id)
        if variant is None or variant.runs_as is None:
            return card
        try:
            return self._registry.best(card.capability, agent_id=variant.runs_as, payload=task.payload)
        except MeshError:  # an experiment costs no task
            return card

    def _thread(self, attempt: Attempt) -> ActorRef:
        return ActorRef(attempt.agent_id, f"{self.task.tenant_id}:{self.task.thread_id}")

    def _cancel(self, turn: Turn, attempt: Attempt, reason: str = "cancelled on request") -> None:
        cancel = Cancel(
            task_id=self._task_id,
            reason=reason,
            generation=attempt.generation,
            attempt=attempt.attempt,
            capability=self.task.capability,
        )
        turn.send(self._thread(attempt), "cancel", cancel)

    def _leave(self, turn: Turn, attempt: Attempt, reason: str) -> None:
        """Cancel an attempt, and do not wait for its end: it has not said what it spent."""
        self._cancel(turn, attempt, reason)
        attempt.ended_at, attempt.cost_usd = turn.now, None

    def _failure(self, turn: Turn, agent_id: str, error_type: str, message: str) -> Outcome:
        return Outcome(
            task_id=self._task_id,
            agent_id=agent_id,
            capability=self.task.capability,
            status="failed",
            success=False,
            error=Fault(type=error_type, message=message),
            completed_at=turn.now,
            generation=self.task.generation,
            attempt=max(1, len(self.state.attempts)),
        )

    def _cancelled(self, turn: Turn, reason: str = "its result is no longer needed") -> Outcome:
        outcome = self._failure(turn, ORCHESTRATOR, "Cancelled", reason)
        return outcome.model_copy(update={"status": "cancelled"})

    def _is_waited_for(self, key: str) -> bool:
        """Whether the task above waits for the outcome with a wait of this key."""
        parent = None if self.state.task is None else self.state.task.parent
        return parent is not None and parent.key == key

    def _is_withdrawn(self, task: Task) -> bool:
        return task.parent is not None and task.parent.key in self.state.withdrawn

    def _end(self, turn: Turn, outcome: Outcome) -> None:
        task, began_at = self.task, self._began_at
        total_ms = (turn.now - began_at).total_seconds() * 1000
        whole = {"duration_ms": round(total_ms, 3), "completed_at": turn.now, **self.state.spent()}
        outcome = outcome.model_copy(update=whole)
        self.state.status = outcome.status
        self.state.outcome = outcome
        turn.wake_at(None)
        self._publish(turn, outcome, f"task.{outcome.status}", agent_id=outcome.agent_id)
        if task.span_above is not None:
            # Early, so that it is there before anybody sees the outcome, and in one event with the others.
            turn.signal_early(TaskEnding(task, outcome, began_at))
        if self.state.pauses:
            self.state.pauses = []
            self._pause_parent(turn, on=False)
        again, self.state.again = self.state.again, False
        if again and not outcome.success and self._has_begun_again(turn, task.deadline_at):
            return
        self._answer_parent(turn, outcome)
        for follower in self.state.followers:
            self._begin(turn, follower)
        self.state.followers = []

    def _follow(self, turn: Turn, task_id: str) -> None:
        turn.send(TaskKey(self.task.tenant_id, task_id).ref, "follow", Follow(task_id=self._task_id))

    def _begin(self, turn: Turn, task_id: str) -> None:
        turn.send(TaskKey(TaskKey.from_ref(self.ref).tenant_id, task_id).ref, "begin")

    def _pause_parent(self, turn: Turn, *, on: bool) -> None:
        parent = self.task.parent
        if parent is not None:
            above = TaskKey(self.task.tenant_id, parent.task_id).ref
            turn.send(above, "pause", Pause(key=self._task_id, on=on))

    def _answer_parent(self, turn: Turn, outcome: Outcome) -> None:
        if self.task.parent is not None:
            self._answer(turn, self.task.parent, outcome)

    def _answer(self, turn: Turn, parent: Parent, outcome: Outcome) -> None:
        answer = Answer(task_id=parent.task_id, key=parent.key, value=outcome)
        turn.send(ActorRef(parent.actor_type, parent.actor_id), "resume", answer)

    def _dead_letter(self, turn: Turn, outcome: Outcome) -> None:
        agent_ids = [attempt.agent_id for attempt in self.state.tried]
        error, capability = outcome.error, self.task.capability
        payload = TaskDeadLettered(tried=agent_ids, error=error, capability=capability)
        turn.publish(payload, task_id=self._task_id, tenant_id=self.task.tenant_id)

    def _publish_accepted(self, turn: Turn, card: ScoreCard) -> None:
        task = self.task
        names = ("experiment", "name", "agent_id")
        payload = TaskAccepted(
            capability=task.capability,
            priority=task.priority,
            thread_id=task.thread_id,
            requested_by=task.requested_by,
            created_at=task.created_at,
            dispatched_to=card.agent_id if task.after is None else None,
            score_card=card,
            parent_task_id=task.parent.task_id if task.parent else None,
            after=task.after,
            forked_from=task.forked_from,
            variants=tuple({name: getattr(variant, name) for name in names} for variant in task.variants),
        )
        self._publish(turn, payload, agent_id=payload.dispatched_to)

    def _publish(
        self, turn: Turn, payload: Payload | Outcome, event_type: str = "", *, agent_id: str | None = None
    ) -> None:
        task, attempt = self.task, self.state.attempts[-1] if self.state.attempts else None
        turn.publish(
            topics.TASK_PROGRESS,
            event_type if isinstance(payload, Outcome) else payload.event_type,
            payload,
            task_id=self._task_id,
            agent_id=agent_id or (attempt.agent_id if attempt else None),
            tenant_id=task.tenant_id,
            idempotency_key=task.idempotency_key,
        )


def route_to_task(event: Event) -> ActorRef | None:
    """Route the end of an attempt to its task."""
    return TaskKey(event.tenant_id, event.task_id).ref if event.task_id else None


def _foreign_conflict(task: Task) -> IdempotencyConflict:
    """The error for an id or a key of another caller's task, whose id it does not tell."""
    if task.idempotency_key is None:
        name, field = f"task_id {task.task_id!r}", "task_id"
    else:
        name, field = f"Idempotency-Key {task.idempotency_key!r}", "Idempotency-Key"
    return IdempotencyConflict(
        f"The {name} was used before by another caller of the tenant",
        remedy="Use another; begin yours with the name of your program, or take a random one",
        field=field,
    )
