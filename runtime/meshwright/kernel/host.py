"""What a runtime promises, whatever its store, and the words that it shares with those who use it.

tests/contract holds the runtime to this on each store:

- One turn of an actor at a time; its state and effects commit together, guarded by the record's revision.
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
  nowhere. Listeners and subscribers get copies, or what they cannot change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from msgspec.structs import replace

from meshwright.core import topics
from meshwright.core.encoding import Json, encode
from meshwright.core.errors import MeshError
from meshwright.core.messages import Event
from meshwright.kernel.envelope import ActorRef, Message

Listener = Callable[[Event], None]
RECORD_GAP = 32
"""A reader of a stream whose end it does not know may stop after so many numbers without a record."""
DEAD = "dead/"  # how the ids of dead letters begin
_MAX_DEAD_BYTES = 32 * 1024
"""A dead letter quotes a message up to this size in full, and the beginning of a larger one."""
MAX_QUOTED = 200
MAX_REASON_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Subscription:
    """Gives the events of some topics to actors: `route` names the actor, or None to pass the event by.

    The actor's `method` gets the event's payload; the message's id is derived from the event's.
    The route gets the event as it is kept where it takes it `sealed`, else a copy with plain data.
    """

    pattern: str
    route: Callable[[Event], ActorRef | None]
    method: str
    sealed: bool = False


class Signals(Protocol):
    """Where the signals of turns go: the worker of this process."""

    def signal(self, ref: ActorRef, signal: Any) -> None:
        """Take one signal of a turn of that actor. Must return at once, and not raise."""
        ...

    def lease_lost(self) -> None:
        """Let go of all work, without an outcome: others may have claimed it.

        Called when the runtime begins a new incarnation while the process lives, since it could not renew its
        lease in time. Signals that come after are for the new one. Must return at once, and not raise.
        """
        ...


def dead_letter(message: Message, error: Exception, at: datetime) -> Event:
    """The event that records a message which its actor could not take; its id is always the same.

    `expected` is false where the error is none that Meshwright raises on purpose: a defect of the turn.
    """
    data = message.encode()
    if len(data) > _MAX_DEAD_BYTES:
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
