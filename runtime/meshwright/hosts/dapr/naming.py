"""What our topics are called on the broker, and how replicas of a worker share one."""

from __future__ import annotations

from typing import Protocol

from meshwright.errors import ConfigError

ROOT = "bus"
EVENTS = "events"
"""The topic of batches of events on their way to the log."""
LOGGED = "events.logged"
"""The topic of what the log has: events of its own process, and the numbers of the batches that came."""


class Naming(Protocol):
    """Names on one sort of broker."""

    def topic(self, topic: str) -> str:
        """The broker's name of one of our topics."""
        ...

    def shared(self, pattern: str, group: str) -> str:
        """What to subscribe to, so that of each message one member of the group gets a copy."""
        ...

    def everything(self, pattern: str) -> str:
        """What to subscribe to, so that this process gets every message."""
        ...


class MqttNaming:
    """MQTT: levels divided by slashes, `+` for one of them, and shared subscriptions."""

    def __init__(self, namespace: str) -> None:
        self._prefix = f"{ROOT}/{namespace}/"

    def topic(self, topic: str) -> str:
        """The broker's name of one of our topics."""
        return self._prefix + topic.replace(".", "/")

    def shared(self, pattern: str, group: str) -> str:
        """A shared subscription."""
        return f"$share/{group}/{self.everything(pattern)}"

    def everything(self, pattern: str) -> str:
        """A plain subscription."""
        return self.topic(pattern).replace("*", "+")


class StreamNaming:
    """Redis streams: a stream for each topic, no patterns; the component's consumer group shares them out."""

    def __init__(self, namespace: str) -> None:
        self._prefix = f"{ROOT}.{namespace}."

    def topic(self, topic: str) -> str:
        """The broker's name of one of our topics."""
        return self._prefix + topic

    def shared(self, pattern: str, group: str) -> str:
        """The stream: `bus` names the app as its consumer group."""
        return self.everything(pattern)

    def everything(self, pattern: str) -> str:
        """The stream. Raises ConfigError for a pattern."""
        if "*" in pattern or "#" in pattern:
            raise ConfigError(
                f"Redis streams cannot be subscribed to by a pattern such as {pattern!r}",
                remedy="subscribe to each topic by its name, or use an MQTT broker",
                field="bus",
            )
        return self.topic(pattern)


def naming_for(component: str, namespace: str) -> Naming:
    """The names for a pub/sub component, by its type, such as `pubsub.mqtt3`."""
    return MqttNaming(namespace) if "mqtt" in component else StreamNaming(namespace)
