"""Actors and records as rows of SQL: what the stores on SQLite and PostgreSQL share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json, to_json

from meshwright.core.encoding import encode
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Record
from meshwright.engine.sql.database import Session

REPLACE_HEAD = (
    "ON CONFLICT (type, id) DO UPDATE SET revision=excluded.revision, last_turn=excluded.last_turn, "
    "sent=excluded.sent, wake_at=excluded.wake_at, obliged=excluded.obliged, seen=excluded.seen, "
    "state=excluded.state"
)
RECORDS = "records (type, id, stream, n, value)"
DELETE_RECORDS = "DELETE FROM records WHERE type = ? AND id = ? AND stream = ?"
SELECT_RECORDS = """
    SELECT n, value FROM records WHERE type = ? AND id = ? AND stream = ? AND n BETWEEN ? AND ? ORDER BY n
"""
MAX_N = 2**63 - 1  # of SQLite's integers


def read_record(row: Sequence[Any]) -> ActorRecord:
    """An actor's record from its columns in `SELECT_HEADS`, but for the id."""
    revision, last_turn, sent, wake_at, obliged, processed_ids, state = row
    return ActorRecord(
        revision=revision,
        last_turn=last_turn,
        sent=sent,
        wake_at=datetime.fromtimestamp(wake_at, UTC) if wake_at is not None else None,
        has_pending_work=bool(obliged),
        processed_ids=from_json(processed_ids) if processed_ids else {},
        state=state,
    )


def delete_streams(session: Session, streams: Sequence[tuple[ActorRef, Sequence[str]]]) -> None:
    """Delete whole streams of actors."""
    for ref, names in streams:
        for name in names:
            session.execute(DELETE_RECORDS, (*ref, name))


def delete_heads(session: Session, heads: Sequence[tuple[str, str, int]]) -> list[tuple[str, str]]:
    """Delete the records of actors that are still at their revisions; returns the actors of those deleted."""
    query = "DELETE FROM heads WHERE type = ? AND id = ? AND revision = ? RETURNING 1"
    return [head[:2] for head in heads if session.execute(query, head).fetchall()]


def record_row(record: Record) -> tuple[object, ...]:
    """A record of a stream as its columns in `RECORDS`."""
    return (*record.ref, record.stream, record.n, bytes(encode(record.value)))


def head_row(ref: ActorRef, record: ActorRecord) -> tuple[object, ...]:
    """An actor's record as its columns in `HEADS`."""
    return (
        ref.type,
        ref.id,
        record.revision,
        record.last_turn,
        record.sent,
        record.wake_at.timestamp() if record.wake_at else None,
        record.has_pending_work,
        to_json(record.processed_ids) if record.processed_ids else None,
        record.state,
    )
