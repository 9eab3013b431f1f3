"""What comes from the broker and what goes to it, as plain data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

JSON = "application/json"
PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that the broker gave us.

    `repeated` says that it may have come before, under the same `packet_id` (0 where `qos` is). `properties`
    are the sender's own, by lower-case name.
    """

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    repeated: bool
    response_topic: str | None = None
    correlation: bytes | None = None
    properties: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, message: MQTTMessage) -> Delivery:
        """Take what paho read."""
        known = message.properties
        return cls(
            topic=message.topic,
            payload=bytes(message.payload),
            qos=message.qos,
            packet_id=message.mid,
            repeated=message.dup,
            response_topic=getattr(known, "ResponseTopic", None),
            correlation=getattr(known, "CorrelationData", None),
            properties={name.lower(): value for name, value in getattr(known, "UserProperty", ())},
        )

    def digest(self) -> str:
        """A hash of everything that its sender wrote."""
        written = (self.topic, self.payload, self.response_topic, self.correlation, self.properties)
        return hashlib.sha256(repr(written).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Publication:
    """A message for the broker. At `qos` 0 it is sent once, at 1 until the broker has it."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    content_type: str | None = None
    correlation: bytes | None = None
    expiry_seconds: int | None = None

    def properties(self) -> Properties | None:
        """What goes with it, as paho wants it; None is cheaper than no properties."""
        known = {
            "ContentType": self.content_type,
            "CorrelationData": self.correlation,
            "MessageExpiryInterval": self.expiry_seconds,
        }
        given = {name: value for name, value in known.items() if value is not None}
        if not given:
            return None
        properties = Properties(PacketTypes.PUBLISH)
        for name, value in given.items():
            setattr(properties, name, value)
        return properties
