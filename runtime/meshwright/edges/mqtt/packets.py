"""What comes from the broker and what goes to it, as plain data; and why there is no connection to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from meshwright.errors import HostError

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class MqttMessage:
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
    def of(cls, message: MQTTMessage) -> MqttMessage:
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


# Faults

ELSEWHERE = "give each mesh on a broker an mqtt.prefix of its own"
CREDENTIALS = (
    "check username and password of [mqtt] (MESH_MQTT__PASSWORD), and what the broker allows that user"
)
_REMEDIES = {
    "Bad user name or password": CREDENTIALS,
    "Not authorized": CREDENTIALS,
    "Client identifier not valid": ELSEWHERE,
    "Session taken over": ELSEWHERE,
    "Unsupported protocol version": "use a broker that speaks MQTT 5",
    "Banned": CREDENTIALS,
}
"""Reasons that do not pass by themselves, and what to do."""


class BrokerAway(HostError):
    """The broker cannot be reached, or the connection has ended; a later try may succeed."""


class BrokerRefuses(BrokerAway):
    """The broker does not let us in: somebody has to do something first."""


class BrokerOverrun(BrokerAway):
    """The broker sent more than can be held, and has to send what was left aside over a new connection."""


def refusal(reason: ReasonCode) -> BrokerAway:
    """What a reason of the broker's means."""
    name = reason.getName()
    kind = BrokerRefuses if name in _REMEDIES else BrokerAway
    return kind(f"it says: {name.lower()}", remedy=_REMEDIES.get(name, ""))
