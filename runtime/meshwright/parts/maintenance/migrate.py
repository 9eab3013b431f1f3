"""Migration: all that a stopped mesh keeps in SQLite goes to PostgreSQL, or back.

The target is unfinished until everything is there, and the source is closed for work before that note goes,
so that at no moment both can begin a task. A migration that broke off is run again, from the beginning.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic_core import from_json

from meshwright import Event
from meshwright.component import ActorRef, Payload
from meshwright.core.errors import StoreFailed, StoreLocked
from meshwright.engine.events.event_types import StoreMigrated, StoreReopened
from meshwright.engine.events.table import fill_blocks, newest
from meshwright.engine.sql.database import Row
from meshwright.engine.sql.folder import make_private, write_private
from meshwright.engine.sql.meta import (
    HELD,
    MOVED,
    UNFINISHED,
    copy_rows,
    delete_note,
    read_note,
    read_tables,
    refuse_if_moved,
    set_sequences,
    write_note,
)
from meshwright.engine.sql.sqlite import FILE_NAME
from meshwright.kit import Database, EventLog, InvalidInput, Session, Struct, new_id
from meshwright.parts.maintenance.backup import FILES, no_store, read_text

_OWN = frozenset(
    {"component_versions", "meta", "last_group", "workers", "event_news", "event_ends", "dead_letters"}
)
"""The tables of what a database is and who writes to it, and one that triggers write: each has its own."""
_HEADS = "type, id, revision, last_turn, sent, wake_at, obliged, seen, state"
_MESSAGES = {"sqlite": ("mailbox", "outside"), "postgres": ("messages", "remember")}
_ACTORS = frozenset({"heads", "mailbox", "messages"})
"""The tables of actors that the two databases have in other shapes."""
_COUNT_TASKS = (
    "SELECT count(*), coalesce(sum(obliged), 0) FROM heads WHERE type = 'Orchestrator' AND revision > 0"
)
_COUNT_WORKERS = """
    SELECT count(*) FROM workers JOIN pg_locks ON (classid::bigint << 32) + objid::bigint = lock_key
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_SET_MESSAGE_NUMBERS = "SELECT setval('message_numbers', max(n)) FROM messages HAVING max(n) > 0"
_LOCK_SECONDS = 10  # for a transaction of somebody else that reads or writes
Progress = Callable[[int, int], None]
"""Called with how many rows are copied, and how many there are."""


class MigrationReport(Struct):
    """The contents of a store that was migrated."""

    source: str
    target: str
    tables: int
    rows: int
    tasks: int
    open_tasks: int
    last_seq: int


class _Part(NamedTuple):
    """Rows to copy: the query, the table and columns that take them, and how a row is converted."""

    select: str
    table: str
    into: str
    convert: Callable[[Row], Row] | None = None


async def migrate(source: Database, target: Database, progress: Progress | None = None) -> MigrationReport:
    """Copy a store to an empty one of the other kind, and close the source for work.

    Both are not open yet, and closed when this returns. Raises StoreLocked for a source that a mesh uses,
    StoreMoved for one that was migrated elsewhere, and StoreFailed for one that is empty, for a target that
    is not, and where a table of the source has no place there. The source is as it was then, as where the
    process is killed; the target may be unfinished, and the next migration to it begins again.
    """
    if source.dialect == target.dialect:
        raise InvalidInput(
            "A migration is between SQLite and PostgreSQL",
            remedy="copy a store to another of its kind by mesh backup and mesh restore, or by pg_dump",
        )
    stopping = threading.Event()

    def go_on(reached: int, total: int) -> None:
        if stopping.is_set():
            raise StoreFailed("The migration was stopped")
        if progress is not None:
            progress(reached, total)

    async with AsyncExitStack() as stack:
        await _open_source(source, stack)
        await source.write(fill_blocks, datetime.now(UTC).timestamp())
        moved = await source.read(read_note, MOVED)
        with _frozen(source) as store:
            await _open(target, stack)
            unfinished = await target.read(read_note, UNFINISHED)
            if moved is None or unfinished is None or moved["id"] != unfinished["id"]:
                refuse_if_moved(store, source.location)
            files = _files(source, target, is_again=unfinished is not None)
            note = {"id": moved["id"] if moved else new_id(), "at": datetime.now(UTC)}
            await target.write(_begin, target.location, {**note, "from": source.location})
            stack.callback(stopping.set)  # before the target is closed, which waits for its writer
            report = await target.write(_fill, store, source.location, target.location, go_on)
            target.count_accepted(report.tasks)
            for name, text in files.items():
                write_private(target.folder / name, text)
            await source.write(write_note, MOVED, {**note, "to": target.location})
            await target.write(_finish, EventLog(target), report)
    return report


