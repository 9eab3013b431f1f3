"""The plain data of the mesh: tasks and outcomes; `core.events` has events.

Everything here travels as JSON that another language can read. Unknown fields survive a round trip, so
that an older process can pass on what a newer one sent. Times are RFC 3339 in UTC, durations seconds.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, Self, TypeVar

from msgspec import Raw, field
from msgspec.structs import force_setattr
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from meshwright.core.encoding import Struct, encode, write_struct
from meshwright.core.errors import TaskFailed
from meshwright.core.files import TaskFile
from meshwright.core.ids import Identifier
from meshwright.core.limits import MAX_DEADLINE_SECONDS, MAX_TIMEOUT_SECONDS, Limits
from meshwright.core.money import ZERO, Amount, Budget, Dollars, OnEmpty, exact
from meshwright.core.payloads import Fact
from meshwright.core.schema_checks import object_schema

TaskStatus = Literal[
    "accepted", "dispatched", "running", "waiting", "succeeded", "failed", "cancelled", "timed_out"
]
OutcomeStatus = Literal["succeeded", "failed", "cancelled", "timed_out"]
MemoryScope = Literal["task", "agent", "project", "global"]
MemoryKind = Literal["fact", "preference", "decision", "procedure", "failure"]
_MAX_FAULT_CHARS = 4_000
ENDED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "timed_out"})


_FIRST = ("agent_id", "text", "payload", "shape", "thread_id", "budget_usd")


def _in_order(schema: dict[str, Any]) -> None:
    """Put the fields first that every door takes first. The model keeps its order, which its hash follows."""
    fields = schema["properties"]
    schema["properties"] = {**{name: fields[name] for name in _FIRST if name in fields}, **fields}


class TaskRequest(BaseModel):
    """The request of a client: a capability or one agent by name, and a payload.

    `text` is the request: `payload.text`, where the agent finds it. `thread_id` joins a conversation: every
    agent of it gets what was said before, and runs its tasks one at a time, in order. Tenant and requester
    are not fields: they come from the credentials.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra=_in_order)

    task_id: Identifier | None = Field(default=None, description="Made if you leave it out.")
    capability: Identifier | None = Field(
        default=None, description="The best agent that has it gets the task."
    )
    agent_id: Identifier | None = Field(default=None, description="The agent, in place of a capability.")
    text: str = Field(default="", exclude=True, description="The request, here or as `payload.text`.")
    payload: dict[str, Any] = Field(
        default_factory=dict, description="An object; the model gets its other fields by name, and `files`."
    )
    priority: int = Field(default=5, ge=0, le=10, description="0 to 10; higher runs sooner.")
    timeout: float | None = Field(
        default=None,
        gt=0,
        le=MAX_TIMEOUT_SECONDS,
        description="Seconds that one step may take. Default: that of the agent.",
    )
    deadline: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DEADLINE_SECONDS,
        description="Seconds that the task may take, without waits for people and money. Default: that "
        "of the agent, else one day.",
    )
    thread_id: Identifier | None = Field(
        default=None, description="A conversation: one agent runs its tasks in order. Default: the task's id."
    )
    limits: Limits | None = Field(
        default=None,
        exclude_if=lambda limits: limits is None,
        description="Lower limits than the agent's: `max_steps`, `max_repeats`, `max_tokens`, `max_usd`, "
        "`max_seconds`.",
    )
    budget_usd: Dollars | None = Field(
        default=None,
        exclude_if=lambda amount: amount is None,
        description="Dollars that the task may cost, with all that it delegates.",
    )
    on_empty: OnEmpty = Field(
        default="fail",
        exclude_if=lambda on_empty: on_empty == "fail",
        description="With an empty budget: `fail`, `wait`, `ask` or go on `cheaper`.",
    )
    after: Identifier | None = Field(
        default=None,
        exclude_if=lambda task_id: task_id is None,
        description="The id of a task whose end this one waits for.",
    )
    repository: Identifier | None = Field(
        default=None,
        exclude_if=lambda name: name is None,
        description="The `[trees.NAME]` to work on. Default: the only one.",
    )
    outside: bool = Field(
        default=False,
        exclude_if=lambda outside: not outside,
        description="Strangers may have written it: a person approves changes.",
    )
    shape: Annotated[dict[str, Any], AfterValidator(object_schema)] | None = Field(
        default=None,
        exclude_if=lambda schema: schema is None,
        description="The JSON schema of the answer, an object, in at most 16 KB: the agent's model answers "
        "in it, and an answer that does not fit is a failure.",
    )

    @model_validator(mode="after")
    def _place_text(self) -> Self:
        if self.text:
            if self.payload.get("text", self.text) != self.text:
                raise ValueError("text and payload.text are both given, and differ")
            self.payload = {**self.payload, "text": self.text}
        return self


