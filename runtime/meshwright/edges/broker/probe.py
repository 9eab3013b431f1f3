"""The probe of a broker: logs in with a name of its own, tries what the mesh relies on, leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from meshwright.core.ids import new_id
from meshwright.core.part import ProbeResult
from meshwright.edges.broker.connection import BrokerAway, BrokerConnection, MqttMessage
from meshwright.edges.broker.dialer import BrokerDialer
from meshwright.edges.broker.limits import broker_limits
from meshwright.edges.broker.topics import Topics
from meshwright.edges.broker.trial import Trial, TrialFailed

SESSION_SECONDS = 86_400
"""Seconds that the broker keeps our subscription, and what is sent to it, while we are away."""
_TRIAL_SECONDS = 30  # that it keeps the session of a trial, also where we are killed in its middle


def make_trial(dialer: BrokerDialer, client_id: str, topics: Topics) -> Trial:
    """Return a trial of the broker by a client id of its own that begins with `client_id`."""
    # Mochi mixes up sessions of one id; rumqttd keeps none that began with a clean start.
    own_id = f"{client_id}-trial-{new_id()[-8:].lower()}"
    return Trial(lambda take: dialer.open(own_id, take, _TRIAL_SECONDS), topics.trial)


@contextmanager
def errors_naming(dialer: BrokerDialer) -> Iterator[None]:
    """Name the broker in the BrokerAway or TrialFailed of a block, and a remedy where it has none."""
    try:
        yield
    except BrokerAway as error:
        remedy = error.remedy or "Start the broker, or correct mqtt.url (MESH_MQTT__URL)"
        raise BrokerAway(f"{dialer.url}: {error.message}", remedy=remedy) from error
    except TrialFailed as error:
        raise TrialFailed(f"{dialer.url}: {error.message}", remedy=error.remedy) from error


async def probe_broker(dialer: BrokerDialer, client_id: str, topics: Topics) -> ProbeResult:
    """Log in beside a mesh that may run, try the broker, and leave. Raises BrokerAway or TrialFailed."""
    with errors_naming(dialer):
        connection = await dialer.open(f"{client_id}-check", ignore_message, SESSION_SECONDS)
        connection.receive()
        granted_qos = await connection.subscribe(topics.commands)
        await connection.close(ends_session=True)
        traits = await make_trial(dialer, client_id, topics).run()
    limits = broker_limits(connection, granted_qos, traits, SESSION_SECONDS, topics.prefix)
    seen = {
        "granted QoS": str(granted_qos),
        "maximum QoS": str(connection.max_qos),
        "retained messages": "yes" if connection.retains else "no",
        "shared subscriptions": "yes" if connection.shares else "no",
        "session seconds": str(connection.session_seconds),
        **{name.replace("_", " "): "yes" if value else "no" for name, value in traits.model_dump().items()},
    }
    return ProbeResult(dialer.url, seen, limits)


def ignore_message(connection: BrokerConnection, message: MqttMessage) -> None:
    """Leave a message at the broker, for whoever is meant to take it."""
    connection.release()
