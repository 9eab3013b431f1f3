"""The tables of conversations, and of the messages that clients have added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import from_json

from meshwright.core.encoding import encode
from meshwright.core.errors import TooLarge
from meshwright.engine.sql.database import Session

MAX_CONVERSATIONS = 10_000
"""Conversations that a caller may have."""
MAX_ITEMS = 1_000
"""Messages that may be added to a conversation."""
_OF = "WHERE tenant_id = ? AND id = ?"
_ITEMS = "FROM conversation_items WHERE tenant_id = ? AND conversation_id = ?"


class ConversationKey(NamedTuple):
    """The key of a conversation."""

    tenant_id: str
    id: str


class ConversationRow(NamedTuple):
    """A conversation: who made it, when in unix seconds, and its metadata."""

    requested_by: str
    created_at: float
    metadata: Mapping[str, str]


class MessageRow(NamedTuple):
    """A message that was added, as its client gets it back."""

    id: str
    created_at: float
    item: Mapping[str, Any]


def create(session: Session, key: ConversationKey, row: ConversationRow, items: Sequence[MessageRow]) -> None:
    """Store a new conversation. Raises TooLarge."""
    count = "SELECT COUNT(*) FROM conversations WHERE tenant_id = ? AND requested_by = ?"
    if session.execute(count, (key.tenant_id, row.requested_by)).fetchall()[0][0] >= MAX_CONVERSATIONS:
        raise TooLarge(
            f"{row.requested_by} has {MAX_CONVERSATIONS:,} conversations", remedy="Delete one", field="body"
        )
    columns = "conversations (tenant_id, id, requested_by, created_at, metadata)"
    session.insert(columns, [(*key, row.requested_by, row.created_at, encode(row.metadata).decode())])
    add_items(session, key, items)


def find(session: Session, key: ConversationKey) -> ConversationRow | None:
    """Returns a conversation."""
    select = f"SELECT requested_by, created_at, metadata FROM conversations {_OF}"  # noqa: S608 code
    row = session.execute(select, key).fetchone()
    return None if row is None else ConversationRow(row[0], row[1], from_json(row[2]))


def update(session: Session, key: ConversationKey, metadata: Mapping[str, str]) -> None:
    """Replace the metadata."""
    statement = f"UPDATE conversations SET metadata = ? {_OF}"  # noqa: S608 code
    session.execute(statement, (encode(metadata).decode(), *key))


def delete(session: Session, key: ConversationKey) -> None:
    """Delete a conversation and the messages that were added to it."""
    session.execute(f"DELETE FROM conversations {_OF}", key)  # noqa: S608 code
    delete_items(session, key)


def add_items(session: Session, key: ConversationKey, items: Sequence[MessageRow]) -> None:
    """Add messages. Raises TooLarge."""
    count, last = session.execute(f"SELECT COUNT(*), COALESCE(MAX(place), 0) {_ITEMS}", key).fetchall()[0]
    if count + len(items) > MAX_ITEMS:
        raise TooLarge(
            f"A conversation may have {MAX_ITEMS:,} added messages, and {key.id} has {count:,}",
            remedy="Begin another conversation",
            field="items",
        )
    rows = [
        (*key, row.id, last + number, row.created_at, encode(row.item).decode())
        for number, row in enumerate(items, start=1)
    ]
    columns = "conversation_items (tenant_id, conversation_id, id, place, created_at, item)"
    session.insert(columns, rows)


def read_items(session: Session, key: ConversationKey) -> list[MessageRow]:
    """Returns the messages that were added, the oldest first."""
    rows = session.execute(f"SELECT id, created_at, item {_ITEMS} ORDER BY place", key).fetchall()
    return [MessageRow(item_id, created_at, from_json(item)) for item_id, created_at, item in rows]


def delete_item(session: Session, key: ConversationKey, item_id: str) -> None:
    """Delete a message."""
    session.execute(f"DELETE {_ITEMS} AND id = ?", (*key, item_id))


def find_by_tasks(session: Session, tenant_id: str, task_ids: Sequence[str]) -> list[ConversationKey]:
    """Returns the conversations that tasks of a tenant are in."""
    select = (
        "SELECT DISTINCT conversations.tenant_id, id FROM conversations JOIN tasks ON thread_id = id "
        "AND tasks.tenant_id = conversations.tenant_id WHERE tasks.task_id"
    )
    return [ConversationKey(*row) for row in session.select_in(select, task_ids) if row[0] == tenant_id]


def delete_items(session: Session, key: ConversationKey) -> None:
    """Delete all messages that were added to a conversation."""
    session.execute(f"DELETE {_ITEMS}", key)
