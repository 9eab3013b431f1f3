"""A database in memory that outlives the processes of a walk: its tables are made once for all walks."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from meshwright.engine.sql.database import Session
from meshwright.engine.sql.sqlite import SqliteDatabase, SqliteSession


class LastingSession(SqliteSession):
    """The one connection to a database in memory. It stays open: closing it would lose all that is there."""

    def close(self) -> None:
        """Nothing: the next process goes on with it."""


class WalkDatabase(SqliteDatabase):
    """The database of one process of a walk. Nothing runs beside a job, so one connection does for all."""

    exclusive = True

    def __init__(self, connection: sqlite3.Connection, folder: Path) -> None:
        super().__init__(folder, durability="off")
        self._lasting = LastingSession(connection)

    def connect_reader(self) -> SqliteSession:
        return self._lasting

    def _connect_writer(self) -> SqliteSession:
        return self._lasting

    def _bring_up_to_date(self, session: Session) -> None:
        if not session.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            super(SqliteDatabase, self)._bring_up_to_date(session)

    def _mark(self) -> None:
        """Nothing: there is no disk that could lose anything."""


def connect(content: bytes = b"") -> sqlite3.Connection:
    """A new database in memory, with the content of another."""
    connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=1024)
    if content:
        connection.deserialize(content)
    return connection
