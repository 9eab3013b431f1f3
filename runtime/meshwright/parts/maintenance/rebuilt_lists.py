"""Lists that are rebuilt from events in a database of their own, and compared with those of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from importlib.resources.abc import Traversable
from typing import Any

from meshwright import Event
from meshwright.engine.sql.database import Row
from meshwright.engine.sql.migrations import create_versions, upgrade
from meshwright.engine.sql.sqlite import SqliteSession
from meshwright.kit import Projection, Session, short

_CHANGES = frozenset({sqlite3.SQLITE_DELETE, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE})
_CONTENTS = frozenset({"document", "reason", "text"})
"""The columns of ours that quote what people and agents have said."""
_POSITIONS = "SELECT name, version, position FROM projection_positions"


class Rebuilt:
    """Projections on a temporary file. Each has the events up to its position in the store, until `go_on`."""

    def __init__(
        self, projections: Sequence[Projection], migrations: Mapping[str, Traversable], store: Session
    ) -> None:
        self.session = SqliteSession(sqlite3.connect("", isolation_level=None))  # a file that SQLite removes
        self.session.execute("PRAGMA synchronous=OFF")
        create_versions(self.session)
        for component, folder in migrations.items():
            upgrade(self.session, component, folder, "a temporary file")
        positions = {
            name: (version, position) for name, version, position in store.execute(_POSITIONS).fetchall()
        }
        self.notes = [
            f"The list {item.name} of the store is of another version, and is rebuilt at the next start"
            for item in projections
            if positions.get(item.name, (0, 0))[0] != item.version
        ]
        current = [item for item in projections if positions.get(item.name, (0, 0))[0] == item.version]
        self._ends = {item: positions[item.name][1] for item in current}
        self._tables = {item: self._projection_tables(item) for item in current}
        self._later: list[tuple[Projection, Event]] = []

    @property
    def types(self) -> set[str]:
        """The events that they are made from."""
        return {kind for item in self._ends for kind in item.event_types}

    def take(self, events: Sequence[Event]) -> Iterator[str]:
        """Take the next events; yields what a projection cannot take."""
        for item, end in self._ends.items():
            own = [event for event in events if event.event_type in item.event_types]
            self._later += [(item, event) for event in own if (event.seq or 0) > end]
            if own := [event for event in own if (event.seq or 0) <= end]:
                yield from self._fold(item, own)

    def go_on(self) -> Iterator[str]:
        """Take the events that the lists of the store do not have yet."""
        for item in self._ends:
            if own := [event for other, event in self._later if other is item]:
                yield from self._fold(item, own)

    def _fold(self, item: Projection, events: Sequence[Event]) -> Iterator[str]:
        try:
            with self.session.connection:
                self.session.execute("BEGIN")
                item.fold(self.session, events)
        except Exception as error:  # noqa: BLE001 whatever a projection raises is a finding
            first, last = events[0].seq, events[-1].seq
            reason = f"{type(error).__name__}: {error}"
            yield f"List {item.name}: events {first} to {last} cannot be taken: {reason}"

    def _projection_tables(self, item: Projection) -> list[str]:
        """The tables of a projection: those that it empties."""
        tables: dict[str, None] = {}

        def note(action: int, table: str | None, _: Any, __: Any, trigger: str | None) -> int:
            if action in _CHANGES and table and trigger is None and not table.startswith("sqlite_"):
                tables[table] = None
            return sqlite3.SQLITE_OK

        self.session.connection.set_authorizer(note)
        item.clear(self.session, 1)
        self.session.connection.set_authorizer(None)
        return list(tables)

    def deviations(self, store: Session, *, oldest: int, erased: Collection[str]) -> Iterator[str]:
        """The rows in which the store differs, but for those of events that were pruned or erased."""
        for item, tables in self._tables.items():
            for table in tables:
                columns, keys = self._table_columns(table)
                if (oldest > 1 and "seq" not in columns) or (erased and "task_id" not in columns):
                    self.notes.append(f"The list {table} is not compared: events of it were pruned or erased")
                    continue
                self._copy(store, table, columns)
                yield from self._compare(item.name, table, columns, keys, oldest, erased)

    def _table_columns(self, table: str) -> tuple[list[str], list[str]]:
        rows = self.session.execute(f"PRAGMA table_info({table})").fetchall()
        keyed = sorted((row[5], row[1]) for row in rows if row[5])
        return [row[1] for row in rows], [name for _, name in keyed]

    def _copy(self, store: Session, table: str, columns: Sequence[str]) -> None:
        self.session.execute(f"CREATE TEMP TABLE stored_{table} AS SELECT * FROM {table} WHERE 0")  # noqa: S608
        places = ",".join("?" * len(columns))
        rows = store.stream(f"SELECT {', '.join(columns)} FROM {table}")  # noqa: S608 names in code
        insert = f"INSERT INTO stored_{table} VALUES ({places})"  # noqa: S608 names in code
        self.session.connection.executemany(insert, map(_plain, rows))

    def _compare(
        self,
        name: str,
        table: str,
        columns: Sequence[str],
        keys: Sequence[str],
        oldest: int,
        erased: Collection[str],
    ) -> Iterator[str]:
        rebuilt_rows = self._rows(f"SELECT * FROM {table} EXCEPT SELECT * FROM stored_{table}", columns, keys)  # noqa: S608
        stored_rows = self._rows(f"SELECT * FROM stored_{table} EXCEPT SELECT * FROM {table}", columns, keys)  # noqa: S608
        for key in sorted(rebuilt_rows.keys() | stored_rows.keys(), key=str):
            mine, theirs = rebuilt_rows.get(key), stored_rows.get(key)
            row = theirs or mine or {}
            if row.get("task_id") in erased or row.get("seq", oldest) < oldest:
                continue
            names = ", ".join(f"{column} {part}" for column, part in zip(keys, key, strict=True))
            task = f" of task {row['task_id']}" if row.get("task_id") and "task_id" not in keys else ""
            place = f"List {name}, row {names}{task}"
            if theirs is None:
                if oldest == 1:  # else its events may be those behind the end of a task that was pruned
                    yield f"{place}: it is missing, though the events make it"
            elif mine is None:
                yield f"{place}: no event makes it"
            else:
                for column in columns:
                    if mine[column] != theirs[column] and column in _CONTENTS:
                        yield f"{place}: {column} is not as the events make it"
                    elif mine[column] != theirs[column]:
                        stored_text, rebuilt_text = short(str(theirs[column])), short(str(mine[column]))
                        yield f"{place}: {column} is {stored_text!r}, and the events make it {rebuilt_text!r}"

    def _rows(self, query: str, columns: Sequence[str], keys: Sequence[str]) -> dict[Row, dict[str, Any]]:
        values: Iterable[Row] = self.session.execute(query).fetchall()
        rows = [dict(zip(columns, row, strict=True)) for row in values]
        return {tuple(row[key] for key in keys): row for row in rows}


def _plain(row: Row) -> Row:
    """A row of either database as SQLite has it."""
    return tuple(
        int(value) if isinstance(value, bool) else float(value) if isinstance(value, Decimal) else value
        for value in row
    )
