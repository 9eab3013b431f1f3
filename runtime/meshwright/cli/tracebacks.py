"""The lines that a process logs, and the file of the data folder that holds the last traceback."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path

import click

_MAX_QUOTED = 500  # characters of a message: it may quote what a client sent


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


def log_to_stderr(folder: Path) -> None:
    """Show every warning of this process, one line each."""
    logging.basicConfig(handlers=[_OneLine(folder)], level=logging.WARNING, force=True)


class _OneLine(logging.Handler):
    """Writes lines, and never raises: what logs goes on with its work."""

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.WARNING)
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, redacted, and keep the traceback that came with it."""
        try:
            self._write(record)
        except Exception:  # noqa: BLE001 as each handler of the standard library does
            self.handleError(record)

    def _write(self, record: logging.LogRecord) -> None:
        from meshwright.core.redaction import redact

        text = " ".join(record.getMessage().split())
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            where = keep_traceback(error, self._folder)
            text = f"{text[:_MAX_QUOTED]}: {type(error).__name__}: {str(error)[:_MAX_QUOTED]} ({where})"
        click.echo(f"mesh: {record.levelname.lower()}: {redact(text[: 4 * _MAX_QUOTED])}", err=True)
