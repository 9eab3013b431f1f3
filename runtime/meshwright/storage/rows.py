"""Multi-row statements: one step of SQLite for many rows.

Each step of a statement hands the interpreter lock over twice, so that beside a busy thread 64 rows take
four times as long one by one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

MAX_ROWS = 100  # of one statement; keeps its variables far below SQLite's 32,766


def insert_rows(
    connection: sqlite3.Connection,
    into: str,
    columns: int,
    rows: Sequence[Sequence[Any]],
    *,
    then: str = "",
) -> None:
    """Insert rows; `into` (table and columns) and `then` (a conflict clause) are ours, never input."""
    for start in range(0, len(rows), MAX_ROWS):
        chunk = rows[start : start + MAX_ROWS]
        values = [value for row in chunk for value in row]
        connection.execute(_statement(into, columns, len(chunk), then), values)


def delete_rows(connection: sqlite3.Connection, table: str, column: str, keys: Sequence[Any]) -> None:
    """Delete the rows whose column holds one of the keys; table and column are ours, never input."""
    for start in range(0, len(keys), MAX_ROWS):
        chunk = keys[start : start + MAX_ROWS]
        statement = f"DELETE FROM {table} WHERE {column} IN ({_marks(len(chunk))})"  # noqa: S608 ours
        connection.execute(statement, chunk)


@lru_cache(maxsize=2048)
def _statement(into: str, columns: int, rows: int, then: str) -> str:
    row = f"({_marks(columns)})"
    return f"INSERT INTO {into} VALUES {','.join([row] * rows)} {then}"  # noqa: S608 all ours


@lru_cache(maxsize=2048)
def _marks(count: int) -> str:
    return ",".join("?" * count)
