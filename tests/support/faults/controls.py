"""Clients and runtimes that are broken on purpose, so that the oracle has something to find."""

from __future__ import annotations

import asyncio

from meshwright.core import topics
from meshwright.core.ids import derived_id
from meshwright.core.messages import Caller
from meshwright.engine.kernel.actor import Turn, turn
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work.protocol import Claim, Complete, Work
from meshwright.engine.work.thread import AgentThread
from meshwright.engine.work.worker import Running, Worker
from meshwright.money.account import LedgerEntry, LedgerReply
from meshwright.money.charging import AccountClient

ACK_ON_RECEIPT = "ack on receipt"  # the client counts a task as accepted before the mesh has it
ZOMBIES = "zombies"  # two workers run every task, and both commit
NO_FENCE = "zombies and no fence"  # ... and the thread takes it
LATE_BOOKS = "late books"  # budgets book what a call did cost only a moment later, as on a busy mesh
_LATE_SECONDS = 0.3


def task_id_of(key: str) -> str:
    """The id that a task gets by its key: a client can know it before anything is durable."""
    caller = Caller()
    return derived_id(caller.tenant_id, caller.source, key)


def break_on_purpose(control: str) -> None:
    """Break this process's runtime. To acknowledge too early is left to the client."""
    if control in (ZOMBIES, NO_FENCE):
        raise_the_dead()
    if control == NO_FENCE:
        take_any_end()
    if control == LATE_BOOKS:
        book_late()


def book_late() -> None:
    """Let each settlement reach its account only after a while."""
    book = AccountClient._book

    async def book_later(self: AccountClient, entries: tuple[LedgerEntry, ...]) -> LedgerReply:
        if any(entry.kind == "settle" for entry in entries):
            await asyncio.sleep(_LATE_SECONDS)
        return await book(self, entries)

    setattr(AccountClient, "_book", book_later)  # noqa: B010


def raise_the_dead() -> None:
    """Claim all work a second time, as if its worker had been thought dead, and let that one commit first."""
    carry_out = Worker._carry_out

    async def carry_out_twice(self: Worker, ref: ActorRef, work: Work, running: Running) -> None:
        claim = Claim(task_id=work.task.task_id, owner=work.owner, ended_owner=work.owner)
        grant = await self._claims.call(ref, "claim", claim)
        again = await self._claims.read_task(ref, grant)
        assert again is not None
        await carry_out(self, ref, work, running)
        await carry_out(self, ref, again, running)

    setattr(Worker, "_carry_out", carry_out_twice)  # noqa: B010


def take_any_end() -> None:
    """Let each thread commit whatever end it is given."""
    fenced = AgentThread.complete

    @turn
    def complete(self: AgentThread, turn: Turn, completed: Complete) -> bool:
        entry = self.state.entry(completed.task_id)
        if entry is not None:
            return fenced(self, turn, completed.model_copy(update={"fence": entry.fence}))
        turn.publish(topics.TASK_RESULTS, "attempt.ended", completed.outcome, task_id=completed.task_id)
        return True

    setattr(AgentThread, "complete", complete)  # noqa: B010
