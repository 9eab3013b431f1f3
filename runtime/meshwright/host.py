"""The port to a host: what whatever runs the actors must be able to do, and promise.

Every host promises the same (tests/contract holds them to it):

- One turn of an actor at a time; its state and effects commit together, guarded by the head's revision.
- Nothing leaves before the commit is durable: no reply to `call`, no signal after the commit, no listener.
- A message sent by a turn, or taken by `send` or `publish`, is delivered at least once and taken once:
  repeats of an id are dropped. Messages from one actor to another arrive in the order of sending.
- An alarm and a delivery survive a crash. After a restart every actor that `has_pending_work` gets a
  `recover` turn, and no other, even if its work is done between the restart and that turn.
- Where a broker may lose an event on its way to a subscriber, every actor that `has_pending_work`
  gets a `redrive` turn now and then, with growing pauses. What one actor sends to another is never lost.
- A message that its actor cannot take (no such turn, wrong shape, expired, too large, the turn raised) is
  recorded as a `message.dead_lettered` event on the topic `mesh-events`; the messages behind it go on.
- What is sent, published or appended is made JSON at that moment, once: what its objects become later shows
  nowhere. Listeners and subscribers get copies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from pydantic import BaseModel

from meshwright import topics
from meshwright.clock import Clock
from meshwright.encoding import Json, encode
from meshwright.envelope import ActorRef, Message, Record
from meshwright.errors import MeshError, StoreFailed
from meshwright.messages import Event
from meshwright.turns import ActorKind

Listener = Callable[[Event], None]
RECORD_GAP = 32
"""A reader of a stream whose end it does not know may stop after so many numbers without a record."""
DEAD = "dead/"  # how the ids of dead letters begin
MAX_DEAD_BYTES = 32 * 1024
"""A dead letter quotes a message up to this size in full, and the beginning of a larger one."""
MAX_QUOTED = 200
MAX_REASON_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Subscription:
    """Gives the events of some topics to actors: `route` names the actor, or None to pass the event by.

    The actor's `method` gets the event's payload; the message's id is derived from the event's.
    """

    pattern: str
    route: Callable[[Event], ActorRef | None]
    method: str


class Signals(Protocol):
    """Where the signals of turns go: the worker of this process."""

    def signal(self, ref: ActorRef, signal: Any) -> None:
        """Take one signal of a turn of that actor. Must return at once, and not raise."""
        ...

    def lease_lost(self) -> None:
        """Let go of all work, without an outcome: others may have claimed it.

        Called when the host begins a new incarnation while the process lives, since it could not renew its
        lease in time. Signals that come after are for the new one. Must return at once, and not raise.
        """
        ...


class Host(Protocol):
    """Runs actors. Register kinds and subscriptions first, then `start`."""

    name: str
    clock: Clock
    incarnation: str
    """Names this run of the worker: another after each start, and after each lease that it let lapse."""
    max_record_bytes: int
    """The largest state, message, event or record, as JSON: TooLarge refuses a larger one."""
    on_failure: Callable[[StoreFailed], None]
    """Called once if the store fails: nothing can be promised from then on, and the process should end."""

    def register(self, kind: ActorKind) -> None:
        """Make a type of actor known. Raises ValueError when the type is taken."""
        ...

    def know(self, kind: ActorKind) -> None:
        """Make a type of actor known that lives in another process, so that it can be called and read."""
        ...

    def subscribe(self, subscription: Subscription) -> None:
        """Send the events of a pattern to actors, durably."""
        ...

    def listen(self, pattern: str, listener: Listener, types: Collection[str] = ()) -> Callable[[], None]:
        """Call back for each event committed from now on, of some types or of all; the result ends it.

        Not durable: a view. Each call gets a copy of its own, so name the types where not all are wanted.
        """
        ...

    def attach(self, worker: Signals) -> None:
        """Give the signals of turns to this worker."""
        ...

    async def start(self) -> None:
        """Open the store, recover what was under way, and begin to run turns.

        Raises StoreLocked, StoreTooNew or StoreFailed.
        """
        ...

    async def stop(self) -> None:
        """Take nothing new, let the turns under way commit, and close."""
        ...

    async def call(
        self, ref: ActorRef, method: str, body: Any = None, *, traceparent: str | None = None
    ) -> Any:
        """Run a turn and return its reply, once all that the reply rests on is durable.

        Not deduped: the turn itself must know a repeat. What the turn raises is raised here, with the
        actor unchanged; MailboxFull, Draining and StoreFailed may come instead.
        """
        ...

    async def send(self, message: Message) -> None:
        """Take a message from outside: durable when this returns, and dropped if its id was taken before."""
        ...

    async def publish(self, event: Event) -> None:
        """Take an event from outside: into the log and to its subscribers, durable when this returns.

        Dropped if an event of its id was taken before.
        """
        ...

    def emit(self, events: Sequence[Event]) -> Awaitable[None]:
        """Take events that this process makes, each once: into the log and to their subscribers.

        They are queued at once, in order, and not deduped; await the result to know them durable.
        """
        ...

    def broadcast(self, event: Event) -> None:
        """Show an event to the listeners of every process, at most once; it is not kept."""
        ...

    async def read(self, ref: ActorRef) -> BaseModel | None:
        """The actor's committed state, or None if it never had a turn. Do not change it."""
        ...

    def append(self, record: Record, events: Sequence[Event] = ()) -> Awaitable[None]:
        """Write a record outside a turn, and events with it; await the result to know them durable.

        It is queued at once, ordered before the commit of any turn of its actor that runs later. Where that
        number is written already, the first value stands, and the events are dropped with the second.
        """
        ...

    async def records(
        self, ref: ActorRef, stream: str, *, first: int = 1, last: int | None = None
    ) -> list[Record]:
        """The records of a stream numbered `first` to `last`, both included, in order; plain data.

        Without `last`, to the end of the stream: fewer than `RECORD_GAP` numbers in a row may be missing
        before it, so that a host can find it by point reads.
        """
        ...

    async def has_expired(self, incarnation: str) -> bool:
        """Whether a run of a worker has ended for sure: its lease has run out or it has said goodbye."""
        ...


def dead_letter(message: Message, error: Exception, at: datetime) -> Event:
    """The event that records a message which its actor could not take; its id is always the same.

    `expected` is false where the error is none that Meshwright raises on purpose: a defect of the turn.
    """
    data = message.encode()
    if len(data) > MAX_DEAD_BYTES:
        begins = encode(message.body)[:MAX_QUOTED].decode(errors="replace")
        data = replace(message, body={"bytes": len(data), "begins": begins}).encode()
    fault = {"type": type(error).__name__, "message": str(error)[:MAX_REASON_CHARS]}
    return Event(
        id=f"{DEAD}{message.id}@{message.to}",
        event_type="message.dead_lettered",
        topic=topics.MESH,
        time=at,
        aggregate_id=str(message.to),
        payload=Json(
            b'{"message":%b,"error":%b,"expected":%b}'
            % (data, encode(fault), encode(isinstance(error, MeshError)))
        ),
    )
