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
    """The caller, as the credentials say, and where it calls from."""

    tenant_id: Identifier = "default"
    """The tenant that the caller acts for."""
    requested_by: str = "anonymous"
    """The name of the caller, as tasks, questions and the audit trail show it."""
    source: str = "api"
    """The interface that it calls by, such as `api`. Idempotency keys are separate for each."""
    budgets: tuple[Budget, ...] = ()
    """Budgets of the credentials, charged with everything that is done for the caller."""
    key_id: str | None = None
    """The id of the caller's virtual key. None without one."""
    roles: frozenset[str] = frozenset()
    """Roles of the caller in its tenant: values of `meshwright.core.access.Role`."""
    all_tenants: bool = False
    """Whether it sees costs, budgets and status of all tenants, and may act for any of them."""
    is_proxy: bool = False
    """Whether a caller of all tenants acts for one: it has `all_tenants` no longer."""
    expires_at: datetime | None = None
    """When the credentials end. None: they do not."""


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

    A field that is None, or empty, changes nothing.
    """

    experiment: Fact[str]
    """The id of the experiment."""
    name: Fact[str]
    """The variant that was chosen as the task was accepted."""
    agent_id: Fact[Identifier]
    """The agent whose attempts it changes."""
    version: Fact[int | None] = None
    """The version of the agent's registered prompt."""
    model: Fact[str | None] = None
    """The group of models."""
    tags: Fact[tuple[str, ...] | None] = None
    """The tags of model calls."""
    temperature: Fact[float | None] = None
    """The temperature of model calls."""
    max_tokens: Fact[int | None] = None
    """The tokens that a reply may have."""
    params: dict[str, Any] = field(default_factory=dict)
    """More parameters of model calls."""
    runs_as: Fact[Identifier | None] = None
    """The agent that works in place of `agent_id`."""


class Task(Struct, kw_only=True):
    """One task as the mesh carries it.

    Without a capability it is for `agent_id`, and gets that agent's first capability when accepted.
    """

    version: Fact[int] = 1
    """The version of this form. Readers keep fields that they do not know."""
    task_id: Fact[Identifier]
    """Unique within the tenant; made by the mesh unless the caller names one."""
    capability: Fact[str] = ""
    """The capability that agents are scored for."""
    agent_id: Fact[Identifier | None] = None
    """The agent that the caller named. None: the mesh chooses by score."""
    payload: dict[str, Any] = field(default_factory=dict)
    """The caller's object; `text` in it is the request, `files` come with it."""
    priority: Fact[int] = 5
    """0 to 10. Higher runs sooner within a tenant, and waiting raises it: see `engine/work/slots.py`."""
    timeout: Fact[float | None] = None
    """Seconds that one step may take. None: the agent's, else that of the settings."""
    deadline_at: Fact[datetime]
    """The time at which the task ends as `timed_out`. Waits for people and money move it."""
    requested_by: Fact[str] = "anonymous"
    """The name of the caller, from the credentials."""
    tenant_id: Fact[Identifier] = "default"
    """The tenant, from the credentials."""
    thread_id: Fact[Identifier]
    """The conversation. An agent runs the tasks of one thread in order. Default: the task's id."""
    idempotency_key: str | None = None
    """The caller's key: a second request with it gets the first one's task. None without one."""
    parent: Fact[Parent | None] = None
    """The waiting run that delegated this task. None for a task from a caller."""
    chain: Fact[tuple[str, ...]] = ()
    """The agents above this one, the topmost first. No agent may stand in it twice."""
    generation: Fact[int] = 1
    """1, and one more for each retry of the ended task."""
    created_at: Fact[datetime]
    """When the mesh accepted the task."""
    traceparent: Fact[str | None] = None
    """The W3C traceparent of the task's own span. None before the task has one."""
    span_above: Fact[str | None] = None
    """The id of the span above the task's own, "" without one. None: the task's span is not recorded."""
    limits: Fact[Limits | None] = None
    """The caller's limits of the run, which can only lower the agent's. None: the agent's alone."""
    budget_usd: Fact[Amount | None] = None
    """US dollars that the task may cost with all that it delegates. None: no limit of its own."""
    budgets_above: Fact[tuple[TaskBudget, ...]] = ()
    """Budgets of the tasks above this one, which pay for its calls as well."""
    budgets: Fact[tuple[Budget, ...]] = ()
    """Budgets of the credentials that the task came with, which pay for its calls as well."""
    on_empty: Fact[OnEmpty] = "fail"
    """The reaction to an empty budget of the task: `fail`, `wait`, `ask` or `cheaper`."""
    after: Fact[Identifier | None] = None
    """The id of the task whose end this one waits for. None: it is dispatched at once."""
    forked_from: Fact[ForkedFrom | None] = None
    """The finished step of another task from which this one goes on. None unless it is a fork."""
    outside: Fact[bool] = False
    """Whether strangers may have written it, or its parent's run had read text from outside."""
    family: Fact[str] = ""
    """The id of the topmost task above it. "" for a task that no other delegated."""
    repository: Fact[str] = ""
    """The `[trees.NAME]` that the whole family works on. "": the only one, or none."""
    sender_context: SenderContext | None = None
    """Constraints, failures and open questions of the run that delegated it."""
    shape: dict[str, Any] | None = None
    """The JSON schema of the answer that the caller wants. None: the agent's own shape."""
    variants: Fact[tuple[TaskVariant, ...]] = ()
    """Variants that experiments try with the task and with all that it delegates."""

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
    def wrap(cls, task: Task | Raw, **fields: Any) -> Self:
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
    """The task, by which its outcome is found."""
    status: TaskStatus
    """The state of the task when the mesh answered."""
    dispatched_to: str
    """The agent that got the task."""
    score: float
    """The score of that agent, the product of the factors of its `ScoreCard`."""


