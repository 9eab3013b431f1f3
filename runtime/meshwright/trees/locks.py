"""Locks between the processes of a machine."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

_LOOK_SECONDS = 0.05


@asynccontextmanager
async def locked(path: Path) -> AsyncGenerator[None]:
    """Hold a lock, by a file that is made, against other processes; it ends with the process that has it."""
    with path.open("w") as file:
        while not _is_locked(file.fileno()):  # noqa: ASYNC110 - another process says no event
            await asyncio.sleep(_LOOK_SECONDS)
        yield


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
