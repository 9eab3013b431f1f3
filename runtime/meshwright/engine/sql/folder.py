"""The data folder: for its owner alone, without links, locked by one mesh, with the mark of its store.

The mark says how far the store had come, in a file of its own. SQLite cannot tell that the end of its log is
gone: a WAL that was cut or removed opens as an older database. The mark follows the durable commits, by a
second at most, and is never ahead of them: a database behind its mark has lost something.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, NamedTuple

from pydantic_core import from_json, to_json

from meshwright.core.errors import ConfigError, StoreFailed, StoreLocked
from meshwright.engine.sql.migrations import SqlConnection

logger = logging.getLogger(__name__)

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
LOCK_NAME = "mesh.lock"
_LOCK_SECONDS, _ENDING_SECONDS = 3.0, 10.0  # for a command that reads; for what a gone process left
_LOCK_PAUSE_SECONDS = 0.02
_PROCESS = "process-"
LAST_ERROR = "last-error.txt"
"""The last traceback."""
MARKS = (
    LOCK_NAME,
    "mesh.db",
    "mesh.json",
    "admin.token",
    "secret.key",
    "models.json",
    LAST_ERROR,
    "cache.db",
    "demo",
)
"""Names of files by which a folder of data is recognised: each has one of them."""
SOCKET_NAME = "mesh.sock"
"""The Unix socket at which this machine's own user finds the mesh."""
SECRET_KEY = "secret.key"
"""The keys that encrypt stored secrets, where the settings have none."""
TREES = "trees"
"""The folder of the trees that tasks work on."""
_MOUNTED = "lost+found"
IGNORE = ".gitignore"
"""Keeps the folder out of git."""


def make_private(folder: Path) -> Path:
    """Make a data folder, or make an existing one private: 0700, its files 0600. Returns the folder.

    Call it before anything is written there. Files that other users could read are tightened, with a warning.
    Raises StoreFailed for a folder that others own or can write, for one that others can read and that holds
    something else than a mesh's data, for one with links in it, and for one that cannot be made; OSError
    where the disk refuses later.
    """
    if not folder.is_dir():
        _make(folder)
    status = folder.stat()
    _check_owner(folder, status)
    mode = stat.S_IMODE(status.st_mode)
    if (mode & _OTHERS or folder.is_symlink()) and not _holds_a_mesh(folder):
        raise StoreFailed(
            f"{folder} holds other files than a mesh's data, and other users can read it",
            remedy=f"use a folder of its own, such as --data {folder / 'mesh'}",
        )
    loose = list(_loose(folder))
    if mode & _OTHERS:
        folder.chmod(mode & ~_OTHERS)
        logger.warning("%s was open to other users (mode %o): now only its owner can read it", folder, mode)
    for path in loose:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)
    return folder


def _make(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        write_private(folder / IGNORE, "*\n")
    except OSError as error:
        raise StoreFailed(
            f"the data folder {folder} cannot be made: {error.strerror or error}",
            remedy="choose another folder with --data DIR",
        ) from error


def check_writable(folder: Path) -> None:
    """Check that a mesh could keep its data in a folder; changes nothing. Raises StoreFailed."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if existing == folder and folder.is_dir():
        _check_owner(folder, folder.stat())
    for path in (existing, *(path for name in MARKS if (path := folder / name).exists())):
        if path == existing and not path.is_dir():
            reason = "is no folder"
        elif not os.access(path, os.W_OK | os.X_OK if path.is_dir() else os.W_OK):
            reason = f"cannot be written by this user (uid {os.geteuid()})"
        else:
            continue
        raise StoreFailed(
            f"{folder} cannot hold the mesh's data: {path} {reason}",
            remedy="Make it writable, or choose another folder with --data DIR",
        )


def open_private(path: Path, flags: int) -> int:
    """Open a file of a data folder, made with 0600 by O_CREAT. Follows no link. Raises OSError."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no regular file")
    return descriptor


