"""Backups: one file with all that an embedded mesh keeps, made while the mesh runs.

The file is a SQLite database: a copy of `mesh.db` at one moment, and a table `backup` with the other files of
the data folder that the store needs. It is complete, or it is not there. Of a mesh on Dapr it has the
database of the front, without the tasks themselves.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from msgspec import Meta

from meshwright.agents.trees.leases import LEASES
from meshwright.core.errors import StoreFailed
from meshwright.engine.events.heads import FILE_NAME as HEADS
from meshwright.engine.events.heads import KEY_NAME, Head
from meshwright.engine.sql.folder import (
    IGNORE,
    LOCK_NAME,
    SECRET_KEY,
    TREES,
    Marker,
    lock_folder,
    make_private,
    open_private,
    read_private,
    write_private,
)
from meshwright.engine.sql.meta import HELD, write_note
from meshwright.engine.sql.sqlite import FILE_NAME, RESTORE, SqliteDatabase, SqliteSession
from meshwright.kit import Struct

FILES = (SECRET_KEY, KEY_NAME, HEADS, "admin.token", "proxy-keys.json")
"""The files of a data folder that its store needs."""
_OF_STACK = frozenset({SECRET_KEY, "admin.token"})
"""Those that the workers of a stack share: they are in its folder, the others in the front's."""
_PAGES = 2_000  # copied in one go: some 8 MB
_ABOUT = "about.json"
_NOTHING = frozenset({"lost+found", IGNORE, LOCK_NAME})
"""Files of an empty folder, and of a restore that broke off."""
_NAME = "name a file that mesh backup has written"
_TASKS = "SELECT count(*), coalesce(sum(obliged), 0) FROM heads WHERE type = 'Orchestrator'"
_LISTED = "SELECT count(*), count(*) - count(completed_at) FROM tasks"  # where they are in another store
Progress = Callable[[int, int], None]
"""Called with how many pages are copied, and how many there are."""


class Backup(Struct):
    """The contents of a backup: how many tasks, how many of them open, and the last event of the log.

    `trees` counts those of tasks in the folder. They are not in the file: they change beside the store.
    `front` is the folder of a mesh on Dapr that its database is of; what the tasks are is not in the file.
    """

    made_at: datetime
    tasks: int
    open_tasks: int
    last_seq: int
    last_event_at: datetime | None
    trees: Annotated[int, Meta(ge=0)] = 0
    front: Annotated[str, Meta(pattern=r"\A[a-z0-9-]{0,80}\Z")] = ""  # it names a folder to write to


_NOTED = ("made_at", "open_tasks", "last_seq")
"""The fields of a backup that the store restored from it notes."""


class Written(NamedTuple):
    """A backup and the bytes of its file."""

    backup: Backup
    bytes: int


