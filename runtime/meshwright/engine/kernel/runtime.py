"""The runtime: runs actors on a store, the same on every store.

Its promises are in `meshwright.engine.kernel.guarantees`; tests/contract holds it to them on each store.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from meshwright.core.clock import Clock, SystemClock
from meshwright.core.encoding import MAX_RECORD_BYTES, as_json
from meshwright.core.errors import Draining, HostError, MailboxFull, StoreFailed, StoreUnavailable
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.patience import is_patient, patiently
from meshwright.core.tracing import NoTracing, Tracing
from meshwright.engine.kernel.access import StoreAccess
from meshwright.engine.kernel.actor import TurnReservation
from meshwright.engine.kernel.cells import IDLE_SECONDS, Cell, Cells, Surroundings, missing_type, settle
from meshwright.engine.kernel.envelope import ActorRef, Message
from meshwright.engine.kernel.exclusive_executor import ExclusiveExecutor
from meshwright.engine.kernel.guarantees import Bus, Listener, Signals, Subscription
from meshwright.engine.kernel.shared_executor import SharedExecutor
from meshwright.engine.kernel.store import Delivery, ExclusiveStore, SharedStore, Store, TopicTaker
from meshwright.engine.kernel.timers import Timers
from meshwright.engine.kernel.turns import ActorKind, seal_events, seal_message

logger = logging.getLogger("meshwright.kernel")

_RECOVERED_A_ROUND = 100
RETRY_SECONDS = 1.0
_BEGIN_SECONDS = 10.0  # that what comes from outside waits for a new incarnation
_LOOK_SECONDS = 0.05  # between looks whether the store is back
_MAX_ACTIVE_BYTES = 64 * 1024 * 1024  # of the states of active actors, as JSON


class Runtime(StoreAccess):
    """Runs actors on a store. Register kinds and subscriptions first, then `start`.

    `tracing` records a span of each turn that belongs to a trace. `max_mailbox` bounds what may wait for one
    actor before calls and messages from outside are refused. Idle actors are evicted after a minute, or
    sooner where more than `max_active` are active or their states have more than `max_active_bytes`, and
    those without pending work where there are more than `max_resting`, and than a quarter of those with it.
    `strict`: bodies and replies of calls go through JSON, as they do where actors run in other processes; for
    tests.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock | None = None,
        tracing: Tracing | NoTracing | None = None,
        max_mailbox: int = 1000,
        max_active: int = 5000,
        max_active_bytes: int = _MAX_ACTIVE_BYTES,
        max_resting: int = 250,
        max_record_bytes: int = MAX_RECORD_BYTES,
        strict: bool = False,
    ) -> None:
        self.name = store.name
        self.clock: Clock = clock or SystemClock()
        self.incarnation = new_id()
        self.max_record_bytes = max_record_bytes
        self.on_failure: Callable[[StoreFailed], None] = lambda error: None
        self.bus = Bus()
        self._topic_takers: dict[str, TopicTaker] = {}
        self.topic_takers: Mapping[str, TopicTaker] = self._topic_takers
        self.forwards = isinstance(store, SharedStore) and store.forwards
        self.has_broker = store.has_broker
        self.deletes_actors = store.deletes_actors
        self._store = store
        self._max_mailbox = max_mailbox
        self._strict = strict
        self._cells = Cells(max_active, max_active_bytes, max_resting, store.evict)
        self.kinds: Mapping[str, ActorKind] = self._cells.kinds
        self.remote_kinds: Mapping[str, ActorKind] = self._cells.remote_kinds
        self._timers = Timers(self.clock, self._load_alarms, self._ring)
        self._worker: Signals | None = None
        self._signal_takers: dict[str, Callable[[Any], None]] = {}
        self._calls = itertools.count(1)
        self._former: set[str] = set()
        self._refusal: HostError | None = Draining("the mesh is not running", remedy=_TRY_AGAIN)
        self._is_open = self._is_draining = self._is_lost = False
        self._begun = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tracing = tracing
        self._executor = self._new_executor()

    def _new_executor(self) -> ExclusiveExecutor | SharedExecutor:
        around = Surroundings(
            cells=self._cells,
            bus=self.bus,
            timers=self._timers,
            clock=self.clock,
            tracing=self._tracing,
            max_record_bytes=self.max_record_bytes,
            strict=self._strict,
            signal=self._signal,
            reserve=self._reserve,
            fail=self.fail,
            recover=self._recover_unless_lost,
            incarnation=lambda: self.incarnation,
        )
        if isinstance(self._store, ExclusiveStore):
            return ExclusiveExecutor(self._store, around)
        assert isinstance(self._store, SharedStore)
        return SharedExecutor(self._store, around)

    @property
    def is_shared(self) -> bool:
        """Whether other processes may work on the same data."""
        return isinstance(self._store, SharedStore)

    def had_incarnation(self, incarnation: str) -> bool:
        """Whether this process had that incarnation, before it lost its lease."""
        return incarnation in self._former

    @property
    def active(self) -> int:
        """How many actors are in memory."""
        return len(self._cells)

    # What is known before the start

    def register(self, kind: ActorKind) -> None:
        """Make a type of actor known that runs here. Raises ValueError when the type is taken."""
        if kind.type in self.kinds:
            raise ValueError(f"actor type {kind.type!r} is registered already")
        self._cells.kinds[kind.type] = kind

    def register_remote(self, kind: ActorKind) -> None:
        """Make a type of actor known that runs in other processes, so that it can be called and read.

        If the store forwards no calls, a called turn runs here without its signals, and a process that runs
        the type is asked to recover the actor. Messages wait for such a process.
        """
        self._cells.remote_kinds[kind.type] = kind

    def subscribe(self, subscription: Subscription) -> None:
        """Send the events of a pattern to actors, durably."""
        self.bus.subscribe(subscription)

    def take_topic(self, topic: str, taker: TopicTaker) -> None:
        """Take what other programs publish on a topic of the broker. Each message goes to one process."""
        self._topic_takers[topic] = taker

    def listen(
        self, pattern: str, listener: Listener, types: Collection[str] = (), *, sealed: bool = False
    ) -> Callable[[], None]:
        """Call back for each event committed from now on, of some types or of all; the result ends it.

        A listener gets a copy with plain data or, `sealed`, the event as it is kept.
        """
        return self.bus.listen(pattern, listener, types, sealed=sealed)

    def attach(self, worker: Signals) -> None:
        """Give the signals of turns to this worker."""
        self._worker = worker

    def take_signals(self, actor_type: str, take: Callable[[Any], None]) -> None:
        """Give the signals of actors of a type to this taker, not to the worker; it may not raise."""
        self._signal_takers[actor_type] = take

    # Lifetime

    async def start(self) -> None:
        """Open the store, resume the work of the run before, and begin to run turns.

        Raises StoreLocked, StoreTooNew, StoreFailed or StoreUnavailable.
        """
        await self.open()
        # Others may have adopted the work of the former run, and take its name for one that has ended.
        if self.incarnation in self._former:
            self.incarnation = new_id()
        try:
            await self._begin()
            await self._store.ready()
        except BaseException:  # a cancelled start too must give the store back
            await self._close()
            raise
        self._run(self._trim_idle(), "idle actors")

    async def open(self) -> None:
        """Open the store, for `read` alone: no work is resumed. `stop` closes it."""
        await self._store.open(self)
        self._executor = self._new_executor()
        self._is_open = True
        self._is_draining = False

    async def stop(self) -> None:
        """Accept nothing new, let turns under way commit, and close. Idempotent."""
        if not self._is_open:
            return
        self._is_draining = True
        self._refusal = self._refusal or Draining("the mesh is stopping", remedy=_TRY_AGAIN)
        # From outside inwards: duties, alarms and mail end before the turns that they would ask for.
        await self._cancel_tasks()
        await self._timers.stop()
        await self._store.drain()
        await self._executor.drain()
        await self._close()

    async def crash(self) -> None:
        """End as kill -9 would, but keep the process: nothing more is committed, and callers get an error."""
        self._refusal = HostError(
            "the runtime has crashed", remedy="start it again: what it accepted goes on"
        )
        await self._executor.abandon(self._refusal)
        await self._cancel_tasks()
        await self._timers.stop()
        await self._close(abrupt=True)

    async def _close(self, *, abrupt: bool = False) -> None:
        self._is_open = False
        self._former.add(self.incarnation)
        self._refusal = self._refusal or Draining("the mesh is not running", remedy=_TRY_AGAIN)
        await self._executor.abandon(self._refusal)
        self._cells.clear()
        await self._store.close(abrupt=abrupt)

    async def _begin(self) -> None:
        takeover = await self._store.begin(self.incarnation)
        if isinstance(self._executor, ExclusiveExecutor):
            self._executor.number_from(takeover.last_number)
        self._refusal = None
        # Callers that wait go on at the next `await`: by then older messages are in the mailboxes.
        self._begun.set()
        for delivery in takeover.messages:
            delivery.is_written = True
            self.deliver(delivery)
        self._timers.start()
        self.wake(takeover.pending[:_RECOVERED_A_ROUND], "recover")
        self._run(self._recover(takeover.pending[_RECOVERED_A_ROUND:]), "recovery")

    async def _recover(self, pending: Sequence[ActorRef]) -> None:
        """Wake every actor with pending work, some at a time so that others get their turn."""
        for start in range(0, len(pending), _RECOVERED_A_ROUND):
            await asyncio.sleep(0)
            self.wake(pending[start : start + _RECOVERED_A_ROUND], "recover")

    def lease_lost(self, *, tell_worker: bool = True) -> None:
        """Begin a new incarnation, since others may have taken over this one's work."""
        if not self._begun.is_set() or self._is_draining:
            return
        # First of all: the signals of the new incarnation must not meet the work of the old one.
        if tell_worker and self._worker is not None:
            self._worker.lease_lost()
        self._former.add(self.incarnation)
        self.incarnation = new_id()
        self._begun.clear()
        self._is_lost = True
        for cell in self._cells:
            # A busy one is compared as it commits: if others changed it meanwhile, that is a Conflict.
            if not cell.queued:
                self._cells.forget(cell)
        self._run(self._begin_incarnation(), "new incarnation")

    async def _begin_incarnation(self) -> None:
        await self._timers.stop()
        waits = False
        while not self._begun.is_set():
            # From here on a commit may end too late for the list of pending actors that `_begin` reads.
            self._is_lost = False
            try:
                await self._begin()
            except StoreFailed as error:
                return self.fail(error)
            except HostError as error:
                if not waits:
                    logger.warning("The store is away, and is tried again every second: %s", error)
                waits = True
                await asyncio.sleep(RETRY_SECONDS)
        if waits:
            logger.warning("The store is back: work goes on")
        return None

    def _recover_unless_lost(self, ref: ActorRef) -> None:
        """Wake an actor whose commit ended under another incarnation, where that did not find it already."""
        if not self._is_lost:
            self.wake([ref], "recover")

    def fail(self, error: StoreFailed) -> None:
        """Stop service: waiting callers get the error, and no new message is accepted."""
        first = not isinstance(self._refusal, StoreFailed)
        self._refusal = error
        self._executor.fail(error)
        if first:
            self.on_failure(error)

    # Asking and telling

    async def call(
        self, ref: ActorRef, method: str, body: Any = None, *, traceparent: str | None = None
    ) -> Any:
        """Run a turn and return its reply, once all that it rests on is durable.

        Not deduped: the turn itself must know a repeat. An error of the turn is raised here, with the
        actor unchanged; MailboxFull, Draining and StoreFailed may come instead.
        """
        if not self.is_ready:
            await self._entry()
        if self._strict and body is not None:
            body = as_json(ref, body)
        message = Message(f"call/{next(self._calls)}", ref, method, body, traceparent=traceparent)
        if self.forwards and ref.type in self.remote_kinds:
            assert isinstance(self._store, SharedStore)
            return await patiently(self._store.forward, message)
        return await self._executor.call(self.admit(ref), message)

    async def send(self, message: Message) -> None:
        """Take a message from outside: durable when this returns, and dropped if its id was taken before."""
        message = seal_message(message, self.max_record_bytes)
        if not self.is_ready:
            await self._entry()
        if message.to.type not in self.remote_kinds:
            self.admit(message.to)
        await patiently(self._executor.send, message)

    async def publish(self, event: Event) -> None:
        """Take an event from outside: into the log and to its subscribers, durable when this returns.

        Dropped if an event of its id was taken before.
        """
        [event] = seal_events([event], self.max_record_bytes)
        if not self.is_ready:
            await self._entry()
        await patiently(self._executor.publish, event)

    def emit(self, events: Sequence[Event]) -> Awaitable[None]:
        """Take events that this process makes, each once: into the log and to their subscribers.

        They are queued at once, in order, and not deduped; await the result to know them durable.
        """
        self._check_open()
        return self._executor.emit(seal_events(events, self.max_record_bytes, mend=True))

    async def hand_over(self, ref: ActorRef, worker: str) -> None:
        """Give an actor a `redrive` turn on another worker, or on another yet if that has gone."""
        self._check_open()
        assert isinstance(self._executor, SharedExecutor)
        message = Message(f"redrive/{self.incarnation}/{next(self._calls)}", ref, "redrive")
        await self._executor.hand_over(message, worker)

    async def has_expired(self, incarnation: str) -> bool:
        """Whether a run of a worker has ended for sure: its lease has run out or it has said goodbye."""
        if incarnation == self.incarnation:
            return False
        return incarnation in self._former or await self._store.has_expired(incarnation)

    # What stores ask

    def moved(self, ref: ActorRef) -> None:
        """Forget the record of an actor that another process has committed."""
        if isinstance(self._executor, SharedExecutor):
            self._executor.moved(ref)

    def deliver(self, delivery: Delivery) -> None:
        """Put a durable message, or a call from another process, into its mailbox. Never raises.

        A message to a type that does not run here stays in the store.
        """
        ref = delivery.message.to
        if ref.type in self.kinds:
            self._executor.deliver(self._cells.find(ref), delivery)
        elif delivery.is_call:
            settle(delivery.reply, None, missing_type(ref))

    def wake(self, refs: Iterable[ActorRef], turn: str) -> None:
        """Give actors a `recover`, `redrive` or `wake` turn; unregistered types are skipped."""
        for ref in refs:
            kind = self.kinds.get(ref.type)
            if kind is None or (turn == "recover" and not kind.recovers):
                continue
            message = Message(f"{turn}/{self.incarnation}/{next(self._calls)}", ref, turn)
            self._executor.deliver(self._cells.find(ref), Delivery(message))

    # Small parts

    @property
    def is_ready(self) -> bool:
        """Whether messages are taken now: it runs, and has its store and its lease."""
        return self._refusal is None and self._begun.is_set() and not self._store.is_away

    async def _entry(self) -> None:
        """Wait for an incarnation that begins, or a store that is away. Raises why nothing is taken."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_BEGIN_SECONDS):
                while self._refusal is None and not self._begun.is_set():  # it may be lost again meanwhile
                    await self._begun.wait()
                while self._refusal is None and self._store.is_away and not is_patient():  # noqa: ASYNC110 a store has no event for it
                    await asyncio.sleep(_LOOK_SECONDS)
        if self._refusal is not None:
            raise self._refusal
        if not self._begun.is_set():
            raise Draining("This worker could not renew its lease in time, and restarts", remedy=_TRY_AGAIN)
        if self._store.is_away and not is_patient():
            raise StoreUnavailable("The store is away", remedy=_TRY_AGAIN)

    def admit(self, ref: ActorRef) -> Cell:
        """Raise NotFound or MailboxFull where a message to this actor should be held back."""
        cell = self._cells.find(ref)
        waiting = len(cell.mailbox) + cell.arriving
        if waiting >= self._max_mailbox:
            raise MailboxFull(f"{ref} has {waiting} messages waiting", remedy="try again in a moment")
        return cell

    def _load_alarms(self, until: datetime) -> Iterable[tuple[ActorRef, datetime]]:
        try:
            return list(self._store.alarms(until))
        except StoreFailed as error:
            self.fail(error)
        except HostError as error:
            logger.warning("alarms are looked for again in a moment: %s", error)
        return []

    def _ring(self, ref: ActorRef) -> None:
        self.wake([ref], "wake")

    def _signal(self, ref: ActorRef, signals: Sequence[Any]) -> None:
        if ref.type not in self.kinds:
            return
        if (take := self._signal_takers.get(ref.type)) is not None:
            for signal in signals:
                take(signal)
        elif self._worker is not None:
            for signal in signals:
                self._worker.signal(ref, signal)

    def _reserve(self, ref: ActorRef, request: Any) -> TurnReservation | None:
        """Reserve a place of the worker. None while there is no incarnation that may own work."""
        if self._worker is None or ref.type not in self.kinds or not self.is_ready:
            return None
        return self._worker.reserve(request)

    async def _trim_idle(self) -> None:
        while True:
            await asyncio.sleep(IDLE_SECONDS / 2)
            self._cells.trim()

    def _run(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


_TRY_AGAIN = "try again when it is up: nothing was taken"
