"""The services of all runs of a mesh, the context of one run, and its requests to other agents."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from statistics import median_high
from typing import Any, Generic

from pydantic import BaseModel
from typing_extensions import TypeVar

from meshwright.agent import Agent
from meshwright.context.memory import MemoryStore
from meshwright.context.service import ContextClient
from meshwright.core.clock import Clock
from meshwright.core.errors import AgentError, DelegationFailed, TaskFailed, ToolFailed
from meshwright.core.ids import ID_PATTERN, derived_id
from meshwright.core.limits import MAX_CALLS_PER_REPLY, MAX_REPEATS, MAX_STEPS, TIMEOUT_SECONDS, Limits
from meshwright.core.messages import (
    MemoryScope,
    Outcome,
    Parent,
    SenderContext,
    Task,
    TaskBudget,
    schema_of,
)
from meshwright.core.money import Price, is_amount
from meshwright.core.tracing import NoTracing, Span, Tracing
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.ledger.budgets import Budgets
from meshwright.ledger.spending import Activity
from meshwright.models.port import CallContext, Model, ModelWindow, OnCall
from meshwright.prompts import PromptSources
from meshwright.run.limits import Parking, StepTime
from meshwright.tools.settings import ApprovalsSettings
from meshwright.tools.tool import Tool
from meshwright.trees.leases import Trees
from meshwright.work import Journal, Work
from meshwright.work.paths import OpenStep

MAX_PASSED_ON = 20  # constraints, and questions, of one delegation
MAX_PASSED_ON_CHARS = 2_000  # of each


GivenT = TypeVar("GivenT", bound=BaseModel | dict[str, Any] | Outcome | str, default=str, covariant=True)


@dataclass(frozen=True, slots=True)
class Delegation(Generic[GivenT]):
    """A task for another agent, named or chosen by `capability`.

    `payload` goes beside the `text`; `shape` is the pydantic model in which the other agent's model answers,
    `dict[str, Any]` for the result as it is, `Outcome` for all of the outcome with its files, None for its
    text; `thread_id` is the conversation that it continues, by default one of its own; `budget_usd` what it
    may cost of the budgets above it; `timeout` is how many seconds a step of it may take, `deadline` all of
    it. `constraints` hold for its work, beside those that the run came with, and `questions` are still open:
    at most 20 of each, of 2,000 characters.
    """

    agent_id: str = ""
    text: str = ""
    _: KW_ONLY
    payload: Mapping[str, Any] | None = None
    shape: type[GivenT] | None = None
    thread_id: str | None = None
    budget_usd: Decimal | str | None = None
    capability: str = ""
    timeout: float | None = None
    deadline: float | None = None
    constraints: Sequence[str] = ()
    questions: Sequence[str] = ()

    def __post_init__(self) -> None:
        if bool(self.agent_id) == bool(self.capability):
            raise AgentError(
                "a delegation names no agent"
                if not self.agent_id
                else "a delegation names agent and capability",
                remedy="Give either agent_id or capability",
            )
        if self.text and self.data["text"] != self.text:
            raise AgentError("the text of a delegation and its payload['text'] differ", remedy="Give one")
        if self.thread_id is not None and not re.fullmatch(ID_PATTERN, self.thread_id):
            raise AgentError(f"the thread_id of a delegation is {self.thread_id!r}", remedy='Write "order-7"')
        for name, seconds in (("timeout", self.timeout), ("deadline", self.deadline)):
            if seconds is not None and seconds <= 0:
                raise AgentError(
                    f"the {name} of a delegation is not positive", remedy="Give seconds, or none"
                )

        for name, texts in (("constraints", self.constraints), ("questions", self.questions)):
            if not _are_short_texts(texts):
                raise AgentError(
                    f"the {name} of a delegation are no list of at most {MAX_PASSED_ON} texts, "
                    f"each of {MAX_PASSED_ON_CHARS:,} characters at most",
                    remedy=f'Write {name}=["No service may be needed."]',
                )

    @property
    def whom(self) -> str:
        """The agent, or the capability, that is asked."""
        return self.agent_id or self.capability

    @property
    def data(self) -> dict[str, Any]:
        """The payload of its task."""
        payload = self.payload or {}
        return {"text": self.text, **payload} if self.text or not payload else dict(payload)

    @property
    def request(self) -> dict[str, Any]:
        """The request of its step, as the journal has it."""
        extra = {"capability": self.capability, "payload": self.payload}
        extra |= {"timeout": self.timeout, "deadline": self.deadline}
        extra |= {"constraints": [*self.constraints], "questions": [*self.questions]}
        extra["budget_usd"] = None if self.budget_usd is None else str(self.budget_usd)
        extra["thread_id"] = self.thread_id
        wanted = {name: value for name, value in extra.items() if value}
        return {"agent_id": self.agent_id, "text": self.text, **wanted}

    @property
    def budget(self) -> Decimal | None:
        """Its share of the budgets above it; None for as much as they have."""
        if self.budget_usd is None:
            return None
        try:
            wanted = Decimal(self.budget_usd)
        except InvalidOperation:
            wanted = Decimal(-1)
        if not is_amount(wanted):
            raise AgentError(f"the budget_usd of a delegation is {self.budget_usd!r}", remedy='Write "0.50"')
        return wanted

    def answer_of(self, outcome: Outcome) -> Any:
        """The answer. Raises DelegationFailed where there is none, or one of another shape."""
        try:
            return outcome.read(self.shape or str)
        except TaskFailed as error:
            raise DelegationFailed(error.message) from error


def _are_short_texts(texts: object) -> bool:
    return (
        isinstance(texts, Sequence)
        and not isinstance(texts, str)
        and len(texts) <= MAX_PASSED_ON
        and all(isinstance(text, str) and 0 < len(text) <= MAX_PASSED_ON_CHARS for text in texts)
    )


def _unknown_window(model: str, tags: tuple[str, ...], tenant_id: str, agent_id: str) -> ModelWindow:
    return ModelWindow()


def _unknown_price(
    model: str, tags: tuple[str, ...], tenant_id: str, agent_id: str, prompt_tokens: int
) -> Price | None:
    return None


_APPROVALS = ApprovalsSettings()
_LIMITS = Limits(max_steps=MAX_STEPS, max_repeats=MAX_REPEATS)


_LAST_TASKS = 21  # of an agent: enough that one odd task changes nothing


class UsualCalls:
    """The calls of models of each agent's last tasks that this process ran and that succeeded."""

    def __init__(self) -> None:
        self._last: dict[str, deque[int]] = {}

    def note(self, agent_id: str, calls: int) -> None:
        """Note the calls of a task; one without any says nothing of a context."""
        if calls:
            self._last.setdefault(agent_id, deque(maxlen=_LAST_TASKS)).append(calls)

    def median(self, agent_id: str) -> int | None:
        """The median of the last tasks; None before the first."""
        last = self._last.get(agent_id)
        return None if last is None else median_high(last)


