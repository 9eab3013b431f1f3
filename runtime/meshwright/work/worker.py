"""The worker of a process: grants its slots, claims, runs, and commits the end of what it ran."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from meshwright.core import topics
from meshwright.core.encoding import encode, too_large
from meshwright.core.errors import Draining, HostError, MailboxFull, StoreFailed, TooLarge
from meshwright.core.messages import Event, Fault, Outcome, new_id
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.work.journal import Journal
from meshwright.work.protocol import Claim, Completed, Grant, Stop, Suspend, TaskKey, Work, tenant_of
from meshwright.work.record import DispatchedTask, ThreadState
from meshwright.work.slots import Offer, SlotTable, Watch, Withdraw
from meshwright.work.thread import unsuccessful
from meshwright.work.waits import Suspended

logger = logging.getLogger("meshwright.work")

MAILBOX_RETRY_SECONDS = 0.05
BROKEN_OFF_RETRY_SECONDS = 1.0
_OUTCOMES_A_RECORD = 2  # an outcome is stored beside its task, so it may have half of a record
_MAX_BREAKS = 3  # of one attempt, by faults that are no outcome; then it fails
_LETTING_GO_SECONDS = 1.0  # for work that was cancelled by a stop
_LOOK_SECONDS = 2.0  # between two looks whether the worker is gone that has a task
_STOPPING = "work.stopping"  # shown to all processes, since the turn that stops work runs in any of them

Runner = Callable[[ActorRef, Work, Journal], Awaitable[Completed]]
"""Runs a claimed task to its end. It never raises for what went wrong with the task: that is an outcome.

