"""The runs of one external agent in this process: those that wait for a program, and those under way."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from meshwright.component import Caller
from meshwright.kit import Conflict, NotFound
from meshwright.parts.external.settings import ExternalAgentTable

if TYPE_CHECKING:
    from meshwright.parts.external.run import ExternalRun, Life

_MAX_ENDED = 1_000
"""How many lives whose run has ended are remembered, so that their programs hear why."""


class EndedLife(NamedTuple):
    """A life whose run ended under it, and how: `waiting`, `cancelled`, `late`, `complete` or `moved`."""

    token: str
    tenant_id: str
    state: str


class _Claimant(NamedTuple):
    caller: Caller
    run: asyncio.Future[ExternalRun]


class ExternalRuns:
    """The open runs of an agent, and the programs that wait for one."""

    def __init__(self, name: str, table: ExternalAgentTable) -> None:
        self.name, self.table = name, table
        self.account = f"program/{name}"
        """The account of waits for a program of the agent."""
        self.last_claim_at: datetime | None = None
        """When a program last asked for a run."""
        self._open: dict[str, ExternalRun] = {}
        self._ended: dict[str, EndedLife] = {}
        self._claimants: list[_Claimant] = []

    @property
    def claimants(self) -> int:
        """How many programs wait for a run now."""
        return len(self._claimants)

    def open(self, run: ExternalRun) -> None:
        """Let programs claim a run, at first one that waits already."""
        self._open[run.task_id] = run
        self.offer(run)

    def offer(self, run: ExternalRun) -> None:
        """Give a run to the program that waits longest, if any does."""
        for claimant in self._claimants:
            if not claimant.run.done() and _may_work(claimant.caller, run.tenant_id):
                run.reserve()
                claimant.run.set_result(run)
                return

    def close(self, run: ExternalRun, state: str) -> None:
        """Forget a run that has ended here, but for its last life."""
        self._open.pop(run.task_id, None)
        if run.life is not None:
            self._ended.pop(run.task_id, None)
            self._ended[run.task_id] = EndedLife(run.life.token, run.tenant_id, state)
            if len(self._ended) > _MAX_ENDED:
                del self._ended[next(iter(self._ended))]

    async def take(
        self, caller: Caller, seconds: float, left: Collection[asyncio.Future[object]]
    ) -> ExternalRun | None:
        """The next free run that a caller may work on, reserved for it; None where none comes in time."""
        for run in self._open.values():
            if run.is_free and _may_work(caller, run.tenant_id):
                run.reserve()
                return run
        future: asyncio.Future[ExternalRun] = asyncio.get_running_loop().create_future()
        claimant = _Claimant(caller, future)
        self._claimants.append(claimant)
        try:
            await asyncio.wait([future, *left], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._claimants.remove(claimant)
        has_left = any(one.done() for one in left)
        if not future.done():
            return None
        run = future.result()
        if has_left:
            run.release()
            return None
        return run

    def find(self, caller: Caller, task_id: str, token: str) -> tuple[ExternalRun, Life] | EndedLife | None:
        """The run of a task and its life, which a token shows; how the run ended; None if it is not here.

        Raises Conflict for the token of an earlier life.
        """
        run = self._open.get(task_id)
        if run is not None and _may_work(caller, run.tenant_id):
            if run.life is None or not _is_same(run.life.token, token):
                raise Conflict(
                    "This is not the token of the program that has the run now: another claim began since, "
                    "or no request came for lease_seconds",
                    remedy="Leave this run as it is, and claim again",
                    field="token",
                )
            return run, run.life
        ended = self._ended.get(task_id)
        if ended is not None and _may_work(caller, ended.tenant_id) and _is_same(ended.token, token):
            return ended
        return None


def _may_work(caller: Caller, tenant_id: str) -> bool:
    return caller.all_tenants or caller.tenant_id == tenant_id


def _is_same(token: str, other: str) -> bool:
    return hmac.compare_digest(token.encode(), other.encode())


def unknown_run(task_id: str) -> NotFound:
    """The error for a run that is not under way here, or not the caller's."""
    return NotFound(
        f"No run of task {task_id} is under way in this process",
        remedy="It has ended, or goes on elsewhere: claim again",
        field="task_id",
    )
