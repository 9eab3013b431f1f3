"""How far a run may go: its limits, its totals, how long a step of it may take, and when it tries again."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self

from meshwright.agents.agent import Agent
from meshwright.agents.run.tool_calls import FailedCall, read_seconds
from meshwright.core.clock import MAX_ASKED_SECONDS, Backoff
from meshwright.core.errors import LimitReached, ModelError, TaskLimitReached
from meshwright.core.limits import LIMIT_EVENTS, Limits
from meshwright.core.step_events import ReachedLimit
from meshwright.engine.work.protocol import TOOL
from meshwright.engine.work.records import ProgressEvent
from meshwright.models.errors import BudgetExceeded, ModelTimeout, is_refusal
from meshwright.models.port import Call, ModelReply, ToolCall
from meshwright.models.structure import repaired

_NO_REPLY = "its model calls tools and never answers"
_NO_CALL = "its model is not called again"
_SPENT = frozenset({"max_tokens", "max_usd", "max_seconds"})
"""The limits that every call of a model uses up."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit: its name, its value, where that is set, and whether the task's caller did."""

    name: str
    most: int | float | Decimal
    setting: str
    of_task: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """It as plain data."""
        most = str(self.most) if isinstance(self.most, Decimal) else self.most
        return {"limit": self.name, "most": most, "setting": self.setting, "event": LIMIT_EVENTS[self.name]}

    def event(self, ends: Literal["tools", "calls"], event_id: str | None = None) -> ProgressEvent:
        """The event that it is reached, and what that ends: calls of tools, or also those of the model."""
        fields = self.fields
        return ProgressEvent(fields.pop("event"), ReachedLimit(**fields, ends=ends), event_id)

    def error(
        self, agent_id: str, *, is_begun: bool = True, failed: FailedCall | None = None
    ) -> LimitReached:
        """The error for a model that does not answer at the limit, or a conversation that cannot begin.

        `failed` is the call that was repeated up to the limit, where it failed.
        """
        kind = TaskLimitReached if self.of_task else LimitReached
        what = _NO_REPLY if is_begun else _NO_CALL
        remedy = f"Raise {self.setting}, or say in its prompt when to stop"
        if failed is not None:
            what = f"its model repeats a call of {failed.tool} that fails: {failed.error}"
            remedy = failed.remedy
        return kind(
            f"{agent_id} reached {self.name} ({self.most:,}), and {what}", limit=self.name, remedy=remedy
        )


def task_limits(
    settings: Limits, agent: Agent | type[Agent] | None, of_task: Limits | None
) -> tuple[Limit, ...]:
    """The limits that hold for a task: an agent's own before those of the settings, and a task's if lower."""
    if agent is None:
        return _merge_limits(settings, Limits(), "", of_task)
    kind = agent if isinstance(agent, type) else type(agent)
    return _merge_limits(settings, agent.limits, kind.__name__, of_task)


