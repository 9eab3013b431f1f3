"""Which variant a task gets: a salted hash decides, so that nothing has to be looked up or remembered."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import accumulate

from meshwright.core.messages import Task, TaskVariant
from meshwright.services.experiments.table import ExperimentRow


class Assignment:
    """Chooses among the variants of one running experiment."""

    def __init__(self, row: ExperimentRow) -> None:
        request = row.request
        self._by_thread = request.unit == "thread"
        self._salt = f"{row.experiment_id}\x00{row.salt}\x00".encode()
        self._variants = [spec.of(row.experiment_id, row.agent_id) for spec in request.variants]
        self._bounds = [*accumulate(spec.weight for spec in request.variants)]

    def of(self, task: Task) -> TaskVariant:
        """The variant of a task: the same for each task of its thread, or of its requester."""
        unit = task.thread_id if self._by_thread else task.requested_by
        share = int.from_bytes(sha256(self._salt + unit.encode()).digest()[:7]) / (1 << 56)
        return self._variants[bisect_right(self._bounds, share * self._bounds[-1])]


class Assignments:
    """The running experiments of all tenants, in memory."""

    def __init__(self) -> None:
        self._found: Mapping[str, Sequence[Assignment]] = {}

    def take(self, rows: Iterable[ExperimentRow]) -> None:
        """Choose by these experiments from now on."""
        by_tenant: dict[str, list[Assignment]] = {}
        for row in rows:
            if row.runs_over == "tasks":
                by_tenant.setdefault(row.tenant_id, []).append(Assignment(row))
        self._found = by_tenant

    def choose(self, task: Task) -> Iterable[TaskVariant]:
        """The variants of a new task, one for each experiment: any agent may get a part of it."""
        return [assignment.of(task) for assignment in self._found.get(task.tenant_id, ())]
