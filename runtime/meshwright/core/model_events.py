"""The events of models and deployments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

from meshwright.core import topics
from meshwright.core.display import Document, dollars, duration, fault, finish, seconds, short, tokens
from meshwright.core.messages import Fault, Usage
from meshwright.core.money import Amount
from meshwright.core.payloads import Fact, Payload, StepPayload, declared


class ModelCalled(
    StepPayload,
    type="model.called",
    topic=topics.TASK_PROGRESS,
    word="model",
    listed="call_id, model, deployment, group, tags, user, thread_id, tenant_id, usage, cost_usd, "
    "cost_source, cache_hit, saved_usd, attempts, outcome (ok, failed, cancelled or cut), error, reason, "
    "tool_calls, finish_reason, latency_ms, duration_ms, prompt, failed_at (deployments, one for each failed "
    "attempt), failed_with (the errors of these attempts), passed_over (fields of a client's request that "
    "had no effect)",
):
    call_id: Fact[str]
    model: Fact[str]
    deployment: Fact[str | None]
    group: Fact[str]
    tags: Fact[tuple[str, ...]]
    user: Fact[str]
    thread_id: str | None
    tenant_id: str | None
    usage: Fact[Usage]
    cost_usd: Fact[Amount | None]
    cost_source: Fact[str]
    cache_hit: Fact[bool]
    saved_usd: Fact[Amount | None]
    attempts: Fact[int | None]
    outcome: Fact[Literal["ok", "failed", "cancelled", "cut"]]
    error: str | None
    reason: str | None
    tool_calls: tuple[str, ...]
    latency_ms: Fact[float | None]
    finish_reason: Fact[str | None] = None
    prompt: Fact[str | None] = None
    failed_at: tuple[str, ...] = ()
    failed_with: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    duration_ms: Fact[float]

    def event_line(self, event: Document) -> Sequence[object]:
        if self.outcome not in ("ok", ""):
            return self.group or "?", self.outcome, fault(self.error)
        if self.model.startswith("tool:"):  # what a tool spent
            return self.model, f"user={self.user}", dollars(self.cost_usd)
        return (
            self.model or "?",
            f"[{', '.join(self.tags)}]",
            f"user={self.user}",
            tokens(self.usage.model_dump()),
            dollars(self.cost_usd),
            seconds(self.duration_ms),
            f"-> {', '.join(self.tool_calls)}" if self.tool_calls else finish(self.finish_reason),
            short(self.reason or ""),
            f"passed over {', '.join(self.passed_over)}" if self.passed_over else "",
        )


class ModelDelta(StepPayload, type=topics.MODEL_DELTA, topic=topics.TASK_PROGRESS, word="model"):
    """Not stored."""

    text: str = ""
    n: int = 0
    restart: bool = False
    """the answer starts over"""

    def event_line(self, event: Document) -> Sequence[object]:
        return ("starts over" if self.restart else short(self.text),)


class ModelRetried(Payload, type="model.retried", topic=topics.TASK_PROGRESS, unlisted="step"):
    error: Fault
    delay_seconds: Fact[float]
    step: int | None

    def event_line(self, event: Document) -> Sequence[object]:
        return (
            f"step {self.step or '?'} is tried again after {self.delay_seconds:.2g} s",
            self.error.type and fault(self.error),
        )


class DeploymentLeftAlone(
    Payload,
    type="deployment.cooled_down deployment.refused",
    word="model",
    listed="deployment, seconds, status, error, reason, is_for_one_task",
):
    """No call reaches it for so long."""

    deployment: Fact[str]
    seconds: Fact[float]
    error: Fault | None
    status: Fact[int | None]
    reason: str
    is_for_one_task: Fact[bool] = False
    """whether calls of other tasks pass, since its history may be why"""

    def event_line(self, event: Document) -> Sequence[object]:
        is_refused = event["event_type"] == "deployment.refused"
        state = f"refused with {self.status}" if is_refused else "down"
        pause = duration(timedelta(seconds=round(self.seconds)))
        who = " by one task" if self.is_for_one_task else ""
        why = short(self.reason or fault(self.error))
        return (f"{self.deployment or '?'} is {state}, left alone for {pause}{who}: {why}",)


class DeploymentRecovered(Payload, type="deployment.recovered", word="model"):
    deployment: Fact[str]
    seconds: Fact[float]
    refused: Fact[int | None] = None
    """the status before"""

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.deployment or '?'} gets calls again",)


EVENTS = declared(__name__)