class Caller(Struct):
    """The caller, as the credentials say, and where it calls from (`source` separates idempotency keys).

    `budgets` are those of the credentials: what is done for the caller is charged to them. `key_id` is its
    virtual key, if it has one. `roles` are what it may do (`meshwright.core.access.Role`) in its tenant;
    with `all_tenants` it sees costs, budgets and status of all of them, and may act for any; once it acts for
    one it `is_proxy` instead. `expires_at` is when the credentials end, where they do.
    """

    tenant_id: Identifier = "default"
    requested_by: str = "anonymous"
    source: str = "api"
    budgets: tuple[Budget, ...] = ()
    key_id: str | None = None
    roles: frozenset[str] = frozenset()
    all_tenants: bool = False
    is_proxy: bool = False
    expires_at: datetime | None = None


class Parent(Struct):
    """The waiting run that a task was delegated by: its actor, and the key under which it waits."""

    actor_type: str
    actor_id: str
    key: str
    task_id: str


class TaskBudget(Struct, omit_defaults=True):
    """The budget of a task further up, which pays for what it delegates."""

    task_id: Identifier
    limit_usd: Amount
    on_empty: OnEmpty = "fail"

    def __post_init__(self) -> None:
        exact(self, "limit_usd", self.limit_usd)


class ForkedFrom(Struct):
    """The finished step of a task's attempt that another task goes on from.

    `first_task_id` is the task itself, or the one that it goes back to where it is a fork too.
    """

    task_id: Identifier
    step: str
    attempt: int
    first_task_id: Identifier


class SenderContext(Struct, omit_defaults=True):
    """The context of a task that a run delegates: what holds for it, what failed, and how far the run is.

    `constraints` hold for the work on it as well, and on all that it delegates in its turn.
    """

    constraints: tuple[str, ...] = ()
    known_failures: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    workflow_state: str = ""


class TaskVariant(Struct, kw_only=True, omit_defaults=True):
    """A variant that is tried with a task, and all that it delegates, when `agent_id` works on it.

    `experiment` is the id of the experiment, `name` the variant that was chosen as the task was accepted. A
    field that is None, or empty, changes nothing: `version` is that of the agent's registered prompt,
    `params` are more parameters of its model calls, `runs_as` is the agent that works in its place.
    """

    experiment: Fact[str]
    name: Fact[str]
    agent_id: Fact[Identifier]
    version: Fact[int | None] = None
    model: Fact[str | None] = None
    tags: Fact[tuple[str, ...] | None] = None
    temperature: Fact[float | None] = None
    max_tokens: Fact[int | None] = None
    params: dict[str, Any] = field(default_factory=dict)
    runs_as: Fact[Identifier | None] = None


