"""What a thread keeps of its tasks: those in its inbox, and the last that ended."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from meshwright.envelope import ActorRef
from meshwright.messages import Dispatch, Outcome, Usage
from meshwright.money import ZERO, Amount
from meshwright.work.protocol import ORCHESTRATOR, Suspend


class Entry(BaseModel):
    """One attempt in the inbox of its thread; one that was `redriven` may have been here before.

    `seconds`, `usage` and `cost_usd` are as of its last wait; the cost is None once a worker that is gone may
    have made calls since.
    """

    dispatch: Dispatch
    queued_at: datetime
    status: Literal["queued", "running", "waiting"] = "queued"
    fence: int = 0
    redriven: bool = False
    owner: str | None = None
    suspended: Suspend | None = None
    seconds: float = 0.0
    usage: Usage = Usage()
    cost_usd: Amount | None = ZERO
    cancelled: str | None = None

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.dispatch.task.task_id

    @property
    def child(self) -> ActorRef | None:
        """The task that it waits for, if it waits for one."""
        known = self.suspended.known if self.suspended is not None else {}
        return ActorRef(ORCHESTRATOR, known["child_task_id"]) if "child_task_id" in known else None


class ThreadState(BaseModel):
    """The inbox of a thread in order of arrival, its fence, and the last attempts that ended."""

    version: int = 1
    fence: int = 0
    history: int = 0
    inbox: list[Entry] = Field(default_factory=list)
    ended: list[Outcome] = Field(default_factory=list)
