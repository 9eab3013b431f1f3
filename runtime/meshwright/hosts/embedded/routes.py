"""Routes: who gets the events of which topic, actors by subscription and listeners by call."""

from __future__ import annotations

import logging
from collections.abc import Callable

from meshwright import topics
from meshwright.actor import Message
from meshwright.host import Listener, Subscription
from meshwright.messages import Event

logger = logging.getLogger("meshwright.hosts.embedded")


class Routes:
    """Subscriptions and listeners by topic pattern; what a topic matches is worked out once."""

    def __init__(self) -> None:
        self._subscriptions: list[tuple[Callable[[str], bool], Subscription]] = []
        self._listeners: list[tuple[Callable[[str], bool], Listener]] = []
        self._by_topic: dict[str, list[Subscription]] = {}

    def subscribe(self, subscription: Subscription) -> None:
        """Send the events of a pattern to actors."""
        self._subscriptions.append((topics.matcher(subscription.pattern), subscription))
        self._by_topic.clear()

    def listen(self, pattern: str, listener: Listener) -> Callable[[], None]:
        """Call back for each event of a pattern; the result ends it."""
        entry = (topics.matcher(pattern), listener)
        self._listeners.append(entry)
        return lambda: self._listeners.remove(entry) if entry in self._listeners else None

    def messages(self, event: Event) -> list[Message]:
        """The messages that an event becomes for the actors that subscribe to its topic."""
        found = []
        for subscription in self._matching(event.topic):
            ref = subscription.route(event)
            if ref is not None:
                found.append(
                    Message(
                        f"{event.id}>{subscription.method}",
                        ref,
                        subscription.method,
                        event.payload,
                        event.aggregate_id,
                        event.traceparent,
                    )
                )
        return found

    def tell(self, event: Event) -> None:
        """Show an event to the listeners of its topic; one that fails is logged, and spoils nothing else."""
        for matches, listener in list(self._listeners):
            if matches(event.topic):
                try:
                    listener(event)
                except Exception:  # a view must not stop the host that it looks at
                    logger.exception("a listener failed on event %s", event.id)

    def _matching(self, topic: str) -> list[Subscription]:
        found = self._by_topic.get(topic)
        if found is None:
            found = [subscription for matches, subscription in self._subscriptions if matches(topic)]
            if len(self._by_topic) < 10_000:
                self._by_topic[topic] = found
        return found