@dataclass(frozen=True, slots=True)
class Services:
    """The services that every run of a mesh uses."""

    runtime: Runtime
    model: Model
    context: ContextClient
    memory: MemoryStore
    prompts: PromptSources
    tracing: Tracing | NoTracing
    clock: Clock
    seal: Callable[[str], str]
    """Encrypts the whole of what a question hides."""
    project_id: str = "default"
    limits: Limits = _LIMITS
    max_calls_per_reply: int = MAX_CALLS_PER_REPLY
    timeout_seconds: float = TIMEOUT_SECONDS
    max_chain: int = 5
    approvals: ApprovalsSettings = _APPROVALS
    patience_days: float = 7.0
    max_context_tokens: int = 4000
    max_memory_tokens: int = 400
    window: Callable[[str, tuple[str, ...], str, str], ModelWindow] = _unknown_window
    price: Callable[[str, tuple[str, ...], str, str, int], Price | None] = _unknown_price
    stream: bool = True
    parking: Parking | None = None
    budgets: Budgets | None = None
    usual_calls: UsualCalls = field(default_factory=UsualCalls)
    activity: Callable[[str, datetime], Awaitable[Activity]] | None = None
    trees: Trees | None = None


@dataclass(frozen=True, slots=True)
class RunContext:
    """One agent's claimed work on one task, with its journal and its span."""

    services: Services
    agent: Agent
    tools: dict[str, Tool]
    """Filled as the run begins."""
    ref: ActorRef
    work: Work
    task: Task
    """The task being worked on."""
    journal: Journal
    span: Span
    time: StepTime

    @property
    def has_read_outside(self) -> bool:
        """Whether the run has read text that strangers may have written."""
        return self.journal.outside

    @property
    def scopes(self) -> dict[MemoryScope, str]:
        """The scopes whose memories the run may use, each with its id."""
        agent_id, project_id = self.agent.agent_id, self.services.project_id
        return {"task": self.task.task_id, "agent": agent_id, "project": project_id, "global": "global"}

    def call_context(
        self,
        number: int | None,
        record: OnCall | None,
        step: OpenStep | None = None,
        prompt: str | None = None,
    ) -> CallContext:
        """Returns who pays for a model call: tenant, task, agent, budgets."""
        task = self.task
        return CallContext(
            budget_usd=task.budget_usd,
            budgets_above=task.budgets_above,
            budgets=task.budgets,
            task_id=task.task_id,
            thread_id=task.thread_id,
            agent_id=self.agent.agent_id,
            tenant_id=task.tenant_id,
            generation=task.generation,
            attempt=self.work.dispatch.attempt,
            step=number,
            record=record,
            path=None if step is None else step.key.path,
            take_cut=None if step is None else step.take_cut,
            priority=task.priority,
            since=task.created_at,
            on_empty=task.on_empty,
            prompt=prompt,
            traceparent=self.span.traceparent,
        )

    def check_delegation(self, agent_id: str) -> None:
        """Raise ToolFailed where the agent may not ask another: not allowed, in a circle, or too deep."""
        agent = self.agent
        if agent_id not in agent.delegates_to:
            allowed = f", only to {', '.join(agent.delegates_to)}" if agent.delegates_to else ""
            raise ToolFailed(
                f"{agent.agent_id} may not delegate to {agent_id!r}{allowed}",
                remedy=f"Add it to delegates_to of {type(agent).__name__}",
            )
        chain = (*self.task.chain, agent.agent_id)
        if agent_id in chain:
            raise ToolFailed(f"{agent_id} already waits for this answer: {' -> '.join(chain)}")
        if len(chain) > self.services.max_chain:
            raise ToolFailed(f"delegation is {len(chain)} deep already: {' -> '.join(chain)}")

    def child(
        self, wait_id: str, identity: str, wanted: Delegation, known: SenderContext | None = None
    ) -> Task:
        """The task for another agent: the same each time that step of the work is run, and for no other."""
        task, work = self.task, self.work
        above = task.budgets_above
        if task.budget_usd is not None:
            own = TaskBudget(task_id=task.task_id, limit_usd=task.budget_usd, on_empty=task.on_empty)
            above = (*above, own)
        task_id, now = derived_id(task.tenant_id, work.first_steps, identity), self.services.clock.now()
        ends_at = [task.deadline_at]
        if wanted.deadline is not None:
            ends_at.append(now + timedelta(seconds=wanted.deadline))
        parent = Parent(actor_type=self.ref.type, actor_id=self.ref.id, key=wait_id, task_id=task.task_id)
        return Task(
            task_id=task_id,
            capability=wanted.capability,
            agent_id=wanted.agent_id or None,
            payload=wanted.data,
            priority=task.priority,
            timeout=task.timeout if wanted.timeout is None else float(wanted.timeout),
            budgets=task.budgets,
            deadline_at=min(ends_at),
            requested_by=work.dispatch.agent_id,
            tenant_id=task.tenant_id,
            thread_id=wanted.thread_id or task_id,
            parent=parent,
            chain=(*task.chain, work.dispatch.agent_id),
            created_at=now,
            traceparent=self.span.traceparent,
            budget_usd=wanted.budget,
            budgets_above=above,
            on_empty=task.on_empty,
            outside=self.journal.outside,
            family=task.family_id,
            repository=task.repository,
            sender_context=known,
            variants=task.variants,
            shape=schema_of(wanted.shape),
        )
