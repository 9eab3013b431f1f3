"""The in-memory host: the port as simply as it can be said.

All that must outlive a crash is bytes in a `Store`, changed by one commit at a time; the rest is dropped by
`crash` and made again by `start`. A turn goes: take a letter, run the turn on the actor's state, encode what
came of it, commit, tell. Each actor's letters are taken by one task, one after another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json

from meshwright.bus import Bus
from meshwright.clock import Clock, SystemClock
from meshwright.encoding import MAX_RECORD_BYTES, as_json
from meshwright.envelope import ActorRef, Message, Record
from meshwright.errors import Draining, HostError, MailboxFull, StoreFailed
from meshwright.events.log import EventLog
from meshwright.host import Listener, Signals, Subscription
from meshwright.hosts.memory.actors import Actors, Done
from meshwright.hosts.memory.alarms import Alarms
from meshwright.hosts.memory.faults import Faults
from meshwright.hosts.memory.mailbox import Letter, Mailbox
from meshwright.hosts.memory.outbox import Outbox
from meshwright.hosts.memory.store import Changes, Store
from meshwright.messages import Event, new_id
from meshwright.sql.database import Database
from meshwright.turns import ActorKind, seal_events, seal_message, seal_record


class MemoryHost:
    """Runs actors in this process, without a file.

    `log` gets every event before anybody is told of it; its `database`, if given, is opened by `start` and
    closed by `stop`, but not by a crash. `faults` brings about what may go wrong. `max_mailbox` bounds what
    may wait for one actor before calls and sends are refused. Hosts that share a `store` stand for workers
    that share a database: the head's revision guards each commit.
    """

    name = "memory"

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        log: EventLog | None = None,
        database: Database | None = None,
        faults: Faults | None = None,
        max_mailbox: int = 1000,
        store: Store | None = None,
        max_record_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.incarnation = new_id()
        self.on_failure: Callable[[StoreFailed], None] = lambda error: None
        self._faults = faults or Faults()
        self._max_mailbox = max_mailbox
        self.max_record_bytes = max_record_bytes
        self._store = store or Store()
        self._bus = Bus()
        self._outbox = Outbox(self._store, log, database)
        self._actors = Actors(self._store, self._bus, self.clock, self._faults, max_record_bytes)
        self._alarms = Alarms(self.clock, self._begin, self._ring)
        self._worker: Signals | None = None
        self._mailboxes: dict[ActorRef, Mailbox] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._replies: set[asyncio.Future[Any]] = set()
        self._started = False
        self._lost = False
        self._open = False
        self._refusal: HostError | None = Draining("the host has not been started")

    # What the port asks for

    def register(self, kind: ActorKind) -> None:
        """Make a type of actor known. Raises ValueError when the type is taken."""
        if kind.type in self._actors.kinds:
            raise ValueError(f"actor type {kind.type!r} is registered already")
        self._actors.kinds[kind.type] = kind

    def know(self, kind: ActorKind) -> None:
        """Nothing lives elsewhere: this host is alone."""

    def subscribe(self, subscription: Subscription) -> None:
        """Send the events of a pattern to actors, durably."""
        self._bus.subscribe(subscription)

    def listen(self, pattern: str, listener: Listener, types: Collection[str] = ()) -> Callable[[], None]:
        """Call back for each event committed from now on; the result ends it."""
        return self._bus.listen(pattern, listener, types)

    def attach(self, worker: Signals) -> None:
        """Give the signals of turns to this worker."""
        self._worker = worker

    async def start(self) -> None:
        """Take up what the store holds: events for the log, alarms, obligations, and messages."""
        await self._outbox.open()
        self._begin_incarnation()
        await self._outbox.tell()
        self._lost = self._faults.may_lose
        self._open, self._refusal = True, None
        for ref, head in self._store.heads():
            self._alarms.set(ref, head.wake_at)
        self._to_obliged("recover")
        for n, data in self._store.mail():
            self._deliver([Letter(Message.decode(data), n)])

    async def stop(self) -> None:
        """Take nothing new, let the turns under way commit, and refuse the calls that still wait."""
        await self._close(
            Draining("the host has stopped", remedy="try again when it is up: nothing was taken")
        )
        await self._outbox.close()

    async def crash(self) -> None:
        """End as by kill -9: what is not committed is gone. Waiting calls raise HostError."""
        for task in self._tasks:
            task.cancel()
        await self._close(
            HostError("the host has crashed", remedy="start it again: what it accepted goes on")
        )

    async def restart(self) -> None:
        """Crash, and start again on what is committed, under a new incarnation."""
        await self.crash()
        await self.start()

    def lapse(self) -> None:
        """Go on under a new incarnation, as a worker that was stopped for longer than its lease."""
        if self._worker is not None:
            self._worker.lease_lost()
        self._begin_anew()

    async def call(
        self, ref: ActorRef, method: str, body: Any = None, *, traceparent: str | None = None
    ) -> Any:
        """Run a turn and return its reply, once what it rests on is committed."""
        self._admit(ref)
        data = None if body is None else as_json(ref, body)
        message = Message(new_id(), ref, method, data, traceparent=traceparent)
        reply = self._expect_reply()
        self._deliver([Letter(message, reply=reply)])
        return await reply

    async def send(self, message: Message) -> None:
        """Take a message from outside; its actor drops it if it took one of that id before."""
        self._admit(message.to)
        data = seal_message(message, self.max_record_bytes).encode()
        [n] = self._store.commit(Changes(mail=[data]))
        self._deliver([Letter(Message.decode(data), n)])

    async def publish(self, event: Event) -> None:
        """Take an event from outside, unless one of its id is known."""
        self._check()
        await self._told(self._actors.publish(seal_events([event], self.max_record_bytes)))

    def emit(self, events: Sequence[Event]) -> Awaitable[None]:
        """Take events that this process makes, each once; await the result to know them durable."""
        self._check_open()
        return self._told(self._actors.emit(seal_events(events, self.max_record_bytes, mend=True)))

    def broadcast(self, event: Event) -> None:
        """Show an event to the listeners of every host on the store; it is not kept."""
        self._outbox.show(event)

    async def read(self, ref: ActorRef) -> BaseModel | None:
        """The actor's committed state, or None if it never had a turn."""
        self._check_open()
        head = self._store.head(ref)
        return self._actors.kind(ref).decode_state(head.state) if head.revision else None

    def append(self, record: Record, events: Sequence[Event] = ()) -> Awaitable[None]:
        """Write a record outside a turn, and events with it, before any later turn."""
        self._check_open()
        record = seal_record(record, self.max_record_bytes)
        return self._told(self._actors.append(record, seal_events(events, self.max_record_bytes)))

    async def records(
        self, ref: ActorRef, stream: str, *, first: int = 1, last: int | None = None
    ) -> list[Record]:
        """The records of a stream from one number to another, in order; to its end without `last`."""
        rows = self._store.records((ref, stream), first, last)
        return [Record(ref, stream, n, from_json(value)) for n, value in rows]

    async def has_expired(self, incarnation: str) -> bool:
        """Whether that run has ended."""
        return incarnation not in self._store.running

    # Delivering

    def _check(self) -> None:
        if self._refusal is not None:
            raise self._refusal

    def _check_open(self) -> None:
        if not self._open:
            self._check()

    def _admit(self, ref: ActorRef) -> None:
        self._check()
        self._actors.kind(ref)
        waiting = len(self._mailboxes.get(ref, ()))
        if waiting >= self._max_mailbox:
            raise MailboxFull(f"{ref} has {waiting} messages waiting", remedy="try again in a moment")

    def _deliver(self, letters: Sequence[Letter]) -> None:
        """Put letters into mailboxes. A host that stops leaves them in the store, for its next start."""
        if self._refusal is not None:
            return
        for letter in letters:
            ref = letter.message.to
            if ref not in self._mailboxes:
                self._mailboxes[ref] = Mailbox(self._faults)
                self._begin(self._take_all(ref, self._mailboxes[ref]), f"mailbox {ref}")
            self._mailboxes[ref].put(letter)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Watch the host's own tasks: if one fails, nothing can be promised any more."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(self._refusal, StoreFailed):
            failure = (
                error if isinstance(error, StoreFailed) else StoreFailed(f"{task.get_name()}: {error!r}")
            )
            self._refuse_all(failure)
            self.on_failure(failure)
        if self._lost and not self._mailboxes:
            self._lost = False
            self._to_obliged("redrive")

    def _expect_reply(self) -> asyncio.Future[Any]:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._replies.add(reply)
        reply.add_done_callback(self._has_reply)
        return reply

    def _has_reply(self, reply: asyncio.Future[Any]) -> None:
        self._replies.discard(reply)
        if not reply.cancelled():
            reply.exception()  # looked at, since not everybody waits for what they append

    def _refuse_all(self, reason: HostError) -> None:
        self._refusal = reason
        for reply in self._replies:
            if not reply.done():
                reply.set_exception(reason)

    # Turns

    async def _take_all(self, ref: ActorRef, mailbox: Mailbox) -> None:
        """Take an actor's letters, one turn at a time."""
        while self._refusal is None and len(mailbox):
            letter = mailbox.take()
            if letter is not None:
                await self._take(letter)
            await asyncio.sleep(0)
        self._mailboxes.pop(ref, None)

    async def _take(self, letter: Letter) -> None:
        try:
            done = self._actors.run(letter)
        except Exception as error:  # noqa: BLE001 whatever a turn raises goes to its caller or the dead letters
            if letter.reply is None:
                await self._tell(self._actors.refuse(letter, error))
            elif not letter.reply.done():
                letter.reply.set_exception(error)
        else:
            await self._tell(done, letter.reply)

    async def _tell(self, done: Done, reply: asyncio.Future[Any] | None = None) -> None:
        """Tell what is committed. A crash in here loses signals and the reply, and nothing else."""
        commit = done.commit
        self._lost = self._lost or done.lost
        crashes = commit is not None and self._faults.restarts()
        if commit is not None and not crashes:
            self._signal(commit.ref, commit.early)
        await self._outbox.tell()
        if commit is not None and done.sets_alarm:
            self._alarms.set(commit.ref, commit.head.wake_at)
        self._deliver(done.letters)
        if commit is not None and not crashes:
            self._signal(commit.ref, commit.after_commit)
        if reply is not None and not reply.done():
            reply.set_result(commit.reply if commit is not None else None)
        if crashes:
            self._begin_anew()

    def _told(self, done: Done) -> asyncio.Future[Any]:
        """Tell what is committed even if nobody waits for it any more."""
        told = self._expect_reply()
        self._begin(self._tell(done, told), "telling")
        return told

    def _signal(self, ref: ActorRef, signals: Sequence[Any]) -> None:
        if self._worker is not None:
            for signal in signals:
                self._worker.signal(ref, signal)

    def _ring(self, ref: ActorRef, when: datetime) -> None:
        self._deliver([Letter(Message(new_id(), ref, "wake"), alarm=when)])

    # Beginning and ending

    def _begin_incarnation(self) -> None:
        if self._started:
            self._store.running.pop(self.incarnation, None)
            self.incarnation = new_id()
        self._started = True
        self._store.running[self.incarnation] = self._bus

    def _to_obliged(self, method: str) -> None:
        """Give every actor with something outstanding a turn."""
        for ref, head in self._store.heads():
            if head.has_pending_work:
                self._deliver([Letter(Message(f"{method}/{self.incarnation}", ref, method))])

    def _begin_anew(self) -> None:
        """Be as after a crash, except that messages, calls and listeners go on."""
        self._begin_incarnation()
        self._actors.drop()
        self._to_obliged("recover")

    async def _close(self, reason: HostError) -> None:
        self._refusal = reason
        self._alarms.clear()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._refuse_all(reason)
        self._open = False
        self._mailboxes.clear()
        self._actors.drop()
        self._store.running.pop(self.incarnation, None)
