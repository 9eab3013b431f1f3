"""The store port: what a technology must do so that the runtime can run actors on it.

The runtime owns mailboxes, activation, turns, alarms, recovery, dead letters, replies and draining; it is the
same on every store. A store keeps actor records, messages on their way, records of streams and events, and
changes them by one `commit` at a time.

**Exclusive or shared.** An ExclusiveStore has no other writer: turns run ahead of the disk, many turns of
many actors share one batch, and messages are delivered in the process before they are durable; only what
leaves the process waits. Several workers write a SharedStore: a batch holds the turns of one actor, or also
of actors that take what these send, and nothing of it is delivered before it is durable; the store then
delivers it, to this process or elsewhere.

**Conflict.** Actor records are compared and swapped: another worker may have changed the actor. The runtime
then loads it again and runs the same turns again. A turn runs where its message lands; placement is affinity.

**Delivery.** A message is kept until the batch that holds it in `taken_numbers` commits, so it is taken once
where it has a number. One to a type that no process runs is kept until one does. A message that may arrive
again under the same id (from a broker, an outbox or a client) is delivered with `remember`: its id is kept in
the record of its actor and a repeat changes nothing.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Protocol

import msgspec

from meshwright.core.errors import Conflict, NotFound, StoreFailed
from meshwright.core.events import Event
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message, Record
from meshwright.engine.kernel.guarantees import Bus
from meshwright.engine.kernel.turns import ActorKind

TopicTaker = Callable[[bytes], Awaitable[bool]]
"""Takes a message of another program; whether it may be acknowledged. After an exception it comes again."""


class Delivery(msgspec.Struct, eq=False):
    """A message on its way to its turn.

    `number` is its key in the store, in order of sending; None for a call, which no batch has to take.
    `remember`: it may arrive again, so its actor remembers its id. `reply` is set once the turn is durable:
    to what a call returns (`is_call`: the caller gets what the turn raises), else to None (what it raises
    becomes a dead letter). While the store is away, the turn of a call that `is_patient` runs again later,
    and the caller of any other gets an error. `is_written` and `is_taken` are the runtime's. `worker` is the
    incarnation that shall take it, empty for the worker of the actor.
    """

    message: Message
    number: int | None = None
    remember: bool = False
    is_call: bool = False
    reply: asyncio.Future[Any] | None = None
    is_written: bool = False
    is_taken: bool = False
    worker: str = ""
    is_patient: bool = False


@dataclass(slots=True)
class Batch:
    """The writes of one commit, all or nothing; bodies, payloads and values in it are `Json`.

    `actors`: the new record of each actor that changed. `expected`: the revision at which each actor must
    still be, also of actors that were only read, since replies rest on it; 0 for an actor without a record.
    `messages`: sent by turns, or made of events for their subscribers, in order of sending. `taken_numbers`:
    of the messages whose turns these are. `records`: where a number is written already, the first value
    stands. `events`: for the log, and where the store `routes_events` for their subscribers. `ahead`: actors
    that took messages of this batch itself, which must not overtake others: no message may wait for them.

    `unless`: write nothing, and raise nothing, where this record's number is written or an event of this id
    is known: so it is for a record or an event from outside a turn.
    """

    actors: dict[ActorRef, ActorRecord] = field(default_factory=dict)
    expected: dict[ActorRef, int] = field(default_factory=dict)
    messages: list[Delivery] = field(default_factory=list)
    taken_numbers: list[int] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    ahead: set[ActorRef] = field(default_factory=set)
    unless: Record | str | None = None

    def __bool__(self) -> bool:
        return bool(
            self.actors or self.expected or self.messages or self.taken_numbers or self.records or self.events
        )


class AlreadyTaken(Conflict):
    """Messages of a batch were taken before, by another worker or in an earlier attempt of the same commit.

    Nothing was written. The runtime drops these messages, loads the actor again and runs the other turns.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self.numbers = frozenset(numbers)
        super().__init__(f"messages {sorted(self.numbers)} were taken before")


@dataclass(slots=True)
class Takeover:
    """The work that an incarnation takes up as it begins.

    `messages` that were not taken yet, in order of sending, of the types that run here, and `pending`: the
    actors with pending work, which get a `recover` turn. `last_number` is the highest number that a message
    ever had; only exclusive stores must set it, since the runtime numbers their messages.
    """

    messages: Sequence[Delivery] = ()
    pending: Sequence[ActorRef] = ()
    last_number: int = 0


