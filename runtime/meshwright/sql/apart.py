"""Databases whose writer can be a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from meshwright.core.clock import Backoff
from meshwright.sql.database import Database, Job, Session, guarded
from meshwright.sql.writer import WriterProcess, guarded_apart

logger = logging.getLogger("meshwright.store")
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 300.0  # before another process is started


class ApartDatabase(Database):
    """Writes in a thread, and from `write_apart` on in a process. Where that ends, another is started."""

    def __init__(self, location: str, folder: Path) -> None:
        super().__init__(location, folder)
        self._process: WriterProcess | None = None
        self._ready: asyncio.Future[None] | None = None
        self._sent: Sequence[Job] = ()
        self._pauses = Backoff(_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS, jitter=0.0)
        self._restart: asyncio.TimerHandle | None = None

    def write_apart(self) -> asyncio.Future[None]:
        """Begin to write in a process of its own; until the result is there, the thread writes."""
        assert self._process is None
        self._ready = asyncio.get_running_loop().create_future()
        self._process = WriterProcess(self._answered)
        self._process.start(self._writer(), self.preloaded, self._held())
        return self._ready

    @property
    def writer_pid(self) -> int:
        """The process that writes."""
        return self._process.pid if self._process and self._is_apart else os.getpid()

    @property
    def _is_apart(self) -> bool:
        return self._process is not None and self._ready is not None and self._ready.done()

    @abstractmethod
    def _writer(self) -> Callable[[], Session]:
        """What opens the session that writes, in another process: it can be pickled."""

    @abstractmethod
    def _writer_ended(self, process: WriterProcess, jobs: Sequence[Job]) -> None:
        """Settle the group that a process had when it ended by itself."""

    def _held(self) -> Sequence[int]:
        """The descriptors that the process holds too."""
        return ()

    def _may_write_apart(self, jobs: Sequence[Job]) -> bool:
        """Whether a process may write a group."""
        return True

    def _write(self, jobs: Sequence[Job]) -> None:
        if self._process is None or not self._is_apart or not self._may_write_apart(jobs):
            super()._write(jobs)
            return
        self._sent = jobs
        try:
            self._process.write([_packed(job) for job in jobs])  # some may have waited for the thread
        except Exception as error:  # noqa: BLE001 whatever cannot be sent, those who wait for it must learn it
            self._sent = ()
            asyncio.get_running_loop().call_soon(self._written, jobs, [], self._failed(error))

    def _answered(self, results: Sequence[Any], error: Exception | None) -> None:
        """The process is ready, has written a group, or (an EOFError) has ended."""
        jobs, self._sent = self._sent, ()
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        ended = self._process
        if isinstance(error, EOFError) and ended is not None:
            self._process = None
            self._start_another("has ended")
            self._writer_ended(ended, jobs)
        elif jobs:
            self._written(jobs, results, None if error is None else self._failed(error))

    def _start_another(self, problem: str) -> None:
        """Start another process to write, a moment later."""
        assert self._loop is not None
        pause = self._pauses.next()
        said = "The process that writes %s %s: the mesh writes by itself, and starts another in %g s"
        logger.warning(said, self.location, problem, pause)
        self._restart = self._loop.call_later(pause, self._try_apart)

    def _try_apart(self) -> None:
        try:
            self.write_apart()
        except OSError as error:
            self._process = None
            self._start_another(f"cannot be started ({error})")

    async def _end_writing(self) -> None:
        if self._restart is not None:
            self._restart.cancel()
        if self._process is not None and self._ready is not None:
            self._ready.cancel()
            self._process.forget()
            await asyncio.to_thread(self._process.end)
            self._process = None
        await super()._end_writing()


def _packed(job: Job) -> Job:
    """A job whose arguments are plain data."""
    if job.function is not guarded:
        return job
    return Job(guarded_apart, (pickle.dumps(job.args),), job.done)
