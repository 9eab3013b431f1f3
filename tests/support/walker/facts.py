"""The facts of a walk that rules share."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

from tests.support.walker.history import History
from tests.support.walker.programs import Request, requests_of
from tests.support.walker.world import Effect


@dataclass(frozen=True)
class Finding:
    """A broken promise: the rule, the circumstances that findings of one kind share, and what was seen."""

    rule: str
    shape: str
    text: str

    @property
    def kind(self) -> str:
        return f"{self.rule} [{self.shape}]"


class Facts:
    """A walk as those outside of the mesh know it."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._tasks = history.tasks

    @cached_property
    def _effects(self) -> dict[tuple[str, Request], list[Effect]]:
        effects: dict[tuple[str, Request], list[Effect]] = defaultdict(list)
        for effect in self._history.world.effects:
            effects[effect.task_id, effect.request].append(effect)
        return effects

    @cached_property
    def _above(self) -> dict[str, list[str]]:
        """Each task with those above it, itself first."""
        above: dict[str, list[str]] = {}
        for task_id in self._tasks:
            chain, at = [task_id], self._tasks[task_id].parent_task_id
            while at is not None and at in self._tasks:
                chain.append(at)
                at = self._tasks[at].parent_task_id
            above[task_id] = chain
        return above

    def _wanted(self, task_id: str, request: Request) -> int:
        """How often the job of a task asks for an effect, in any version of its code."""
        job = self._history.job_of(task_id)
        return max(requests_of(p[job])[request] if job in p else 0 for p in self._history.programs)

    def _beginnings(self, task_id: str) -> int:
        """How often a person let the work begin from nothing: once, and by words to that effect."""
        chain = self._above[task_id]
        begun = sum(retry.begin == "start" and retry.task_id in chain for retry in self._history.retries)
        return 1 + begun + self._restarts(task_id)

    def _restarts(self, task_id: str) -> int:
        chain = self._above[task_id]
        return sum(
            answer.subject == "restart"
            and answer.is_taken
            and answer.value.get("approve")
            and answer.task_id in chain
            for answer in self._history.answers
        )

    def _yes(self, task_id: str, request: Request, *subjects: str) -> int:
        """How many answers let a task have an effect."""
        return sum(
            answer.task_id == task_id
            and answer.request == request
            and answer.subject in subjects
            and answer.is_taken
            and bool(answer.value.get("approve"))
            for answer in self._history.answers
        )

    def _shape(self, task_id: str | None = None, *more: str) -> str:
        """The circumstances of a task that tell findings apart."""
        facts = [*more]
        if task_id is not None and task_id in self._tasks:
            chain = self._above[task_id]
            if any(self._tasks[at].forked_from is not None for at in chain):
                facts.append("fork")
            if any(retry.task_id in chain for retry in self._history.retries):
                facts.append("retry")
            if len(self._history.programs) > 1:
                facts.append("new code")
            if sum(attempt.continues is None for attempt in self._tasks[task_id].attempts) > 1:
                facts.append("new attempt")
            if self._restarts(task_id):
                facts.append("restart")
        if self._history.was_missing:
            facts.append("agent missing")
        if self._history.kills:
            facts.append("kill")
        if self._history.leases:
            facts.append("lease")
        return ", ".join(facts) or "plain"

    def _name(self, task_id: str) -> str:
        return f"{self._history.name_of(task_id)} ({self._history.job_of(task_id)})"
