"""The note in a restored store that its work waits to be released."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from meshwright.sql.database import Database, Session

HELD = "held"
"""Its name in the table `meta` of a SQLite file."""


async def read(database: Database) -> dict[str, Any] | None:
    """The note: when the backup was made (`made_at`), its `open_tasks` and `last_seq`; None without one."""
    return await database.read(_read) if database.dialect == "sqlite" else None


async def forget(database: Database) -> None:
    """Remove the note."""
    if database.dialect == "sqlite":
        await database.write(_forget)


def _read(session: Session) -> dict[str, Any] | None:
    row = session.execute("SELECT value FROM meta WHERE name = ?", (HELD,)).fetchone()
    return from_json(row[0]) if row else None


def _forget(session: Session) -> None:
    session.execute("DELETE FROM meta WHERE name = ?", (HELD,))
