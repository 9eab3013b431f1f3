"""How a worker gets tasks: by claims, and by reviews of threads that recover."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, Protocol, TypeVar

from meshwright.core.encoding import encode, too_large
from meshwright.core.errors import HostError, MailboxFull, TooLarge
from meshwright.core.messages import ENDED, Fault, Outcome, Usage
from meshwright.core.money import ZERO
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.earlier_records import has_steps
from meshwright.engine.work.entry import Entry, ThreadState, unsuccessful
from meshwright.engine.work.protocol import (
    Cancel,
    Claim,
    Complete,
    Grant,
    Suspend,
    TaskKey,
    Work,
    thread_tenant,
)
from meshwright.engine.work.record import DispatchedTask, TaskRecord
from meshwright.engine.work.slots import Offer

logger = logging.getLogger("meshwright.work")

MAILBOX_RETRY_SECONDS = 0.05
_OUTCOMES_A_RECORD = 2  # an outcome is stored beside its task, so it may have half of a record
CANCELLED = Fault(type="Cancelled", message="cancelled on request")
EndT = TypeVar("EndT", Outcome, Suspend)


class SettleResult(NamedTuple):
    """Whether an attempt may have changed something, and the estimated cost of calls that no run knows.

    Of an attempt that is over, `usage` and `cost_usd` are what it came to, the estimates included.
    """

    changed: bool
    estimated_usd: Decimal = ZERO
    usage: Usage = Usage()
    cost_usd: Decimal | None = None


class Settler(Protocol):
    """Settles the calls of models in claims of an attempt that no run has ended."""

    async def __call__(self, ref: ActorRef, work: Work, *, is_over: bool = False) -> SettleResult:
        """Settle them; none is made again where the attempt `is_over`. Raises HostError."""
        ...


class Claims:
    """The claims of one worker, which looks again at an offer by `watch` and takes it again by `retry`."""

    def __init__(
        self,
        runtime: Runtime,
        codes: Mapping[str, str],
        settle: Settler | None,
        watch: Callable[[Offer], None],
        retry: Callable[[Offer], object],
    ) -> None:
        self.held: dict[tuple[ActorRef, str], str] = {}
        """Why the process before ended, by the work that held its event loop."""
        self._runtime = runtime
        self._codes = codes
        self._settle = settle
        self._watch = watch
        self._retry = retry

    async def claim(self, offer: Offer) -> Work | None:
        """Ask for a task; None if the thread refuses it. If its owner lives, it is looked at again later."""
        if offer.owner is not None and not await self.has_stopped(offer.owner):
            self._watch(offer)
            return None
        claim = Claim(
            task_id=offer.task_id,
            owner=self._runtime.incarnation,
            ended_owner=offer.owner,
            code=self._codes.get(offer.ref.type),
            has_stalled=await self._has_stalled(offer),
            reason=self.held.pop(offer.key, offer.reason),
        )
        grant: Grant | None = await self.call(offer.ref, "claim", claim, offer.traceparent)
        # Settled between two claims: a turn cannot wait for the ledger.
        if grant is not None and grant.is_over:
            if (totals := await self._settle_over(offer, grant)) is None:
                return None
            claim = claim.model_copy(update={"is_settled": True, **totals})
            grant = await self.call(offer.ref, "claim", claim, offer.traceparent)
        return None if grant is None else await self.read_task(offer.ref, grant)

    async def _has_stalled(self, offer: Offer) -> bool:
        """Whether the claim before finished no step, and ended with its process or by a fault of the work."""
        # A claim that was lost with the lease of this process did not end with the process.
        is_lost = offer.owner != self._runtime.incarnation and self.is_own(offer.owner or "")
        if offer.owner is None or is_lost or not offer.has_crashed:
            return False
        return not await has_steps(self._runtime, offer.ref, offer.stream)

    async def read_task(self, ref: ActorRef, grant: Grant) -> Work | None:
        """The work of a grant, with a copy of the task of its own; None where that is over, or unknown."""
        status, work = await self._read_record(ref, grant)
        if work is not None and status not in ENDED:
            return work
        if work is not None:  # at its deadline; that it is over came to the thread before its dispatch
            await self.complete(ref, work, self.cancelled(await self.settled(ref, work)))
            return None
        message = f"the mesh has no attempt {grant.attempt} of task {grant.task_id}, though it was dispatched"
        fault = Fault(type="NotFound", message=message)
        outcome = unsuccessful("failed", grant, ref.type, fault, self._runtime.clock.now())
        await self.call(ref, "complete", Complete(task_id=grant.task_id, fence=grant.fence, outcome=outcome))
        return None

    async def _read_record(self, ref: ActorRef, grant: Grant) -> tuple[str, Work | None]:
        task = TaskKey(thread_tenant(ref), grant.task_id).ref
        record = await self._runtime.recent(task, DispatchedTask)
        work = None if record is None else record.work(grant)
        if work is None:  # perhaps another worker has dispatched it
            record = await self._runtime.read(task, DispatchedTask)
            work = None if record is None else record.work(grant)
        return ("" if record is None else record.status), work

    async def _settle_over(self, offer: Offer, grant: Grant) -> dict[str, Any] | None:
        """Settle the calls of an attempt that is over; None where that has to be tried again later.

        Returns what it came to, and whether it may have changed something.
        """
        try:
            _, work = await self._read_record(offer.ref, grant)
            return {} if work is None else await self._totals(offer.ref, work)
        except HostError as error:
            logger.warning("task %s ends once its calls can be settled: %s", offer.task_id, error)
            self._retry(offer)
            return None

    async def settled(self, ref: ActorRef, work: Work) -> Work:
        """Settle the calls of an attempt that is over; the work with what it came to."""
        return work.model_copy(update=await self._totals(ref, work))

    async def settled_stopped(self, ref: ActorRef, work: Work) -> Work:
        """Settle the calls of an attempt whose run could not say what they cost; the work without that."""
        changed = work.changed if self._settle is None else (await self._settle(ref, work)).changed
        return work.model_copy(update={"changed": changed, "cost_usd": None})

    async def _totals(self, ref: ActorRef, work: Work) -> dict[str, Any]:
        if self._settle is None:
            return {}
        result = await self._settle(ref, work, is_over=True)
        return {"changed": result.changed, "usage": result.usage, "cost_usd": result.cost_usd}

    async def settle_cut(self, ref: ActorRef, work: Work, end: EndT) -> EndT:
        """Settle the calls of claims whose process ended, as far as this one did not make them again.

        Returns the end of the run with the estimates; of a run that goes on the cost is unknown until then.
        """
        if self._settle is None or not (work.was_cut or work.is_cost_open):
            return end
        result = await self._settle(ref, work)
        if not result.estimated_usd or end.cost_usd is None:
            return end
        cost = None if isinstance(end, Suspend) else end.cost_usd + result.estimated_usd
        return end.model_copy(update={"cost_usd": cost})

    def is_own(self, owner: str) -> bool:
        """Whether that worker is or was this one, before it lost its lease."""
        return owner == self._runtime.incarnation or self._runtime.had_incarnation(owner)

    async def has_stopped(self, owner: str) -> bool:
        """Whether that worker is not at it any more: it is gone, or it is this one, which would know."""
        return owner == self._runtime.incarnation or await self._runtime.has_expired(owner)

    async def suspend(self, ref: ActorRef, work: Work, suspend: Suspend) -> None:
        """Put an attempt aside. One whose waits are too large fails."""
        traceparent = work.task.traceparent
        suspend = await self.settle_cut(ref, work, suspend)
        try:
            await self.call(ref, "suspend", suspend, traceparent)
        except TooLarge as error:
            await self.call(ref, "complete", self._too_large(work, suspend, error), traceparent)

    async def complete(self, ref: ActorRef, work: Work, completion: Complete) -> None:
        """End an attempt. One whose outcome is too large fails: tried again it would be as large."""
        outcome, traceparent = completion.outcome, work.task.traceparent
        size, max_bytes = len(encode(outcome)), self._runtime.max_record_bytes // _OUTCOMES_A_RECORD
        try:
            if size > max_bytes:
                raise too_large(f"the outcome of task {outcome.task_id}", size, max_bytes)
            await self.call(ref, "complete", completion, traceparent)
        except TooLarge as error:
            await self.call(ref, "complete", self._too_large(work, outcome, error), traceparent)

    def _too_large(self, work: Work, end: Outcome | Suspend, error: TooLarge) -> Complete:
        totals = {"usage": end.usage, "cost_usd": end.cost_usd, "changed": end.changed}
        spent = work.model_copy(update=totals)
        fault = Fault(type=error.code, message=str(error))
        outcome = unsuccessful("failed", spent, work.dispatch.agent_id, fault, self._runtime.clock.now())
        return Complete(task_id=work.task.task_id, fence=work.fence, outcome=outcome)

    def cancelled(self, work: Work) -> Complete:
        """The end of work that was cancelled on request."""
        agent_id, now = work.dispatch.agent_id, self._runtime.clock.now()
        outcome = unsuccessful("cancelled", work, agent_id, CANCELLED, now)
        return Complete(task_id=work.task.task_id, fence=work.fence, outcome=outcome)

    async def call(self, ref: ActorRef, method: str, body: Any, traceparent: str | None = None) -> Any:
        """Call a turn of the protocol: it waits for a full mailbox to drain, since work must not be lost."""
        while True:
            try:
                return await self._runtime.call(ref, method, body, traceparent=traceparent)
            except MailboxFull:
                await asyncio.sleep(MAILBOX_RETRY_SECONDS)


class Reviews:
    """Reviews threads that recover: they may have missed a cancel, or the end of a delegated task.

    Versions that dropped messages to agents that were not loaded have left such threads.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._due: dict[ActorRef, None] = {}
        self._reviewing: asyncio.Task[None] | None = None

    def add(self, ref: ActorRef) -> None:
        """Review a thread soon."""
        self._due[ref] = None
        if self._reviewing is None or self._reviewing.done():
            self._reviewing = asyncio.create_task(self._review_all(), name="review of threads")

    def stop(self) -> None:
        """Review no more: the next start does."""
        self._due.clear()
        if self._reviewing is not None:
            self._reviewing.cancel()

    async def _review_all(self) -> None:
        while self._due:
            ref = next(iter(self._due))
            del self._due[ref]  # before the read: if it recovers meanwhile it is reviewed again
            try:
                state = await self._runtime.read(ref)
                for entry in state.inbox if isinstance(state, ThreadState) else ():
                    await self._review(ref, entry)
                    await asyncio.sleep(0)  # a read need not wait, and others get their turn
            except HostError as error:
                logger.warning("%s is reviewed at the next start: %s", ref, error)
            except Exception:  # a defect in one thread must not end the review of the others
                logger.exception("%s could not be reviewed; the next start tries again", ref)

    async def _review(self, ref: ActorRef, entry: Entry) -> None:
        tenant_id = thread_tenant(ref)
        if entry.cancelled is None:
            record = await self._record(TaskKey(tenant_id, entry.task_id))
            attempt = None if record is None else record.open_attempt
            is_open = attempt is not None and attempt.attempt == entry.attempt
            if record is not None and (record.cancelling or not is_open):
                cancel = Cancel(task_id=entry.task_id, generation=entry.generation, attempt=entry.attempt)
                await self._runtime.call(ref, "cancel", cancel)
        for child_id in entry.children:
            record = await self._record(child := TaskKey(tenant_id, child_id))
            if record is not None and record.outcome is not None:
                await self._runtime.call(child.ref, "repeat_end")

    async def _record(self, key: TaskKey) -> TaskRecord | None:
        record = await self._runtime.read(key.ref)
        return record if isinstance(record, TaskRecord) and record.task is not None else None