def write_private(path: Path, text: str) -> None:
    """Write a file of a data folder, with 0600: whole or not at all, since others read it at any time."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # of a process with this id that was killed
    opened = open_private(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def read_private(path: Path) -> str:
    """The text of a file of a data folder. Follows no link. Raises OSError, ValueError."""
    with os.fdopen(open_private(path, os.O_RDONLY), encoding="utf-8") as file:
        return file.read()


def lock_folder(folder: Path) -> IO[str]:
    """Lock a data folder until the file is closed, also in the processes that inherit it.

    Waits for a mesh that ends, and longer for what a killed one left. Raises StoreLocked, OSError.
    """
    began = time.monotonic()
    while (lock := _lock_now(folder)) is None:
        owner = read_private(folder / LOCK_NAME).strip() or "unknown"
        if time.monotonic() - began > (_LOCK_SECONDS if _is_running(owner) else _ENDING_SECONDS):
            raise StoreLocked(
                f"{folder} is in use by process {owner}",
                remedy="use that mesh, stop it, or choose another folder with --data DIR",
            )
        time.sleep(_LOCK_PAUSE_SECONDS)
    return lock


def _lock_now(folder: Path) -> IO[str] | None:
    """The lock of a folder, None where another process has it. Raises OSError."""
    lock = os.fdopen(open_private(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT), "r+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """Hold a folder for one of the processes that share a database: the data folder, or the next in it.

    Raises StoreFailed.
    """
    for number in count(1):
        own = make_private(folder if number == 1 else folder / f"{_PROCESS}{number}")
        try:
            lock = _lock_now(own)
        except OSError as error:
            raise StoreFailed(
                f"{own} cannot be used: {error.strerror or error}", remedy="choose another with --data DIR"
            ) from error
        if lock is not None:
            with lock:
                yield own
            return


def process_folders(folder: Path) -> Sequence[Path]:
    """The folders that processes with one data folder may hold, that itself first."""
    return [folder, *sorted(folder.glob(f"{_PROCESS}*"))]


def _is_running(pid: str) -> bool:
    """Whether there is such a process, as far as this user can see."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):
        pass
    return True


class KeyFile:
    """A file of a data folder with secrets of the mesh, one on a line, newest first; made at first use."""

    def __init__(self, path: Path, make: Callable[[], str]) -> None:
        self.path = path
        self._make = make
        self._read: tuple[tuple[int, int], list[str]] | None = None

    def keys(self) -> list[str]:
        """The secrets of the file as it is now. Raises ConfigError, StoreFailed."""
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return self._first()
        version = status.st_mtime_ns, status.st_ino
        if self._read is None or self._read[0] != version:
            self._read = version, self._lines()
        return self._read[1]

    def add(self) -> None:
        """Make one more secret, the newest. Raises ConfigError, StoreFailed, OSError."""
        write_private(self.path, "".join(f"{key}\n" for key in (self._make(), *self.keys())))

    def _first(self) -> list[str]:
        draft = make_private(self.path.parent) / f".{self.path.name}.{secrets.token_hex(8)}"
        try:
            write_private(draft, f"{self._make()}\n")
            with suppress(FileExistsError):  # another process was first
                os.link(draft, self.path)
        except OSError as error:
            problem = f"cannot be written: {error.strerror or error}"
            remedy = "Make room or the folder writable, and start again"
            raise ConfigError(problem, path=str(self.path), remedy=remedy) from error
        finally:
            draft.unlink(missing_ok=True)
        return self._lines()

    def _lines(self) -> list[str]:
        try:
            lines = read_private(self.path).split()
        except (OSError, ValueError) as error:
            raise self.unusable(f"cannot be read: {error}") from error
        if not lines:
            raise self.unusable("is empty")
        return lines

    def unusable(self, problem: str) -> ConfigError:
        """The error for a file that cannot be used."""
        return ConfigError(problem, path=str(self.path), remedy="Restore it from a copy of the data folder")


