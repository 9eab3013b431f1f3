"""Threads of a simulated process: real ones, of which one at a time goes on while the loop stands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")
_LOCAL = threading.local()
_made_by_asyncio = asyncio.run_coroutine_threadsafe


class _Abandoned(BaseException):
    """The simulation is over, and the thread with it."""


class _Thread:
    """A thread that goes on when the loop says so, and hands back when it waits for the loop, or ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[], Any]) -> None:
        self.ended: asyncio.Future[Any] = loop.create_future()
        self._loop = loop
        self._work = work
        self._its_turn, self._loops_turn = threading.Semaphore(0), threading.Semaphore(0)
        self._is_abandoned = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """Let it go on until it waits or has ended. Call it on the loop."""
        self._its_turn.release()
        self._loops_turn.acquire()

    def wait(self) -> None:
        """Hand back to the loop, in the thread, until it is told to go on."""
        self._loops_turn.release()
        self._its_turn.acquire()
        if self._is_abandoned:
            raise _Abandoned

    def abandon(self) -> None:
        """End it where it waits."""
        if self._thread.is_alive():
            self._is_abandoned = True
            self._its_turn.release()
            self._thread.join()

    def _run(self) -> None:
        _LOCAL.thread = self
        with suppress(_Abandoned):
            self._its_turn.acquire()
            if self._is_abandoned:
                return
            try:
                result = self._work()
            except _Abandoned:
                raise
            except BaseException as error:  # noqa: BLE001 it is the caller's
                if not self.ended.done():
                    self.ended.set_exception(error)
            else:
                if not self.ended.done():
                    self.ended.set_result(result)
            self._loops_turn.release()


class SimulatedThreads(Executor):
    """The executor whose work a simulated loop does in such threads."""

    def __init__(self) -> None:
        self._threads: list[_Thread] = []

    def start(self, loop: asyncio.AbstractEventLoop, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Begin some work; the result comes once it has ended."""
        thread = _Thread(loop, work)
        self._threads.append(thread)
        loop.call_soon(thread.go_on)
        return thread.ended

    def abandon(self) -> None:
        """End all that is left."""
        for thread in self._threads:
            thread.abandon()


class _AwaitedCall:
    """The result of a coroutine on the loop, for a thread that may wait for it."""

    def __init__(self, future: Future[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._future = future
        self._loop = loop

    def result(self, timeout: float | None = None) -> Any:
        """The result. Raises TimeoutError if there is none in time."""
        thread: _Thread = _LOCAL.thread
        is_waiting = True

        def go_on(*_: object) -> None:
            nonlocal is_waiting
            if is_waiting:
                is_waiting = False
                thread.go_on()

        if not self._future.done():
            self._future.add_done_callback(lambda _: self._loop.call_soon(go_on))
            if timeout is not None:
                self._loop.call_later(timeout, go_on)
            thread.wait()
        if not self._future.done():
            raise TimeoutError
        return self._future.result()

    def cancel(self) -> bool:
        """Give it up."""
        return self._future.cancel()


def run_coroutine_threadsafe(
    coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop
) -> _AwaitedCall:
    """As asyncio's, for threads of a simulation."""
    return _AwaitedCall(_made_by_asyncio(coroutine, loop), loop)
