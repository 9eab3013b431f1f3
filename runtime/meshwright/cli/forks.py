"""Keeps a process that an agent's code forks from going on as the mesh.

The child has a copy of the event loop, but shares its epoll, its sockets and its files with the mesh. Once
the child ran the loop, the mesh would miss events for good. Code may fork to become another program, or to
work aside and end by `os._exit`, as `multiprocessing` does. A child that returns, raises or awaits instead is
ended.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_OF_THE_MESH = ("meshwright", "asyncio", "uvloop", "concurrent", "threading")
"""Packages that call the code of agents, or run the loop."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD)
_FAILED = 1


@contextmanager
def forks_apart() -> Iterator[None]:
    """End each process that code of agents forks within the block once it comes back from that code."""
    forks = _Forks()
    os.register_at_fork(before=forks.hold, after_in_parent=forks.go_on, after_in_child=forks.leave)
    try:
        yield
    finally:
        forks.is_active = False  # Python forgets no such function


class _Forks:
    def __init__(self) -> None:
        self.is_active = True
        self._masks = threading.local()

    def hold(self) -> None:
        """Hold signals back: a child that gets one before it is apart would pass it to the mesh."""
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def go_on(self) -> None:
        """Let signals in again."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def leave(self) -> None:
        """Begin the child's life apart from the mesh."""
        if self.is_active:
            signal.set_wakeup_fd(-1)  # by it the loop of the mesh hears of signals
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            gc.freeze()  # a connection of the mesh that is collected here would be closed there too
            self._follow(sys._getframe(1))
        self.go_on()

    def _follow(self, forked: FrameType) -> None:
        """Find the outermost call of an agent's code, and end the child at its end."""
        outermost, frame = None, forked
        while frame is not None and (package := _package(frame)) not in _OF_THE_MESH:
            if package == "multiprocessing":  # it ends its processes itself
                return
            outermost, frame = frame, frame.f_back
        if outermost is not None:
            outermost.f_trace = _Child(forked).trace
            sys.settrace(_trace_no_other)


class _Child:
    """Follows the outermost call of an agent's code: its end leads back to the mesh."""

    def __init__(self, forked: FrameType) -> None:
        self._place = f"{forked.f_code.co_filename}:{forked.f_lineno}"
        self._error: BaseException | None = None

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "exception":
            self._error = argument[1]
        elif event == "line":
            self._error = None  # it was handled
        elif event == "return":  # also where an `await` has to wait
            self._end()
        return self.trace

    def _end(self) -> None:
        if isinstance(self._error, SystemExit):
            code = self._error.code or 0
            os._exit(code & 0xFF if isinstance(code, int) else _FAILED)
        text = (
            f"The process that was forked at {self._place} came back to the mesh, and was ended: end it with "
            "os._exit(), or use subprocess or multiprocessing\n"
        )
        with suppress(OSError):  # stderr is closed
            os.write(2, text.encode())
        os._exit(_FAILED)


def _trace_no_other(frame: FrameType, event: str, argument: Any) -> None:
    """Leave all other calls untraced."""


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
