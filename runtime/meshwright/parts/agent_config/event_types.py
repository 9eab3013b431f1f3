"""The events of agent configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshwright.component import Payload
from meshwright.kit import Document, declared


class AgentConfigChanged(Payload, type="agent_config.created agent_config.changed"):
    agent_id: str
    is_default: bool
    changed: list[str]
    """fields"""
    config: dict[str, Any]

    def event_line(self, event: Document) -> Sequence[object]:
        return self.agent_id, self.is_default and "the default", ", ".join(self.changed)


class AgentConfigDeleted(Payload, type="agent_config.deleted"):
    agent_id: str
    is_default: bool
    changed: list[str]


class SubscriberDropped(Payload, type="subscriber.dropped"):
    """A WebSocket client that did not read."""

    channel: str
    reason: str


EVENTS = declared(__name__)
