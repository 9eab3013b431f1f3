"""The messages by which work is claimed, ended, suspended and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from msgspec import UNSET, UnsetType, field
from msgspec.structs import asdict, force_setattr

from meshwright.core.encoding import Struct
from meshwright.core.messages import Caller, Dispatch, Outcome, Task, TaskCarrier, Usage
from meshwright.core.money import ZERO, Amount, exact
from meshwright.kernel.envelope import ActorRef
from meshwright.work.conversation import Message


class Wait(Struct):
    """One thing that a run waits for.

    `wait_id` names it in the answer. `kind` says where the answer comes from: a `person`, or a `task` that
    was delegated, whose outcome it is (`child_task_id`). `reason` is the question as a sentence; `subject`
    says what it is about: the `kind` of step, its `request`, and the `steps` that would be repeated.
    """

    wait_id: str
    kind: Literal["person", "task"] = "person"
    reason: str = ""
    subject: dict[str, Any] = field(default_factory=dict)
    child_task_id: str | None = None
    since: datetime | None = None

    @classmethod
    def of_stored(cls, key: str, known: Mapping[str, Any]) -> Wait:
        """Read the form that 0.1's first data folders hold."""
        subject = dict(known)
        reason, child = subject.pop("asked", ""), subject.pop("child_task_id", None)
        kind: Literal["person", "task"] = "task" if child else "person"
        return cls(wait_id=key, kind=kind, reason=reason, subject=subject, child_task_id=child)

    @property
    def event_fields(self) -> dict[str, Any]:
        """The payload of a `task.waiting` event."""
        asked = {"asked": self.reason} if self.reason else {}
        child = {"child_task_id": self.child_task_id} if self.child_task_id is not None else {}
        return {"key": self.wait_id, **asked, **self.subject, **child}


ORCHESTRATOR = "Orchestrator"
DEFAULT_TENANT = Caller().tenant_id


class TaskKey(NamedTuple):
    """What names a task: ids are unique within a tenant, so that tenants never learn of one another's."""

    tenant_id: str
    task_id: str

    @property
    def ref(self) -> ActorRef:
        """The task's actor: `{tenant}:{task_id}`, and the plain id for the default tenant."""
        return ActorRef(ORCHESTRATOR, tenant_scoped(self.tenant_id, self.task_id))

    @classmethod
    def of(cls, ref: ActorRef) -> TaskKey:
        """Read `ref` back."""
        tenant, separator, task_id = ref.id.rpartition(":")
        return cls(tenant if separator else DEFAULT_TENANT, task_id)


def tenant_of(thread: ActorRef) -> str:
    """The tenant of a thread, whose id is `{tenant}:{thread}`."""
    return thread.id.partition(":")[0]


def tenant_scoped(tenant_id: str, name: str) -> str:
    """A name that only its tenant uses; that of the default tenant stays plain, as stored data has it."""
    return name if tenant_id == DEFAULT_TENANT else f"{tenant_id}:{name}"


class Claim(Struct):
    """A worker with a free slot asks for a task. `gone` names an owner that it knows to have ended."""

    task_id: str
    owner: str
    gone: str | None = None


class Grant(Struct):
    """A claim that was granted: only who holds this fence may end the attempt.

    `journaled` says that an earlier claim may have left steps; `history` how many entries the thread has;
    `seconds` what the run has had of its attempt's time before it waited; `usage` and `cost_usd` what its
    calls of models had come to by then, None where a worker that is gone may have made more.
    """

    task_id: str
    generation: int
    attempt: int
    capability: str
    fence: int
    owner: str
    journaled: bool
    history: int
    seconds: float = 0.0
    usage: Usage = Usage()
    cost_usd: Amount | None = ZERO

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)


class Work(Grant):
    """A granted attempt with its task, which the worker has read from the task's own actor."""

    dispatch: Dispatch

    @classmethod
    def of(cls, grant: Grant, dispatch: Dispatch) -> Work:
        """The work of a grant, once its task has been read."""
        return cls(**asdict(grant), dispatch=dispatch)

    @property
    def task(self) -> Task:
        """The task itself."""
        return self.dispatch.task

    @property
    def stream(self) -> str:
        """The stream of records that holds the attempt's steps."""
        return steps_stream(self.task_id, self.generation, self.attempt)

    @property
    def orphaned_calls(self) -> str:
        """The stream of records of calls that claims of the attempt made in steps that never ended."""
        return orphans_stream(self.stream)


class Completed(Struct):
    """The end of an attempt, and what the conversation of its thread is to keep of it."""

    task_id: str
    fence: int
    outcome: Outcome
    history: tuple[Message, ...] = ()


class Suspend(Struct):
    """The work gives up slot and claim until `wait` is answered; the answer becomes the result of `step`.

    With `child` set, that task is given to the orchestrator in the same commit, and its outcome is the
    answer. `last` is the last step within this one, if any.
    `seconds` is what the run has had of its attempt's time, `usage` and `cost_usd` what all calls of models
    in the attempt have come to.
    """

    task_id: str
    fence: int
    wait: Wait = Wait(wait_id="")
    step: int
    kind: str
    request_hash: str
    last: int | None = None
    seconds: float = 0.0
    usage: Usage = Usage()
    cost_usd: Amount | None = ZERO
    child: Task | None = None
    key: str | UnsetType = UNSET
    known: dict[str, Any] | UnsetType = UNSET
    """The form of `wait` that 0.1's first data folders hold."""

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)
        if self.key is not UNSET:
            force_setattr(self, "wait", Wait.of_stored(self.key, self.known or {}))
            force_setattr(self, "key", UNSET)
            force_setattr(self, "known", UNSET)


class Answer(Struct):
    """What a suspended run was waiting for."""

    task_id: str
    key: str
    value: Any = None


class Cancel(Struct):
    """End an attempt before its time; `status` is the outcome it gets."""

    task_id: str
    reason: str = "cancelled on request"


class Stop(Struct):
    """Signal to the worker that works, here or in another process: end this work now."""

    task_id: str
    fence: int
    owner: str | None = None


class Accept(TaskCarrier):
    """A task for the orchestrator. `request_hash` tells a repeat from another request under the same id."""

    request_hash: str = ""


def steps_stream(task_id: str, generation: int, attempt: int) -> str:
    """The stream of an attempt's steps: a new attempt starts with an empty journal."""
    return f"steps/{task_id}/{generation}/{attempt}"


def orphans_stream(steps: str) -> str:
    """The stream of calls of models in steps of an attempt that never ended."""
    return f"{steps}/left-behind"
