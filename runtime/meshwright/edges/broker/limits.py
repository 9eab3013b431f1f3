"""The limits of a broker: the promises of the MQTT edge that do not hold there, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.edges.broker.connection import BrokerConnection
from meshwright.edges.broker.trial import BrokerTraits

_KEYS = "give each message an idempotency-key, or correlation data of its own"


def broker_limits(
    connection: BrokerConnection,
    granted_qos: int,
    traits: BrokerTraits | None,
    session_seconds: int,
    prefix: str,
    problem: str = "",
) -> list[str]:
    """Returns a sentence on each limit; none where all promises hold.

    `session_seconds` is what was asked for, `problem` the reason why nothing is known of the traits.
    """
    limits = [*_limits_of_answers(connection, granted_qos, session_seconds)]
    if traits is not None:
        limits += _limits_of_traits(traits, prefix)
    elif problem:
        limits.append(f"It is not known how it delivers messages again ({problem}): {_KEYS}")
    return limits


def _limits_of_answers(connection: BrokerConnection, granted_qos: int, session_seconds: int) -> Iterator[str]:
    if granted_qos < 1:
        yield (
            "It delivers to the mesh at QoS 0 only: messages are lost while the mesh is away. Allow QoS 1 "
            "there, and publish again what gets no receipt"
        )
    if connection.max_qos < 1:
        yield "It takes messages at QoS 0 only: outcomes and receipts may be lost. Allow QoS 1 there"
    if not connection.retains:
        yield "It keeps no retained messages: later subscribers do not see status, agents and inbox"
    if connection.session_seconds < session_seconds:
        yield (
            f"It keeps the mesh's session for {connection.session_seconds:,} s, not {session_seconds:,}: "
            "messages are lost when the mesh is away for longer. Raise its limit for the expiry of sessions"
        )


def _limits_of_traits(traits: BrokerTraits, prefix: str) -> Iterator[str]:
    if not traits.resumes:
        yield (
            "It does not deliver again what was not acknowledged: a message is lost if its connection ends "
            f"before its task is on disk. Have it keep sessions, or {_KEYS} and publish again"
        )
    elif not traits.knows_each_message:
        yield (
            "It does not tell a redelivered message from an equal new one: of two that are equal in all and "
            f"name no key, one may be taken for the other if the connection ends just then. For such, {_KEYS}"
        )
    if not traits.heeds_no_local:
        yield "It grants No Local and sends the mesh its own messages all the same; the mesh does without"
    if not traits.retained_by_wildcard:
        yield (
            "It sends no retained messages to subscriptions with wildcards: subscribe to "
            f"{prefix}/default/status, {prefix}/default/inbox and {prefix}/default/agents/AGENT_ID by name"
        )