class Task(Struct, kw_only=True):
    """One task as the mesh carries it. `chain` names the agents above it, for limits on delegation.

    `budgets_above` belong to the tasks above it, `budgets` to the credentials that it came with: its calls
    are charged to each of them as well. `after` is the task whose end it waits for, `forked_from` the step of
    another that it goes on from. `outside` says that strangers may have written it, or that the run which
    delegated it had read text from outside. `family` is the topmost task above it, `repository` names the one
    that they all work on. `sender_context` comes from the run that delegated it. `variants` are what
    experiments try with it, and with all that it delegates. `shape` is the JSON schema of the answer that its
    caller wants. `traceparent` names the task's own span, `span_above` is the id of the span above that, ""
    without one; it is None where no span is recorded for the task.

    Without a capability it is for `agent_id`, and gets that agent's first capability when accepted.
    """

    version: Fact[int] = 1
    task_id: Fact[Identifier]
    capability: Fact[str] = ""
    agent_id: Fact[Identifier | None] = None
    payload: dict[str, Any] = field(default_factory=dict)
    priority: Fact[int] = 5
    timeout: Fact[float | None] = None
    deadline_at: Fact[datetime]
    requested_by: Fact[str] = "anonymous"
    tenant_id: Fact[Identifier] = "default"
    thread_id: Fact[Identifier]
    idempotency_key: str | None = None
    parent: Fact[Parent | None] = None
    chain: Fact[tuple[str, ...]] = ()
    generation: Fact[int] = 1
    created_at: Fact[datetime]
    traceparent: Fact[str | None] = None
    span_above: Fact[str | None] = None
    limits: Fact[Limits | None] = None
    budget_usd: Fact[Amount | None] = None
    budgets_above: Fact[tuple[TaskBudget, ...]] = ()
    budgets: Fact[tuple[Budget, ...]] = ()
    on_empty: Fact[OnEmpty] = "fail"
    after: Fact[Identifier | None] = None
    forked_from: Fact[ForkedFrom | None] = None
    outside: Fact[bool] = False
    family: Fact[str] = ""
    repository: Fact[str] = ""
    sender_context: SenderContext | None = None
    shape: dict[str, Any] | None = None
    variants: Fact[tuple[TaskVariant, ...]] = ()

    def __post_init__(self) -> None:
        if type(self.timeout) is int:
            force_setattr(self, "timeout", float(self.timeout))
        if self.budget_usd is not None:
            exact(self, "budget_usd", self.budget_usd)

    def encode(self) -> Raw:
        """The task as JSON, as it travels and is stored: unknown fields survive, since it is made once."""
        data = write_struct(self)
        if not self.variants:
            return Raw(data[: -len(_NO_MORE)] + b"}" if data.endswith(_NO_MORE) else data)
        tail = _VARIANTS + write_struct(self.variants) + b"}"
        rest = _DEFAULTS + tail
        return Raw(data[: -len(rest)] + tail if data.endswith(rest) else data)

    @property
    def first_task_id(self) -> str:
        """The id under which its first steps were made: its own, but for a fork."""
        return self.task_id if self.forked_from is None else self.forked_from.first_task_id

    @property
    def family_id(self) -> str:
        """The id of the topmost task above it; its own if no task delegated it."""
        return self.family or self.task_id

    def variant_for(self, agent_id: str) -> TaskVariant | None:
        """The variant that is tried when an agent works on it."""
        return next((variant for variant in self.variants if variant.agent_id == agent_id), None)

    @property
    def text(self) -> str:
        """The request as text: `payload.text`, or nothing."""
        text = self.payload.get("text", "")
        return text if isinstance(text, str) else ""


_EPOCH = datetime.fromtimestamp(0, UTC)
_PLAINEST = write_struct(Task(task_id="-", deadline_at=_EPOCH, thread_id="-", created_at=_EPOCH))
_VARIANTS = b',"variants":'
_NO_MORE = _PLAINEST[_PLAINEST.index(b',"limits":') :]
"""The JSON of the fields from `limits` on where all have their defaults: tasks are written without it."""
_DEFAULTS = _NO_MORE.removesuffix(_VARIANTS + b"[]}")


class TaskCarrier(Struct, dict=True):
    """Base of what carries a task: as the JSON that it came in, and decoded where it is asked for."""

    task_json: Raw = field(name="task")

    @classmethod
    def of(cls, task: Task | Raw, **fields: Any) -> Self:
        """Wrap a task that was just made, or is carried on."""
        carrier = cls(task_json=task if isinstance(task, Raw) else task.encode(), **fields)
        if isinstance(task, Task):
            carrier.__dict__["task"] = task
        return carrier

    @classmethod
    def model_validate(cls, value: Any) -> Self:
        """Read plain data. Raises ValueError where it does not fit."""
        return value if isinstance(value, cls) else cls.model_validate_json(encode(value))

    @cached_property
    def task(self) -> Task:
        """The task."""
        return Task.model_validate_json(self.task_json)


class ScoreCard(Struct):
    """How an agent scored for a capability; `score` is the product of the others."""

    agent_id: str
    capability: str
    score: float
    weight: float
    health: float
    success: float
    streak: float = 1.0
    preferred: float = 1.0


class Receipt(Struct):
    """The answer to an accepted task."""

    task_id: str
    status: TaskStatus
    dispatched_to: str
    score: float


