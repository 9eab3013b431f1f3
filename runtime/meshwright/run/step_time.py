"""How long a step of a run may take, and how long its code may go on without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from meshwright.agent import Agent


class StepTimeout(NamedTuple):
    """The seconds that a step of a run may take, where that is set, and whether the task's caller did."""

    seconds: float
    setting: str
    of_task: bool = False


def step_timeout(of_mesh: float, agent: Agent | type[Agent] | None, of_task: float | None) -> StepTimeout:
    """The timeout of a task's steps: its own, else that of its agent, else that of the settings."""
    if of_task is not None:
        return StepTimeout(of_task, "the timeout of the task", of_task=True)
    if agent is not None and agent.timeout is not None:
        kind = agent if isinstance(agent, type) else type(agent)
        return StepTimeout(agent.timeout, f"the timeout of {kind.__name__}")
    return StepTimeout(of_mesh, "timeout_seconds in [agents] of mesh.toml")


class StepTime:
    """The time that the steps of a run have.

    A call of a model is bounded by `seconds`, a tool by its own timeout. The agent's code, in a `run.step` or
    between two steps, has `seconds` until the next step begins or ends; while models and tools work, that
    time stands still. `worked` is how long the run has worked before it waited.
    """

    def __init__(self, timeout: StepTimeout, worked: float) -> None:
        self.timeout = timeout
        self._step: str | None = None
        self._worked = worked
        self._begun = self._counted_to = time.perf_counter()
        self._still = 0.0
        self._others = 0
        self._limit: asyncio.Timeout | None = None

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
        """A block that ends once the agent's code has had its time."""
        self._limit = asyncio.timeout(self.timeout.seconds)
        return self._limit

    def _begin_anew(self) -> None:
        at = None if self._others else asyncio.get_running_loop().time() + self.timeout.seconds
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(at)

    def over(self) -> None:
        """Bound nothing more: the run has ended."""
        self._limit = None

    @contextmanager
    def of_step(self, name: str) -> Iterator[None]:
        """A block in which the agent's code works on a step."""
        self._step = name
        self._begin_anew()
        try:
            yield
        finally:
            if self._limit is None or not self._limit.expired():
                self._step = None
                self._begin_anew()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """A block whose time is not that of the agent's code: a model or a tool works."""
        self._others += 1
        self._begin_anew()
        try:
            yield
        finally:
            self._others -= 1
            self._begin_anew()

    def stand_still(self, since: float) -> None:
        """Do not count the time since then, by `perf_counter`; what calls waited together counts once."""
        now = time.perf_counter()
        self._still += now - max(since, self._counted_to)
        self._counted_to = now
