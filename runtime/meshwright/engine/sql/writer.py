"""The writer of a database as a process of its own, so that commits do not wait for the interpreter.

A group of jobs goes over as names of functions with their arguments, and comes back as their results once it
is durable. Of a SQLite file the process holds the folder's lock too. It ends when its pipe does, with
whatever ended the mesh, once it has written the groups that came whole. If it ends first, a SQLite file tells
whether the group under way was written: its id and results are part of its transaction.

`Together` does for reading what groups do for writing: one query answers all who ask meanwhile.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import marshal
import os
import pickle
import signal
import struct
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from meshwright.core.clock import Backoff
from meshwright.core.redaction import environment_with, redact
from meshwright.engine.sql.database import Database, Session, WriteJob, guarded

logger = logging.getLogger("meshwright.store")
_SIZE = struct.Struct("<Q")
_PIPE_BYTES = 1024 * 1024  # as much as a user may have: most groups go over in one go
_YOUNG_OBJECTS = 50_000
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 300.0  # before another process is started
STEADY_SECONDS = 60.0  # after which a process counts as one that works: the next pause is the first again
_FORMAT = 2  # of marshal: without references, which take time to find


class WriterProcess:
    """Our end. `answered(results, error)` says that it is ready, and then follows each `write`.

    An EOFError says that the process has ended.
    """

    def __init__(self, answered: Callable[[Sequence[Any], Exception | None], None]) -> None:
        self.is_ready = False
        """Whether its session is open."""
        self._answered = answered
        self._loop = asyncio.get_running_loop()
        self._to_send = memoryview(b"")
        self._received = bytearray()
        self._process: subprocess.Popen[bytes] | None = None
        self._calls = self._answers = self.pid = -1
        self._group_id = b""  # of the group that is not answered
        self._started_at = self._loop.time()

    @property
    def age_seconds(self) -> float:
        """The time since it was started."""
        return self._loop.time() - self._started_at

    def start(
        self,
        connect: Callable[[], Session],
        preloaded: Iterable[Any],
        descriptors: Sequence[int] = (),
        variables: Iterable[str] = (),
    ) -> None:
        """Start the process, which calls `connect` to open its session; it holds some descriptors too.

        It gets the `variables` of the environment that its driver reads, and no keys of models. `connect` and
        what is `preloaded` can be pickled: they go through the pipe, so that no password stands among the
        arguments of a program.
        """
        opened: list[int] = []
        try:
            opened += os.pipe()
            opened += os.pipe()
            theirs, self._calls, self._answers, answers = opened
            self._process = self._popen(theirs, answers, descriptors, variables)
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        self.pid = self._process.pid
        os.close(theirs)
        os.close(answers)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # there is a limit for all pipes of a user
                fcntl.fcntl(self._calls, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        for descriptor in (self._calls, self._answers):
            os.set_blocking(descriptor, False)
        self._loop.add_reader(self._answers, self._receive)
        self._send(pickle.dumps((connect, list(preloaded))))

    def _popen(
        self, calls: int, answers: int, descriptors: Sequence[int], variables: Iterable[str]
    ) -> subprocess.Popen[bytes]:
        paths = os.pathsep.join(filter(None, sys.path))
        return subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(calls), str(answers)],
            env={**environment_with(variables), "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stdout=sys.__stderr__,
            pass_fds=(calls, answers, *descriptors),
            start_new_session=True,  # Ctrl-C in a terminal is the mesh's to handle
        )

    def write(self, jobs: Iterable[WriteJob]) -> None:
        """Have a group written. The one before it was answered."""
        names = ((job.function.__module__, job.function.__qualname__, job.args) for job in jobs)
        self._group_id = os.urandom(8)
        self._send(marshal.dumps((self._group_id, list(names)), _FORMAT))

    def end(self) -> None:
        """End the process, and wait for that; it has answered all."""
        if self._process is not None:
            os.close(self._calls)
            self._process.wait()
            os.close(self._answers)
            self._process = None

    def kill(self) -> bytes:
        """End the process if need be; returns the id of its last group, b"" where that was answered."""
        if self._process is not None:
            self._process.kill()
            self.end()
        return self._group_id

    def forget(self) -> None:
        """Expect no more answers. Call it on the event loop, before the end."""
        self._loop.remove_reader(self._answers)
        self._loop.remove_writer(self._calls)

    def _send(self, data: bytes) -> None:
        self._to_send = memoryview(_SIZE.pack(len(data)) + data)
        self._send_rest()
        if self._to_send:
            self._loop.add_writer(self._calls, self._send_rest)

    def _send_rest(self) -> None:
        try:
            self._to_send = self._to_send[os.write(self._calls, self._to_send) :]
        except BlockingIOError:
            return
        except OSError:  # it has ended, which the end of its answers says
            self._to_send = memoryview(b"")
        if not self._to_send:
            self._loop.remove_writer(self._calls)

    def _receive(self) -> None:
        data = os.read(self._answers, _PIPE_BYTES)
        self._received += data
        if not data:
            self.forget()
            self._answered((), EOFError())
        elif len(self._received) >= _SIZE.size + int.from_bytes(self._received[: _SIZE.size], "little"):
            results, problem = marshal.loads(memoryview(self._received)[_SIZE.size :])
            self._received, self._group_id, self.is_ready = bytearray(), b"", True
            self._answered(results, None if problem is None else pickle.loads(problem))  # noqa: S301 our own process


class ApartDatabase(Database):
    """Writes in a thread, and after `write_apart` in a process. If that process ends, another is started."""

    def __init__(self, location: str, folder: Path) -> None:
        super().__init__(location, folder)
        self._process: WriterProcess | None = None
        self._ready: asyncio.Future[None] | None = None
        self._sent: Sequence[WriteJob] = ()
        self._pauses = Backoff(_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS, jitter=0.0)
        self._restart: asyncio.TimerHandle | None = None
        self._groups_before = 0  # that the thread writes before a process is started

    def write_apart(self, *, after_groups: int = 0) -> asyncio.Future[None]:
        """Begin to write in a process of its own, at once or after so many groups of writes.

        Until the result is there, the thread writes.
        """
        self._ready = asyncio.get_running_loop().create_future()
        self._groups_before = after_groups
        if not after_groups:
            self._start_apart()
        return self._ready

    @property
    def writer_pid(self) -> int:
        """The process that writes."""
        return self._process.pid if self._process and self._process.is_ready else os.getpid()

    @abstractmethod
    def _writer(self) -> Callable[[], Session]:
        """Opens the session that writes, in another process: it can be pickled."""

    @abstractmethod
    def _writer_ended(self, process: WriterProcess, jobs: Sequence[WriteJob]) -> None:
        """Settle the group that a process had when it ended by itself."""

    def _held(self) -> Sequence[int]:
        """The descriptors that the process holds too."""
        return ()

    def _variables(self) -> Iterable[str]:
        """The names of the variables that the driver of the process reads."""
        return ()

    def _may_write_apart(self, jobs: Sequence[WriteJob]) -> bool:
        """Whether a process may write a group."""
        return True

    def _write(self, jobs: Sequence[WriteJob]) -> None:
        if self._process is None or not self._process.is_ready or not self._may_write_apart(jobs):
            super()._write(jobs)
            if self._groups_before:
                self._groups_before -= 1
                if not self._groups_before:
                    self._start_apart()
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
        process = self._process
        if isinstance(error, EOFError) and process is not None:
            self._process = None
            if process.is_ready and process.age_seconds >= STEADY_SECONDS:
                self._pauses.reset()
            self._start_another("has ended")
            self._writer_ended(process, jobs)
        elif jobs:
            self._written(jobs, results, None if error is None else self._failed(error))
        elif self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def _start_another(self, problem: str) -> None:
        """Start another process to write, a moment later."""
        assert self._loop is not None
        pause = self._pauses.next()
        warning = "The process that writes %s %s: the mesh writes by itself, and starts another in %g s"
        logger.warning(warning, self.location, problem, pause)
        self._restart = self._loop.call_later(pause, self._start_apart)

    def _start_apart(self) -> None:
        assert self._process is None
        process = WriterProcess(self._answered)
        try:
            process.start(self._writer(), self.preloaded, self._held(), self._variables())
        except OSError as error:
            self._start_another(f"cannot be started ({error})")
        else:
            self._process = process

    async def _end_writing(self) -> None:
        if self._restart is not None:
            self._restart.cancel()
        if self._ready is not None:
            self._ready.cancel()
        process, self._process = self._process, None
        if process is not None:
            process.forget()
            await asyncio.to_thread(process.end if process.is_ready else process.kill)
        await super()._end_writing()


def _packed(job: WriteJob) -> WriteJob:
    """A job whose arguments are plain data."""
    if job.function is not guarded:
        return job
    return WriteJob(guarded_apart, (pickle.dumps(job.args),), job.on_commit)


def guarded_apart(session: Session, call: bytes) -> bytes:
    """`guarded` for a call that is more than plain data."""
    result, problem = guarded(session, *pickle.loads(call))  # noqa: S301 our own process
    return pickle.dumps((result, None)) if problem is None else pickle.dumps((None, _sendable(problem)))


def _sendable(error: Exception) -> Exception:
    """An error that the other process can read: a class may refuse what its instances are pickled as."""
    try:
        return pickle.loads(pickle.dumps(error))  # noqa: S301 just pickled
    except Exception:  # noqa: BLE001 whatever the class raises
        return RuntimeError(f"{type(error).__name__}: {error}")


def main(calls: int, answers: int) -> None:
    """Be the process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a service manager stops all processes of a mesh at once
    session: Session | None = None
    with open(calls, "rb") as incoming, open(answers, "wb", buffering=0) as outgoing:
        while len(head := incoming.read(_SIZE.size)) == _SIZE.size:
            data = incoming.read(*_SIZE.unpack(head))
            if len(data) < _SIZE.unpack(head)[0]:
                break  # its sender was killed before the write was reported as durable
            if session is None:
                connect, _ = pickle.loads(data)  # noqa: S301 our own process: this imports what it will call
                session = _connected(connect)
                gc.freeze()
                gc.set_threshold(_YOUNG_OBJECTS)
                answer = marshal.dumps(((), None))
            else:
                answer = _answer(session, data)
            try:
                outgoing.write(_SIZE.pack(len(answer)) + answer)
            except BrokenPipeError:
                break
    if session is not None:
        session.close()


