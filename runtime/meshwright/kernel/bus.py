"""The bus within a process: which actors and which listeners an event goes to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from meshwright.core import topics
from meshwright.core.messages import Event
from meshwright.kernel.envelope import ActorRef, Message
from meshwright.kernel.host import DEAD, Listener, Subscription, dead_letter

logger = logging.getLogger(__name__)
NOBODY = ActorRef("", "")
_MAX_TOPICS = 10_000  # whose subscriptions are remembered
_TWICE_DEAD = DEAD + DEAD  # the dead letter of a dead letter: to send it round again would go on for ever


class Bus:
    """Subscriptions and listeners, each with its pattern."""

    def __init__(self) -> None:
        self._subscriptions: list[tuple[Callable[[str], bool], Subscription]] = []
        self._listeners: list[tuple[Callable[[str], bool], Listener, Collection[str], bool]] = []
        self._by_topic: dict[str, list[Subscription]] = {}
        self._listening: dict[str, list[tuple[Listener, Collection[str], bool]]] = {}

    def subscribe(self, subscription: Subscription) -> None:
        """Send the events of a pattern to actors."""
        self._subscriptions.append((topics.matcher(subscription.pattern), subscription))
        self._by_topic.clear()

    def listen(
        self, pattern: str, listener: Listener, types: Collection[str] = (), *, sealed: bool = False
    ) -> Callable[[], None]:
        """Show the events of a pattern to a listener, those of some types or all; the result ends it.

        It gets each event as it is kept where it takes them `sealed`, else a copy with plain data.
        """
        entry = (topics.matcher(pattern), listener, types, sealed)
        self._listeners.append(entry)
        self._listening.clear()

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

    def tell(self, event: Event) -> None:
        """Show an event to each listener of its topic and type."""
        found = self._listening.get(event.topic)
        if found is None:
            found = [
                (show, types, sealed)
                for matches, show, types, sealed in self._listeners
                if matches(event.topic)
            ]
            if len(self._listening) < _MAX_TOPICS:
                self._listening[event.topic] = found
        for listener, types, sealed in found:
            if types and event.event_type not in types:
                continue
            try:
                listener(event if sealed else event.plain())
            except Exception:  # a view must not harm the host that it looks at
                logger.exception("a listener failed on event %s", event.id)

    def spread(self, events: Sequence[Event]) -> tuple[list[Event], list[Message]]:
        """The events, and the messages that they become for actors.

        An event that a route cannot read adds its dead letter, which is spread like any other.
        """
        spread, by_topic = list(events), self._by_topic
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
                    spread.append(dead_letter(message_of(event, subscription, NOBODY), error, event.time))
                else:
                    if ref is not None:
                        messages.append(message_of(event, subscription, ref))
        return spread, messages

    def _subscribed(self, topic: str) -> list[Subscription]:
        found = self._by_topic.get(topic)
        if found is None:
            found = [subscription for matches, subscription in self._subscriptions if matches(topic)]
            if len(self._by_topic) < _MAX_TOPICS:
                self._by_topic[topic] = found
        return found


def message_of(event: Event, subscription: Subscription, ref: ActorRef) -> Message:
    """An event as a message to one actor."""
    return Message(
        id=f"{event.id}>{subscription.method}",
        to=ref,
        method=subscription.method,
        body=event.payload,
        sender=event.aggregate_id,
        traceparent=event.traceparent,
    )
