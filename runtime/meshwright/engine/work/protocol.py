"""The messages by which work is claimed, ended, suspended and resumed."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from msgspec import field
from msgspec.structs import asdict, replace

from meshwright.core.encoding import Struct, encode, stable_json
from meshwright.core.ids import Identifier, derived_id
from meshwright.core.messages import Caller, Dispatch, Outcome, Task, TaskCarrier, Usage
from meshwright.core.money import ZERO, Amount, exact
from meshwright.core.payloads import Fact
from meshwright.core.task_events import TaskWaiting
from meshwright.core.task_events import WaitKind as WaitKind
from meshwright.engine.kernel.envelope import ActorRef


class StepKey(Struct, omit_defaults=True):
    """The key of a step: its path, its kind and a hash of its request. `number` is for people.

    `nth` counts the steps of that kind and hash within the step around it, or the run.
    """

    path: str
    number: int
    kind: str
    hash: str
    nth: int = 1


def hash_request(request: Any) -> str:
    """A short hash of a step's request, the same for the same JSON."""
    return hashlib.sha256(stable_json(request)).hexdigest()[:16]  # 64 bits tell the steps of a run apart


DELEGATE = "delegate"
"""The kind of the step that waits for a delegated task."""
APPROVED_BY = "approved_by"
"""The field of a subject that has those whose approvals were counted."""
TOOL = "tool "
"""The kind of the step of a call of a tool begins so; its name follows."""


def question_digest(
    wait_id: str, text: str, subject: dict[str, Any], answer_schema: dict[str, Any] | None, binds: str = ""
) -> str:
    """Returns a hash of a question as a person sees it, the same before and after it was stored."""
    stored = json.loads(encode([wait_id, text, subject, answer_schema, binds]))
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()[:32]


EVERYBODY = "*"
"""In `then`: every caller with the right to answer."""


class Reminder(NamedTuple):
    """When questions that say nothing else are reminded of: after `seconds` (0: never), and then of whom."""

    seconds: float = 0.0
    then: tuple[str, ...] = ()


