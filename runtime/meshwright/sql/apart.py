"""Databases whose writer can be a process of its own."""

from __future__ import annotations

import asyncio
import os
import pickle
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from meshwright.core.errors import StoreFailed
from meshwright.sql.database import Database, Job, Session, guarded
from meshwright.sql.writer import WriterProcess, guarded_apart


class ApartDatabase(Database):
    """Writes in a thread, and from `write_apart` on in a process."""

    _process: WriterProcess | None = None
    _ready: asyncio.Future[None] | None = None
    _sent: Sequence[Job] = ()

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
        return self._process.pid if self._process is not None and self._is_apart else os.getpid()

    @property
    def _is_apart(self) -> bool:
        return self._ready is not None and self._ready.done()

    @abstractmethod
    def _writer(self) -> Callable[[], Session]:
        """What opens the session that writes, in another process: it can be pickled."""

    def _held(self) -> Sequence[int]:
        """The descriptors that the process holds too."""
        return ()

    @abstractmethod
    def _writer_ended(self) -> StoreFailed:
        """Called when the process has ended by itself; returns the error of the group that it had."""

    def _write(self, jobs: Sequence[Job]) -> None:
        if self._process is None or not self._is_apart:
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
        ended = isinstance(error, EOFError)
        failure = self._writer_ended() if ended else None if error is None else self._failed(error)
        if jobs:
            self._written(jobs, results, failure)

    async def _end_writing(self) -> None:
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