async def reopen(source: Database) -> None:
    """Let a store that was migrated be opened for work again. Raises StoreFailed for one that was not."""
    async with AsyncExitStack() as stack:
        await _open_source(source, stack)
        await source.write(_reopen, EventLog(source), source.location)


async def _open_source(source: Database, stack: AsyncExitStack) -> None:
    if source.dialect == "sqlite" and not (source.folder / FILE_NAME).is_file():
        raise no_store(source.folder)
    await _open(source, stack)


async def _open(database: Database, stack: AsyncExitStack) -> None:
    """Open a database until the end of a stack."""
    await database.open()
    stack.push_async_callback(database.close)


@contextmanager
def _frozen(source: Database) -> Iterator[Session]:
    """A session that sees one moment of a store that takes no writes until it ends, but for its notes."""
    with ExitStack() as stack:
        with source.translating():
            session = stack.enter_context(closing(source.connect_reader()))
            _freeze(session, source.location)
        if not newest(session):
            raise StoreFailed(f"{source.location} is empty", remedy="name the store of a mesh")
        yield session


def _freeze(session: Session, location: str) -> None:
    """Begin to see one moment, and take no writes after it. Raises StoreLocked, and the driver's errors."""
    if session.dialect == "sqlite":  # whose folder is locked
        session.execute("BEGIN")
        return
    _refuse_workers(session, location)
    session.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
    names = ", ".join(sorted(read_tables(session).keys() - {"meta"}))
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    session.execute(f"LOCK TABLE {names} IN EXCLUSIVE MODE")  # a worker that joins waits for the end
    _refuse_workers(session, location)


def _refuse_workers(session: Session, location: str) -> None:
    """Raise StoreLocked where a worker is connected, also one that hangs."""
    [(workers,)] = session.execute(_COUNT_WORKERS).fetchall()
    if workers:
        raise StoreLocked(f"{location} is in use by {workers} processes", remedy="stop the mesh")


def _begin(session: Session, location: str, note: Mapping[str, Any]) -> None:
    """Note that a store is unfinished. Raises StoreFailed for one that has something else in it."""
    is_new = not newest(session) and not session.execute("SELECT 1 FROM heads LIMIT 1").fetchall()
    if read_note(session, UNFINISHED) is None and not is_new:
        raise StoreFailed(f"{location} is not empty", remedy="name a new folder, or an empty database")
    write_note(session, UNFINISHED, note)