@lru_cache(maxsize=1_000)
def _merge_limits(
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


class Totals:
    """Totals of a run: the calls of models in all its conversations, and its tools.

    Conversations go on side by side, so a decision goes by the totals as they were at a step of its own
    conversation, which the journal keeps with that step: a resumed run decides the same.
    """

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._limits = limits
        self._spent = [limit for limit in limits if limit.name in _SPENT]
        self._steps = 0
        self._tokens = 0
        self._dollars = Decimal(0)
        self._seconds = 0.0

    def add_call(self, call: Call) -> None:
        """Count a call of a model, however it ended."""
        self._tokens += call.usage.prompt_tokens + call.usage.completion_tokens
        self._dollars += call.cost_usd or 0
        self._seconds += call.latency_ms / 1000

    def add_reply(self, reply: ModelReply) -> None:
        """Count a reply that calls tools as a step."""
        self._steps += bool(reply.tool_calls)

    def add_tool(self, seconds: float) -> None:
        """Count the time of a tool."""
        self._seconds += seconds

    def add_record(self, record: Mapping[str, Any], calls: Iterable[Call]) -> None:
        """Count what a record of the journal is of, with the calls that were made in it."""
        for call in calls:
            self.add_call(call)
        result, kind = record.get("result"), record.get("kind", "")
        if isinstance(result, dict):
            self._steps += kind == "model" and bool(result.get("tool_calls"))
            self._seconds += read_seconds(result) if kind.startswith(TOOL) else 0.0

    def now(self) -> dict[str, Any]:
        """The totals for each limit that holds, as plain data."""
        counted: dict[str, Any] = {}
        for limit in self._limits:
            match limit.name:
                case "max_steps":
                    counted["max_steps"] = self._steps
                case "max_tokens":
                    counted["max_tokens"] = self._tokens
                case "max_usd":
                    counted["max_usd"] = str(self._dollars)
                case "max_seconds":
                    counted["max_seconds"] = round(self._seconds, 6)
        return counted

    def exceeded_by(self, dollars: Decimal) -> Limit | None:
        """The limit that leaves no room to spend so much more, if there is one."""
        spent = self._dollars + dollars
        return next((limit for limit in self._spent if limit.name == "max_usd" and spent > limit.most), None)

    def spent(self) -> Limit | None:
        """The limit that leaves no room for another call, if one is reached."""
        return reached(self._spent, self.now()) if self._spent else None


class Repeats:
    """How often in a row a conversation had the same results of the same calls."""

    def __init__(self) -> None:
        self._times = 0
        self._last: Any = None

    def add(self, calls: Sequence[ToolCall], contents: Sequence[str]) -> int:
        """Count a reply's calls with their results; returns how often in a row they were the same."""
        results = [(*_call_key(call), content) for call, content in zip(calls, contents, strict=True)]
        self._times = self._times + 1 if results == self._last else 1
        self._last = results
        return self._times


def reached(limits: Iterable[Limit], counted: Mapping[str, Any]) -> Limit | None:
    """The first limit that is reached, if any."""
    return next((limit for limit in limits if Decimal(str(counted.get(limit.name, 0))) >= limit.most), None)


def _call_key(call: ToolCall) -> tuple[str, str]:
    arguments = call.arguments
    with suppress(ValueError):
        arguments = json.dumps(json.loads(repaired(arguments or "{}")), sort_keys=True)
    return call.name, arguments


class _StepTimeout(NamedTuple):
    """The seconds that a step of a run may take, where that is set, and whether the task's caller did."""

    seconds: float
    setting: str
    of_task: bool = False


def step_timeout(of_mesh: float, agent: Agent | type[Agent] | None, of_task: float | None) -> _StepTimeout:
    """The timeout of a task's steps: its own, else that of its agent, else that of the settings."""
    if of_task is not None:
        return _StepTimeout(of_task, "the timeout of the task", of_task=True)
    if agent is not None and agent.timeout is not None:
        kind = agent if isinstance(agent, type) else type(agent)
        return _StepTimeout(agent.timeout, f"the timeout of {kind.__name__}")
    return _StepTimeout(of_mesh, "timeout_seconds in [agents] of mesh.toml")


class StepTime:
    """The time that the steps of a run have.

    A call of a model is bounded by `seconds`, a tool by its own timeout. The agent's code, in a `run.step` or
    between two steps, has `seconds` until the next step begins or ends; while models and tools work, that
    time stands still. `worked` is how long the run has worked before it waited.
    """

    def __init__(self, timeout: _StepTimeout, worked: float) -> None:
        self.timeout = timeout
        self._step: str | None = None
        self._worked = worked
        self._begun = self._counted_to = time.perf_counter()
        self._still = 0.0
        self._others = 0
        self._limit: asyncio.Timeout | None = None
        self._due = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def worked(self) -> float:
        """The seconds that the run has worked, without what it waited."""
        return self._worked + time.perf_counter() - self._begun - self._still

    @property
    def exceeded(self) -> str:
        """The message that the code took too long."""
        what = (
            f"step {self._step!r} did not end" if self._step else "the agent's code began and ended no step"
        )
        return (
            f"{what} within {self.timeout.seconds:g} seconds. Raise {self.timeout.setting}, divide the work "
            "into steps, or wait with run.sleep"
        )

    def limit(self) -> asyncio.Timeout:
        """A block that ends once the agent's code has had its time. Call `over` after it."""
        self._limit = asyncio.timeout(None)
        self._begin_anew()
        self._look_at(self._due)
        return self._limit

    def _begin_anew(self) -> None:
        if self._limit is not None:
            self._due = asyncio.get_running_loop().time() + self.timeout.seconds

    def _look_at(self, at: float) -> None:
        self._alarm = asyncio.get_running_loop().call_at(at, self._look)

    def _look(self) -> None:
        """End the block if its time is over, else look again later: steps begin and end more often."""
        now = asyncio.get_running_loop().time()
        if self._others:
            self._look_at(now + self.timeout.seconds)
        elif self._due > now:
            self._look_at(self._due)
        elif self._limit is not None:
            self._limit.reschedule(now)

    def over(self) -> None:
        """Bound nothing more: the run has ended."""
        self._limit = None
        if self._alarm is not None:
            self._alarm.cancel()

    @contextmanager
    def measure_step(self, name: str) -> Iterator[None]:
        """A block in which the agent's code works on a step."""
        self._step = name
        self._begin_anew()
        try:
            yield
        finally:
            if self._limit is None or not self._limit.expired():
                self._step = None
                self._begin_anew()

    def apart(self) -> Self:
        """A block whose time is not that of the agent's code: a model or a tool works."""
        return self

    def __enter__(self) -> None:
        self._others += 1  # nothing is due meanwhile: the time starts again at the end

    def __exit__(self, *error: object) -> None:
        self._others -= 1
        self._begin_anew()

    def stand_still(self, since: float) -> None:
        """Do not count the time since then, by `perf_counter`; what calls waited together counts once."""
        now = time.perf_counter()
        self._still += now - max(since, self._counted_to)
        self._counted_to = now


_MAX_SLOW_PAUSES = 5
"""In a row, for a model that does not answer in time: it may just be slow, and its answers cost."""
_SECONDS_A_PRIORITY = 0.5  # that tasks of the next lower priority come later when a budget renews
_MAX_PRIORITY = 10
_FIRST_LOOK_SECONDS = 90.0  # after which a run looks by itself: its budget may have been raised as it parked
_LOOKS_SECONDS = 6 * 3600.0  # the same from then on, in case that nothing has woken it


@dataclass(frozen=True, slots=True)
class Parking:
    """Pauses between two tries of a run whose provider is away: the first, and the longest, in seconds.

    A part of each is random, so that runs which were parked together come back one after another.
    """

    first_seconds: float = 5.0
    max_seconds: float = 120.0
    jitter: float = 0.5

    def due_at(self, error: ModelError, now: datetime, pauses: int, deadline: datetime) -> datetime | None:
        """When a run that paused so often in a row tries again.

        Not before its provider wants it to, if there is time for that until the deadline. None where its own
        pause is too long, or another try would change nothing.
        """
        is_slow = isinstance(error, ModelTimeout) and not error.is_silent and pauses >= _MAX_SLOW_PAUSES
        if is_slow or not (error.retryable or is_refusal(error)):
            return None
        pause = Backoff(self.first_seconds, self.max_seconds, self.jitter, pauses).next()
        available = (deadline - now).total_seconds()
        longer = pause + min(error.retry_after_seconds or 0.0, MAX_ASKED_SECONDS)
        if pause >= available:
            return None
        return now + timedelta(seconds=longer if longer < available else pause)


def tries_again_at(error: BudgetExceeded, now: datetime, pauses: int, priority: int) -> datetime | None:
    """When a run that paused so often in a row for money tries again; None where its budget says to fail.

    Runs that wait for the same budget to renew come back one after another, the most urgent first. A budget
    that is raised before, and a start of the mesh, wake them.
    """
    if error.is_busy:  # calls under way hold the money
        seconds = Backoff(5.0, 120.0, jitter=0.5, failures=pauses).next()
    elif error.on_empty not in ("wait", "ask"):
        return None
    else:
        seconds = (_LOOKS_SECONDS if pauses else _FIRST_LOOK_SECONDS) * random.uniform(0.75, 1.0)
        renews = error.retry_after_seconds
        if renews is not None and seconds >= renews:
            seconds = renews + (_MAX_PRIORITY - priority + random.random()) * _SECONDS_A_PRIORITY
    return now + timedelta(seconds=seconds)