class Wait(Struct):
    """One thing that a run waits for.

    `wait_id` names it in the answer. `kind` says where the answer comes from: a `person`; a `task` that was
    delegated, whose outcome it is (`child_task_id`); a `timer`, at `due_at`; an `event`; or the step is
    tried again at `due_at`, since its `provider`, its `money` or its `program` was not there. `reason` is
    the question, or why it waits, as a sentence; `subject` says what it is about. `answer_schema` is the
    JSON schema of the answer, `binds` a hash of what the answer is bound to, `may_answer` who may give it
    (empty: everybody with the right to), `expires_at` when it ends without one. `sealed` has the fields that
    the subject shows with marks, without those: objects as JSON, encrypted. `step` is the step whose result
    the answer is; with `again` that step has none, and is run again. Waits of one `group` let the run go on
    once all of them are answered; a wait without a group ("") does so by itself.
    """

    wait_id: Fact[str]
    kind: Fact[WaitKind] = "person"
    reason: str = ""
    subject: dict[str, Any] = field(default_factory=dict)
    answer_schema: dict[str, Any] | None = None
    binds: Fact[str] = ""
    may_answer: Fact[tuple[str, ...]] = ()
    sealed: Fact[tuple[str, ...]] = ()
    child_task_id: Fact[str | None] = None
    step: Fact[StepKey] = StepKey(path="", number=0, kind="", hash="")
    since: Fact[datetime | None] = None
    due_at: Fact[datetime | None] = None
    expires_at: Fact[datetime | None] = None
    again: Fact[bool] = False
    group: Fact[str] = ""
    remind_seconds: Fact[float | None] = None
    """After how long people are reminded of it. None: as the settings say; 0: never."""
    then: Fact[tuple[str, ...]] = ()
    """Callers who are asked as well after as long again."""
    remind_at: Fact[datetime | None] = None
    """When it is reminded of next."""
    reminders: Fact[int] = 0
    """How many reminders there were."""
    claimed_until: Fact[datetime | None] = None
    """No reminder before then: somebody is looking at it."""

    @property
    def ends_at(self) -> datetime | None:
        """When it ends by itself, answered or not."""
        times = [at for at in (self.due_at, self.expires_at) if at is not None]
        return min(times, default=None)

    @property
    def reminds_at(self) -> datetime | None:
        """When it is reminded of next: not while somebody has claimed it."""
        if self.remind_at is None or self.claimed_until is None:
            return self.remind_at
        return max(self.remind_at, self.claimed_until)

    @property
    def escalated_to(self) -> tuple[str, ...]:
        """Those to whom the question went on, since nobody had answered it."""
        return self.then if self.reminders > 1 else ()

    def remind_from(self, now: datetime, default: Reminder) -> Wait:
        """It with the time of its first reminder: its own, or the default of the mesh."""
        seconds = default.seconds if self.remind_seconds is None else self.remind_seconds
        if self.kind != "person" or not seconds:
            return self
        then = self.then or default.then
        return replace(self, remind_seconds=seconds, then=then, remind_at=now + timedelta(seconds=seconds))

    def remind(self, now: datetime) -> Wait:
        """It after a reminder. With the second it goes to `then`: they may answer as well."""
        reminders, may_answer = self.reminders + 1, self.may_answer
        if reminders > 1 and may_answer:
            may_answer = () if EVERYBODY in self.then else tuple(dict.fromkeys((*may_answer, *self.then)))
        is_last = reminders > 1 or not self.then
        remind_at = None if is_last else now + timedelta(seconds=self.remind_seconds or 0)
        return replace(self, reminders=reminders, remind_at=remind_at, may_answer=may_answer)

    @property
    def digest(self) -> str:
        """A hash of the question as a person sees it; "" for a wait that no person answers.

        Approvals that were counted meanwhile do not change it.
        """
        if self.kind != "person":
            return ""
        subject = {name: field for name, field in self.subject.items() if name != APPROVED_BY}
        return question_digest(self.wait_id, self.reason, subject, self.answer_schema or None, self.binds)

    def event(self, *, once: int = 0, running: bool = False, repeated: bool = False) -> TaskWaiting:
        """The event that a run waits for it."""
        return TaskWaiting(
            key=self.wait_id,
            kind=self.kind,
            asked=self.reason,
            child_task_id=self.child_task_id,
            due_at=self.due_at,
            expires_at=self.expires_at,
            subject=self.subject,
            answer_schema=self.answer_schema or None,
            may_answer=self.may_answer,
            digest=self.digest,
            once=once,
            running=running,
            repeated=repeated,
        )


ORCHESTRATOR = "Orchestrator"
DEFAULT_TENANT = Caller().tenant_id


class TaskKey(NamedTuple):
    """The key of a task: ids are unique within a tenant, so that tenants never learn of one another's."""

    tenant_id: str
    """The tenant."""
    task_id: str
    """The task within the tenant."""

    @property
    def ref(self) -> ActorRef:
        """The task's actor: `{tenant}:{task_id}`, and the plain id for the default tenant."""
        return ActorRef(ORCHESTRATOR, tenant_scoped(self.tenant_id, self.task_id))

    @classmethod
    def from_ref(cls, ref: ActorRef) -> TaskKey:
        """Read `ref` back."""
        tenant, separator, task_id = ref.id.rpartition(":")
        return cls(tenant if separator else DEFAULT_TENANT, task_id)


def thread_tenant(thread: ActorRef) -> str:
    """The tenant of a thread, whose id is `{tenant}:{thread}`."""
    return thread.id.partition(":")[0]


def tenant_scoped(tenant_id: str, name: str) -> str:
    """A name that only its tenant uses; the default tenant has plain names, as stored data has them."""
    return name if tenant_id == DEFAULT_TENANT else f"{tenant_id}:{name}"


class _QueuedTask(Struct):
    task_id: Identifier
    generation: int = 1
    capability: str = ""
    priority: int = 5
    traceparent: str | None = None