class Receiver(Protocol):
    """The runtime as a store sees it, on the event loop, between `open` and `close`."""

    incarnation: str
    bus: Bus
    """Its subscriptions and listeners: `bus.notify(event)` shows an event that is durable."""
    kinds: Mapping[str, ActorKind]
    """The actors that run in this process, by type."""
    remote_kinds: Mapping[str, ActorKind]
    """Actors that run, or ran, in other processes, by type: they can be called and read."""
    topic_takers: Mapping[str, TopicTaker]
    """Takes the messages that other programs publish, by the topic as the broker names it."""

    def admit(self, ref: ActorRef) -> object:
        """Raise NotFound or MailboxFull where a message to this actor should be held back."""
        ...

    def deliver(self, delivery: Delivery) -> None:
        """Put a durable message, or a call from another process, into its mailbox. Never raises.

        A message to a type that does not run here stays in the store: it is not taken.
        """
        ...

    def wake(self, refs: Iterable[ActorRef], turn: str) -> None:
        """Give actors a `recover`, `redrive` or `wake` turn; unregistered types are skipped."""
        ...

    def moved(self, ref: ActorRef) -> None:
        """Forget the record of an actor that another process has committed."""
        ...

    def lease_lost(self, *, tell_worker: bool = True) -> None:
        """Begin a new incarnation, since others may have taken over this one's work.

        The worker lets go of its work, actors are forgotten and `begin` is called again; until it returns,
        messages from outside wait.
        """
        ...

    def fail(self, error: StoreFailed) -> None:
        """Stop service: waiting callers get the error, and `on_failure` is called."""
        ...


class Store(ABC):
    """Keeps what actors leave behind. Implement SharedStore or ExclusiveStore."""

    name: ClassVar[str]
    """As the settings and `mesh` call it."""
    has_broker: ClassVar[bool] = False
    """Whether other programs may publish to topics of its broker, and subscribe to them."""
    deletes_actors: ClassVar[bool] = True
    """Whether the records of actors that are done can be deleted."""
    is_away: bool = False
    """Whether the store does not answer now, and is asked again until it does."""

    @abstractmethod
    async def open(self, receiver: Receiver) -> None:
        """Connect and lock, before anything else is called.

        Raises StoreLocked, StoreTooNew, StoreFailed, StoreUnavailable or ConfigError, having closed what it
        opened until then.
        """

    @abstractmethod
    async def begin(self, incarnation: str) -> Takeover:
        """Take up the work of this worker under a name: its lease begins. Again after each lease lost.

        Work that is adopted later, as from a worker that died, goes to `Receiver.deliver` and
        `Receiver.wake`.
        """

    async def ready(self) -> None:  # noqa: B027 most have nothing to do
        """Return once messages reach this worker. Called after the first `begin`; turns run meanwhile."""

    async def drain(self) -> None:  # noqa: B027 most have nothing to do
        """Accept nothing new from outside; turns under way still commit. `close` follows."""

    @abstractmethod
    async def close(self, *, abrupt: bool = False) -> None:
        """Write what waits, give the lease back, and disconnect. Idempotent; also after a failed `begin`.

        `abrupt`: end as kill -9 would, with nothing more written and no goodbye.
        """

    @abstractmethod
    async def records(self, ref: ActorRef, stream: str, first: int, last: int | None) -> list[Record]:
        """The durable records of a stream numbered `first` to `last` (None: its end), values plain data.

        Fewer than `RECORD_GAP` numbers in a row are missing before the end of a stream.
        """

    @abstractmethod
    async def delete_records(self, streams: Mapping[ActorRef, Sequence[str]]) -> None:
        """Delete whole streams of actors that are no longer read or written."""

    async def delete_actors(self, revisions: Mapping[ActorRef, int]) -> set[ActorRef]:
        """Delete the records of actors that are still at these revisions; returns the actors deleted.

        Asked for only where the store `deletes_actors`. Streams stay.
        """
        return set()

    @abstractmethod
    def alarms(self, until: datetime) -> Iterable[tuple[ActorRef, datetime]]:
        """The durable alarms due until then, of the actors that this worker answers for.

        Asked as an incarnation begins and every 30 seconds. The runtime knows the alarms of its own turns by
        itself if they are due within 60 seconds; an alarm that rings although it was moved does nothing.
        """

    @abstractmethod
    async def has_expired(self, incarnation: str) -> bool:
        """Whether a run of a worker has ended for sure: its lease has run out, or it said goodbye."""

    @property
    def process(self) -> str:
        """The name of this process among those that share the store, whatever its incarnation; "" if none."""
        return ""

    async def has_ended(self, process: str) -> bool:
        """Whether a process is gone, as far as the store can tell; its lease may have run out before."""
        return True

    @abstractmethod
    def broadcast(self, event: Event) -> None:
        """Show an event to the listeners of every process, at most once. It is not kept."""

    def show(self, events: Iterable[Event]) -> None:
        """Show events that were logged with rows, and not by a batch, to the listeners of every process."""
        for event in events:
            self.broadcast(event)

    async def publish_raw(self, topic: str, body: bytes) -> None:
        """Publish a message for other programs. Raises StoreUnavailable while the broker is away."""
        raise NotFound(f"The store {self.name} has no broker", field="topic")

    def evict(self, refs: Iterable[ActorRef]) -> None:  # noqa: B027 most keep nothing of an actor
        """The runtime has dropped these idle actors: it will load them before their next turns."""


