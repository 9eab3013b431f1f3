"""Notes of a store about itself, in its table `meta`: whether its work is held, and where it has gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json, to_json

from meshwright.core.errors import StoreMoved
from meshwright.sql.database import Session

HELD = "held"
"""The work of a restored store waits to be released: `made_at`, `open_tasks` and `last_seq` of the backup."""
UNFINISHED = "unfinished"
"""A migration fills the store: its `id`, and the store that it comes `from`."""
MOVED = "moved"
"""The store was migrated: the `id` of the migration, and the store that it went `to`."""
DELETED = "deleted"
"""Text was deleted for good that may still be in free pages of the file."""


def read_note(session: Session, name: str) -> dict[str, Any] | None:
    """A note, None where there is none."""
    row = session.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return from_json(row[0]) if row else None


def write_note(session: Session, name: str, note: Mapping[str, Any]) -> None:
    """Write a note in place of the one before."""
    insert = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    session.execute(insert, (name, to_json(note).decode()))


def delete_note(session: Session, name: str, note: Mapping[str, Any] | None = None) -> None:
    """Remove a note; with `note`, only if it has not been written again since."""
    if note is None or read_note(session, name) == note:
        session.execute("DELETE FROM meta WHERE name = ?", (name,))


def refuse_if_moved(session: Session, location: str) -> None:
    """Raise StoreMoved for a store whose tasks go on elsewhere, or that a migration has not filled yet."""
    if note := read_note(session, UNFINISHED):
        raise StoreMoved(
            f"{location} is unfinished: a migration from {note['from']} broke off",
            remedy="run the same mesh migrate again",
        )
    if note := read_note(session, MOVED):
        raise StoreMoved(
            f"{location} was migrated to {note['to']}, where its tasks go on",
            remedy="start the mesh there, or take the store back: mesh migrate --reopen --from STORE",
        )