class Enqueue(Struct):
    """The fields of a dispatch that its thread keeps. A worker reads the task in its record."""

    attempt: int
    task: _QueuedTask


class Claim(Struct):
    """A worker with a free slot asks for a task. `ended_owner` is known to have ended.

    `code` is the digest of its agent's code. `has_stalled` says that the claim of that owner ended with its
    process, or broke off, and finished no step; `reason` says why, where that is known. `is_settled` says
    that the calls of models which that owner left behind are settled, so that the attempt may end; then
    `usage` and `cost_usd` are what the attempt came to, and `changed` says whether it may have changed
    something.
    """

    task_id: str
    owner: str
    ended_owner: str | None = field(name="gone", default=None)
    code: str | None = None
    has_stalled: bool = True
    reason: str = ""
    is_settled: bool = False
    changed: bool = False
    usage: Usage | None = None
    cost_usd: Amount | None = None


class Grant(Struct):
    """A claim that was granted: only who holds this fence may end the attempt.

    `journaled` says that an earlier claim may have left steps; `claim` how many there were; `stalled_claims`
    how many in a row finished no step, this one included; `waits` are the steps that it waits for; `was_cut`
    says that the claim before this one ended with its process; `is_cost_open` that an earlier one did, and
    left calls whose cost is estimated until the run makes them again; `pauses` how often in a row it was
    parked.
    `seconds` is how long the run had worked before it waited, `usage` and `cost_usd` what its calls of
    models had come to by then, None where a worker that is gone may have made more; `changed` whether it may
    have changed something by then. A grant that `is_over` is not worked on: it ends with the next claim,
    once the calls that its owner left behind are settled.
    """

    task_id: str
    generation: int
    attempt: int
    capability: str
    fence: int
    owner: str
    journaled: bool
    claim: int = 0
    stalled_claims: int = 1
    waits: tuple[StepKey, ...] = ()
    was_cut: bool = False
    is_cost_open: bool = False
    pauses: int = 0
    seconds: float = 0.0
    usage: Usage = Usage()
    cost_usd: Amount | None = ZERO
    changed: bool = False
    is_over: bool = False
    is_same_code: bool = False
    """Whether the agent's code has the digest that it had as the attempt began."""

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)


class EndedAttempt(Struct):
    """An attempt at a task that ended before another one began: by which agent, and the name of its steps.

    `changed` says that it may have changed something.
    """

    attempt: int
    agent_id: str
    steps: str
    changed: bool = False


class Work(Grant, kw_only=True):
    """A granted attempt with its task, which the worker has read from the task's own actor.

    `continued` are the steps of the attempts whose journals it goes on with, the first first, `replaced` the
    steps of attempts that could not follow their journals: it gets their answers. `first_steps` name the
    attempt with which the work began: products of a step of the same request have the same id in all.
    With `must_ask` a person decides before it repeats what the attempts before it may have changed.
    """

    dispatch: Dispatch
    continued: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    taken_over: tuple[EndedAttempt, ...] = ()
    """The attempts before it whose journals it does not go on with."""
    first_steps: str
    must_ask: bool = False

    @classmethod
    def from_grant(cls, grant: Grant, dispatch: Dispatch, **fields: Any) -> Work:
        """The work of a grant, once its task has been read; `fields` are the others."""
        return cls(**asdict(grant), dispatch=dispatch, **fields)

    @property
    def task(self) -> Task:
        """The task itself."""
        return self.dispatch.task

    def step_id(self, identity: str) -> str:
        """The id of the step of an identity: its code sends it to services as the idempotency key."""
        return derived_id(self.task.tenant_id, self.first_steps, identity)

    @property
    def steps(self) -> str:
        """The name of the attempt's steps, and the stream of its first claim."""
        return steps_stream(self.task_id, self.generation, self.attempt)

    @property
    def stream(self) -> str:
        """The stream of records that this claim writes."""
        return claim_stream(self.steps, self.claim)


