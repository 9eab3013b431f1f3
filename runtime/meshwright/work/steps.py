"""The steps of a task's attempts as people and programs read them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from meshwright.core.encoding import Struct
from meshwright.core.messages import Usage
from meshwright.core.money import Amount, exact

StepStatus = Literal["done", "failed", "waiting", "unfinished"]


class StepSummary(Struct):
    """One step in a list.

    `path` names it in its attempt, `number` counts the steps of the attempt. `kind` is `context`, `model`,
    `tool`, `delegate`, or `step` for one that the agent's own code names; `name` is the model, tool, agent or
    step. `cost_usd` is None if the price is unknown or no model was called; `cache_hit`: the
    answer is from the mesh's cache. `unfinished`: calls were made and the step never ended.

    `started_at` is when it began to run, for a step that was run again the last time, but for one that waited
    the first; for a call of a model, and without a journal, it is the end less the duration. `duration_ms` is
    that of the calls made in it, else all of its time. `prompt` is the version of the prompt that a `context`
    or a `model` step used.

    `has_contents` is False where what was said is not stored, or was deleted (`keep_contents_days`).
    `is_copied` is True for a step of the task that its own was forked from.
    """

    path: str
    number: int
    attempt: int
    agent_id: str
    kind: str
    name: str = ""
    status: StepStatus = "done"
    summary: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_ms: float | None = None
    calls: int = 0
    model: str | None = None
    usage: Usage = Usage()
    cost_usd: Amount | None = None
    cache_hit: bool = False
    finish_reason: str | None = None
    error: str | None = None
    child_task_id: str | None = None
    prompt: str | None = None
    has_contents: bool = True
    is_copied: bool = False

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)


class StepView(StepSummary, kw_only=True):
    """One step with what was said. Secrets are redacted.

    Of a call of a model: `request` (model, tags, tools, limits), all `messages` that it was sent, the last
    `new_messages` of them for the first time, and its `reply`. Of a tool its `arguments`, as the model wrote
    them. `result` is that of any other step. `notes` say what of it is missing, and why.
    """

    task_id: str
    request: dict[str, Any] | None = None
    messages: tuple[dict[str, Any], ...] = ()
    new_messages: int = 0
    reply: dict[str, Any] | None = None
    arguments: Any = None
    result: Any = None
    notes: tuple[str, ...] = ()


class StepPage(Struct):
    """Steps in the order of their attempts and numbers; `cursor` asks for those that follow."""

    items: tuple[StepSummary, ...]
    cursor: str | None = None


class StepContentsPage(Struct):
    """The same, with what was said."""

    items: tuple[StepView, ...]
    cursor: str | None = None