def _connected(connect: Callable[[], Session]) -> Session:
    try:
        return connect()
    except Exception as error:  # noqa: BLE001 whatever a driver raises: the mesh says what came of it
        raise SystemExit(
            f"the writer cannot open the store: {redact(' '.join(str(error).split()))}"
        ) from None


def _answer(session: Session, data: bytes) -> bytes:
    try:
        group_id, names = marshal.loads(data)
        calls = [(_named(*name), args) for *name, args in names]
        results = session.write_group(calls, group_id)
        return marshal.dumps((results, None), _FORMAT)
    except Exception as error:  # noqa: BLE001 passed on: nothing of the group is durable
        return marshal.dumps(((), pickle.dumps(_sendable(error))))


@lru_cache
def _named(module: str, name: str) -> Callable[..., Any]:
    return getattr(import_module(module), name)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))


KeyT = TypeVar("KeyT")
AnswerT = TypeVar("AnswerT")

_MAX_KEYS = 500
_Waiting = tuple[KeyT, "asyncio.Future[AnswerT]"]


class Together(Generic[KeyT, AnswerT]):
    """Queries all waiting keys at a time; each caller gets the answer to all of them.

    A query starts after its callers have asked, so that it sees all that was durable by then.
    """

    def __init__(self, query: Callable[[Sequence[KeyT]], Awaitable[AnswerT]]) -> None:
        self._query = query
        self._waiting: list[_Waiting[KeyT, AnswerT]] = []
        self._querying: asyncio.Task[None] | None = None

    async def ask(self, key: KeyT) -> AnswerT:
        """Return the answer to the keys of all callers of now. Raises what the query raises."""
        answer: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, answer))
        if self._querying is None:
            self._querying = asyncio.create_task(self._query_all(), name="queries")
        return await answer

    async def _query_all(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting[:_MAX_KEYS], self._waiting[_MAX_KEYS:]
                await self._query_some(waiting)
        except asyncio.CancelledError:
            for _, answer in self._waiting:
                answer.cancel()
            raise
        finally:
            self._querying = None

    async def _query_some(self, waiting: Sequence[_Waiting[KeyT, AnswerT]]) -> None:
        answers = [answer for _, answer in waiting]
        try:
            result = await self._query(list(dict.fromkeys(key for key, _ in waiting)))
        except asyncio.CancelledError:
            for answer in answers:
                answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 each caller gets the error
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
        else:
            for answer in answers:
                if not answer.done():
                    answer.set_result(result)