class Complete(Struct):
    """The end of an attempt. `answers` is how many of its answers the run has read."""

    task_id: str
    fence: int
    outcome: Outcome
    answers: int = 0


class Waiting(Struct):
    """A run waits for these too, in addition to earlier ones; it may still work on other branches.

    The `children` are given to the orchestrator in the same commit. `answers` is how many of the attempt's
    answers the run has read, `once` how many steps have begun that are not idempotent, `given_up` the ids of
    waits that their callers gave up.
    """

    task_id: str
    fence: int
    waits: tuple[Wait, ...] = ()
    children: tuple[Task, ...] = ()
    answers: int = 0
    once: int = 0
    given_up: tuple[str, ...] = ()


class Suspend(Waiting):
    """The work gives up slot and claim until one of its waits is answered.

    `seconds` is what the run has had of its attempt's time, `usage` and `cost_usd` what all calls of models
    in the attempt have come to, `pauses` how often in a row it was parked; `changed` says that it may have
    changed something.
    """

    pauses: int = 0
    seconds: float = 0.0
    usage: Usage = Usage()
    cost_usd: Amount | None = ZERO
    changed: bool = False

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)


class Answer(Struct):
    """The answer to a wait of a run, and who gave it; its event has the `idempotency_key`."""

    task_id: str
    key: str
    value: Any = None
    answered_by: str | None = None
    idempotency_key: str | None = None


class HoldReminder(Struct):
    """Remind of a question not before a time, since a person is looking at it; None: they no longer are."""

    task_id: str
    key: str
    until: datetime | None = None


class Cancel(Struct):
    """End a task before its time; for a thread, the attempt of that number, which may still be to come.

    `parent_key` is the wait that a task above has given up: if another waits for the task by now it goes on,
    and if that wait is still to come it is answered at once. `is_absent` says that no process has the agent:
    the task does not wait for it.
    """

    task_id: str
    reason: str = "cancelled on request"
    generation: int = 1
    attempt: int | None = None
    capability: str = ""
    parent_key: str = ""
    is_absent: bool = False


Begin = Literal["journal", "start"]
"""The place at which work begins that is done again: behind the steps that are finished, or the start."""


class Retry(Struct):
    """Work on a task again that has failed: the next generation.

    Without `begin` its fault says where; if that is the start, a person is asked before it repeats what may
    have taken effect. Its deadline is as far away as the one before was, or at `deadline_at`. It has a
    span of its own, `traceparent` below `span_above`, if the task has one.
    """

    begin: Begin | None = None
    deadline_at: datetime | None = None
    traceparent: str | None = None
    span_above: str | None = None


class Follow(Struct):
    """A task waits for the end of another, which lets it begin then."""

    task_id: str


class Pause(Struct):
    """A task's deadline stands still, or goes on: an attempt, or a task below (`key`), waits for a person."""

    key: str
    on: bool = True


class Release(Struct):
    """A worker that stops leaves an attempt to the next one: its claim does not end with its process."""

    task_id: str
    fence: int


class Stop(Struct):
    """Signal to the worker that works, here or in another process: end this work now."""

    task_id: str
    fence: int
    owner: str | None = None


class Accept(TaskCarrier):
    """A task for the orchestrator. `request_hash` tells a repeat from another request under the same id.

    `has_deadline` is False where the settings gave its deadline: its agent may have another.
    """

    request_hash: str = ""
    has_deadline: bool = True


def steps_stream(task_id: str, generation: int, attempt: int) -> str:
    """The stream of an attempt's steps: a new attempt starts with an empty journal."""
    return f"steps/{task_id}/{generation}/{attempt}"


def claim_stream(steps: str, claim: int) -> str:
    """The stream of records that a claim of an attempt writes, so that no two claims write the same."""
    return f"{steps}/{claim}" if claim else steps


def answers_stream(steps: str) -> str:
    """The stream of answers to what an attempt waited for."""
    return f"{steps}/answers"