class Dispatch(TaskCarrier, omit_defaults=True):
    """A task on its way to an agent, on topic `tasks.<agent_id>`; `others` could have been chosen too."""

    attempt: int
    agent_id: str
    score_card: ScoreCard
    others: tuple[ScoreCard, ...] = ()


class Usage(Struct):
    """Tokens that models read and wrote.

    `cached_tokens` are those of the prompt that the provider had in its cache, `cache_write_tokens` those
    that it put there, `reasoning_tokens` those of the completion that are hidden.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
        )


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_FAULT_CHARS else f"{text[:_MAX_FAULT_CHARS]}..."


class Fault(Struct):
    """Why an attempt or a task failed: the error's name, and what it said, cut off where it is long."""

    type: Fact[str]
    message: str

    def __post_init__(self) -> None:
        force_setattr(self, "type", _cut(self.type))
        force_setattr(self, "message", _cut(self.message))


AnswerT = TypeVar("AnswerT", bound="BaseModel | dict[str, Any] | Outcome | str")


def schema_of(shape: Any) -> dict[str, Any] | None:
    """The JSON schema of an answer's shape, as a task takes it: of a type, or as it is given.

    None for a shape that every answer has: `str`, `Outcome`, `dict[str, Any]`.
    """
    if shape is None or isinstance(shape, dict):
        return shape
    if shape in (str, Outcome):
        return None
    schema = TypeAdapter(shape).json_schema()
    return None if schema == _ANY_OBJECT else schema


_ANY_OBJECT = {"type": "object", "additionalProperties": True}


class Outcome(Struct, kw_only=True):
    """How a task, or one attempt at it, ended. `result.text` is the answer as text, `files` come with it.

    `usage` and `cost_usd` are those of its calls of models and of the tasks that it delegated; the cost is
    None if the price of one is unknown. `finish_reason` is why the last reply of a model ended: `stop`,
    `length` where it was cut off, `unknown` where its server did not say. `limit` names the limit of the
    run, like `max_usd`, at which its model had to answer without further calls of tools. `prompt` is the
    version of the agent's prompt that was used last, `NAME@DIGEST PLACE`, None if no model was called.
    `outside` says that the run has read text from outside, which strangers may have written, `changed` that
    a tool of it, or of a task that it delegated, may have changed something.
    """

    version: Fact[int] = 1
    task_id: Fact[str]
    agent_id: Fact[str]
    capability: Fact[str] = ""
    status: Fact[OutcomeStatus]
    success: Fact[bool]
    result: dict[str, Any] | None = None
    files: tuple[TaskFile, ...] = ()
    error: Fact[Fault | None] = None
    duration_ms: Fact[float] = 0.0
    model: Fact[str | None] = None
    finish_reason: Fact[str | None] = None
    limit: Fact[str | None] = None
    prompt: Fact[str | None] = None
    usage: Fact[Usage] = Usage()
    cost_usd: Fact[Amount | None] = ZERO
    completed_at: Fact[datetime]
    generation: Fact[int] = 1
    attempt: Fact[int] = 1
    outside: Fact[bool] = False
    changed: Fact[bool] = False

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)

    @property
    def text(self) -> str:
        """The answer as text: `result.text`, or nothing."""
        text = (self.result or {}).get("text", "")
        return text if isinstance(text, str) else ""

    @property
    def answer(self) -> str:
        """The answer as text, or as JSON if it has none."""
        result = self.result or {}
        has_words = not result or isinstance(result.get("text"), str)
        return self.text if has_words else json.dumps(result, ensure_ascii=False)

    def read(self, shape: type[AnswerT]) -> AnswerT:
        """The answer in a shape: a pydantic model, `dict[str, int]` or the like, `str` for its text.

        Raises TaskFailed where the task did not succeed, or its answer has another shape.
        """
        who = self.agent_id or self.capability or "the task"
        if not self.success:
            reason = self.error.message if self.error is not None else self.status
            raise TaskFailed(f"{who} did not succeed: {reason}", task_id=self.task_id)
        own_shapes: dict[Any, Any] = {str: self.answer, Outcome: self}
        if shape in own_shapes:
            return own_shapes[shape]
        try:
            return TypeAdapter(shape).validate_python(self.result or {})
        except ValidationError as error:
            problem = f"{who} answered in another shape than {shape.__name__}: {error}"
            raise TaskFailed(problem, task_id=self.task_id) from error