It may raise `Suspended`; cancelled by `Stop`, it returns the outcome of a cancelled task.
"""


@dataclass(slots=True)
class Running:
    """Work under way: the asyncio task, the fence it claimed, and the fence that has to stop.

    Only while it is `interruptible` may the asyncio task be cancelled: not while it claims or commits.
    """

    task: asyncio.Task[None]
    fence: int = 0
    stopped_fence: int = 0
    interruptible: bool = False
    let_go: bool = False

    def cancel(self) -> None:
        """Leave the work as it is, for the next start."""
        self.let_go = True
        self.task.cancel()

    @property
    def stopped(self) -> bool:
        """Whether its claimed work has to stop."""
        return self.stopped_fence >= self.fence > 0


class Worker:
    """Takes the signals of turns, and works on what its slots allow, until it is drained."""

    def __init__(
        self,
        host: Runtime,
        run: Runner,
        slots_of: Callable[[str], int],
        codes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._host = host
        self._run = run
        self._codes = codes
        self._slots = SlotTable(slots_of)
        self._running: dict[tuple[ActorRef, str], Running] = {}
        self._again: dict[tuple[ActorRef, str], Offer] = {}
        self._breaks: dict[tuple[ActorRef, str], int] = {}
        self._held: dict[tuple[ActorRef, str], str] = {}
        self._watched: dict[tuple[ActorRef, str], asyncio.Task[None]] = {}
        self._draining = False
        self._listen_no_more = host.listen(topics.MESH, self._on_event, (_STOPPING,))

    @property
    def running(self) -> int:
        """How many tasks are being worked on."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many tasks wait for a slot."""
        return len(self._slots)

    def at_work(self, task: asyncio.Task[Any] | None) -> tuple[ActorRef, str] | None:
        """The thread and the task whose work an asyncio task is, if it is any. For any thread."""
        works = list(self._running.items())
        return next((key for key, running in works if running.task is task), None)

    def works(self) -> list[tuple[ActorRef, str]]:
        """All that is being worked on. For any thread."""
        return list(self._running)

    def held_before(self, ref: ActorRef, task_id: str, times: int, where: str) -> None:
        """Count work as broken off that held the event loop until its process had to end, so many times."""
        self._breaks[(ref, task_id)] = times - 1
        self._held[(ref, task_id)] = where

    def _check_held(self, key: tuple[ActorRef, str]) -> None:
        where = self._held.pop(key, None)
        if where is not None:
            raise LoopHeld(f"it held the event loop at {where} until its process was ended")

    def signal(self, ref: ActorRef, signal: Any) -> None:
        """Take a signal of a turn."""
        if isinstance(signal, Offer):
            self._take(signal)
        elif isinstance(signal, Watch):
            self._watch(signal.offer)
        elif isinstance(signal, Withdraw):
            self._slots.withdraw(ref, signal.task_id)
        elif isinstance(signal, Stop):
            self._stop(ref, signal)
            if signal.owner != self._host.incarnation:
                self._pass_on(ref, signal)

    def lease_lost(self) -> None:
        """Let go of all that runs or waits: this run of the worker has ended, though its process lives on."""
        self._slots.clear()
        for running in self._running.values():
            running.cancel()

    async def drain(self, seconds: float) -> None:
        """Start nothing more, let what runs end, and after that time leave the rest for the next start."""
        self._draining = True
        for watching in self._watched.values():
            watching.cancel()
        works = {running.task: running for running in self._running.values()}
        if works:
            _, unfinished = await asyncio.wait(works, timeout=seconds)
            for task in unfinished:
                works[task].cancel()
            await self._leave_behind(unfinished)
        self._listen_no_more()

    async def _leave_behind(self, cancelled: set[asyncio.Task[None]]) -> None:
        """Wait for cancelled work to let go, and no longer for what does not."""
        if cancelled:
            _, stubborn = await asyncio.wait(cancelled, timeout=_LETTING_GO_SECONDS)
            for task in stubborn:
                logger.warning("%s does not end when it is cancelled, and is left behind", task.get_name())

    def _take(self, offer: Offer) -> None:
        has_it = (offer.ref, offer.task_id) in self._running and offer.owner == self._host.incarnation
        if not has_it:
            self._slots.offer(offer)
            self._grant(offer.ref.type)

    def _grant(self, agent_id: str) -> None:
        while not self._draining:
            offer = self._slots.grant(agent_id)
            if offer is None:
                return
            key = (offer.ref, offer.task_id)
            if key in self._running:
                self._again[key] = offer  # such as answered while its being put aside becomes durable
                self._slots.release(agent_id)
                continue
            work = asyncio.create_task(self._work(offer), name=f"work {offer.task_id}")
            work.add_done_callback(partial(self._free, offer))
            self._running[key] = Running(work)

    def _free(self, offer: Offer, work: asyncio.Task[None]) -> None:
        """Give the slot of work to the next. Work that is cancelled before its first step ends here too."""
        key = (offer.ref, offer.task_id)
        del self._running[key]
        again = self._again.pop(key, None)
        if again is not None:
            self._slots.offer(again)
        self._slots.release(offer.ref.type)
        self._grant(offer.ref.type)

    async def _work(self, offer: Offer) -> None:
        key = (offer.ref, offer.task_id)
        work: Work | None = None
        try:
            work = await self._claim(offer)
            if work is not None:
                self._check_held(key)
                await self._carry_out(offer.ref, work, self._running[key])
            self._breaks.pop(key, None)
        except (StoreFailed, Draining) as error:
            logger.warning("work on task %s goes on at the next start: %s", offer.task_id, error)
        except HostError as error:
            logger.warning("work on task %s stops here and is taken up again: %s", offer.task_id, error)
            self._take_up_later(offer)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever an author's code raises: it must not loop, hang or be lost
            if self._running[key].let_go:
                raise
            await self._broke_off(offer, work, error)

    async def _broke_off(self, offer: Offer, work: Work | None, error: BaseException) -> None:
        """Take work up again that broke off; what does so again and again fails."""
        key = (offer.ref, offer.task_id)
        breaks = self._breaks[key] = self._breaks.get(key, 0) + 1
        reason = f"{type(error).__name__}: {error}".encode(errors="replace").decode()
        self._tell_break(offer, work, breaks, reason)
        try:
            logger.error(
                "work on task %s broke off (%d of %d)", offer.task_id, breaks, _MAX_BREAKS, exc_info=error
            )
        finally:  # a log handler of somebody else's may raise
            if breaks < _MAX_BREAKS:
                self._take_up_later(offer)
            else:
                await self._give_up(offer, work, breaks, reason)

    async def _give_up(self, offer: Offer, work: Work | None, breaks: int, reason: str) -> None:
        del self._breaks[offer.ref, offer.task_id]
        if work is None:
            return  # it cannot be claimed; its deadline ends it
        try:
            await self._call(offer.ref, "complete", self._failed(work, breaks, reason))
        except HostError as lost:
            logger.warning("work on task %s stops here and is taken up again: %s", offer.task_id, lost)
            self._take_up_later(offer)
        except Exception:  # whatever it is, trying for ever does not help; the task's deadline ends it
            logger.exception("task %s cannot be ended, and is left to its deadline", offer.task_id)

    def _failed(self, work: Work, breaks: int, reason: str) -> Completed:
        message = (
            f"the work broke off {breaks} times, the last time by {reason}. The mesh's log has the traceback"
        )
        fault = Fault(type="BrokeOff", message=message)
        unpriced = work.model_copy(update={"cost_usd": None})
        outcome = unsuccessful("failed", unpriced, work.dispatch.agent_id, fault, self._host.clock.now())
        return Completed(task_id=work.task.task_id, fence=work.fence, outcome=outcome)

    def _tell_break(self, offer: Offer, work: Work | None, breaks: int, reason: str) -> None:
        event = Event(
            id=f"{offer.ref}/{new_id()}",
            event_type="work.broke_off",
            topic=topics.TASK_PROGRESS,
            time=self._host.clock.now(),
            tenant_id=offer.tenant_id,
            task_id=offer.task_id,
            agent_id=offer.ref.type,
            aggregate_id=str(offer.ref),
            payload={
                "attempt": work.dispatch.attempt if work is not None else None,
                "error": reason,
                "breaks": breaks,
                "most": _MAX_BREAKS,
            },
        )
        try:
            self._host.emit([event])
        except (HostError, TooLarge) as lost:
            logger.warning("the log does not know that work on task %s broke off: %s", offer.task_id, lost)

    def _take_up_later(self, offer: Offer) -> None:
        again = replace(offer, owner=self._host.incarnation)
        asyncio.get_running_loop().call_later(BROKEN_OFF_RETRY_SECONDS, self.signal, offer.ref, again)

    def _watch(self, offer: Offer) -> None:
        key = (offer.ref, offer.task_id)
        if key not in self._watched and offer.owner != self._host.incarnation and not self._draining:
            self._watched[key] = asyncio.create_task(self._offer_once_gone(offer))

    async def _offer_once_gone(self, offer: Offer) -> None:
        """Offer a task that another worker has, once that is gone; no longer than it has it."""
        try:
            while offer.owner is not None:
                await asyncio.sleep(_LOOK_SECONDS)
                try:
                    state = await self._host.read(offer.ref)
                    inbox = state.inbox if isinstance(state, ThreadState) else []
                    if not any(
                        (entry.task_id, entry.owner) == (offer.task_id, offer.owner) for entry in inbox
                    ):
                        return
                    if await self._has_stopped(offer.owner):
                        self.signal(offer.ref, offer)
                        return
                except HostError as error:
                    logger.warning("task %s is looked at again later: %s", offer.task_id, error)
        finally:
            del self._watched[(offer.ref, offer.task_id)]

    async def _claim(self, offer: Offer) -> Work | None:
        """Ask for a task; None where it is not to be had. One whose owner lives is looked at again later."""
        if offer.owner is not None and not await self._has_stopped(offer.owner):
            self._watch(offer)
            return None
        code = self._codes.get(offer.ref.type)
        claim = Claim(task_id=offer.task_id, owner=self._host.incarnation, gone=offer.owner, code=code)
        grant: Grant | None = await self._call(offer.ref, "claim", claim, offer.traceparent)
        return None if grant is None else await self._read_task(offer.ref, grant)

    async def _read_task(self, ref: ActorRef, grant: Grant) -> Work | None:
        """The work of a grant, with a copy of the task of its own; None where there is no such task."""
        record = await self._host.read(TaskKey(tenant_of(ref), grant.task_id).ref, DispatchedTask)
        dispatch = None if record is None else record.dispatch(grant.attempt)
        if dispatch is not None and dispatch.task.generation == grant.generation:
            return Work.of(grant, dispatch, record.replaced(grant.attempt))
        message = f"the mesh has no attempt {grant.attempt} of task {grant.task_id}, though it was dispatched"
        fault = Fault(type="NotFound", message=message)
        outcome = unsuccessful("failed", grant, ref.type, fault, self._host.clock.now())
        await self._call(
            ref, "complete", Completed(task_id=grant.task_id, fence=grant.fence, outcome=outcome)
        )
        return None

    async def _has_stopped(self, owner: str) -> bool:
        """Whether that worker is not at it any more: it is gone, or it is this one, which would know."""
        return owner == self._host.incarnation or await self._host.has_expired(owner)

    async def _carry_out(self, ref: ActorRef, work: Work, running: Running) -> None:
        running.fence = work.fence
        traceparent = work.task.traceparent
        try:
            completed = await self._ended(ref, work, running)
        except Suspended as suspended:
            suspend = suspended.suspend
            try:
                await self._call(ref, "suspend", suspend, traceparent)
            except TooLarge as error:
                await self._call(ref, "complete", self._too_large(work, suspend, error), traceparent)
        else:
            if running.stopped and completed.outcome.status == "failed":  # by an error that the stop led to
                ended = completed.outcome.model_copy(update={"status": "cancelled", "error": _CANCELLED})
                completed = completed.model_copy(update={"outcome": ended})
            await self._complete(ref, work, completed)

    async def _complete(self, ref: ActorRef, work: Work, completed: Completed) -> None:
        """End an attempt. One whose outcome is too large fails: tried again it would be as large."""
        outcome, traceparent = completed.outcome, work.task.traceparent
        size, max_bytes = len(encode(outcome)), self._host.max_record_bytes // _OUTCOMES_A_RECORD
        try:
            if size > max_bytes:
                raise too_large(f"the outcome of task {outcome.task_id}", size, max_bytes)
            await self._call(ref, "complete", completed, traceparent)
        except TooLarge as error:
            await self._call(ref, "complete", self._too_large(work, outcome, error), traceparent)

    def _too_large(self, work: Work, ended: Outcome | Suspend, error: TooLarge) -> Completed:
        spent = work.model_copy(update={"usage": ended.usage, "cost_usd": ended.cost_usd})
        fault = Fault(type=error.code, message=str(error))
        outcome = unsuccessful("failed", spent, work.dispatch.agent_id, fault, self._host.clock.now())
        return Completed(task_id=work.task.task_id, fence=work.fence, outcome=outcome)

    async def _ended(self, ref: ActorRef, work: Work, running: Running) -> Completed:
        if running.stopped:
            return self._cancelled(work)
        running.interruptible = True
        try:
            return await until_stopped(self._run_journaled(ref, work))
        except Stopped:  # where no run could say what its calls cost: before it began, or as it ended
            return self._cancelled(work.model_copy(update={"cost_usd": None}))
        finally:
            running.interruptible = False

    async def _run_journaled(self, ref: ActorRef, work: Work) -> Completed:
        return await self._run(ref, work, await Journal.open(self._host, ref, work))

    def _cancelled(self, work: Work) -> Completed:
        fault = Fault(type="Cancelled", message="cancelled on request")
        outcome = unsuccessful("cancelled", work, work.dispatch.agent_id, fault, self._host.clock.now())
        return Completed(task_id=work.task.task_id, fence=work.fence, outcome=outcome)

    async def _call(self, ref: ActorRef, method: str, body: Any, traceparent: str | None = None) -> Any:
        """Call a turn of the protocol: it waits for a full mailbox to drain, since work must not be lost."""
        while True:
            try:
                return await self._host.call(ref, method, body, traceparent=traceparent)
            except MailboxFull:
                await asyncio.sleep(MAILBOX_RETRY_SECONDS)

    def _stop(self, ref: ActorRef, stop: Stop) -> None:
        running = self._running.get((ref, stop.task_id))
        if running is None or running.stopped:
            return
        running.stopped_fence = stop.fence
        if running.stopped and running.interruptible:
            running.task.cancel(_STOPPED)

    def _pass_on(self, ref: ActorRef, stop: Stop) -> None:
        """Show a stop to the worker that it is for. Should that miss it, the next redrive tells it again."""
        self._host.broadcast(
            Event(
                id=new_id(),
                event_type=_STOPPING,
                topic=topics.MESH,
                time=self._host.clock.now(),
                task_id=stop.task_id,
                agent_id=ref.type,
                aggregate_id=str(ref),
                payload=stop.model_dump(),
            )
        )

    def _on_event(self, event: Event) -> None:
        self._stop(ActorRef.parse(event.aggregate_id), Stop.model_validate(event.payload))


_STOPPED = "stopped"
_CANCELLED = Fault(type="Cancelled", message="cancelled on request")
ResultT = TypeVar("ResultT")


async def until_stopped(work: Awaitable[ResultT]) -> ResultT:
    """Await work; raises Stopped where `Stop` cancelled it, and leaves every other cancellation alone."""
    try:
        return await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if error.args == (_STOPPED,) and task is not None:
            task.uncancel()
            raise Stopped from error
        raise


class LoopHeld(Exception):
    """The work ran in an earlier process, whose event loop it held until that was ended."""


class Stopped(Exception):
    """The work has to end."""


__all__ = ["Runner", "Stopped", "Worker", "until_stopped"]