def _check_owner(folder: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise StoreFailed(
            f"{folder} belongs to another user (uid {status.st_uid}), who could change the mesh's data",
            remedy=f"run the mesh as that user, or: chown -R {os.geteuid()} {folder}",
        )
    if status.st_mode & _OTHERS_WRITE:
        raise StoreFailed(
            f"{folder} can be written by other users (mode {stat.S_IMODE(status.st_mode):o})",
            remedy=f"look at what is in it, then: chmod 700 {folder}; or use a folder in it: "
            f"--data {folder / 'mesh'}",
        )


def _holds_a_mesh(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return not names - {_MOUNTED, IGNORE} or not names.isdisjoint(MARKS)


def _loose(folder: Path) -> Iterator[Path]:
    """Each file and folder in a folder that other users may use. Raises StoreFailed for a link."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            try:
                status = path.lstat()
            except FileNotFoundError:  # a program that still runs there has just removed it
                continue
            if stat.S_ISLNK(status.st_mode):
                raise StoreFailed(
                    f"{path} is a link, and a data folder holds none: a mesh would write to where it points",
                    remedy=f"remove it: rm {path}",
                )
            if status.st_mode & _OTHERS and status.st_uid == os.geteuid():
                yield path
        if parent == str(folder) and TREES in folders:
            folders.remove(TREES)  # is private as a whole, and holds what repositories hold: links too


FILE_NAME = "mesh.mark"
_UNKNOWN = (
    "%s is %s, and the log has %d events: if it was cut, nobody can tell. "
    "Compare mesh tasks with what you expect; mesh verify --audit checks the log against its signed heads"
)
_logger = logging.getLogger(__name__)
_COUNT_TASKS = "SELECT count(*) FROM heads WHERE type = 'Orchestrator'"


class _Mark(NamedTuple):
    """The store's id, the `seq` of its last event, and how many tasks it has accepted."""

    store: str
    seq: int
    tasks: int


class Loss(NamedTuple):
    """The loss of a store: its events after one `seq` up to another, and about so many tasks."""

    seq: int
    marked_seq: int
    tasks: int
    marked_tasks: int
    replaced: bool

    def __str__(self) -> str:
        tasks = f" and {self.marked_tasks - self.tasks:,} of {self.marked_tasks:,} accepted tasks"
        missing_tasks = tasks if self.tasks < self.marked_tasks else ""
        if self.marked_seq <= self.seq:
            return "another database is in its place"
        events = f"{self.marked_seq - self.seq:,} events (seq {self.seq + 1} to {self.marked_seq})"
        return f"{events}{missing_tasks} are gone"


class Marker:
    """Keeps the mark of a folder. `tasks` counts the accepted tasks."""

    def __init__(self, folder: Path, *, sync: Path | None) -> None:
        self.tasks = 0
        self._path = folder / FILE_NAME
        self._sync = sync
        self._mark: _Mark | None = None

    def loss(self, connect: Callable[[], SqlConnection] | None) -> Loss | None:
        """Returns the events and tasks that the database lacks (None: there is no database). Changes nothing
        in the folder.

        Without a mark that is not known; a log with events then gets a warning.
        """
        self._mark = _read(self._path)
        store, seq = _read_state(connect) if connect else ("", 0)
        if self._mark is None:
            if seq:
                _logger.warning(_UNKNOWN, self._path, "damaged" if self._path.exists() else "missing", seq)
            return None
        replaced = store not in ("", self._mark.store)
        if seq >= self._mark.seq and not replaced:
            return None  # without the tasks, whose count takes as long as there are many
        tasks = _count_tasks(connect) if connect and store else 0
        return Loss(seq, self._mark.seq, tasks, self._mark.tasks, replaced)

    def start(self, session: SqlConnection) -> None:
        """Take up the counts of an open database, and give it an id where it has none."""
        from meshwright.core.ids import new_id  # loads pydantic, which programs beside the mesh do without

        session.execute("INSERT OR IGNORE INTO meta VALUES ('store', ?)", (new_id(),))
        [(store,)] = session.execute("SELECT value FROM meta WHERE name = 'store'").fetchall()
        is_same = self._mark is not None and self._mark.store == store
        self.tasks = (
            self._mark.tasks if is_same and self._mark else session.execute(_COUNT_TASKS).fetchone()[0]
        )
        if self._mark is None:
            self._put(_Mark(store, _last_seq(session), self.tasks))
        else:
            self._mark = _Mark(store, self._mark.seq, self.tasks)

    def write(self, session: SqlConnection) -> None:
        """Mark what a session that reads can see."""
        assert self._mark is not None
        tasks = self.tasks  # first: a later one may not be durable yet
        mark = _Mark(self._mark.store, max(self._mark.seq, _last_seq(session)), tasks)
        if mark != self._mark:
            self._put(mark)

    def _put(self, mark: _Mark) -> None:
        self._make_durable()
        write_private(self._path, to_json(mark._asdict()).decode())
        self._mark = mark

    def _make_durable(self) -> None:
        """If commits are not synced, a power cut could leave the mark and take the events that it counts."""
        if self._sync is not None and self._sync.exists():
            wal = os.open(self._sync, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(wal)
            finally:
                os.close(wal)


def marked_seq(folder: Path) -> int:
    """How far the mark of a folder says that its log had come; 0 where it has none."""
    mark = _read(folder / FILE_NAME)
    return mark.seq if mark is not None else 0


def _read(path: Path) -> _Mark | None:
    """The mark of a folder; None where there is none, or a power cut has left half of one."""
    try:
        fields = from_json(read_private(path))
        return _Mark(str(fields["store"]), int(fields["seq"]), int(fields["tasks"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None


def _read_state(connect: Callable[[], SqlConnection]) -> tuple[str, int]:
    """The id of a database and its last `seq`; nothing where it is empty."""
    session = connect()
    try:
        if not session.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone():
            return "", 0
        store = session.execute("SELECT value FROM meta WHERE name = 'store'").fetchone()
        return store[0] if store else "", _last_seq(session)
    finally:
        session.close()


def _count_tasks(connect: Callable[[], SqlConnection]) -> int:
    session = connect()
    try:
        return session.execute(_COUNT_TASKS).fetchone()[0]
    finally:
        session.close()


def _last_seq(session: SqlConnection) -> int:
    return session.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]


def refusal(path: Path, loss: Loss) -> StoreFailed:
    """Why a store that has lost something is not opened, and how to go on."""
    cause = (
        "Another file was put in its place"
        if loss.replaced
        else f"{path.name}-wal was cut or removed, the disk lost writes, or an older copy is in its place"
    )
    return StoreFailed(
        f"{path} lacks what was committed: {loss}. {cause}",
        remedy="restore a newer copy, or go on without what is lost: mesh up --accept-loss",
    )
