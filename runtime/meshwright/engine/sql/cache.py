"""Answers of models in a SQLite file of their own, `cache.db`, which may be deleted at any time.

Several processes may use one file. A damaged file is set aside, and a new one begun.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from meshwright.core.clock import Clock
from meshwright.core.errors import CacheUnavailable
from meshwright.engine.sql.folder import open_private

logger = logging.getLogger("meshwright.cache")

ResultT = TypeVar("ResultT")
FILE_NAME = "cache.db"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
BUSY_TIMEOUT_SECONDS = 1.0
_BUSY_PAUSE_SECONDS = 0.01

# `used` counts uses: the least is what was not used for longest.
SCHEMA = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS answers (
    n INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value BLOB NOT NULL,
    ends_ms INTEGER NOT NULL, used INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_by_use ON answers (used);
CREATE INDEX IF NOT EXISTS answers_by_end ON answers (ends_ms);
"""
_FIND = "SELECT value FROM answers WHERE key = ? AND ends_ms > ?"
_USE = "UPDATE answers SET used = (SELECT max(used) + 1 FROM answers) WHERE key = ?"
_KEEP = (
    "INSERT OR REPLACE INTO answers (key, value, ends_ms, used) "
    "VALUES (?, ?, ?, (SELECT coalesce(max(used), 0) + 1 FROM answers))"
)
_DROP_ENDED = "DELETE FROM answers WHERE ends_ms <= ?"
_DROP_UNUSED = "DELETE FROM answers WHERE n IN (SELECT n FROM answers ORDER BY used LIMIT 8)"
_FILLED = (
    "SELECT (page_count - freelist_count) * page_size "
    "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)


class SqliteCache:
    """At most `max_bytes` of a file in a folder: recent entries stay. One thread does all its work."""

    name = "disk"

    def __init__(self, folder: Path, clock: Clock, max_bytes: int) -> None:
        self.path = folder / FILE_NAME
        self._clock = clock
        self._max_bytes = max_bytes
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._used: dict[str, None] = {}  # read since the last write, which notes it: reads do not write

    async def get(self, key: str) -> bytes | None:
        """The value of a key, None where there is none, or its time has passed."""
        now = self._now_ms()

        def find(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(_FIND, (key, now)).fetchone()
            if row is None:
                return None
            self._used.pop(key, None)
            self._used[key] = None
            return row[0]

        return await self._run(find)

    async def put(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep a value for so long, unless it is larger than the whole file may be."""
        now = self._now_ms()

        def keep(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany(_USE, [(used,) for used in self._used])
                self._used.clear()
                connection.execute(_KEEP, (key, value, now + round(ttl_seconds * 1000)))
                if self._is_full(connection):
                    connection.execute(_DROP_ENDED, (now,))
                while self._is_full(connection) and connection.execute(_DROP_UNUSED).rowcount:
                    pass

        if len(value) <= self._max_bytes:
            await self._run(keep)

    async def clear(self) -> None:
        """Delete every answer, from the file too."""

        def clear(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("DELETE FROM answers")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        if self.path.exists():
            await self._run(clear)

    async def close(self) -> None:
        """Close the file."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.get_running_loop().run_in_executor(thread, self._disconnect)
            thread.shutdown(wait=False)

    def _now_ms(self) -> int:
        return round(self._clock.now().timestamp() * 1000)

    def _is_full(self, connection: sqlite3.Connection) -> bool:
        return connection.execute(_FILLED).fetchone()[0] > self._max_bytes

    async def _run(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mesh-cache")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)

    def _work(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        try:
            try:
                return work(self._connected())
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
                    raise
                self._set_aside(error)
                return work(self._connected())
        except (sqlite3.Error, OSError) as error:
            raise CacheUnavailable(
                f"{self.path} cannot be used: {error}", remedy="Free disk space, or make the folder writable"
            ) from error

    def _connected(self) -> sqlite3.Connection:
        ends = time.monotonic() + BUSY_TIMEOUT_SECONDS
        while self._connection is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.path.exists():
                os.close(open_private(self.path, os.O_RDWR | os.O_CREAT))
            connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level="IMMEDIATE")
            try:
                connection.executescript(SCHEMA)
                self._connection = connection
            except sqlite3.Error as error:
                connection.close()
                # SQLite does not wait for others to change to WAL:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                    raise
                time.sleep(_BUSY_PAUSE_SECONDS)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        aside = self.path.with_name(f"{FILE_NAME}.broken")
        logger.warning("%s is damaged (%s). It is now %s; a new one is begun", self.path, error, aside.name)
        self._disconnect()
        os.replace(self.path, aside)  # SQLite itself drops a log that it finds beside an empty file