class Dispatch(TaskCarrier, omit_defaults=True):
    """A task on its way to an agent, on topic `tasks.<agent_id>`; `others` could have been chosen too."""

    attempt: int
    agent_id: str
    score_card: ScoreCard
    others: tuple[ScoreCard, ...] = ()


class Usage(Struct):
    """Tokens that models read and wrote."""

    prompt_tokens: int = 0
    """Tokens read."""
    completion_tokens: int = 0
    """Tokens written."""
    cached_tokens: int = 0
    """Those of the prompt that the provider had in its cache."""
    reasoning_tokens: int = 0
    """Those of the completion that are hidden."""
    cache_write_tokens: int = 0
    """Those of the prompt that the provider put into its cache."""

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
    """Why an attempt or a task failed."""

    type: Fact[str]
    """The name of the error."""
    message: str
    """Its message, cut off after 4,000 characters."""

    def __post_init__(self) -> None:
        force_setattr(self, "type", _cut(self.type))
        force_setattr(self, "message", _cut(self.message))


AnswerT = TypeVar("AnswerT", bound="BaseModel | dict[str, Any] | Outcome | str")


def answer_schema(shape: Any) -> dict[str, Any] | None:
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
    """The end of a task, or of one attempt at it."""

    version: Fact[int] = 1
    """The version of this form."""
    task_id: Fact[str]
    """The task."""
    agent_id: Fact[str]
    """The agent that worked on it last. "" if none did."""
    capability: Fact[str] = ""
    """The capability that the task was dispatched for."""
    status: Fact[OutcomeStatus]
    """`succeeded`, `failed`, `cancelled` or `timed_out`."""
    success: Fact[bool]
    """Whether `status` is `succeeded`."""
    result: dict[str, Any] | None = None
    """The answer; `text` in it is the answer as text. None without one."""
    files: tuple[TaskFile, ...] = ()
    """Files of the answer. Read one from `/tasks/{task_id}/files/{n}`."""
    error: Fact[Fault | None] = None
    """The reason of a failure. None after a success."""
    duration_ms: Fact[float] = 0.0
    """Milliseconds: of a task from its acceptance, or its last retry, to its end; of an attempt, those of
    work."""
    model: Fact[str | None] = None
    """The model that answered last. None if no model was called."""
    finish_reason: Fact[str | None] = None
    """Why the model's last reply ended: `stop`, `length` if it was cut off, `unknown` if its server did not
    say."""
    limit: Fact[str | None] = None
    """The limit of the run, such as `max_usd`, at which the model had to answer without further tools. None
    if the run reached none."""
    prompt: Fact[str | None] = None
    """The version of the agent's prompt that was used last, `NAME@DIGEST PLACE`. None if no model was
    called."""
    usage: Fact[Usage] = Usage()
    """Tokens of its calls of models, and of the tasks that it delegated."""
    cost_usd: Fact[Amount | None] = ZERO
    """US dollars that these calls cost. None if the price of one is unknown."""
    completed_at: Fact[datetime]
    """When the attempt ended."""
    generation: Fact[int] = 1
    """The generation of the task: 1, and one more for each retry of the ended task."""
    attempt: Fact[int] = 1
    """The number of the attempt within the task, from 1."""
    outside: Fact[bool] = False
    """Whether the run has read text from outside, which strangers may have written."""
    changed: Fact[bool] = False
    """Whether a tool of the run, or of a task that it delegated, may have changed something."""

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