def _fill(session: Session, store: Session, source: str, target: str, progress: Progress) -> MigrationReport:
    """Copy all rows, in one transaction."""
    parts = _parts(store, session, source)
    counts = [f"SELECT count(*) FROM ({part.select}) AS selected" for part in parts]  # noqa: S608 names in code
    total = sum(store.execute(count).fetchone()[0] for count in counts)
    reached = 0

    def written(rows: int) -> None:
        nonlocal reached
        reached += rows
        progress(reached, total)

    for part in parts:
        session.execute(f"DELETE FROM {part.table}")  # noqa: S608 names in code
        rows = store.stream(part.select)
        copy_rows(map(part.convert, rows) if part.convert else rows, session, part.into, written)
    if session.dialect == "postgres":
        set_sequences(session)
        session.execute(_SET_MESSAGE_NUMBERS)
    if hold_note := read_note(store, HELD):
        write_note(session, HELD, hold_note)
    [(tasks, open_tasks)] = store.execute(_COUNT_TASKS).fetchall()
    return MigrationReport(
        source=source,
        target=target,
        tables=len(parts),
        rows=reached,
        tasks=tasks,
        open_tasks=open_tasks,
        last_seq=newest(store),
    )


def _parts(store: Session, session: Session, location: str) -> list[_Part]:
    """The rows of every table. Raises StoreFailed for a table or column that has no place in the target."""
    theirs, ours = read_tables(store), read_tables(session)
    parts = _actors(store.dialect, session.dialect)
    for name, table in theirs.items():
        if name in _OWN or name in _ACTORS:
            continue
        if name not in ours or not {*table.columns} <= {*ours[name].columns}:
            raise StoreFailed(
                f"{location} has a table {name} that no part of this mesh keeps there",
                remedy="install the package of its part, or drop what is left of one",
            )
        columns = ", ".join(column for column in table.columns if column in ours[name].writable)
        parts.append(_Part(f"SELECT {columns} FROM {name}", name, f"{name} ({columns})"))  # noqa: S608 names in code
    return parts


def _actors(before: str, after: str) -> list[_Part]:
    """The records of actors and the messages on their way, which no process owns."""
    (mailbox, repeats), (own_mailbox, own_repeats) = _MESSAGES[before], _MESSAGES[after]
    heads, messages = f"SELECT {_HEADS} FROM heads", f"SELECT n, {repeats}, message FROM {mailbox}"  # noqa: S608 names in code
    if after == "sqlite":
        return [
            _Part(
                f"{heads} WHERE revision > 0", "heads", f"heads ({_HEADS})"
            ),  # 0: of a batch that was refused
            _Part(messages, own_mailbox, f"{own_mailbox} (n, {own_repeats}, message)"),
        ]
    into = f"messages (n, {own_repeats}, message, type, id, owner, fetched)"

    def unowned(row: Row) -> Row:
        return (*row, "")

    def addressed(row: Row) -> Row:
        return (*row, *ActorRef.parse(from_json(row[-1])["to"]), "", 0)

    return [
        _Part(heads, "heads", f"heads ({_HEADS}, owner)", unowned),
        _Part(messages, own_mailbox, into, addressed),
    ]


def _files(source: Database, target: Database, *, is_again: bool) -> dict[str, str]:
    """The files that the source's store needs of its folder. Raises StoreFailed if the target has others."""
    if source.folder.resolve() == target.folder.resolve():
        return {}
    make_private(target.folder)
    files = {name: text for name in FILES if (text := read_text(source.folder / name)) is not None}
    for name, text in files.items():
        if not is_again and read_text(target.folder / name) not in (None, text):
            raise StoreFailed(f"{target.folder} has a file {name} of its own", remedy="name a new folder")
    return files


def _finish(session: Session, log: EventLog, report: MigrationReport) -> None:
    """Open the target for work."""
    delete_note(session, UNFINISHED)
    log.insert(session, [_event(StoreMigrated(**report.model_dump()))])


def _reopen(session: Session, log: EventLog, location: str) -> None:
    note = read_note(session, MOVED)
    if note is None:
        raise StoreFailed(f"{location} was not migrated", remedy="start it")
    delete_note(session, MOVED)
    log.insert(session, [_event(StoreReopened(target=note["to"]))])


def _event(payload: Payload) -> Event:
    event_type, topic, now = payload.event_type, payload.event_topic, datetime.now(UTC)
    return Event(id=new_id(), event_type=event_type, topic=topic, time=now, payload=payload)
