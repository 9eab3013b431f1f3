"""What callers name: the fields of a task and of a filter of events, and what a model answered."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypedDict

from meshwright.core.messages import Plain, Usage

if TYPE_CHECKING:
    from meshwright.core.money import OnEmpty


class TaskFields(TypedDict, total=False):
    """A task: what it names, and its times in seconds (`timeout` of one step, `deadline` of all).

    `limits` are those of its run, such as `{"max_steps": 20}`, where they are to be lower than the agent's.
    `after` is the id of a task whose end it waits for.
    """

    capability: str | None
    agent_id: str | None
    payload: dict[str, Any]
    priority: int
    timeout: float | None
    deadline: float | None
    thread_id: str | None
    task_id: str | None
    limits: dict[str, Any] | None
    after: str | None
    budget_usd: Decimal | str | None
    on_empty: OnEmpty
    idempotency_key: str | None


class EventFields(TypedDict, total=False):
    """What events must have in common."""

    task_id: str | None
    agent_id: str | None
    event_type: str | None
    trace_id: str | None
    aggregate_id: str | None
    idempotency_key: str | None
    topic: str | None


class AgentConfigFields(TypedDict, total=False):
    """What changes of an agent's configuration; None clears endpoint, key and `llm_max_tokens`."""

    name: str
    description: str
    llm_provider: str
    llm_endpoint: str | None
    llm_model: str
    llm_api_key: str | None
    llm_timeout: float
    llm_temperature: float
    llm_max_tokens: int | None
    is_default: bool
    is_active: bool


class Completion(Plain):
    """What a model answered."""

    content: str
    model: str
    usage: Usage