class SharedStore(Store):
    """A store that other workers write too: nothing is delivered before it is durable.

    A batch holds the effects of up to 32 turns of one actor (and of the receivers of its messages, where the
    store `joins_actors`), or an event, a message or a record from outside.
    """

    routes_events: bool = False
    """A broker brings events to subscribers: the runtime makes no messages of them, the store delivers them
    as they arrive (`Receiver.bus.spread`). Elsewhere they are messages of the batch that publishes them."""
    forwards: bool = False
    """Calls of actors of `remote_kinds` go to `forward`. Elsewhere their turns run here."""
    joins_actors: bool = False
    """A batch may hold turns of more actors: the receivers of messages of its first actor."""
    shows_moves: bool = False
    """Before listeners hear of an event of an actor that another process committed, `Receiver.moved` does."""

    @abstractmethod
    async def load(self, ref: ActorRef, first: Message | None) -> ActorRecord | None:
        """The record of an actor, None where it has none; `first` is the message that waits for it.

        The store may guess from the message that an actor is new, and return None unasked: a wrong guess
        ends in a Conflict, after which the actor is loaded again. Without a message it never guesses.
        """

    def seems_new(self, first: Message) -> bool:
        """Whether the store would guess that the actor to which a message goes is new."""
        return False

    @abstractmethod
    async def commit(self, batch: Batch) -> None:
        """Write a batch, all or nothing; return when it is durable.

        By then the store has seen to it that its messages (and, where it routes them, its events) are
        delivered, here or elsewhere. Batches that hold no actor commit in the order of the calls; those of
        one actor never overlap. Nothing leaves the process before this returns.

        Raises Conflict or AlreadyTaken: nothing was written, and the turns run again. StoreFailed: nothing
        can be promised any more, the runtime gives up. StoreUnavailable: it may be written. Waiting callers
        get that and any other error; deliveries without a `reply`, or with a patient caller, are taken again
        after a pause.
        """

    def publish_loads(self, loads: Mapping[str, int]) -> None:
        """Let other workers know how many tasks of each type of actor this one has."""

    def loads(self) -> Mapping[str, Mapping[str, int]]:
        """The loads that the other workers have published, by their incarnations."""
        return {}

    async def forward(self, message: Message) -> Any:
        """Call an actor of `remote_kinds`, and return its reply as its turn declares it.

        Raises NotFound where no process runs its type. Called where the store `forwards`.
        """
        raise NotImplementedError


class ExclusiveStore(Store):
    """A store without other writers: turns run ahead of it, and many turns of many actors share a batch."""

    @abstractmethod
    def load(self, refs: Sequence[ActorRef]) -> Mapping[ActorRef, ActorRecord]:
        """The durable records of the actors that have one. Batches under way do not count."""

    @abstractmethod
    def write(self, batch: Batch, on_durable: Callable[[StoreFailed | None], None]) -> None:
        """Queue a batch; `on_durable` is called on the event loop once it is durable, or with why it is not.

        Batches become durable in the order of the calls. The bus gets their events in the same step of
        the loop that calls `on_durable`.
        """

    @abstractmethod
    def has_record(self, record: Record) -> bool:
        """Whether a record of that number is durable."""

    @abstractmethod
    async def knows_event(self, event_id: str) -> bool:
        """Whether an event of that id is in the log."""
