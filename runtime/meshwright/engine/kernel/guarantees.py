"""The promises of a runtime on every store, and the types that it shares with its users.

tests/contract holds the runtime to this on each store:

- One turn of an actor at a time; its state and effects commit together, guarded by the record's revision.
- Nothing leaves before the commit is durable: no reply to `call`, no signal after the commit, no listener.
- A place of the worker that a turn reserves is signalled after its commit, or given back: never both.
- A message sent by a turn, or taken by `send` or `publish`, is delivered at least once and taken once:
  repeats of an id are dropped. Messages from one actor to another arrive in the order of sending.
- An alarm and a delivery survive a crash. After a restart every actor that `has_pending_work` gets a
  `recover` turn, and no other, even if its work is done between the restart and that turn.
- Where a broker may lose an event on its way to a subscriber, every actor that `has_pending_work`
  gets a `redrive` turn now and then, with growing pauses. Messages from one actor to another are never lost.
- A message to a type that no process runs waits, and arrives in order once a process that runs it starts;
  a call to such a type is refused.
- A message that its actor cannot take (no such turn, wrong shape, expired, too large, the turn raised) is
  recorded as a `message.dead_lettered` event on the topic `mesh-events`; the messages behind it go on.
- Messages, events and records are made JSON at the moment they are handed over, once: later changes of their
  objects show nowhere. Listeners and subscribers get copies, or data that cannot change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from msgspec.structs import replace

from meshwright.core import topics
from meshwright.core.encoding import Json, encode
from meshwright.core.errors import MeshError
from meshwright.core.events import Event
from meshwright.engine.kernel.actor import TurnReservation
from meshwright.engine.kernel.envelope import ActorRef, Message

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
    """The receiver of the signals of turns: the worker of this process."""

    def signal(self, ref: ActorRef, signal: Any) -> None:
        """Take one signal of a turn of that actor. Must return at once, and not raise."""
        ...

    def reserve(self, request: Any) -> TurnReservation | None:
        """Reserve a place for work that a turn begins, for its signal; None if no place is free."""
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


logger = logging.getLogger(__name__)
NOBODY = ActorRef("", "")
_MAX_TOPICS = 10_000  # whose subscriptions are remembered
_MAX_UNHEARD = 200  # kinds of events that are known to have no listener
_TWICE_DEAD = DEAD + DEAD  # the dead letter of a dead letter: to send it round again would go on for ever


class Bus:
    """Subscriptions and listeners, each with its pattern."""

    def __init__(self) -> None:
        self._subscriptions: list[tuple[Callable[[str], bool], Subscription]] = []
        self._listeners: list[tuple[Callable[[str], bool], Listener, Collection[str], bool]] = []
        self._by_topic: dict[str, list[Subscription]] = {}
        self._listening: dict[tuple[str, str], list[tuple[Listener, bool]]] = {}
        self.unheard: set[tuple[str, str]] = set()
        """Topics and types of events that were told, and that no listener takes: need not be told."""

    def subscribe(self, subscription: Subscription) -> None:
        """Send the events of a pattern to actors."""
        self._subscriptions.append((topics.matcher(subscription.pattern), subscription))
        self._by_topic.clear()

    def listen(
        self, pattern: str, listener: Listener, types: Collection[str] = (), *, sealed: bool = False
    ) -> Callable[[], None]:
        """Show the events of a pattern to a listener, all or only some types; the result ends it.

        It gets each event as it is kept where it takes them `sealed`, else a copy with plain data.
        """
        entry = (topics.matcher(pattern), listener, types, sealed)
        self._listeners.append(entry)
        self._listening.clear()
        self.unheard.clear()

        def end() -> None:
            if entry in self._listeners:
                self._listeners.remove(entry)
                self._listening.clear()

        return end

    @property
    def patterns(self) -> list[str]:
        """The topics that actors are given, as they were subscribed to."""
        return [subscription.pattern for _, subscription in self._subscriptions]

    def takes(self, topic: str) -> bool:
        """Whether an actor is given the events of a topic."""
        return bool(self._subscribed(topic))

    def notify(self, event: Event) -> None:
        """Show an event to each listener of its topic and type."""
        key = event.topic, event.event_type
        listeners = self._listening.get(key)
        if listeners is None:
            listeners = [
                (listener, sealed)
                for matches, listener, types, sealed in self._listeners
                if matches(event.topic) and (not types or event.event_type in types)
            ]
            if len(self._listening) < _MAX_TOPICS:
                self._listening[key] = listeners
            if not listeners and len(self.unheard) < _MAX_UNHEARD:
                self.unheard.add(key)
        for listener, sealed in listeners:
            try:
                listener(event if sealed else event.plain())
            except Exception:  # a view must not harm the runtime that it looks at
                logger.exception("a listener failed on event %s", event.id)

    def spread(self, events: Sequence[Event]) -> tuple[list[Event], list[Message]]:
        """The events, and the messages that they become for actors.

        An event that a route cannot read adds its dead letter, which is spread like any other.
        """
        spread = list(events)
        by_topic = self._by_topic
        messages: list[Message] = []
        for event in spread:  # grows meanwhile
            subscriptions = by_topic.get(event.topic)
            if subscriptions is None:
                subscriptions = self._subscribed(event.topic)
            for subscription in subscriptions:
                if event.id.startswith(_TWICE_DEAD):
                    break
                try:
                    ref = subscription.route(event if subscription.sealed else event.plain())
                except Exception as error:  # noqa: BLE001 one route's trouble is recorded, the rest flows on
                    spread.append(dead_letter(event_message(event, subscription, NOBODY), error, event.time))
                else:
                    if ref is not None:
                        messages.append(event_message(event, subscription, ref))
        return spread, messages

    def _subscribed(self, topic: str) -> list[Subscription]:
        subscriptions = self._by_topic.get(topic)
        if subscriptions is None:
            subscriptions = [subscription for matches, subscription in self._subscriptions if matches(topic)]
            if len(self._by_topic) < _MAX_TOPICS:
                self._by_topic[topic] = subscriptions
        return subscriptions


def event_message(event: Event, subscription: Subscription, ref: ActorRef) -> Message:
    """An event as a message to one actor."""
    return Message(
        id=f"{event.id}>{subscription.method}",
        to=ref,
        method=subscription.method,
        body=event.payload,
        sender=event.aggregate_id,
        traceparent=event.traceparent,
    )