def write_backup(folder: Path, target: Path, progress: Progress | None = None, *, front: str = "") -> Written:
    """Copy the store of a data folder to a new file, which only its owner may read.

    Of a mesh on Dapr, `front` names the folder in it that has the event log. The mesh may run meanwhile: the
    copy has everything that was accepted before it began, and nothing of what came later. Raises StoreFailed
    where there is no store, the file exists, or the disk refuses.
    """
    if not (folder / front / FILE_NAME).is_file():
        raise no_store(folder / front)
    if not target.parent.is_dir():
        raise StoreFailed(f"there is no folder {target.parent}", remedy="make it, or choose another place")
    if target.exists():
        raise _exists(target)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.close(open_private(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        backup = _copy(folder, draft, progress, front)
        _sync(draft)
        os.link(draft, target)  # fails where somebody has made the file meanwhile
        _sync(target.parent)
        return Written(backup, target.stat().st_size)
    except FileExistsError as error:
        raise _exists(target) from error
    except (sqlite3.Error, OSError) as error:
        if type(error) is sqlite3.DatabaseError:  # those of the disk are of a class below it
            raise StoreFailed(f"{folder / front / FILE_NAME} is damaged: {error}", remedy=RESTORE) from error
        problem = getattr(error, "strerror", None) or error
        raise StoreFailed(f"{target} cannot be written: {problem}", remedy="choose another place") from error
    finally:
        draft.unlink(missing_ok=True)


def no_store(folder: Path) -> StoreFailed:
    """The error for a folder without a store."""
    return StoreFailed(f"{folder} has no {FILE_NAME}", remedy="name the data folder of a mesh: --data DIR")


def _exists(target: Path) -> StoreFailed:
    return StoreFailed(f"{target} exists, and a backup overwrites nothing", remedy="name a new file")


def _copy(folder: Path, draft: Path, progress: Progress | None, front: str) -> Backup:
    with (
        closing(SqliteDatabase(folder / front).connect_reader()) as source,
        closing(sqlite3.connect(draft, isolation_level=None)) as copy,
    ):
        source.execute("BEGIN")  # the copy is of this moment: without it each commit would restart it
        [last_seq] = source.execute("SELECT seq FROM event_log").fetchone()
        last_event = source.execute("SELECT time FROM events WHERE seq = ?", (last_seq,)).fetchone()
        copy.execute("PRAGMA synchronous=OFF")  # it is synced as a whole
        _copy_pages(source.connection, copy, progress)
        tasks, open_tasks = source.execute(_TASKS).fetchone()
        if not tasks:
            tasks, open_tasks = source.execute(_LISTED).fetchone()
        backup = Backup(
            made_at=datetime.now(UTC),
            tasks=tasks,
            open_tasks=open_tasks,
            last_seq=last_seq,
            last_event_at=datetime.fromtimestamp(last_event[0], UTC) if last_event else None,
            trees=sum(1 for _ in (folder / TREES).glob(LEASES)),
            front=front,
        )
        copy.execute("PRAGMA journal_mode=DELETE")  # one file
        copy.execute("CREATE TABLE backup (name TEXT PRIMARY KEY, content TEXT NOT NULL)")
        files = {name: text for name in FILES if (text := read_text(_path(folder, name, front))) is not None}
        if HEADS in files:
            files[HEADS] = _heads_until(files[HEADS], last_seq)
        rows = {_ABOUT: backup.model_dump_json(), **files}
        copy.executemany("INSERT INTO backup VALUES (?, ?)", rows.items())
    return backup


def _path(folder: Path, name: str, front: str) -> Path:
    """The place of a file of `FILES`."""
    return folder / name if name in _OF_STACK else folder / front / name


def restore(source: Path, folder: Path, progress: Progress | None = None) -> Backup:
    """Make a data folder of a backup; the mesh that starts there begins no work before it is released.

    The folder is new or empty. Raises StoreFailed where it is not, for a file that is no backup or is
    damaged, and where the disk refuses.
    """
    if folder.exists() and any(path.name not in _NOTHING for path in folder.iterdir()):
        raise StoreFailed(f"{folder} is not empty", remedy="name a new folder: --data DIR")
    if not source.is_file():
        raise StoreFailed(f"{source} cannot be restored to {folder}: there is no such file", remedy=_NAME)
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as copy:
            files = _backup_files(source, copy)
            backup = _about(source, files.pop(_ABOUT))
            with lock_folder(make_private(folder)):
                make_private(folder / backup.front)
                _unpack(copy, files, backup, folder, progress)
    except (sqlite3.Error, OSError) as error:
        raise StoreFailed(
            f"{source} cannot be restored to {folder}: {error}", remedy="look at the file and the disk"
        ) from error
    return backup


def _backup_files(source: Path, copy: sqlite3.Connection) -> dict[str, str]:
    """The files of a backup by name. Raises StoreFailed for a file that is none, or is damaged."""
    try:
        files: dict[str, str] = dict(copy.execute("SELECT name, content FROM backup").fetchall())
        [(state,)] = copy.execute("PRAGMA quick_check(1)").fetchall()
    except (sqlite3.Error, ValueError) as error:
        raise StoreFailed(f"{source} is no backup of a mesh: {error}", remedy=_NAME) from error
    if _ABOUT not in files or state != "ok":
        raise StoreFailed(f"{source} is damaged: {state}", remedy=_NAME)
    return files


def _about(source: Path, text: Any) -> Backup:
    """The note of a backup about its contents. Raises StoreFailed with the field that is malformed."""
    try:
        return Backup.model_validate_json(text)
    except (TypeError, ValueError) as error:  # TypeError: it is no text
        problem = f"{source} is damaged: its note {_ABOUT!r} cannot be read: {error}"
        raise StoreFailed(problem, remedy=_NAME, field=_ABOUT) from error


def _unpack(
    copy: sqlite3.Connection, files: dict[str, str], backup: Backup, folder: Path, progress: Progress | None
) -> None:
    store = folder / backup.front
    draft = store / f".{FILE_NAME}.{os.getpid()}"
    try:
        os.close(open_private(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        _fill(draft, copy, backup, progress)
        for name in FILES:  # of a backup that somebody else made no other name counts
            if name in files:
                write_private(_path(folder, name, backup.front), files[name])
        draft.rename(store / FILE_NAME)  # last: before that the folder has no store
        _sync(store)
    finally:
        draft.unlink(missing_ok=True)


def _fill(draft: Path, copy: sqlite3.Connection, backup: Backup, progress: Progress | None) -> None:
    with closing(SqliteSession(sqlite3.connect(draft, isolation_level=None))) as session:
        session.execute("PRAGMA synchronous=OFF")
        _copy_pages(copy, session.connection, progress)
        session.execute("PRAGMA secure_delete=ON")  # the keys have files of their own
        session.execute("DROP TABLE backup")
        write_note(session, HELD, {name: getattr(backup, name) for name in _NOTED})
        Marker(draft.parent, sync=None).start(session)
    _sync(draft)


def _copy_pages(source: sqlite3.Connection, copy: sqlite3.Connection, progress: Progress | None) -> None:
    def report(_: int, remaining: int, pages: int) -> None:
        if progress is not None:
            progress(pages - remaining, pages)

    source.backup(copy, pages=_PAGES, sleep=0, progress=report)


def read_text(path: Path) -> str | None:
    """The text of a file of a data folder, None where there is none. Raises OSError, ValueError."""
    try:
        return read_private(path)
    except FileNotFoundError:
        return None


def _heads_until(text: str, seq: int) -> str:
    """The signed heads that vouch for no later row: those behind it are signed after the copy's moment."""
    lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
    return "".join(line for line in lines if not _is_later(line, seq))


def _is_later(line: str, seq: int) -> bool:
    try:
        return Head.model_validate_json(line).seq > seq
    except ValueError:  # no head: a verification names it
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
