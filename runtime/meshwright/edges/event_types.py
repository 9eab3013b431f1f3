"""The events of edges: of the broker, of webhooks and of replies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from meshwright.core import topics
from meshwright.core.display import Document, short, short_id
from meshwright.core.payloads import Fact, Payload


class EdgeConnected(Payload, type="edge.connected"):
    broker: str
    session_present: bool


class EdgeDisconnected(Payload, type="edge.disconnected"):
    broker: str
    reason: str


class EdgeLimited(Payload, type="edge.limited"):
    """A broker lacks something: a sentence on each thing, all of them. None: nothing, any more."""

    broker: str
    limits: Sequence[str]


class BrokerSessionLost(Payload, type="edge.session_lost"):
    """A broker has no session of the mesh any more, with the messages that it had acknowledged."""

    broker: str
    reason: str


class EdgeRefused(Payload, type="edge.refused", listed="topic, problem, answered, count"):
    topic: str
    answered: bool
    problem: dict[str, Any]
    count: Fact[int]


class EdgeDropped(Payload, type="edge.dropped"):
    topic: str = ""
    what: str = ""
    reason: str
    count: Fact[int]


class WebhookReceived(Payload, type="webhook.received"):
    source: str
    delivery: str
    event: str
    tasks: Fact[list[str]]
    reason: str = ""
    """The reason why it made no task, or none by some rule."""
    counted: tuple[tuple[str, str, str], ...] = ()
    """The tasks that count towards `max_per_hour`: rule, issue or thread, task."""

    def event_line(self, event: Document) -> Sequence[object]:
        tasks = ", ".join(short_id(task_id) for task_id in self.tasks) or "none"
        return (
            f"{self.source or '?'}: {self.event or 'a delivery'} {self.delivery}",
            f"tasks {tasks}",
            short(self.reason),
        )


class WebhookFailed(Payload, type="webhook.failed"):
    source: str
    rule: str
    delivery: str
    reason: str

    def event_line(self, event: Document) -> Sequence[object]:
        return f"{self.source or '?'}: rule {self.rule or '?'}, {self.delivery}", short(self.reason)


class BoardChanged(Payload, type="board.*", topic=topics.BOARD):
    source: str
    delivery: str
    repository: str
    number: Any
    title: str
    actor: str
    url: str

    def event_line(self, event: Document) -> Sequence[object]:
        of = f"{self.repository} #{self.number}" if self.number else self.repository
        return (
            f"{self.source or '?'}: {of}".removesuffix(": "),
            short(self.title),
            self.actor and f"by {self.actor}",
        )


class ReplyUnsent(Payload, type="reply.dropped reply.delayed"):
    """An outcome cannot be sent, or not now."""

    scheme: Fact[str]
    reason: str
    retry_at: datetime | None = None


MQTT_EVENTS = (EdgeConnected, EdgeDisconnected, EdgeLimited, BrokerSessionLost, EdgeRefused, EdgeDropped)
WEBHOOK_EVENTS = (WebhookReceived, WebhookFailed, BoardChanged)
REPLY_EVENTS = (ReplyUnsent,)


class StoryPosted(Payload, type="story.posted"):
    """The message of the morning is in its channel: the story of the time between, in so many lines."""

    channel: str
    since: datetime
    until: datetime
    lines: int


class StoryUnposted(Payload, type="story.unposted"):
    """The chat will not take the message of the morning, which is left out."""

    channel: str
    since: datetime
    until: datetime
    reason: str
