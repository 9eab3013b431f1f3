"""The process of a command: its log on stderr, and processes that an agent's code forks from it.

A line of the log is one entry, with its secrets redacted; tracebacks are kept in a file.

The child of a fork has a copy of the event loop, but shares its epoll, its sockets and its files with the
mesh. Once it ran the loop, the mesh would miss events for good. Code may fork to become another program, or
to work aside and end by `os._exit`, as `multiprocessing` does. A child that returns, raises or awaits instead
is ended.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import click

_MAX_QUOTED = 500  # characters of a message: it may quote what a client sent
_MAX_LINE = 4 * _MAX_QUOTED
_PLACE = "traceback: "
_OF_THE_MESH = ("meshwright", "asyncio", "uvloop", "concurrent", "threading")
"""Packages that call the code of agents, or run the loop."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD)
_FAILED = 1
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_Form = Callable[[logging.LogRecord, str, Mapping[str, str]], str]


def log_commands(folder: Path) -> None:
    """Show the warnings of a command to its user: `mesh: warning: ...`."""
    from meshwright.core.logs import MESH_LOGGER

    _install(_Lines(folder, _command_line), {"": logging.WARNING, MESH_LOGGER: logging.INFO})


def log_service(folder: Path, levels: str, form: str) -> str:
    """Write the log of a process that serves, as `text` or as `json`; `auto` is text on a terminal.

    Returns the form. Raises ValueError for levels that are none.
    """
    from meshwright.core.logs import json_line, parse_levels, text_line

    chosen = form if form != "auto" else "text" if sys.stderr.isatty() else "json"
    as_json = chosen == "json"
    _install(_Lines(folder, json_line if as_json else text_line, greets=not as_json), parse_levels(levels))
    return chosen


def say(text: str, level: int = logging.INFO) -> None:
    """Say how a mesh starts or ends: an entry of its log, but on a terminal the text alone."""
    from meshwright.core.logs import MESH_LOGGER

    logging.getLogger(MESH_LOGGER).log(level, "%s", text, extra={"greeting": level < logging.WARNING})


def _install(handler: logging.Handler, levels: Mapping[str, int]) -> None:
    logging.basicConfig(handlers=[handler], level=levels[""], force=True)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _command_line(record: logging.LogRecord, message: str, more: Mapping[str, str]) -> str:
    level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
    where = f" ({_PLACE}{more['traceback']})" if "traceback" in more else ""
    return f"mesh: {level}{message}{where}"


class _Lines(logging.Handler):
    """Writes lines, and never raises: what logs goes on with its work.

    An error that is `in_outcome` is printed by the command itself.
    """

    def __init__(self, folder: Path, form: _Form, *, greets: bool = False) -> None:
        super().__init__()
        self._folder = folder
        self._form = form
        self._greets = greets

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, redacted, and keep the traceback that came with it."""
        try:
            click.echo(self._line(record), err=True)
        except Exception:  # noqa: BLE001 as each handler of the standard library does
            self.handleError(record)

    def _line(self, record: logging.LogRecord) -> str:
        from meshwright.core.redaction import redact

        if self._greets and getattr(record, "greeting", False):
            return redact(record.getMessage())
        text = " ".join(record.getMessage().split())
        more: dict[str, str] = {}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            where = keep_traceback(error, self._folder)
            more = {"error": type(error).__name__, "traceback": where.removeprefix(_PLACE)}
            if not (self._form is _command_line and getattr(record, "in_outcome", False)):
                text = f"{text[:_MAX_QUOTED]}: {more['error']}: {' '.join(str(error)[:_MAX_QUOTED].split())}"
        return self._form(record, redact(text[:_MAX_LINE]), more)


def keep_traceback(error: BaseException, folder: Path) -> str:
    """Write a traceback to the data folder, or to stderr if MESH_DEBUG is set; returns where it is.

    Secrets are redacted.
    """
    return keep_text("".join(traceback.format_exception(error)), folder)


def keep_text(text: str, folder: Path) -> str:
    """Do the same with a traceback that is a text already."""
    from meshwright.core.errors import StoreFailed
    from meshwright.core.redaction import redact  # most commands do without
    from meshwright.engine.sql.folder import LAST_ERROR, make_private, write_private

    text = redact(text).encode(errors="backslashreplace").decode()  # no file holds half a pair of characters
    if os.environ.get("MESH_DEBUG"):
        sys.stderr.write(text)
        return "traceback above"
    try:
        write_private(make_private(folder) / LAST_ERROR, text)
    except (OSError, StoreFailed):
        return "MESH_DEBUG=1 shows the traceback"
    return f"traceback: {folder / LAST_ERROR}"


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


def on_stop_signals(stop: Callable[[], object]) -> None:
    """Have the running loop call a function on SIGINT and SIGTERM."""
    import asyncio  # most commands log without

    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop)
