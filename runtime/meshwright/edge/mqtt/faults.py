"""Why there is no connection to the broker, and what to do about it."""

from __future__ import annotations

from paho.mqtt.reasoncodes import ReasonCode

from meshwright.errors import HostError

ELSEWHERE = "give each mesh on a broker an mqtt_prefix of its own"
CREDENTIALS = (
    "check username and password of [mqtt] (MESH_MQTT__PASSWORD), and what the broker allows that user"
)
REMEDIES = {
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


class Overrun(BrokerAway):
    """The broker sent more than can be held, and has to send what was left aside over a new connection."""


def refusal(reason: ReasonCode) -> BrokerAway:
    """What a reason of the broker's means."""
    name = reason.getName()
    kind = BrokerRefuses if name in REMEDIES else BrokerAway
    return kind(f"it says: {name.lower()}", remedy=REMEDIES.get(name, ""))
