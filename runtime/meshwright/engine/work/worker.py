"""The worker of a process: grants its slots, claims, runs, and commits the end of what it ran."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from meshwright.core import topics
from meshwright.core.errors import Draining, HostError, MailboxFull, StoreFailed
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.logs import log_about
from meshwright.core.patience import be_patient
from meshwright.core.task_events import WorkStopping
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.claims import CANCELLED, Claims, Reviews, Settler
from meshwright.engine.work.earlier_records import has_steps
from meshwright.engine.work.entry import MAX_STALLED_CLAIMS, ThreadState
from meshwright.engine.work.journal import Journal
from meshwright.engine.work.protocol import Claim, Complete, Grant, Release, Stop, Work
from meshwright.engine.work.slots import SUSPECT_CLAIMS, Offer, Review, SlotTable, Suspects, Watch, Withdraw
from meshwright.engine.work.waits import RunSuspended

logger = logging.getLogger("meshwright.work")

BROKEN_OFF_RETRY_SECONDS = 1.0
_LETTING_GO_SECONDS = 1.0  # for work that was cancelled by a stop
ADOPTION_PAUSE_SECONDS = 2.0  # before work of another process that ended, which may have ended it
_LOOK_SECONDS = 2.0  # between two looks whether the worker is gone that has a task
_STOPPING = WorkStopping.event_type  # shown to all processes: the turn that stops work runs in any of them

Runner = Callable[[ActorRef, Work, Journal], Awaitable[Complete]]
"""Runs a claimed task to its end. It never raises for what went wrong with the task: that is an outcome.

