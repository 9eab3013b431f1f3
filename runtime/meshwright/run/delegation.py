"""Tasks that an agent gives to another: whom it may ask, and what the other gets."""

from __future__ import annotations

from meshwright.agent import Agent
from meshwright.envelope import ActorRef
from meshwright.errors import ToolFailed
from meshwright.messages import Parent, Task, TaskBudget, derived_id
from meshwright.run.calls import RunUsage
from meshwright.run.services import Services
from meshwright.tracing import Span
from meshwright.work import Work


def check_delegation(agent: Agent, task: Task, agent_id: str, max_chain: int) -> None:
    """Raise ToolFailed where an agent may not ask another: not allowed, in a circle, or too deep."""
    if agent_id not in agent.delegates_to:
        allowed = f", only to {', '.join(agent.delegates_to)}" if agent.delegates_to else ""
        raise ToolFailed(
            f"{agent.agent_id} may not delegate to {agent_id!r}{allowed}",
            remedy=f"Add it to delegates_to of {type(agent).__name__}",
        )
    chain = (*task.chain, agent.agent_id)
    if agent_id in chain:
        raise ToolFailed(f"{agent_id} already waits for this answer: {' -> '.join(chain)}")
    if len(chain) > max_chain:
        raise ToolFailed(f"delegation is {len(chain)} deep already: {' -> '.join(chain)}")


def child_of(
    work: Work,
    ref: ActorRef,
    step: int,
    agent_id: str,
    text: str,
    services: Services,
    span: Span,
    usage: RunUsage,
) -> Task:
    """The task for another agent: the same each time that step of the work is run.

    It may cost what is left of the budget of the task that delegates it.
    """
    task = work.task
    own = () if task.budget_usd is None else (TaskBudget(task_id=task.task_id, limit_usd=task.budget_usd),)
    task_id = derived_id(task.tenant_id, work.stream, str(step))
    return Task(
        task_id=task_id,
        capability="",
        agent_id=agent_id,
        payload={"text": text},
        priority=task.priority,
        timeout=task.timeout,
        budgets=task.budgets,
        deadline_at=task.deadline_at,
        requested_by=work.dispatch.agent_id,
        tenant_id=task.tenant_id,
        thread_id=task_id,
        parent=Parent(
            actor_type=ref.type, actor_id=ref.id, key=f"{work.stream}/{step}", task_id=task.task_id
        ),
        chain=(*task.chain, work.dispatch.agent_id),
        created_at=services.clock.now(),
        traceparent=span.traceparent,
        budget_usd=usage.left_of(task.budget_usd),
        budgets_above=(*task.budgets_above, *own),
    )
