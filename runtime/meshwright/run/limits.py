"""Which limits hold for a conversation with a model, how far it has come, and which it has reached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from meshwright.agent import Agent
from meshwright.core.errors import LimitReached, TaskLimitReached
from meshwright.core.limits import Limits
from meshwright.core.messages import Task
from meshwright.models.port import ModelReply, ToolCall
from meshwright.models.structure import repaired


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit: its name, its value, where that is set, and whether the task's caller did."""

    name: str
    most: int | float | Decimal
    setting: str
    of_task: bool = False

    def error(self, agent_id: str) -> LimitReached:
        """The error for a model that does not answer at the limit."""
        kind = TaskLimitReached if self.of_task else LimitReached
        return kind(
            f"{agent_id} reached {self.name} ({self.most:,}), and its model calls tools and never answers",
            limit=self.name,
            remedy=f"Raise {self.setting}, or say in its prompt when to stop",
        )


def limits_of(settings: Limits, agent: Agent, task: Task) -> tuple[Limit, ...]:
    """The limits that hold for a task: an agent's own before those of the settings, and a task's if lower."""
    return _limits_of(settings, agent.limits, type(agent).__name__, task.limits)


@lru_cache(maxsize=1_000)
def _limits_of(
    settings: Limits, of_agent: Limits, agent_name: str, of_task: Limits | None
) -> tuple[Limit, ...]:
    limits: list[Limit] = []
    for name in Limits.model_fields:
        most, where = getattr(of_agent, name), f"{name} in the limits of {agent_name}"
        if most is None:
            most, where = getattr(settings, name), f"{name} in [agents] of mesh.toml"
        is_lower = False
        lower = None if of_task is None else getattr(of_task, name)
        if lower is not None and (most is None or lower < most):
            most, where, is_lower = lower, f"limits.{name} of the task", True
        if most is not None:
            limits.append(Limit(name, most, where, is_lower))
    return tuple(limits)


class Pace:
    """How far a conversation has come. All of it is counted from what the journal holds."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._limits = limits
        self._steps = 0
        self._tokens = 0
        self._dollars = Decimal(0)
        self._seconds = 0.0
        self._repeats = 0
        self._last: Any = None

    def add_reply(self, reply: ModelReply) -> None:
        """Count a reply of the model."""
        self._tokens += reply.usage.prompt_tokens + reply.usage.completion_tokens
        self._dollars += reply.cost_usd or 0
        self._seconds += reply.latency_ms / 1000

    def add_calls(self, calls: Sequence[ToolCall], contents: Sequence[str], seconds: float) -> None:
        """Count a reply's calls of tools, by what the model is told of each; they took that long together."""
        self._steps += 1
        self._seconds += seconds
        made = [(*_called(call), content) for call, content in zip(calls, contents, strict=True)]
        self._repeats = self._repeats + 1 if made == self._last else 1
        self._last = made

    def reached(self) -> Limit | None:
        """The first limit that is reached, if any."""
        counted = {
            "max_steps": self._steps,
            "max_repeats": self._repeats,
            "max_tokens": self._tokens,
            "max_usd": self._dollars,
            "max_seconds": self._seconds,
        }
        return next((limit for limit in self._limits if counted[limit.name] >= limit.most), None)


def _called(call: ToolCall) -> tuple[str, str]:
    """What the same calls have in common, however their arguments are written."""
    arguments = call.arguments
    with suppress(ValueError):
        arguments = json.dumps(json.loads(repaired(arguments or "{}")), sort_keys=True)
    return call.name, arguments