It may raise `RunSuspended`; cancelled by `Stop`, it returns the outcome of a cancelled task.
"""


@dataclass(slots=True)
class Running:
    """Work under way: the asyncio task, the fence it claimed, and the fence that has to stop.

    Only while it is `interruptible` may the asyncio task be cancelled: not while it claims or commits.
    """

    task: asyncio.Task[None]
    fence: int = 0
    stalled_claims: int = 0
    stopped_fence: int = 0
    interruptible: bool = False
    let_go: bool = False
    journal: Journal | None = None

    def lose_claim(self) -> None:
        """Leave the work to its next claim, once what may not be repeated has ended."""
        self.let_go = True
        if self.journal is None:
            self.task.cancel()
        else:
            self.journal.lose_claim(self.task.cancel)

    def cancel(self) -> None:
        """Leave the work as it is, for the next start."""
        self.let_go = True
        self.task.cancel()

    @property
    def stopped(self) -> bool:
        """Whether its claimed work has to stop."""
        return self.stopped_fence >= self.fence > 0


class SlotReservation:
    """A slot for a task that is claimed in the turn that queues it; its work waits for the commit.

    The thread makes the grant of the claim, once.
    """

    __slots__ = ("claim", "committed", "grant")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.grant: Grant | None = None
        self.committed: asyncio.Future[Grant | None] = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        """Let the work begin: its claim is durable."""
        self._settle(self.grant)

    def give_back(self) -> None:
        """Free the slot: nothing was claimed."""
        self._settle(None)

    def _settle(self, grant: Grant | None) -> None:
        if not self.committed.done():  # the work may have been let go meanwhile
            self.committed.set_result(grant)


class Worker:
    """Takes the signals of turns, and works on what its slots allow, until it is drained."""

    def __init__(
        self,
        runtime: Runtime,
        run: Runner,
        slots_of: Callable[[str], int],
        codes: Mapping[str, str] = MappingProxyType({}),
        settle: Settler | None = None,
    ) -> None:
        self._runtime = runtime
        self._run = run
        self._codes = codes
        self.slots_of = slots_of
        """How many tasks of an agent run here at a time."""
        self._slots = SlotTable(slots_of)
        self._running: dict[tuple[ActorRef, str], Running] = {}
        self._again: dict[tuple[ActorRef, str], Offer] = {}
        self._suspects = Suspects(self._queue)
        self._adopting: dict[Offer, asyncio.Task[None]] = {}
        self._watched: dict[tuple[ActorRef, str], asyncio.Task[None]] = {}
        self._claims = Claims(runtime, codes, settle, self._watch, self._take_again)
        self._reviews = Reviews(runtime)
        self._draining = False
        self._holds: set[str] = set()
        self._listen_no_more = runtime.listen(topics.MESH, self._on_event, (_STOPPING,))

    @property
    def running(self) -> int:
        """How many tasks are being worked on."""
        return len(self._running)

    @property
    def is_drained(self) -> bool:
        """Whether it takes no work for as long as it lives, as in the process of a command."""
        return self._draining

    @property
    def waiting(self) -> int:
        """How many tasks wait for a slot, or for their turn to start alone."""
        return len(self._slots) + len(self._suspects)

    def loads(self) -> dict[str, int]:
        """How many tasks of each agent run or wait here, of the agents whose tasks it takes now."""
        if self._draining or self._holds:
            return {}
        loads = {agent_id: 0 for agent_id in self._codes if agent_id in self._runtime.kinds}
        for ref, _ in (*self._running, *self._slots.waiting):
            if ref.type in loads:
                loads[ref.type] += 1
        return loads

    def waiting_by_agent(self) -> Mapping[str, int]:
        """How many tasks of each agent wait for a slot here."""
        return Counter(ref.type for ref, _ in self._slots.waiting)

    def take_waiting(self, agent_id: str, count: int) -> Iterator[Offer]:
        """Take up to so many tasks out that wait for a slot, for another worker."""
        for _ in range(count):
            offer = self._slots.take(agent_id)
            if offer is None:
                return
            if offer.owner is not None:  # begun elsewhere: this worker adopts it
                self._slots.offer(offer)
                return
            yield offer

    def at_work(self, task: asyncio.Task[Any] | None) -> tuple[ActorRef, str] | None:
        """The thread and the task whose work an asyncio task is, if it is any. For any thread."""
        # A copy, made in one go: the loop of the worker changes it meanwhile.
        works = list(self._running.items())
        return next((key for key, running in works if running.task is task), None)

    def works(self) -> list[tuple[ActorRef, str]]:
        """All that is being worked on. For any thread."""
        return list(self._running)  # a copy, as above

    def stalled_claims(self, key: tuple[ActorRef, str]) -> int:
        """How many claims in a row, the present one included, finished no step of work. For any thread."""
        running = self._running.get(key)
        return 0 if running is None else running.stalled_claims

    def hold(self, reason: str = "") -> None:
        """Begin no work until `begin` for this reason: offers wait unclaimed, running work goes on."""
        self._holds.add(reason)

    def begin(self, reason: str = "") -> None:
        """End a hold; after the last one begin the work that has been offered, as far as there are slots."""
        self._holds.discard(reason)
        for agent_id in self._slots.agents:
            self._grant(agent_id)

    async def until_idle(self) -> None:
        """Return when nothing runs."""
        while works := [running.task for running in self._running.values()]:
            await asyncio.wait(works)
            await asyncio.sleep(0)  # a slot is given back right after its work has ended

    def held_before(self, ref: ActorRef, task_id: str, where: str) -> None:
        """Note why the process before ended: work held its event loop."""
        self._claims.held[ref, task_id] = f"it held the event loop at {where} until its process was ended"

    def signal(self, ref: ActorRef, signal: Any) -> None:
        """Take a signal of a turn."""
        if isinstance(signal, SlotReservation):
            signal.begin()
        elif isinstance(signal, Offer):
            self._take(signal)
        elif isinstance(signal, Watch):
            self._watch(signal.offer)
        elif isinstance(signal, Review):
            if not self._draining:
                self._reviews.add(signal.ref)
        elif isinstance(signal, Withdraw):
            self._slots.withdraw(ref, signal.task_id)
            self._suspects.withdraw((ref, signal.task_id))
        elif isinstance(signal, Stop):
            self._stop(ref, signal)
            if signal.owner != self._runtime.incarnation:  # the turn ran here, the work runs elsewhere
                self._pass_on(ref, signal)

    def reserve(self, request: Offer) -> SlotReservation | None:
        """Reserve a slot for a task that no worker has claimed; None if no slot is free."""
        agent_id = request.ref.type
        if self._draining or self._holds or request.key in self._running:
            return None
        if not self._slots.reserve(agent_id):
            return None
        owner, code = self._runtime.incarnation, self._codes.get(agent_id)
        reservation = SlotReservation(
            Claim(task_id=request.task_id, owner=owner, code=code, has_stalled=False)
        )
        self._start(request, reservation)
        return reservation

    def lease_lost(self) -> None:
        """Let go of all that runs or waits: this run of the worker has ended, though its process lives on."""
        # First, or each task that ends would begin the next under the lease that is lost.
        self._slots.clear()
        self._start_no_more()
        for running in self._running.values():
            running.lose_claim()

    async def drain(self, seconds: float) -> None:
        """Start nothing more, let what runs end, and after that time leave the rest for the next start."""
        self._draining = True
        self._start_no_more()
        for watching in self._watched.values():
            watching.cancel()
        works = {running.task: (key, running) for key, running in self._running.items()}
        if works:
            _, unfinished = await asyncio.wait(works, timeout=seconds)
            # Whatever was let go before has lost its claim with the lease.
            stopped = [works[task] for task in unfinished if not works[task][1].let_go]
            for task in unfinished:
                works[task][1].cancel()
            await self._leave_behind(unfinished)
            await asyncio.gather(*[self._release(*key, running.fence) for key, running in stopped])
        self._listen_no_more()

    def _start_no_more(self) -> None:
        self._reviews.stop()
        self._suspects.clear()
        for adopting in self._adopting.values():
            adopting.cancel()

    async def _leave_behind(self, cancelled: set[asyncio.Task[None]]) -> None:
        if cancelled:
            _, stubborn = await asyncio.wait(cancelled, timeout=_LETTING_GO_SECONDS)
            for task in stubborn:
                logger.warning("%s does not end when it is cancelled, and is left behind", task.get_name())

    async def _release(self, ref: ActorRef, task_id: str, fence: int) -> None:
        """Say that the process ends by a stop and not by this work; where that is lost, its claim counts."""
        with suppress(HostError, MailboxFull, TimeoutError):
            async with asyncio.timeout(_LETTING_GO_SECONDS):
                await self._runtime.call(ref, "release", Release(task_id=task_id, fence=fence))

    def _take(self, offer: Offer) -> None:
        # Its own work, offered again since the signal may have been lost.
        if offer.key in self._running and offer.owner == self._runtime.incarnation:
            return
        if offer.owner is None or not offer.stalled_claims or self._claims.is_own(offer.owner):
            self._queue(offer)
        elif offer not in self._adopting and not self._draining:
            adopting = asyncio.create_task(self._adopt(offer), name=f"adopt {offer.task_id}")
            adopting.add_done_callback(lambda _: self._adopting.pop(offer))
            self._adopting[offer] = adopting

    async def _adopt(self, offer: Offer) -> None:
        """Queue work of another process: at once if it finished a step there, else it may have ended that."""
        try:
            if await has_steps(self._runtime, offer.ref, offer.stream):
                self._queue(replace(offer, has_crashed=False))
            elif offer.stalled_claims == SUSPECT_CLAIMS:
                self._suspects.add(offer)
            else:
                await asyncio.sleep(ADOPTION_PAUSE_SECONDS if self._runtime.is_shared else 0)
                self._queue(offer)
        except HostError:  # its claim meets the same, and is tried again
            self._queue(offer)

    def _queue(self, offer: Offer) -> None:
        self._slots.offer(offer)
        self._grant(offer.ref.type)

    def _grant(self, agent_id: str) -> None:
        while not (self._draining or self._holds):
            offer = self._slots.grant(agent_id)
            if offer is None:
                return
            key = (offer.ref, offer.task_id)
            if key in self._running:
                self._again[key] = offer  # such as answered while its being put aside becomes durable
                self._slots.release(agent_id)
                continue
            self._start(offer)

    def _start(self, offer: Offer, reservation: SlotReservation | None = None) -> None:
        """Begin work in a slot that is taken for it."""
        work = asyncio.create_task(self._work(offer, reservation), name=f"work {offer.task_id}")
        work.add_done_callback(partial(self._free, offer))
        self._running[offer.key] = Running(work)

    def _free(self, offer: Offer, work: asyncio.Task[None]) -> None:
        """Give the slot of work to the next. Work that is cancelled before its first step ends here too."""
        key = (offer.ref, offer.task_id)
        del self._running[key]
        again = self._again.pop(key, None)
        if again is not None:
            self._slots.offer(again)
        self._slots.release(offer.ref.type)
        self._grant(offer.ref.type)
        self._suspects.passed(key)

    async def _work(self, offer: Offer, reservation: SlotReservation | None) -> None:
        key = (offer.ref, offer.task_id)
        work: Work | None = None
        try:
            be_patient()
            if reservation is None:
                work = await self._claims.claim(offer)
            elif (grant := await reservation.committed) is not None:
                work = await self._claims.read_task(offer.ref, grant)
            if work is not None:
                await self._carry_out(offer.ref, work, self._running[key])
        except (StoreFailed, Draining) as error:
            logger.warning("work on task %s stops here: %s", offer.task_id, error)
            if isinstance(error, StoreFailed) and error.is_away:
                self._take_up_later(replace(offer, has_crashed=False), work)
        except HostError as error:
            logger.warning("work on task %s stops here and is taken up again: %s", offer.task_id, error)
            self._take_up_later(replace(offer, has_crashed=False), work)  # by no fault of the work
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever an author's code raises: it must not loop, hang or be lost
            if self._running[key].let_go:
                raise
            self._broke_off(offer, work, error)

    def _broke_off(self, offer: Offer, work: Work | None, error: BaseException) -> None:
        """Take work up again that broke off; its thread fails what does so again and again."""
        stalled = work.stalled_claims if work is not None else offer.stalled_claims + 1
        reason = f"{type(error).__name__}: {error}".encode(errors="replace").decode()
        try:
            broke_off = "work on task %s broke off (%d of %d)"
            logger.error(broke_off, offer.task_id, stalled, MAX_STALLED_CLAIMS, exc_info=error)
        finally:  # a log handler of somebody else's may raise
            # Else it cannot be claimed: its deadline ends it.
            if work is not None or stalled < MAX_STALLED_CLAIMS:
                self._take_up_later(replace(offer, stalled_claims=stalled, reason=reason), work)

    def _take_up_later(self, offer: Offer, work: Work | None) -> None:
        stream = offer.stream if work is None else work.stream  # of the claim that is judged by its steps
        self._take_again(replace(offer, owner=self._runtime.incarnation, stream=stream))

    def _take_again(self, offer: Offer) -> None:
        asyncio.get_running_loop().call_later(BROKEN_OFF_RETRY_SECONDS, self.signal, offer.ref, offer)

    def _watch(self, offer: Offer) -> None:
        key = (offer.ref, offer.task_id)
        if key not in self._watched and offer.owner != self._runtime.incarnation and not self._draining:
            self._watched[key] = asyncio.create_task(self._offer_once_gone(offer))

    async def _offer_once_gone(self, offer: Offer) -> None:
        """Offer a task that another worker has, once that is gone; no longer than it has it."""
        try:
            while offer.owner is not None:
                await asyncio.sleep(_LOOK_SECONDS)
                try:
                    state = await self._runtime.read(offer.ref)
                    inbox = state.inbox if isinstance(state, ThreadState) else []
                    if not any(
                        (entry.task_id, entry.owner) == (offer.task_id, offer.owner) for entry in inbox
                    ):
                        return
                    if await self._claims.has_stopped(offer.owner):
                        self.signal(offer.ref, offer)
                        return
                except HostError as error:
                    logger.warning("task %s is looked at again later: %s", offer.task_id, error)
        finally:
            del self._watched[(offer.ref, offer.task_id)]

    async def _carry_out(self, ref: ActorRef, work: Work, running: Running) -> None:
        running.fence, running.stalled_claims = work.fence, work.stalled_claims
        log_about(work.task_id, work.task.traceparent)
        if work.was_cut and running.stopped:  # its costs have the estimates that `settle_cut` would add
            settled = await self._claims.settled(ref, work)
            await self._claims.complete(ref, work, self._claims.cancelled(settled))
            return
        try:
            completion = await self._run_to_end(ref, work, running)
        except RunSuspended as suspended:
            await self._claims.suspend(ref, work, suspended.suspend)
        else:
            outcome = await self._claims.settle_cut(ref, work, completion.outcome)
            if outcome is not completion.outcome:
                completion = completion.model_copy(update={"outcome": outcome})
            if running.stopped and completion.outcome.status == "failed":  # by an error that the stop led to
                cancelled = completion.outcome.model_copy(update={"status": "cancelled", "error": CANCELLED})
                completion = completion.model_copy(update={"outcome": cancelled})
            await self._claims.complete(ref, work, completion)

    async def _run_to_end(self, ref: ActorRef, work: Work, running: Running) -> Complete:
        if running.stopped:
            return self._claims.cancelled(work)
        running.interruptible = True  # until the run has ended: a commit is not cut off
        try:
            return await until_stopped(self._run_journaled(ref, work))
        except WorkStopped:  # where no run could say what its calls cost: before it began, or as it ended
            running.interruptible = False
            return self._claims.cancelled(await self._claims.settled_stopped(ref, work))
        finally:
            running.interruptible = False

    async def _run_journaled(self, ref: ActorRef, work: Work) -> Complete:
        on_step = partial(self._suspects.passed, (ref, work.task_id))
        journal = await Journal.open(self._runtime, ref, work, on_step)
        self._running[ref, work.task_id].journal = journal
        return await self._run(ref, work, journal)

    def _stop(self, ref: ActorRef, stop: Stop) -> None:
        running = self._running.get((ref, stop.task_id))
        if running is None:
            self._suspects.start_now((ref, stop.task_id))
            return
        if running.stopped:
            return
        running.stopped_fence = stop.fence  # also before it has its claim: `_run_to_end` compares
        if running.stopped and running.interruptible:
            running.task.cancel(_STOPPED)

    def _pass_on(self, ref: ActorRef, stop: Stop) -> None:
        """Show a stop to the worker that it is for. Should that miss it, the next redrive tells it again."""
        self._runtime.broadcast(
            Event(
                id=new_id(),
                event_type=_STOPPING,
                topic=topics.MESH,
                time=self._runtime.clock.now(),
                task_id=stop.task_id,
                agent_id=ref.type,
                aggregate_id=str(ref),
                payload=stop.model_dump(),
            )
        )

    def _on_event(self, event: Event) -> None:
        self._stop(ActorRef.parse(event.aggregate_id), Stop.model_validate(event.payload))


_STOPPED = "stopped"
ResultT = TypeVar("ResultT")


async def until_stopped(work: Awaitable[ResultT]) -> ResultT:
    """Await work; raises WorkStopped where `Stop` cancelled it, and leaves every other cancellation alone."""
    try:
        return await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if error.args == (_STOPPED,) and task is not None:
            task.uncancel()  # so that a later cancellation counts by itself
            raise WorkStopped from error
        raise


class WorkStopped(Exception):
    """The work has to end."""


__all__ = ["Runner", "WorkStopped", "Worker", "until_stopped"]
