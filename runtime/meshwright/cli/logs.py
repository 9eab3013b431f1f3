"""The log of this process on stderr: one line an entry, secrets redacted, tracebacks kept in a file."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import click

_MAX_QUOTED = 500  # characters of a message: it may quote what a client sent
_MAX_LINE = 4 * _MAX_QUOTED
_PLACE = "traceback: "
_Form = Callable[[logging.LogRecord, str, Mapping[str, str]], str]


def log_commands(folder: Path) -> None:
    """Show the warnings of a command to whoever typed it: `mesh: warning: ...`."""
    from meshwright.core.logs import MESH_LOGGER

    _install(_Lines(folder, _command_line), {"": logging.WARNING, MESH_LOGGER: logging.INFO})


def log_service(folder: Path, levels: str, form: str) -> str:
    """Write the log of a process that serves, as `text` or as `json`; `auto` is text on a terminal.

    Returns the form. Raises ValueError for levels that are none.
    """
    from meshwright.core.logs import json_line, levels_of, text_line

    chosen = form if form != "auto" else "text" if sys.stderr.isatty() else "json"
    as_json = chosen == "json"
    _install(_Lines(folder, json_line if as_json else text_line, greets=not as_json), levels_of(levels))
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
    from meshwright.sql.folder import LAST_ERROR, make_private, write_private

    text = redact(text).encode(errors="backslashreplace").decode()  # no file holds half a pair of characters
    if os.environ.get("MESH_DEBUG"):
        sys.stderr.write(text)
        return "traceback above"
    try:
        write_private(make_private(folder) / LAST_ERROR, text)
    except (OSError, StoreFailed):
        return "MESH_DEBUG=1 shows the traceback"
    return f"traceback: {folder / LAST_ERROR}"
