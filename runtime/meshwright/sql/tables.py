"""The tables of a database as its catalog has them, and their rows on the way to another database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from meshwright.sql.database import Row, Session

_COLUMNS = {
    "sqlite": """
        SELECT tables.name, columns.name, 1
        FROM pragma_table_list AS tables, pragma_table_info(tables.name) AS columns
        WHERE tables.schema = 'main' AND tables.type = 'table' AND tables.name NOT LIKE 'sqlite%'
        ORDER BY tables.name, columns.cid
    """,
    "postgres": """
        SELECT relname, attname, attidentity <> 'a' FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
        WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
        AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY relname, attnum
    """,
}
_SEQUENCES = """
    SELECT relname, attname, pg_get_serial_sequence(pg_class.oid::regclass::text, attname)
    FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
    AND attnum > 0 AND NOT attisdropped AND attidentity <> 'a'
    AND pg_get_serial_sequence(pg_class.oid::regclass::text, attname) IS NOT NULL
"""
_MAX_ROWS, _MAX_BYTES = 1_000, 4 * 1024 * 1024  # written at once


class TableColumns(NamedTuple):
    """The columns of a table that are not computed, and among them the columns that take a value."""

    columns: Sequence[str]
    writable: Sequence[str]


def tables_of(session: Session) -> dict[str, TableColumns]:
    """The tables of a database by name, but for tables of an index."""
    columns_of: dict[str, list[tuple[str, bool]]] = {}
    for table, column, takes_values in session.execute(_COLUMNS[session.dialect]).fetchall():
        columns_of.setdefault(table, []).append((column, bool(takes_values)))
    return {
        table: TableColumns(
            [name for name, _ in columns], [name for name, takes_values in columns if takes_values]
        )
        for table, columns in columns_of.items()
    }


def copy_rows(rows: Iterable[Row], target: Session, into: str, on_written: Callable[[int], None]) -> None:
    """Insert rows, some at a time; `written` is called with how many."""
    for batch in _batches(rows):
        target.insert(into, batch)
        on_written(len(batch))


def set_sequences(session: Session) -> None:
    """Have the sequences of PostgreSQL go on behind the values that were inserted."""
    for table, column, sequence in session.execute(_SEQUENCES).fetchall():
        select = f"SELECT setval('{sequence}', max({column})) FROM {table} HAVING max({column}) > 0"  # noqa: S608 names in code
        session.execute(select)


def _batches(rows: Iterable[Row]) -> Iterator[Sequence[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum([len(value) for value in row if isinstance(value, bytes | str)])
        if len(batch) == _MAX_ROWS or size > _MAX_BYTES:
            yield batch
            batch, size = list[Row](), 0
    if batch:
        yield batch
