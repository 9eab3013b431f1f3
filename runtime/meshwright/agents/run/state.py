"""The state of one run, and the services of all runs of a mesh."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from statistics import median_high
from typing import NamedTuple

from meshwright.agents.agent import Agent
from meshwright.agents.context.memory import MemoryStore
from meshwright.agents.context.service import ContextClient
from meshwright.agents.prompts import PromptSources
from meshwright.agents.run.delegation import Delegation, Knowledge
from meshwright.agents.run.exclusion import ToolExclusion
from meshwright.agents.run.limits import Parking, StepTime
from meshwright.agents.run.masks import Masks
from meshwright.agents.run.tool_calls import Outputs
from meshwright.agents.skills.catalog import Skills
from meshwright.agents.tools.chain import ToolChain
from meshwright.agents.tools.settings import ApprovalRule, ApprovalsSettings
from meshwright.agents.tools.tool import Tool
from meshwright.agents.trees.leases import Trees
from meshwright.core.clock import Clock
from meshwright.core.errors import ToolFailed
from meshwright.core.ids import derived_id
from meshwright.core.limits import Limits
from meshwright.core.messages import MemoryScope, Parent, SenderContext, Task, TaskBudget, answer_schema
from meshwright.core.money import Price
from meshwright.core.tracing import NoTracing, Span, Tracing
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work import Journal, Work
from meshwright.engine.work.paths import OpenStep
from meshwright.engine.work.people import Decision
from meshwright.models.port import CallContext, Model, ModelWindow, OnCall
from meshwright.models.written import WrittenMessages
from meshwright.money.budgets import Budgets
from meshwright.money.costs import UsualCall
from meshwright.money.spending import Activity

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
    tool_chain: ToolChain
    tool_timeout_seconds: float
    limits: Limits
    max_calls_per_reply: int
    timeout_seconds: float
    max_chain: int
    approvals: ApprovalsSettings
    patience_days: float
    max_context_tokens: int
    max_memory_tokens: int
    window: Callable[[str, tuple[str, ...], str, str], ModelWindow]
    price: Callable[[str, tuple[str, ...], str, str, int], Price | None]
    stream: bool
    read_on_seconds: float
    parking: Parking | None
    budgets: Budgets | None
    activity: Callable[[str, datetime], Awaitable[Activity]] | None
    trees: Trees | None
    skills: Skills | None = None
    project_id: str = "default"
    usual_call: Callable[[str], Awaitable[UsualCall | None]] | None = None
    """Reads the usual call of an agent from the ledger."""
    usual_calls: UsualCalls = field(default_factory=UsualCalls)


class StandingApproval(NamedTuple):
    """A yes to a call of a tool under a rule, and whether its run had read text from outside."""

    tool: str
    rule: ApprovalRule
    decision: Decision
    outside: bool


@dataclass(eq=False)
class RunState:
    """One agent's claimed work on one task: its journal, its span, and what the run has learned so far.

    The parts that only tools and delegations need are made at their first use.
    """

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

    @cached_property
    def masks(self) -> Masks:
        """The secrets that the tools of the run have met."""
        return Masks(self.journal.earlier)

    @cached_property
    def outputs(self) -> Outputs:
        """The long results of its tools."""
        return Outputs(self.services.runtime.max_record_bytes)

    @cached_property
    def knowledge(self) -> Knowledge:
        """Its failures, open questions and progress, for those that it delegates to."""
        return Knowledge(self.task)

    @cached_property
    def exclusion(self) -> ToolExclusion:
        """The order of its calls of tools, of which some work alone."""
        return ToolExclusion()

    @cached_property
    def approvals(self) -> list[StandingApproval]:
        """The decisions are in the journal: a run that is resumed has them again."""
        return []

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
        written: WrittenMessages | None = None,
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
            written=written,
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
        self, wait_id: str, identity: str, delegation: Delegation, knowledge: SenderContext | None = None
    ) -> Task:
        """The task for another agent: the same each time that step of the work is run, and for no other."""
        task, work = self.task, self.work
        above = task.budgets_above
        if task.budget_usd is not None:
            own = TaskBudget(task_id=task.task_id, limit_usd=task.budget_usd, on_empty=task.on_empty)
            above = (*above, own)
        task_id, now = derived_id(task.tenant_id, work.first_steps, identity), self.services.clock.now()
        ends_at = [task.deadline_at]
        if delegation.deadline is not None:
            ends_at.append(now + timedelta(seconds=delegation.deadline))
        parent = Parent(actor_type=self.ref.type, actor_id=self.ref.id, key=wait_id, task_id=task.task_id)
        return Task(
            task_id=task_id,
            capability=delegation.capability,
            agent_id=delegation.agent_id or None,
            payload=delegation.data,
            priority=task.priority,
            timeout=task.timeout if delegation.timeout is None else float(delegation.timeout),
            budgets=task.budgets,
            deadline_at=min(ends_at),
            requested_by=work.dispatch.agent_id,
            tenant_id=task.tenant_id,
            thread_id=delegation.thread_id or task_id,
            parent=parent,
            chain=(*task.chain, work.dispatch.agent_id),
            created_at=now,
            traceparent=self.span.traceparent,
            budget_usd=delegation.budget,
            budgets_above=above,
            on_empty=task.on_empty,
            outside=self.journal.outside,
            family=task.family_id,
            repository=task.repository,
            sender_context=knowledge,
            variants=task.variants,
            shape=answer_schema(delegation.shape),
        )
