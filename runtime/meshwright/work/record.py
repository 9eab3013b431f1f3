"""The record of a task: what its orchestrator knows of it, each attempt with its score card.

A worker that has claimed an attempt reads its task here.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, Field

from meshwright.messages import (
    ENDED,
    Dispatch,
    Fault,
    Outcome,
    Plain,
    ScoreCard,
    Task,
    TaskStatus,
    Usage,
)
from meshwright.money import Amount
from meshwright.work.waits import Wait


class Attempt(BaseModel):
    """One try at the task by one agent, and what its calls of models cost; None where nobody knows."""

    attempt: int
    agent_id: str
    score_card: ScoreCard
    started_at: datetime
    ended_at: datetime | None = None
    error: Fault | None = None
    usage: Usage = Usage()
    cost_usd: Amount | None = Decimal(0)


class TaskRecord(BaseModel):
    """All that is known of a task."""

    version: int = 1
    task: Task | None = None
    request_hash: str = ""
    status: TaskStatus = "accepted"
    attempts: list[Attempt] = Field(default_factory=list)
    outcome: Outcome | None = None
    cancelling: bool = False

    @property
    def is_open(self) -> bool:
        """Whether the task is accepted and has not ended."""
        return self.task is not None and self.status not in ENDED

    @property
    def open_attempt(self) -> Attempt | None:
        """The attempt that has not ended, if there is one: the last."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.ended_at is None else None

    def dispatch(self, number: int) -> Dispatch | None:
        """The dispatch of an attempt; None where there is no such attempt."""
        if self.task is None or not 1 <= number <= len(self.attempts):
            return None
        attempt = self.attempts[number - 1]
        return Dispatch(
            task=self.task, attempt=number, agent_id=attempt.agent_id, score_card=attempt.score_card
        )

    def open_for(self, outcome: Outcome) -> Attempt | None:
        """The open attempt that an outcome belongs to; a late or foreign one belongs to none."""
        attempt, task = self.open_attempt, self.task
        if attempt is None or task is None or outcome.generation != task.generation:
            return None
        return attempt if outcome.attempt == attempt.attempt else None

    def spent(self) -> dict[str, object]:
        """What all attempts have cost; None once of one nobody knows."""
        costs = [attempt.cost_usd for attempt in self.attempts]
        known = [cost for cost in costs if cost is not None]
        return {
            "usage": sum((attempt.usage for attempt in self.attempts), start=Usage()),
            "cost_usd": sum(known, start=Decimal(0)) if len(known) == len(costs) else None,
        }


class TaskView(Plain):
    """A task, its attempts and its outcome, as clients see them. `waits`: what its run waits for now."""

    task_id: str
    capability: str
    payload: dict[str, Any]
    status: TaskStatus
    attempts: tuple[Attempt, ...]
    waits: tuple[Wait, ...] = ()
    outcome: Outcome | None
    priority: int
    timeout: float
    deadline_at: datetime
    created_at: datetime
    requested_by: str
    tenant_id: str
    thread_id: str
    parent_task_id: str | None
    chain: tuple[str, ...]
    generation: int
    trace_id: str | None
