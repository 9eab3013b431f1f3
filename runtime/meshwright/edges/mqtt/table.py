"""The tables of the MQTT edge: its session at the broker, and the messages that may be delivered again.

Statements that SQLite and PostgreSQL both take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from meshwright.edges.broker.trial import BrokerTraits
from meshwright.engine.sql.database import Session, marks

_COLUMNS = "n, digest, packet_id, tenant_id, task_id"


class SessionRow(NamedTuple):
    """The session at a broker, and what is known of that."""

    broker: str
    traits: BrokerTraits | None


class DeliveryRow(NamedTuple):
    """A message that became a task, as it was delivered last."""

    n: int
    digest: str
    packet_id: int
    tenant_id: str
    task_id: str


def read_session(session: Session, client_id: str) -> SessionRow | None:
    """The session of a client id; None before its first connection."""
    row = session.execute(
        "SELECT broker, traits FROM mqtt_sessions WHERE client_id = ?", (client_id,)
    ).fetchone()
    if row is None:
        return None
    broker, traits = row
    return SessionRow(broker, BrokerTraits.model_validate_json(traits) if traits else None)


def write_session(session: Session, client_id: str, broker: str, traits: str) -> None:
    """Store the session of a client id."""
    then = "ON CONFLICT (client_id) DO UPDATE SET broker = excluded.broker, traits = excluded.traits"
    session.insert("mqtt_sessions (client_id, broker, traits)", [(client_id, broker, traits)], then=then)


def read_deliveries(session: Session, client_id: str) -> list[DeliveryRow]:
    """The messages of a session that may be delivered again, in the order in which they came."""
    query = f"SELECT {_COLUMNS} FROM mqtt_deliveries WHERE client_id = ? ORDER BY n"  # noqa: S608 code
    return [DeliveryRow(*row) for row in session.execute(query, (client_id,)).fetchall()]


def add_delivery(session: Session, client_id: str, row: Sequence[str | int]) -> None:
    """Store a message before its task is accepted; `row` is a DeliveryRow."""
    into = f"mqtt_deliveries (client_id, {_COLUMNS})"
    session.insert(into, [(client_id, *row)], then="ON CONFLICT DO NOTHING")


def delete_deliveries(session: Session, client_id: str, numbers: Sequence[int]) -> None:
    """Forget messages, at most 1,000 at a time."""
    session.execute(
        f"DELETE FROM mqtt_deliveries WHERE client_id = ? AND n IN ({marks(len(numbers))})",  # noqa: S608 code
        (client_id, *numbers),
    )


def delete_all_deliveries(session: Session, client_id: str) -> None:
    """Forget all messages of a session: the broker has none of them any more."""
    session.execute("DELETE FROM mqtt_deliveries WHERE client_id = ?", (client_id,))
