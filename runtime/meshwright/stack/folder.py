"""The data folder of a stack: one stack at a time, and until its last program has ended."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from meshwright.errors import StoreFailed, StoreLocked
from meshwright.sql.folder import make_private, open_private

LOCK_NAME = "mesh.lock"  # the embedded mesh's too: a folder is of one of them
_ENDING_SECONDS = 5.0
LOOK_SECONDS = 0.05


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold a data folder, made where it is missing. Gives the descriptor of the lock.

    A process that inherits it holds the folder too, so that what a killed supervisor left is waited for.
    Raises StoreLocked where another mesh serves the folder, StoreFailed where it cannot be written.
    """
    try:
        make_private(folder)
        lock = os.fdopen(open_private(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT), "r+")
    except OSError as error:
        raise StoreFailed(
            f"{folder} cannot be used: {error.strerror or error}", remedy="choose another with --data DIR"
        ) from error
    with lock:
        _take(lock, folder)
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def _take(lock: IO[str], folder: Path) -> None:
    latest = time.monotonic() + _ENDING_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip()
            if _lives(owner) or time.monotonic() > latest:
                raise StoreLocked(
                    f"{folder} is in use by process {owner or 'unknown'}",
                    remedy="use that mesh, stop it, or choose another folder with --data DIR",
                ) from None
        time.sleep(LOOK_SECONDS)  # its owner has gone, and what it had started is about to end


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
